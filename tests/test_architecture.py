"""Who may know whom: docs/architecture.md as a test.

Imports are read from the source, those inside functions too. What stands under `if TYPE_CHECKING` is exempt: it names a
type and binds nothing at run time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = "mmcomponents"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

SLOTS = {
    "vision",
    "fusers",
    "mergers",
    "projectors",
    "embedders",
    "positions",
    "backbones",
    "heads",
    "objectives",
}
_BELOW_SLOTS = {"batch", "component", "nn"}
_BELOW_TASKS = _BELOW_SLOTS | SLOTS | {"model", "sequence", "wiring"}

# Room -> rooms that it may import, itself apart. A room that is not here may import nothing.
MAY_IMPORT: dict[str, set[str]] = {
    "batch": set(),
    "component": {"batch"},
    "nn": {"batch", "component"},
    **dict.fromkeys(SLOTS, _BELOW_SLOTS),
    "sequence": _BELOW_SLOTS,
    "wiring": _BELOW_SLOTS | SLOTS,
    "model": _BELOW_TASKS,
    "compose": _BELOW_TASKS | {"registry"},
    # All that data needs to know of a model is the number of tokens that a tile becomes, and that is given to it.
    "data": {"batch"},
    "checkpoints": _BELOW_TASKS | {"compose", "data"},
    "inference": _BELOW_TASKS | {"data", "checkpoints"},
    "training": _BELOW_TASKS | {"compose", "data", "checkpoints", "inference"},
    "registry": set(),
    "cli": {"training", "inference", "checkpoints", "data", "model", "component", "registry"},
    "__init__": _BELOW_TASKS | {"data", "checkpoints", "inference", "training"},
}

# Package of others -> the files that wrap it.
WRAPPED_IN: dict[str, tuple[str, ...]] = {
    "transformers": ("backbones/transformers_*.py", "vision/transformers_*.py", "data/tokenizer.py"),
    "xformers": ("nn/attention/*.py", "nn/attention.py"),
    "webdataset": ("data/shards.py",),
    "urllib3": ("data/storage/http.py", "data/storage/connections.py"),
    "fsspec": ("data/storage/cloud.py",),
    "filelock": ("data/storage/cache.py",),
    "braceexpand": ("data/storage/access.py",),
    "rotary_embedding_torch": ("positions/*.py",),
    "peft": (
        "objectives/references.py",
        "training/adapters.py",
        "training/slots.py",
        "checkpoints/adapters.py",
    ),
    "matplotlib": ("inference/evaluation/plot.py",),
}

MAX_LINES = 500


def imports(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that a module imports; `from a import b` gives `a.b`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from imports(ast.Module([other], []), package)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*origin, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)
        else:
            yield from imports(node, package)


def violations(root: Path) -> list[str]:
    """What a package does against the rules, one line each."""
    found = []
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).as_posix()
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        room = name.removesuffix(".py").split("/")[0]
        lines = len(text.splitlines())
        if lines > MAX_LINES:
            found.append(f"{name}: {lines} lines, more than {MAX_LINES}")
        for node in ast.walk(tree):
            if room != "cli" and isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                found.append(f"{name}:{node.lineno}: print")
        for line, target in imports(tree, [PACKAGE, *Path(name).parts[:-1]]):
            top, *rest = target.split(".")
            wrappers = WRAPPED_IN.get(top)
            if wrappers is not None and not any(fnmatch(name, pattern) for pattern in wrappers):
                found.append(f"{name}:{line}: imports {top}, which is wrapped in {' and '.join(wrappers)}")
            if top == PACKAGE and rest[0] != room and rest[0] != "__version__":
                if room not in MAY_IMPORT:
                    found.append(f"{name}:{line}: {room} is a new room; say in MAY_IMPORT whom it may know")
                elif rest[0] not in MAY_IMPORT[room]:
                    found.append(f"{name}:{line}: {room} imports {target}")
    return found


def test_the_source_keeps_the_directions() -> None:
    assert violations(SOURCE) == []
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - set(MAY_IMPORT) == set()


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
        ("inference/a.py", "from mmcomponents.cli import main", "inference imports mmcomponents.cli.main"),
        ("backbones/decoder_lm.py", "import transformers.models", "imports transformers, which is wrapped in"),
        ("positions/a.py", "def f():\n    from xformers import ops", "imports xformers, which is wrapped in"),
        ("data/index.py", "import webdataset as wds", "imports webdataset, which is wrapped in data/shards.py"),
        ("nn/a.py", "import rotary_embedding_torch", "imports rotary_embedding_torch"),
        ("training/a.py", "if True:\n    print(1)", "training/a.py:2: print"),
        ("nn/a.py", "x = 1\n" * 501, "nn/a.py: 501 lines, more than 500"),
        ("attic/a.py", "import mmcomponents.batch", "attic is a new room"),
        (
            "heads/a.py",
            "if TYPE_CHECKING:\n    import mmcomponents.model\nelse:\n    import mmcomponents.cli",
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
        ("data/tokenizer.py", "def f():\n    import transformers"),
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
