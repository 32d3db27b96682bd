"""The import directions of docs/architecture.md, as a test.

Imports are read from the source: those inside functions and those under `if TYPE_CHECKING` count as well.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = "mmcomponents"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

SLOTS = {"vision", "fusers", "mergers", "projectors", "embedders", "positions", "backbones", "heads", "objectives"}
_BELOW_SLOTS = {"batch", "draws", "extras", "movable", "component", "limits", "model_files", "nn"}
_BELOW_SLOTS |= {"shared_vocabulary", "companions"}
_MODEL = _BELOW_SLOTS | SLOTS | {"row_draws", "brought_weights", "wiring", "model", "sequence", "compose"}
_INFERENCE = _MODEL | {"data", "generation", "checkpoints"}
_TRAINING = _INFERENCE | {"synthesis", "evaluation"}

# Package (or top-level module) -> those that it may import, itself apart.
MAY_IMPORT: dict[str, set[str]] = {
    "limits": set(),
    "model_files": set(),
    "shared_vocabulary": {"model_files"},
    "companions": {"model_files"},
    "moved": set(),
    "plain_text": set(),
    "class_source": set(),
    "registry": {"moved", "class_source"},
    "batch": {"draws", "extras", "movable", "moved"},
    "movable": set(),
    "draws": set(),
    "extras": {"movable"},
    "row_draws": set(),
    "component": {"batch", "row_draws", "limits"},
    "brought_weights": {"component"},
    "nn": {"batch", "movable", "limits", "model_files"},
    **dict.fromkeys(SLOTS, _BELOW_SLOTS),
    "sequence": {"batch"},
    "wiring": {"batch", "component"} | SLOTS,
    "model": _BELOW_SLOTS | SLOTS | {"sequence", "wiring"},
    "compose": _BELOW_SLOTS | SLOTS | {"model", "registry", "brought_weights"},
    # Of a model, data needs to know only how many tokens a tile becomes, which is an argument.
    "data": {"registry", "batch", "draws", "extras", "movable", "limits", "model_files", "moved", "plain_text"}
    | {"companions"},
    "generation": _MODEL | {"data"},
    "checkpoints": _MODEL | {"data", "generation"},
    "synthesis": _INFERENCE,
    "evaluation": _INFERENCE | {"synthesis"},
    "training": _TRAINING,
    "loading": _TRAINING | {"training"},
    "testing": _TRAINING | {"training", "registry"},
    "demos": _TRAINING | {"training"},
    "cli": _TRAINING | {"training", "testing", "demos", "registry", "class_source", "moved", "plain_text"},
    "inference": {"moved"},
    "__init__": _TRAINING | {"training", "loading"},
    "__main__": {"cli"},
}

# The same inside `data`, lowest first: each may import those before it.
DATA_ORDER = ("errors", "storage", "media", "chat", "format", "packing", "loading", "settings")
DATA_ORDER += ("model_check", "base", "datamodule")
INSIDE_DATA: dict[str, set[str]] = {
    **{name: set(DATA_ORDER[:place]) for place, name in enumerate(DATA_ORDER)},
    "convert": {"errors", "storage", "media", "chat", "format", "packing"},
    "inspection": set(DATA_ORDER),
    "vocabulary": {"errors", "format", "convert"},
    "index": {"format"},
    "__init__": set(DATA_ORDER),
}

# Package of others -> the files that wrap it.
WRAPPED_IN: dict[str, tuple[str, ...]] = {
    "transformers": (
        "backbones/transformers_*.py",
        "vision/transformers_*.py",
        "embedders/transformers_*.py",
        "data/chat/tokenizer.py",
        "checkpoints/language_models/gguf_files.py",
    ),
    "timm": ("vision/timm_vision.py",),
    "open_clip": ("vision/open_clip_vision.py",),
    "xformers": ("nn/attention/*.py",),
    "webdataset": ("data/format/shards.py",),
    "aiohttp": ("data/storage/http.py", "data/storage/remote.py"),
    "fsspec": ("data/storage/http.py", "data/storage/remote.py"),
    "filelock": ("checkpoints/runs/run_lock.py", "data/storage/local_copies.py"),
    "braceexpand": ("data/storage/access.py",),
    "rotary_embedding_torch": ("positions/*.py",),
    "peft": (
        "objectives/references.py",
        "training/adapters.py",
        "training/slots.py",
        "checkpoints/adapter_weights.py",
    ),
    "matplotlib": ("evaluation/plot.py",),
    "diffusers": ("heads/diffusers_*.py", "heads/denoisers/diffusers_*.py"),
}
# Names of these for type checkers may stand anywhere: they import nothing at run time.
TYPES_ANYWHERE = {"transformers", "peft"}

MAX_LINES = 500
MAX_MODULES = 20
"""Modules side by side in one package, `__init__.py` apart."""
MAX_EXPORTS = 20


def imports(tree: ast.AST, package: list[str], typing: bool = False) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, whether for type checkers alone) of each import; `from a import b` gives `a.b`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for branch, alone in ((node.body, True), (node.orelse, typing)):
                for inner in branch:
                    yield from imports(ast.Module([inner], []), package, alone)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*origin, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}", typing) for alias in node.names)
        else:
            yield from imports(node, package, typing)


def violations(root: Path) -> list[str]:
    """What a package does against the rules, one line each."""
    files = sorted(root.rglob("*.py"))
    trees = {file.relative_to(root).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}
    modules = {_module(name): name for name in trees}
    graph: dict[str, set[str]] = {name: set() for name in trees}
    found = [*_sizes(root, files), *_exports(trees)]
    for name, tree in trees.items():
        package = [PACKAGE, *Path(name).parts[:-1]]
        unit = name.removesuffix(".py").split("/")[0]
        for node in ast.walk(tree):
            if unit != "cli" and isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                found.append(f"{name}:{node.lineno}: print")
        for line, target, typing in imports(tree, package):
            top, *rest = target.split(".")
            wrappers = WRAPPED_IN.get(top)
            exempt = typing and top in TYPES_ANYWHERE
            if wrappers is not None and not exempt and not any(fnmatch(name, pattern) for pattern in wrappers):
                found.append(f"{name}:{line}: imports {top}, which is wrapped in {' and '.join(wrappers)}")
            if top != PACKAGE or rest[0] == "__version__":
                continue
            if rest[0] != unit:
                found += _direction(f"{name}:{line}", unit, rest[0], target, MAY_IMPORT, "MAY_IMPORT")
            elif unit == "data" and len(rest) > 1:
                inner = name.removesuffix(".py").split("/")[1]
                if rest[1] != inner:
                    found += _direction(f"{name}:{line}", inner, rest[1], target, INSIDE_DATA, "INSIDE_DATA")
            # `from a import b` reaches the module a.b, or else a name of the module a
            reached = modules.get(".".join(rest)) or modules.get(".".join(rest[:-1]))
            if reached is not None and reached != name:
                graph[name].add(reached)
    return found + [f"import cycle: {' -> '.join(cycle)}" for cycle in _cycles(graph)]


def _module(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _direction(
    place: str, unit: str, wanted: str, target: str, rules: Mapping[str, set[str]], table: str
) -> Iterator[str]:
    if unit not in rules:
        yield f"{place}: {unit} is new: say in {table} what it may import"
    elif wanted not in rules[unit]:
        yield f"{place}: {unit} imports {target}"


def _lengths(root: Path, files: list[Path]) -> Iterator[str]:
    for file in files:
        if (lines := len(file.read_text(encoding="utf-8").splitlines())) > MAX_LINES:
            yield f"{file.relative_to(root).as_posix()}: {lines} lines, more than {MAX_LINES}"


def _sizes(root: Path, files: list[Path]) -> Iterator[str]:
    yield from _lengths(root, files)
    modules = [file for file in files if file.name not in ("__init__.py", "base.py")]
    for name, count in Counter(file.name for file in modules).items():
        if count > 1:
            yield f"{count} modules are called {name}"
    for folder, count in Counter(file.parent for file in files if file.name != "__init__.py").items():
        if count > MAX_MODULES:
            yield f"{folder.relative_to(root).as_posix()}: {count} modules side by side, more than {MAX_MODULES}"


def _exports(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    for name, tree in trees.items():
        if name.endswith("__init__.py"):
            if "──►" not in (ast.get_docstring(tree) or "") and not name.startswith("inference/"):
                yield f"{name}: no docstring with a diagram of what enters and leaves"
            for node in tree.body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    count = len(ast.literal_eval(node.value))
                    if count > MAX_EXPORTS:
                        yield f"{name}: exports {count} names, more than {MAX_EXPORTS}"


def _cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """One cycle of each group of modules that import one another (depth-first search)."""
    state: dict[str, int] = {}
    found: list[list[str]] = []

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for other in sorted(graph[name]):
            if state.get(other) == 1:
                found.append([*path[path.index(other) :], other])
            elif other not in state:
                visit(other, [*path, other])
        state[name] = 2

    for name in sorted(graph):
        if name not in state:
            visit(name, [name])
    return found


def test_the_source_keeps_the_rules() -> None:
    assert violations(SOURCE) == []
    units = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert units - set(MAY_IMPORT) == set()


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples"])
def test_other_files_are_as_short(folder: str) -> None:
    root = Path(__file__).parents[1]
    files = sorted((root / folder).rglob("*.py"))
    assert files
    assert list(_lengths(root, files)) == []


def test_the_tests_mirror_the_package() -> None:
    folders = {path.parent.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"}
    tested = {path.parent.relative_to(Path(__file__).parent) for path in Path(__file__).parent.rglob("test_*.py")}
    others = {Path("contracts"), Path("examples"), Path("mutations")}
    assert tested - others == {folder for folder in folders if folder.parts[:1] != ("inference",)}


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("projectors/a.py", "from mmcomponents.heads import LMHead", "projectors imports mmcomponents.heads.LMHead"),
        ("projectors/a.py", "from ..heads.base import Head", "projectors imports mmcomponents.heads.base.Head"),
        ("nn/a.py", "def f():\n    import mmcomponents.model", "nn imports mmcomponents.model"),
        ("batch.py", "from mmcomponents.nn import cache", "batch imports mmcomponents.nn.cache"),
        ("data/a.py", "from mmcomponents.model import MultimodalModel", "data imports mmcomponents.model"),
        ("data/a.py", "from mmcomponents import vision", "data imports mmcomponents.vision"),
        ("model.py", "from mmcomponents.training import MultimodalTask", "model imports mmcomponents.training"),
        ("generation/a.py", "from mmcomponents.cli import main", "generation imports mmcomponents.cli.main"),
        ("backbones/decoder_lm.py", "import transformers.models", "imports transformers, which is wrapped in"),
        ("positions/a.py", "def f():\n    from xformers import ops", "imports xformers, which is wrapped in"),
        (
            "data/format/a.py",
            "import webdataset as wds",
            "imports webdataset, which is wrapped in data/format/shards.py",
        ),
        ("nn/a.py", "import rotary_embedding_torch", "imports rotary_embedding_torch"),
        ("training/a.py", "if True:\n    print(1)", "training/a.py:2: print"),
        ("nn/a.py", "x = 1\n" * 501, "nn/a.py: 501 lines, more than 500"),
        ("attic/a.py", "import mmcomponents.batch", "attic is new: say in MAY_IMPORT what it may import"),
        (
            "data/media/a.py",
            "from mmcomponents.data.chat import template",
            "media imports mmcomponents.data.chat.template",
        ),
        ("data/new/a.py", "from mmcomponents.data import errors", "new is new: say in INSIDE_DATA what it may import"),
        (
            "nn/a.py",
            "if TYPE_CHECKING:\n    from mmcomponents.model import MultimodalModel",
            "nn imports mmcomponents.model",
        ),
        ("nn/__init__.py", '"""nn"""', "nn/__init__.py: no docstring with a diagram"),
        ("nn/__init__.py", f'"""a ──► b"""\n__all__ = {list(map(str, range(21)))}', "exports 21 names, more than 20"),
        (
            "heads/a.py",
            "if TYPE_CHECKING:\n    import mmcomponents.batch\nelse:\n    import mmcomponents.cli",
            "heads/a.py:4: heads imports mmcomponents.cli",
        ),
    ],
)
def test_a_break_is_reported(tmp_path: Path, name: str, source: str, complaint: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    (found,) = violations(tmp_path)
    assert complaint in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data/chat/tokenizer.py", "def f():\n    import transformers"),
        ("backbones/transformers_lm.py", "import transformers"),
        ("nn/attention/xformers.py", "from xformers import ops"),
        ("data/a.py", "if TYPE_CHECKING:\n    from transformers import PreTrainedTokenizerBase"),
        ("cli/a.py", "from mmcomponents.training import MultimodalTask\nprint(1)"),
        (
            "projectors/mlp.py",
            "from mmcomponents.projectors.base import Projector\nfrom mmcomponents.batch import Exact",
        ),
        ("projectors/mlp.py", "from .base import Projector\nfrom mmcomponents import __version__"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, name: str, source: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    assert violations(tmp_path) == []


def test_cycles_and_equal_names_are_found(tmp_path: Path) -> None:
    (tmp_path / "nn").mkdir()
    (tmp_path / "nn" / "a.py").write_text("from mmcomponents.nn import b\n")
    (tmp_path / "nn" / "b.py").write_text("if TYPE_CHECKING:\n    from mmcomponents.nn.c import C\n")
    (tmp_path / "nn" / "c.py").write_text("def f():\n    from mmcomponents.nn.a import A\n")
    assert violations(tmp_path) == ["import cycle: nn/a.py -> nn/b.py -> nn/c.py -> nn/a.py"]
    (tmp_path / "heads").mkdir()
    (tmp_path / "nn" / "c.py").write_text("")
    (tmp_path / "heads" / "c.py").write_text("")
    assert violations(tmp_path) == ["2 modules are called c.py"]
    for number in range(18):
        (tmp_path / "nn" / f"n{number}.py").write_text("")
    assert "nn: 21 modules side by side, more than 20" in violations(tmp_path)
