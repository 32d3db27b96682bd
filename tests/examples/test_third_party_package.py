"""The package in examples/third_party, built and installed into an environment of its own, by the command line.

`installed` runs the verbs in three processes: one to the end of a run, one that is killed, one that resumes it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmcomponents.data.format.columns import Columns
from mmcomponents.data.format.shard_index import load_index

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "examples" / "third_party"
RUN = HERE / "third_party_run.py"
SAMPLES = 60
STEPS, EVERY, KILLED = 8, 3, 5
"""Steps of a run, steps between checkpoints, and the step at which a run is killed."""

RECIPE = """
extends: {recipe}
model:
  projector: {{class_path: PlaceProjector, init_args: {{num_frequencies: 3}}}}
data:
  packing: {{tokens: 300}}
trainer:
  max_steps: {steps}
  val_check_interval: {steps}
  logger: false
  enable_progress_bar: false
  default_root_dir: {run}
  callbacks:
    - class_path: mmcomponents.training.FinalCheckpoint
      init_args: {{dirpath: "${{trainer.default_root_dir}}/checkpoints", every_n_train_steps: {every}}}
"""
KILL = """
    - class_path: third_party_run.KillAt
      init_args: {{step: {step}}}
"""

Result = dict[str, Any]


def make_data(out: Path) -> None:
    """Calls the script of the package, in this process."""
    spec = importlib.util.spec_from_file_location("make_data", PACKAGE / "make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--out", str(out), "--samples", str(SAMPLES)])


def install(folder: Path) -> Path:
    """Builds the wheel and installs it into a new environment that also sees what this one has; returns its Python."""
    shutil.copytree(PACKAGE, folder / "source")
    pip = [sys.executable, "-m", "pip"]
    offline = ["--quiet", "--no-deps", "--no-index"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder / "wheels", folder / "source"]
    subprocess.run([*map(str, build)], check=True)
    (wheel,) = (folder / "wheels").iterdir()
    venv.create(folder / "environment")
    python = folder / "environment" / "bin" / "python"
    (packages,) = (folder / "environment" / "lib").glob("python*/site-packages")
    host = sysconfig.get_path("purelib")
    (packages / "host.pth").write_text(f"import site; site.addsitedir({host!r})\n")
    subprocess.run([*pip, "--python", str(python), "install", *offline, str(wheel)], check=True)
    return python


class Project:
    """A folder with data, recipes and an environment, in which verbs are called.

    Attributes:
        folder: The folder.
        results: What each call has returned and printed, by its name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, install(folder)
        self.results: dict[str, Result] = {}
        make_data(folder / "data/pointing")

    def recipe(self, name: str, run: str, more: str = "") -> str:
        text = RECIPE.format(recipe=PACKAGE / "pointing.yaml", steps=STEPS, every=EVERY, run=run) + more
        (self.folder / f"{name}.yaml").write_text(text)
        return f"{name}.yaml"

    def call(self, calls: dict[str, list[str]], code: int = 0) -> None:
        """Calls verbs in one process, which must end with `code`."""
        wanted, results = self.folder / "calls.json", self.folder / "results.json"
        wanted.write_text(json.dumps([*calls.values()]))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        variables = {**kept, "PYTHONPATH": str(HERE), "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
        command = [self.python, RUN, wanted, results]
        done = subprocess.run(
            [*map(str, command)], cwd=self.folder, env=variables, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == code, done.stdout + done.stderr
        if not code:
            self.results |= dict(zip(calls, json.loads(results.read_text()), strict=True))

    def out(self, name: str) -> str:
        """Returns what a call has printed, which must have succeeded."""
        result = self.results[name]
        assert result["code"] == 0, result
        return str(result["out"])

    def refusal(self, name: str) -> str:
        """Returns the line of a call that must have been refused."""
        result = self.results[name]
        assert result["code"] == 2, result
        (line,) = [line for line in result["error"].splitlines() if line.startswith("mmcomponents: ")]
        return str(line.removeprefix("mmcomponents: "))

    def checkpoint(self, run: str) -> Any:
        return torch.load(self.folder / run / "checkpoints/last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    annotations = [f"data/pointing/{part}.jsonl" for part in ("train", "val", "test")]
    tokenizer = ["--tokenizer", "data/pointing/tokenizer"]
    convert = ["data", "convert", *annotations, "--out", "data/pointing/shards", *tokenizer, "--num_workers", "1"]
    convert += ["--tokens_per_tile", "4", "--tile_size", "28"]
    whole, killed = (
        project.recipe("whole", "runs/whole"),
        project.recipe("killed", "runs/killed", KILL.format(step=KILLED)),
    )
    resumed = ["--config", project.recipe("resumed", "runs/killed"), "--ckpt_path", "runs/killed/checkpoints/last.ckpt"]
    (project.folder / "questions.jsonl").write_text('{"question": "Where?", "answer": "left"}\n')
    evaluate = ["evaluate", *resumed, "--benchmark", "questions.jsonl", "--metric", "exact"]
    project.call(
        {
            "components": ["components", "--json"],
            "misspelt kind": [*convert, "--kinds", "PointingTsk"],
            "convert": [*convert, "--kinds", "PointingTask"],
            "figures": ["data", "inspect", "--config", whole, "--json"],
            "page": ["data", "inspect", "--config", whole, "--html", "page.html"],
            "plan": ["plan", "--config", whole],
            "misspelt packer": ["data", "inspect", "--config", whole, "--data.packer", "FirstFits"],
            "other width": ["plan", "--config", whole, "--model.heads.actions.action_width", "3"],
            "fit": ["fit", "--config", whole],
        }
    )
    shutil.copytree(project.folder / "data/pointing/shards", project.folder / "again")
    for index in (project.folder / "again").glob("*.safetensors"):
        index.unlink()
    project.call({"killed": ["fit", "--config", killed]}, code=-signal.SIGKILL)
    assert project.checkpoint("runs/killed")["global_step"] == EVERY
    project.call(
        {
            "resume": ["fit", *resumed],
            "index": ["data", "index", "again", *tokenizer, "--kinds", "PointingTask"],
            "predict": ["predict", *resumed],
            "test": ["test", *resumed],
            "evaluate": evaluate,
            "interactive": ["generate", *resumed, "--interactive"],
            "export": ["export", *resumed, "--format", "mmcomponents", "--out", "folder"],
        }
    )
    warm = ["--model.weights", "folder", "--model.optimizer.lr", "0", "--seed_everything", "9"]
    project.call({"warm": ["fit", "--config", project.recipe("warm", "runs/warm"), *warm]})
    return project


def test_the_parts_are_listed(installed: Project) -> None:
    listed = {
        (part["slot"], part["name"]): part["arguments"]
        for part in json.loads(installed.out("components"))
        if part["package"] == "mmcomponents-pointing"
    }
    assert installed.results["components"]["error"] == "", "no name is that of a part of mmcomponents"
    assert listed == {
        ("record_kind", "PointingTask"): {},
        ("projector", "PlaceProjector"): {"in_features": "", "out_features": "", "num_frequencies": "4"},
        ("embedder", "NoisyActionEmbedder"): {"vocab_size": "", "hidden_size": "", "action_width": "2"},
        ("head", "VelocityHead"): {"in_features": "", "vocab_size": "", "action_width": "2"},
        ("objective", "FlowMatching"): {"head": "'actions'"},
        ("sampler", "EulerSampler"): {"num_steps": "8", "head": "'actions'", "seed": "0"},
        ("packer", "FirstFit"): {},
    }


def test_an_index_made_again_is_the_same(installed: Project) -> None:
    assert "indexed 3 shards: 72 samples, 72 usable, 0 skipped" in installed.out("index")
    for path in (installed.folder / "data/pointing/shards").glob("*.safetensors"):
        again, made = load_index(installed.folder / "again" / path.name), load_index(path)
        assert replace(made.header, tile=None) == again.header, "an index of its own is for tiles of any size"
        assert made.header.tile == [28, 4]
        for field in fields(Columns):
            assert np.array_equal(getattr(made.columns, field.name), getattr(again.columns, field.name))


def test_the_data_are_shown(installed: Project) -> None:
    figures = json.loads(installed.out("figures"))
    (source,) = figures["survey"]["sources"]
    assert (source["samples"], source["images"], source["tiles"], source["refused"]) == (SAMPLES, SAMPLES, SAMPLES, 0)
    assert 34 <= figures["survey"]["tokens"]["mean"] <= 36
    page = (installed.folder / "page.html").read_text()
    assert "wrote page.html with 24 samples" in installed.out("page")
    assert sum(page.count(f"action: {count} tokens") for count in (2, 3, 4)) == 24


def test_the_plan_has_the_parts(installed: Project) -> None:
    assert all(
        name in installed.out("plan") for name in ("InternViT", "PlaceProjector", "NoisyActionEmbedder", "VelocityHead")
    )


def test_another_run_starts_from_an_exported_one(installed: Project) -> None:
    assert "mmcomponents-pointing" in (installed.folder / "folder/config.json").read_text()
    trained, again = (installed.checkpoint(run)["state_dict"] for run in ("runs/killed", "runs/warm"))
    assert_equal(trained, again)


def test_the_tests_of_the_package_pass(installed: Project) -> None:
    command = [installed.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*map(str, command)], cwd=installed.folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_predict_writes_values(installed: Project) -> None:
    assert "predictions.jsonl" in installed.out("predict")
    lines = (installed.folder / "runs/killed/predictions.jsonl").read_text().splitlines()
    asked = [json.loads(line) for line in (installed.folder / "data/pointing/test.jsonl").read_text().splitlines()]
    assert len(lines) == len(asked) == SAMPLES // 10
    for row, wanted in zip(map(json.loads, lines), asked, strict=True):
        truth = np.load(installed.folder / "data/pointing" / wanted["members"]["actions.npy"])
        assert (row["kind"], row["question"]) == ("pointing", wanted["instruction"])
        assert np.array(row["answer"], np.float64).shape == truth.shape


def test_a_killed_run_resumes_bit_for_bit(installed: Project) -> None:
    whole, resumed = (installed.checkpoint(run) for run in ("runs/whole", "runs/killed"))
    assert whole["global_step"] == resumed["global_step"] == STEPS
    assert_equal(whole["state_dict"], resumed["state_dict"])
    assert_equal(whole["optimizer_states"], resumed["optimizer_states"])
    assert whole["PackedDataModule"]["packs"] == resumed["PackedDataModule"]["packs"] == STEPS


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("misspelt kind", "no record_kind is called 'PointingTsk'; did you mean 'PointingTask'?"),
        ("misspelt packer", "no packer is called 'FirstFits'; did you mean 'FirstFit'?"),
        ("other width", "NoisyActionEmbedder takes actions of 2 values and VelocityHead gives 3"),
        ("evaluate", "EulerSampler answers with values"),
        ("interactive", "EulerSampler answers with values"),
    ],
)
def test_what_cannot_work_is_one_line(installed: Project, name: str, said: str) -> None:
    assert said in installed.refusal(name)
