"""A third-party package, built and installed by pip, provides a component that recipes name by its short name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmcomponents import registry
from mmcomponents.cli.main import main
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.demos.handwriting.builder import make_handwriting
from mmcomponents.training import MultimodalTask

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "bridge-parts"
version = "1.2"
[project.entry-points."mmcomponents.components"]
"projector.ScaledProjector" = "bridge_parts:ScaledProjector"
"""

SOURCE = '''
from mmcomponents.projectors import LinearProjector


class ScaledProjector(LinearProjector):
    """A linear map times a number.

    Args:
        in_features: Width in.
        out_features: Width out.
        scale: The number.
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 2.0) -> None:
        super().__init__(in_features, out_features)
        self.scale = scale

    def forward(self, features, embedding_weight=None):
        return super().forward(features, embedding_weight) * self.scale
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder where pip has installed the package."""
    folder = tmp_path_factory.mktemp("bridge")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "bridge_parts.py").write_text(SOURCE)
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(folder)], check=True)
    return target


@pytest.fixture
def _installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("bridge_parts", None)


@pytest.mark.usefixtures("_installed")
def test_it_is_listed_with_its_package_arguments_and_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert registry.resolve("projector", "ScaledProjector") == "bridge_parts.ScaledProjector"
    assert "bridge_parts" not in sys.modules
    assert main(["components", "projector", "--json"]) == 0
    listed = {part["name"]: part for part in json.loads(capsys.readouterr().out)}
    assert listed["ScaledProjector"] == {
        "slot": "projector",
        "name": "ScaledProjector",
        "package": "bridge-parts",
        "version": "1.2",
        "path": "bridge_parts.ScaledProjector",
        "summary": "A linear map times a number.",
        "arguments": {"in_features": "", "out_features": "", "scale": "2.0"},
    }


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("name", ["ScaledProjector", "bridge_parts.ScaledProjector"])
def test_a_flag_swaps_it_in(name: str, tmp_path: Path) -> None:
    make_handwriting(str(tmp_path), scenes=4, held_out=1, val_scenes=1, vocab_size=400)
    flags = ["--config", "quickstart", "--data.tokenizer", str(tmp_path / "tokenizer")]
    swap = ["--model.projector", name, "--model.projector.scale", "3"]
    cli = RecipeCLI("plan", sort_flags([*flags, *swap]), MultimodalTask, PackedDataModule)
    cli.model.configure_model()
    assert type(cli.model.model.projector).__name__ == "ScaledProjector"
    assert cli.model.model.projector.scale == 3.0
