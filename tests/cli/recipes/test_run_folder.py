"""The folder of a run, and what it holds of another one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from mmcomponents.cli.recipes.run_folder import candidates, earlier_run

RECIPE = (
    "trainer: {default_root_dir: runs/b, max_steps: 4}\nmodel: {projector: {class_path: P, init_args: {hidden: 2}}}\n"
)


def test_folders_are_numbered_as_lightning_numbers_checkpoints() -> None:
    assert [*islice(candidates(Path("runs/a")), 3)] == [Path("runs/a"), Path("runs/a-v1"), Path("runs/a-v2")]
    here = Path.cwd()
    assert [*islice(candidates(Path()), 2)] == [Path(), here.with_name(f"{here.name}-v1")]
    assert [*islice(candidates(Path("..")), 2)] == [Path(".."), here.parent.with_name(f"{here.parent.name}-v1")]
    assert [*islice(candidates(Path("/")), 2)] == [Path("/"), Path("/run-v1")]


@pytest.mark.parametrize(
    ("saved", "found"),
    [
        (RECIPE, ""),
        ("# another comment\n" + RECIPE.replace("runs/b", "runs/a"), ""),
        (RECIPE.replace("max_steps: 4", "max_steps: 5"), "a run with another trainer.max_steps"),
        (RECIPE.replace("hidden: 2", "hidden: 3"), "a run with another model.projector.hidden"),
        (RECIPE.replace("class_path: P", "class_path: Q"), "a run with another model.projector"),
        (RECIPE + "a: 1\nb: 2\nc: 3\nd: 4\n", "a run with another a, b, c and 1 more"),
        ("[", "a recipe.yaml that cannot be read"),
        ("text", "a recipe.yaml that is no recipe"),
    ],
)
def test_a_run_of_another_recipe_is_named(tmp_path: Path, saved: str, found: str) -> None:
    (tmp_path / "recipe.yaml").write_text(saved)
    assert earlier_run(tmp_path, RECIPE) == found


def test_checkpoints_without_a_recipe_are_not_overwritten(tmp_path: Path) -> None:
    assert earlier_run(tmp_path, RECIPE) == earlier_run(tmp_path / "new", RECIPE) == ""
    for name in ("checkpoints/last.ckpt", "ck/last.ckpt", "last.ckpt"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
        assert earlier_run(folder, RECIPE) == "checkpoints without a recipe"
        (folder / "recipe.yaml").write_text(RECIPE)
        goes_on = f"--ckpt_path {folder / name} goes on from there"
        assert earlier_run(folder, RECIPE) == f"checkpoints of this recipe ({goes_on})"


def test_a_requeued_job_goes_on_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hpc_ckpt_1.ckpt").touch()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert earlier_run(tmp_path, RECIPE).startswith("checkpoints of this recipe")
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    assert earlier_run(tmp_path, RECIPE) == ""
    assert earlier_run(tmp_path, RECIPE + "a: 1\n") == "a run with another a"


def test_half_written_checkpoints_count(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt.part").mkdir()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert earlier_run(tmp_path, RECIPE) == "checkpoints of this recipe"
