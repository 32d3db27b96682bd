from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcomponents import registry
from mmcomponents.compose import build
from mmcomponents.registry import PartError, PartWarning, available, find, load, resolve, slots

Install = Callable[[str, str, str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Adds a package to the path as pip does: metadata, entry points and a module that must not be imported."""

    def put(name: str, entries: str, source: str = "raise RuntimeError('imported')\n") -> Path:
        site = tmp_path / name
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{entries}\n")
        (site / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(site))
        return site

    return put


def test_each_part_of_ours_is_what_its_slot_exports() -> None:
    """The listing, read from source, equals the concrete classes found by importing."""
    for slot, base_path in slots().items():
        module, _, base_name = base_path.rpartition(".")
        package = importlib.import_module(module)
        base = getattr(package, base_name)
        classes = {n: c for n, c in vars(package).items() if isinstance(c, type) and issubclass(c, base)}
        expected = {name for name in classes if classes[name] is not base}
        listed = {part.name: part for part in available(slot) if part.package == "mmcomponents"}
        assert set(listed) == expected, slot
        for name, part in listed.items():
            assert resolve(slot, name) == part.path == f"{module}.{name}"
            assert part.summary() == (classes[name].__doc__ or "").strip().partition("\n")[0]
            assert part.summary() != ""


def test_a_part_of_a_part_is_one_and_a_helper_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = tmp_path / "projectors"
    slot.mkdir()
    (slot / "__init__.py").write_text("from .a import First, Helper, Second, work\nfrom .base import Projector\n")
    (slot / "base.py").write_text("class Projector(Component): ...\n")
    (slot / "a.py").write_text(
        "class First(base.Projector): ...\nclass Second(First): ...\nclass Third(First): ...\n"
        "class Helper: ...\ndef work(): ...\n"
    )
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    assert [part.name for part in available("projector")] == ["First", "Second"]


def test_a_foreign_part_is_found_without_importing_it(install: Install) -> None:
    source = "raise RuntimeError('imported')\nclass Bridge:\n    '''Bridges.\n\n    More.'''\n"
    install("bridges", "projector.Bridge = bridges:Bridge", source)
    assert resolve("projector", "Bridge") == "bridges.Bridge"
    part = next(part for part in available("projector") if part.name == "Bridge")
    assert (part.package, part.summary()) == ("bridges", "Bridges.")
    assert "bridges" not in sys.modules
    with pytest.raises(PartError):
        resolve("merger", "Bridge")


def test_unknown_names_name_the_near_ones(install: Install) -> None:
    install("bridges", "projector.Bridge = bridges:Bridge")
    with pytest.raises(PartError, match=r"no projector is called 'Brigde'; did you mean 'Bridge'\?"):
        resolve("projector", "Brigde")
    with pytest.raises(PartError, match=r"no slot 'projectr'; did you mean 'projector'\?"):
        available("projectr")
    with pytest.raises(PartError, match="no slot 'projectr'"):
        resolve("projectr", "any.where.Else")
    assert resolve("projector", "any.where.Else") == "any.where.Else"


def test_a_name_of_two_packages_is_refused_when_it_is_used(install: Install) -> None:
    install("bridges", "projector.Bridge = bridges:Bridge")
    install("ropes", "projector.Bridge = ropes:Bridge\nprojector.Rope = ropes:Rope")
    assert resolve("projector", "Rope") == "ropes.Rope"
    with pytest.raises(PartError, match=r"declared by bridges \(bridges.Bridge\) and ropes \(ropes.Bridge\)"):
        resolve("projector", "Bridge")


def test_a_name_of_the_library_stays_the_librarys(install: Install) -> None:
    install("bridges", "projector.MLPProjector = bridges:MLPProjector")
    for found in (resolve("projector", "MLPProjector"), find("MLPProjector")):
        assert found == "mmcomponents.projectors.MLPProjector"
    with pytest.warns(PartWarning, match="bridges declares the projector 'MLPProjector', which is a name of mmcomp"):
        resolve("projector", "MLPProjector")
    assert resolve("projector", "bridges.MLPProjector") == "bridges.MLPProjector"


def test_a_broken_package_warns_and_stops_nothing(install: Install) -> None:
    install("odd", "nowhere.Part = odd:Part\nprojector.Half = odd\nprojector.Good = odd:Good", "class (:\n")
    with pytest.warns(UserWarning, match="declares the part") as caught:
        assert resolve("projector", "Good") == "odd.Good"
    messages = " ".join(str(warning.message) for warning in caught)
    assert "odd declares the part 'nowhere.Part'" in messages
    assert "odd declares the part 'projector.Half'" in messages
    with warnings.catch_warnings(record=True) as caught_reading:
        warnings.simplefilter("always")
        summaries = {part.name: part.summary() for part in available("projector")}
    assert summaries["Good"] == ""
    assert any("cannot read odd" in str(warning.message) for warning in caught_reading)


def test_listing_imports_neither_torch_nor_parts() -> None:
    code = (
        "import sys; from mmcomponents.cli.main import main; code = main(['components']);"
        "heavy = {'torch', 'lightning', 'transformers', 'jsonargparse'} & set(sys.modules);"
        "print(heavy, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "set()")
    assert " InternViT " in done.stdout


def test_a_model_is_built_of_subclasses_of_the_bases_only(tmp_path: Path) -> None:
    """Not by a recipe: the mapping may come from the configuration of a folder."""
    touch = {"class_path": "os.mkdir", "init_args": {"path": str(tmp_path / "made")}}
    for slot in ("vision", "position", "heads"):
        with pytest.raises(PartError, match=r"os.mkdir is not a"):
            build({slot: {"lm": touch} if slot == "heads" else touch}, 10, None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PartError, match=r"^cannot import nowhere.Part: ModuleNotFoundError"):
        build({"vision": {"class_path": "nowhere.Part"}}, 10, None)


def test_a_module_that_fails_or_exits_is_reported(install: Install) -> None:
    install("odd", "", "raise SystemExit(3)\n")
    with pytest.raises(PartError, match=r"^cannot import odd.Odd: SystemExit: 3$"):
        load("projector", "odd.Odd")


def test_a_name_near_a_former_one_is_answered_by_the_present_one() -> None:
    former = {"pack_tokens": "packing.tokens"}
    assert registry.near("pak_tokens", ["seed", "packing"], former) == "; did you mean 'packing.tokens'?"
    assert registry.near("pak_tokens", ["seed", "pack_tokens"], former) == "; did you mean 'packing.tokens'?"
    assert registry.near("sed", ["seed", "packing"], former) == "; did you mean 'seed'?"
