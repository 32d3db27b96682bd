"""A policy from demonstrations to actions: training, resuming, roll-outs, export, `generate`, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmcomponents
from mmcomponents import compose
from mmcomponents.checkpoints import ModelSpec
from mmcomponents.checkpoints.export_folder import format_named, weights_of, write
from mmcomponents.cli.main import main
from mmcomponents.companions.action_statistics import ActionStatistics
from mmcomponents.data.chat.kinds import ActionChunk, Kinds
from mmcomponents.data.chat.tokenizer import load_tokenizer, train_tokenizer
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.demos.tabletop import TabletopEnvironment
from mmcomponents.demos.tabletop.demonstration_shards import make_tabletop
from mmcomponents.demos.tabletop.environment import GOALS

WIDTH, VOCAB = 32, 320
SMALL = [
    "--model.vocab_size", str(VOCAB), "--model.vision.init_args.num_layers", "1",
    "--model.merger.init_args.context_width", str(WIDTH), "--model.merger.init_args.num_layers", "1",
    "--model.embedder.init_args.text.init_args.width", str(WIDTH), "--model.backbone.init_args.num_layers", "2",
    "--model.sampler.init_args.steps", "3", "--data.packing.tokens", "220", "--trainer.val_check_interval", "4",
]  # fmt: skip


RECIPE = """
extends: dita/tiny
trainer:
  callbacks:
    - class_path: mmcomponents.training.control.RolloutReport
      init_args: {starts: 6, environment: {class_path: mmcomponents.demos.tabletop.TabletopEnvironment}}
    - class_path: mmcomponents.training.FinalCheckpoint
      init_args: {dirpath: "${trainer.default_root_dir}/checkpoints", every_n_train_steps: 500}
"""


def language_model(folder: Path) -> Path:
    """Writes the folder of a language model with random weights."""
    tokenizer = train_tokenizer(GOALS, VOCAB)
    parts: dict[str, Any] = {
        "embedder": {"class_path": "TokenEmbedder"},
        "position": {"class_path": "RoPE"},
        "backbone": {
            "class_path": "DecoderLM",
            "init_args": {"hidden_size": WIDTH, "num_layers": 1, "num_heads": 2, "intermediate_size": 40},
        },
        "heads": {"lm": {"class_path": "LMHead"}},
    }
    model, spec = compose.build(parts, VOCAB, None), ModelSpec(parts, VOCAB, None)
    write(folder, spec, weights_of(model.state_dict(), spec), format_named("mmcomponents"))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set of few demonstrations."""
    folder = tmp_path_factory.mktemp("table")
    made = Path(make_tabletop(str(folder / "data"), 3, 1, 1, text_model=str(language_model(folder / "lm"))))
    (made / "recipe.yaml").write_text(RECIPE)
    return made


def arguments(table: Path, run: Path, *more: str) -> list[str]:
    shards = [word for part in ("train", "val", "test") for word in (f"--data.{part}", f"{table}/{part}-*.tar")]
    files = [
        "--data.tokenizer", f"{table}/tokenizer",
        "--model.heads.actions.init_args.statistics", f"{table}/statistics.json",
        "--model.embedder.init_args.text.init_args.features", f"{table}/goals.safetensors",
    ]  # fmt: skip
    root = ["--trainer.default_root_dir", str(run)]
    return ["--config", str(table / "recipe.yaml"), *shards, *files, *SMALL, *root, *more]


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["fit", *arguments(table, folder, "--trainer.max_steps", "4")]) == 0
    return folder


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(last(folder), weights_only=True)["state_dict"]


def test_a_resumed_run_has_the_weights_of_one_that_was_not_interrupted(table: Path, run: Path, tmp_path: Path) -> None:
    schedule = ("--model.scheduler.init_args.total_steps", "4")
    assert main(["fit", *arguments(table, tmp_path, "--trainer.max_steps", "2", *schedule)]) == 0
    assert main(
        ["fit", *arguments(table, tmp_path, "--trainer.max_steps", "4", *schedule, "--ckpt_path", str(last(tmp_path)))]
    ) == 0  # fmt: skip
    found, expected = weights(tmp_path), weights(run)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_episodes_are_run_counted_and_drawn(table: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *arguments(table, run, "--ckpt_path", str(last(run)))]) == 0
    report = json.loads((run / "rollouts.json").read_text())
    assert f"success in {report['success']:.3f} of 6 episodes" in capsys.readouterr().out
    assert report["episodes"] == 6
    assert 0 <= report["low"] <= report["success"] <= report["high"] <= 1
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert rows[0]["goal"] in GOALS
    with Image.open(run / "rollouts" / "0.gif") as animation:
        assert 1 < animation.n_frames <= rows[0]["steps"] + 1  # equal images are one, shown longer


