"""Tests of the wheel, installed into an empty environment with the dependencies that its metadata declares.

The wheel is built as pip builds it, and installed under constraints.txt. There, outside the checkout, the README's
Python code runs as one script, the command lists the parts and finds a recipe, and a test of a part by
`check_component` passes. This needs a package index, and takes some minutes: `pytest -m slow tests/test_wheel.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcomponents import registry
from pages import README, blocks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CHECK = """
from mmcomponents.projectors import MLPProjector
from mmcomponents.testing import check_component


def test_it():
    check_component("projector", MLPProjector)
"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(ROOT)]
    _run(pip, cwd=out)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Returns a function that runs a program of the environment in a folder of its own and returns its output."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    _run([programs / "python", "-m", "pip", "install", "--quiet", wheel, "pytest"], cwd=folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    return lambda program, *arguments: _run([programs / program, *arguments], cwd=elsewhere)


def _run(command: list[str | Path], cwd: Path) -> str:
    """Runs a command as in a new shell, without the variables of this process for Python and pytest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    kept["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")
    kept["COLUMNS"] = "200"
    done = subprocess.run([*map(str, command)], cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if ".dist-info/" not in name}
    for place, name in ((ROOT / "src" / "mmcomponents", "mmcomponents"), (ROOT / "recipes", "mmcomponents/_recipes")):
        files = [path for path in place.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert not {f"{name}/{path.relative_to(place).as_posix()}" for path in files} - packed


def test_the_installed_package_is_imported(run: Run) -> None:
    place = run("python", "-c", "import mmcomponents; print(mmcomponents.__file__)").strip()
    assert "site-packages" in Path(place).parts
    assert not Path(place).is_relative_to(ROOT)


def test_the_readme_runs_as_one_script(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks(README, "python")))
    assert run("python", script) == "(8, 8) torch.Size([3, 64, 64])\n"


def test_the_command_lists_the_parts(run: Run) -> None:
    own = {
        (slot, part.name)
        for slot in registry.slots()
        for part in registry.available(slot)
        if part.package == "mmcomponents"
    }
    listed = json.loads(run("mmcomponents", "components", "--json"))
    assert {(part["slot"], part["name"]) for part in listed} == own
    assert not [part["path"] for part in listed if part["arguments"] is None]  # those that cannot be imported
    table = run("mmcomponents", "components")
    assert not [name for _, name in own if name not in table]


def test_the_command_finds_a_recipe_of_the_package(run: Run) -> None:
    assert json.loads(run("mmcomponents", "plan", "--config", "internvl3/1b-sft", "--json"))


def test_a_part_is_tested_by_the_contract_tests(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_part.py").write_text(CHECK)
    assert "1 passed" in run("python", "-m", "pytest", "-p", "no:cacheprovider", tmp_path / "test_part.py")
