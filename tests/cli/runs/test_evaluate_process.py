from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_import_export import RECIPE

import tiny
from mmcomponents import checkpoints
from mmcomponents.cli.main import main
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.media.images import load_image
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.evaluation.critic import Critic, Solution
from mmcomponents.heads import LMHead
from mmcomponents.synthesis.rollout import Question
from mmcomponents.training import MultimodalTask


class Folder:
    """Stand-in for a checkpoint."""

    def __init__(self) -> None:
        self.words = train_tokenizer(["What is this? It is a cat, a dog or 7."] * 4, 400)
        vocab = len(self.words)
        heads = {"lm": LMHead(tiny.WIDTH, vocab)}
        self.model = tiny.model(embedder=TokenEmbedder(vocab, tiny.WIDTH), heads=heads)

    def load(self, device, dtype, allow_nonfinite):
        return self.model

    def make_sampler(self, trust_remote_code):
        return None

    def tokenizer(self):
        return self.words

    def renderer(self, tokenizer, tokens_per_tile):
        return SampleRenderer(tokenizer, tokens_per_tile, Tiling(tile_size=tiny.TILE))


def line(labels: list[int], **changes) -> str:
    record = {
        "image": ["a.png"],
        "question": "What is this?",
        "response": {"steps": ["It is a cat.", "A dog.", "7"][: len(labels)], "process_correctness": labels},
        "data_source": "WeMath",
    }
    return json.dumps({**record, **changes}) + "\n"


@pytest.fixture
def place(write, monkeypatch) -> None:
    write("pictures/note", "")
    Image.new("RGB", (16, 16), "blue").save("pictures/a.png")
    Path("m").mkdir()
    stand_in = Folder()
    monkeypatch.setattr(checkpoints, "read", lambda path, allow_pickle, trust_remote_code: stand_in)
    lines = [line([1, 0, -1]), line([1, -1], data_source="MMMU"), line([1], image=["b.png"]), "{\n"]
    Path("test.jsonl").write_text("".join(lines), encoding="utf-8")


CALL = ["evaluate", "process", "m", "--benchmark", "test.jsonl", "--images", "pictures", "--out", "out"]


@pytest.mark.usefixtures("place")
def test_it_prints_a_table_and_writes_what_it_found(capsys) -> None:
    assert main([*CALL, "--threshold", "0.85", "--device", "cpu", "--max_refused", "0.5"]) == 0
    told = capsys.readouterr().out
    report = json.loads(Path("out/report.json").read_text())
    assert report["threshold"] == 0.85
    assert (report["overall"]["right"], report["overall"]["wrong"], report["overall"]["neutral"]) == (2, 2, 1)
    assert list(report["sources"]) == ["MMMU", "WeMath"]
    rows = [part.split() for part in told.splitlines() if "│" in part]
    assert [row[1] for row in rows] == ["MMMU", "WeMath", "all"]
    assert f"{report['overall']['macro_f1']:.1%}" in rows[-1]
    assert "right if above 0.85" in told
    assert "2 skipped records:" in told
    assert "test.jsonl:4: wrong JSON" in told
    assert "test.jsonl:3: image file not found: pictures/b.png" in told
    assert "wrote out/report.json and out/steps.jsonl" in told
    lines = [json.loads(each) for each in Path("out/steps.jsonl").read_text().splitlines()]
    assert [(each["key"], each["source"], len(each["scores"])) for each in lines[1:]] == [
        ("1", "WeMath", 3),
        ("2", "MMMU", 2),
    ]


def line_of_error(capsys, *argv: str) -> str:
    assert main(["evaluate", "process", *argv]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    return told.err.removeprefix("mmcomponents: ").rstrip("\n")


@pytest.mark.usefixtures("place")
def test_mistakes_are_told_in_a_line(capsys) -> None:
    rest = list(CALL[3:])
    assert "--benchmark is missing" in line_of_error(capsys, "m")
    assert "needs CRITIC, a folder, or --config RECIPE" in line_of_error(capsys, *rest)
    assert "no image folder 'pics'" in line_of_error(capsys, "m", *rest, "--images", "pics")
    assert "--threshold must be between 0 and 1, got 1" in line_of_error(capsys, "m", *rest, "--threshold", "1")
    told = line_of_error(capsys, "m", *rest, "--treshold", "0.5")
    assert told == "evaluate process: no option --treshold; did you mean 'threshold'?"
    assert "--max_refused must be from 0 to 1, got 2" in line_of_error(capsys, "m", *rest, "--max_refused", "2")
    told = line_of_error(capsys, "m", *rest)
    assert "2 of 4 records of test.jsonl cannot be scored, more than max_refused 0.01: test.jsonl:3: image" in told
    rest += ["--max_refused", "0.5"]
    told = line_of_error(capsys, "m", *rest, "--verdicts", "right", "-")
    assert "invalid verdicts of the critic: 'right' is not a single token of the tokenizer but" in told
    assert "the folder CRITIC cannot be combined with a recipe" in line_of_error(
        capsys, "m", *rest, "--ckpt_path", "a.ckpt"
    )
    assert "there is no model folder 'n'" in line_of_error(capsys, "n", *rest)
    Path("test.jsonl").write_text(line([1]).replace("response", "answer"), encoding="utf-8")
    told = line_of_error(capsys, "m", *rest)
    assert told.startswith("evaluate process: none of 1 records of test.jsonl can be used: test.jsonl:1: no response")
    assert main(["evaluate", "process", "--help"]) == 0
    assert "macro F1" in capsys.readouterr().out


@pytest.mark.usefixtures("place")
def test_without_a_folder_files_go_where_evaluate_puts_its_own(capsys) -> None:
    assert main([*CALL[:-2], "--max_refused", "0.5"]) == 0
    assert "wrote runs/evaluate/m/process/test/report.json and" in capsys.readouterr().out
    assert Path("runs/evaluate/m/process/test/steps.jsonl").is_file()


CRITIC = """
extends: r.yaml
model:
  objective: {class_path: ProcessReward}
  heads:
    lm: {class_path: Verbalizer, init_args: {token_ids: [PLUS, MINUS]}}
data:
  verdicts: ["+", "-"]
"""


@pytest.mark.usefixtures("place")
def test_a_run_is_judged_with_its_recipe(write, capsys) -> None:
    tokenizer = train_tokenizer(["What is this? It is a cat."] * 3, 300)
    tokenizer.save_pretrained("tok")
    plus, minus = tokenizer.convert_tokens_to_ids(["+", "-"])
    write("r.yaml", RECIPE)
    write("critic.yaml", CRITIC.replace("PLUS", str(plus)).replace("MINUS", str(minus)))
    cli = RecipeCLI("evaluate", sort_flags(["--config", "critic.yaml"]), MultimodalTask, PackedDataModule)
    task: Any = cli.model
    task.configure_model()
    torch.save({"state_dict": task.state_dict(), "epoch": 0}, "last.ckpt")
    run = ["--config", "critic.yaml", "--ckpt_path", "last.ckpt"]
    assert main(["evaluate", "process", *run, *CALL[3:], "--max_refused", "0.5"]) == 0
    assert "all steps" in capsys.readouterr().out
    (_, first, _) = Path("out/steps.jsonl").read_text().splitlines()
    path = "pictures/a.png"
    question = Question("1", [{"role": "user", "content": "What is this?"}], lambda: ([load_image(path)], []))
    solution = Solution(question, "", ("It is a cat.", "A dog.", "7"))
    (expected,) = Critic(task.model, cli.datamodule.renderer).score([solution])
    assert json.loads(first)["scores"] == pytest.approx(expected, abs=1e-5)
