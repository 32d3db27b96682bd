"""Tests of `data preferences` and `data steps`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from drawn import Folder, records, write_questions
from mmcomponents import checkpoints
from mmcomponents.cli.main import main
from mmcomponents.cli.models import synthesis_options
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.evaluation import checkers as checking
from mmcomponents.heads import LMHead

Write = Callable[[str, str], Path]
FEW = ("--samples", "4", "--max_new_tokens", "4", "--temperature", "1", "--check", "exact")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is this? It is a cat, a dog or 7."] * 4, 400)


@pytest.fixture
def folder(write: Write, tokenizer, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Creates the folder `m` and three questions with the answer "a"."""
    vocab = len(tokenizer)
    model = tiny.model(embedder=TokenEmbedder(vocab, tiny.WIDTH), heads={"lm": LMHead(tiny.WIDTH, vocab)})
    made = Folder(model, tokenizer)
    monkeypatch.setattr(checkpoints, "read", lambda path, **rest: made)
    write("m/config.json", "{}")
    write_questions(Path(), 3, answer="a")
    return made


def line_of_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["data", *argv]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1, told.err
    return told.err.removeprefix("mmcomponents: data ").rstrip("\n")


def test_preferences(folder, capsys, monkeypatch) -> None:
    monkeypatch.setattr(checking.ExactAnswer, "same", lambda self, found, answer: len(found) < 8)
    with torch.no_grad():  # so that some answers end before the limit
        folder.model.heads["lm"].weight[folder.words.convert_tokens_to_ids("<|im_end|>")] *= 3
    argv = ["preferences", "m", "q.jsonl", "--out", "p", *FEW, "--max_pairs", "2"]
    assert main(["data", *argv]) == 0
    told = capsys.readouterr().out
    report = json.loads(Path("p/preferences.json").read_text())
    assert report["samples"] == 12
    assert len(records(Path("p"), "pairs")) == report["pairs"] > 0
    assert "p: 1 shard with its index, preferences.json, recipe.yaml, journal.jsonl" in told
    assert "│ answers" in told
    assert "│ truncated at max_new_tokens, never chosen" in told
    assert 0 < report["cut"] < 12
    assert main(["data", *argv, "--no_answers"]) == 2  # the journal has other settings
    assert "was started with other settings (checked was True and is False, questions was" in capsys.readouterr().err


def test_steps(folder, capsys) -> None:
    assert main(["data", "steps", "m", "q.jsonl", "--out", "s", *FEW, "--completions", "2", "--limit", "2"]) == 0
    told = capsys.readouterr().out
    report = json.loads(Path("s/steps.json").read_text())
    assert report["solutions"] == report["cut"] == 8  # four tokens do not complete an answer
    assert "│ truncated at max_new_tokens, thus wrong" in told
    assert len(records(Path("s"), "process")) == len(records(Path("s"), "outcome")) > 0
    assert "process-*.tar contains a verdict for every step" in told
    assert 'every step is a "-", from which a critic cannot learn; use easier questions' in told


def test_an_instruction_is_asked_with_and_written_with(folder, capsys) -> None:
    argv = ["steps", "m", "q.jsonl", "--out", "s", *FEW, "--completions", "2", "--limit", "1"]
    assert main(["data", *argv, "--instruction", "Say a cat."]) == 0
    (first, *_) = records(Path("s"), "outcome")
    assert any("\nSay a cat." in message["content"] for message in first["messages"])
    assert "was started with other settings (questions was" in line_of_error(capsys, *argv)


def test_no_pair_is_an_error(folder, capsys) -> None:
    assert main(["data", "preferences", "m", "q.jsonl", "--out", "p", *FEW, "--check", "boxed"]) == 2
    told = capsys.readouterr()
    assert "no right answer" in told.out
    assert "recipe.yaml" not in told.out
    assert told.err == "mmcomponents: data preferences: no pairs were made; see the reasons in the table\n"


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["m", "--out", "o"], "needs MODEL and QUESTIONS"),
        (["m", "q.jsonl"], "the following arguments are required: --out"),
        (["m", "q.jsonl", "--out", "o", "--sampels", "3"], "no option --sampels; did you mean 'samples'?"),
        (["m", "q.jsonl", "--out", "o", "--ckpt_path", "x"], "--ckpt_path and settings of a recipe require --config"),
        (["q.jsonl", "--out", "o", "--config", "r.yaml"], "--ckpt_path is missing"),
        (["m", "q.jsonl", "--out", "o", "--temperature", "0"], "--temperature 0 gives the same answer each time"),
        (["m", "q.jsonl", "--out", "o", "--check", "exakt"], "invalid choice: 'exakt'"),
        (["m", "q.jsonl", "--out", "o", "--check", "exact", "--tolerance", "0.1"], "--tolerance does not apply to"),
        (["m", "q.jsonl", "--out", "o", "--samples", "0"], "samples must be at least 1"),
        (["m", "q.jsonl", "--out", "o", "--limit", "0"], "--limit must be at least 1"),
        (["m", "gone.jsonl", "--out", "o"], "question file not found: gone.jsonl"),
        (["gone", "q.jsonl", "--out", "o"], "there is no model folder 'gone'"),
        (["m", "q.jsonl", "--out", "o", "--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, argv, complaint) -> None:
    assert complaint in line_of_error(capsys, "preferences", *argv)
    assert not Path("o").exists()


def test_questions_without_a_column_or_an_image_are_one_line(folder, capsys, write) -> None:
    write("bad.jsonl", '{"prompt": "a?", "answer": "b"}\n')
    told = line_of_error(capsys, "steps", "m", "bad.jsonl", "--out", "o")
    assert "bad.jsonl has no column 'question'; its columns are: prompt, answer" in told


def test_a_recipe_has_no_folder_of_a_model() -> None:
    made = synthesis_options.parser("data steps", "", samples=4, temperature=1.0)
    argv = ["a.tar", "--config", "r", "--out", "o", "b.tar", "--ckpt_path=c", "--data.seed", "3", "--stop", "x"]
    call = synthesis_options.take_apart(made, argv)
    assert (call.folder, call.questions, call.options.stop) == (None, ["a.tar", "b.tar"], ["x"])
    assert call.recipe == ["--config", "r", "--data.seed", "3"]
    call = synthesis_options.take_apart(made, ["--samples", "2", "m", "--out", "o", "a.tar"])
    assert (call.folder, call.questions, call.options.samples) == ("m", ["a.tar"], 2)


def test_an_interruption_says_how_to_go_on(folder, capsys, monkeypatch) -> None:
    def stop(*args, **rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthesis_options, "questions", stop)
    assert main(["data", "steps", "m", "q.jsonl", "--out", "o"]) == 130
    assert "resumes from o/journal.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("check", synthesis_options.CHECKS)
def test_every_check_has_a_checker(check) -> None:
    made = synthesis_options.parser("data steps", "", samples=4, temperature=1.0)
    options = made.parse_args(["m", "q", "--out", "o", "--check", check])
    assert isinstance(synthesis_options.checker(options), checking.Checker)