def test_an_exported_policy_takes_its_files_along(table: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    assert main(["export", *given, "--format", "mmcomponents", "--out", str(out)]) == 0
    model = mmcomponents.load(out)
    trained = weights(run)
    assert all(torch.equal(value, trained[f"model.{name}"]) for name, value in model.state_dict().items())
    given = ["evaluate", str(out), "--metric", "success_rate", "--benchmark", "TabletopEnvironment", "--limit", "60"]
    assert main([*given, "--out", str(tmp_path / "found")]) == 0
    written = {file.name: file.read_bytes() for file in (tmp_path / "found").iterdir() if file.is_file()}
    rows = written["rollouts.jsonl"].splitlines(keepends=True)
    assert len(rows) == 61  # the settings, and the episodes
    assert json.loads(written["rollouts.json"])["episodes"] == 60
    (tmp_path / "found" / "rollouts.jsonl").write_bytes(b"".join(rows[:55]))
    (tmp_path / "found" / "rollouts.json").unlink()
    assert main([*given, "--out", str(tmp_path / "found")]) == 0
    assert written == {file.name: file.read_bytes() for file in (tmp_path / "found").iterdir() if file.is_file()}
    head: Any = model.heads["actions"]
    assert head.ranges == ActionStatistics.read(table / "statistics.json")
    assert out in Path(head.statistics).parents
    text: Any = model.embedder.text  # type: ignore[union-attr]
    assert out in Path(text.features).parents


def test_generate_prints_actions(table: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    picture = tmp_path / "now.png"
    environment = TabletopEnvironment()
    observation, _ = environment.reset(seed=1)
    observation["image"].save(picture)
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run)), "--image", str(picture)]
    out = str(tmp_path / "model")
    assert main(["export", *given[:4], "--format", "mmcomponents", "--out", out]) == 0
    capsys.readouterr()
    asked = ["--image", str(picture), "--prompt", environment.goal, "--seed", "1"]
    assert main(["generate", *given[:4], *asked]) == main(["generate", out, *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1]  # the folder has the sampler and the record kind of the recipe
    actions = np.array(json.loads(lines[0]))
    assert actions.shape == (8, 2)
    ranges = ActionStatistics.read(table / "statistics.json")
    assert (actions >= np.array(ranges.low) - 1e-6).all()
    assert (actions <= np.array(ranges.high) + 1e-6).all()
    assert main(["generate", *given]) == 2
    assert "the goal has no text" in capsys.readouterr().err
    assert main(["generate", *given, "--prompt", "fly to the moon"]) == 2
    assert "is none of the 12 in" in capsys.readouterr().err


def test_a_sample_that_cannot_be_used_is_named(table: Path, tmp_path: Path, capsys: Any) -> None:
    record = {"goal": GOALS[0], "actions": 8, "dataset": "tabletop-0-3", "source": "tabletop"}
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.full((8, 2), np.nan, np.float32))
    files, members = [("png", (tmp_path / "a.png").read_bytes())], {"actions.npy": (tmp_path / "a.npy").read_bytes()}
    with ShardWriter(tmp_path, "train", 100) as writer:
        writer.write("broken", record, files, members)
    kind = ActionChunk(8, 2, statistics=str(table / "statistics.json"))
    build_index(writer.paths[0], load_tokenizer(table / "tokenizer"), kinds=Kinds([kind]))
    given = arguments(table, tmp_path / "run", "--trainer.max_steps", "1", "--data.train", str(writer.paths[0]))
    assert main(["fit", *given]) != 0
    said = capsys.readouterr()
    assert "8 of 8 actions are NaN or infinite" in said.err + said.out


def test_a_new_process_knows_the_environment_by_its_short_name(tmp_path: Path) -> None:
    words = ["evaluate", "nowhere", "--metric", "success_rate", "--benchmark", "TabletopEnvironment", "--out", "x"]
    found = subprocess.run([sys.executable, "-m", "mmcomponents", *words], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 2
    assert "nowhere" in found.stderr
    assert "TabletopEnvironment" not in found.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--benchmark", "data/*.tar"), "--benchmark 'data/*.tar' is none: Unexpected import path format"),
        (("--benchmark", "builtins.dict"), "Expected 'builtins.dict' to be a subclass of"),
        (("--benchmark", "TabletopEnvironment", "a.B"), "takes one environment, got 2"),
        (("--benchmark", "TabletopEnvironment", "--executed", "0"), "--executed must be at least 1, got 0"),
        (("--benchmark", "TabletopEnvironment", "--executed", "9"), "a chunk of 8 actions is shorter than the 9"),
        (("--benchmark", "TabletopEnvironment", "--system", "x"), "--metric success_rate has no use for --system"),
    ],
)
def test_evaluate_refuses_what_is_no_environment(
    run: Path, tmp_path: Path, more: tuple[str, ...], message: str, capsys: Any
) -> None:
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run)), "--out", str(tmp_path)]
    assert main(["evaluate", *given, "--metric", "success_rate", "--limit", "1", *more]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("heads.actions.init_args.statistics", "nowhere.json"), "reads statistics: there is no file nowhere.json"),
        (("heads.actions.init_args.statistics", "OTHER"), "normalises actions with the statistics other/"),
        (("embedder.init_args.text.init_args.features", "nowhere.safetensors"), "nowhere.safetensors"),
        (("embedder.init_args.action_width", "3"), "has action_width 3, and ActionChunk in data.kinds 2"),
        (("merger.init_args.context_width", "24"), "takes text features of width 24 and LinearActionEmbedder gives"),
        (
            ("sampler.init_args.past", "1"),
            "leaves out 1 actions before the present (past), and ActionChunk in",
        ),
        (("sampler.init_args.steps", "200"), "DDIM has 200 steps and the schedule of 'actions' 100 noise levels"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(
    table: Path, tmp_path: Path, more: tuple[str, str], message: str, capsys: Any
) -> None:
    ActionStatistics("other", 5, (-1.0, -1.0), (1.0, 1.0)).save(tmp_path / "other.json")
    name, value = more
    arguments_of_kind = f"horizon: 8, action_width: 2, statistics: {table}/statistics.json"
    kinds = f"[{{class_path: ActionChunk, init_args: {{{arguments_of_kind}}}}}]"
    changed = (f"--model.{name}", value.replace("OTHER", str(tmp_path / "other.json")))
    given = arguments(table, tmp_path / "run", "--data.kinds", kinds, *changed)
    assert main(["fit", *given]) != 0
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
