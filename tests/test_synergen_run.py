"""SynerGen-VL from shards to pictures: tokenizer, training, resuming, export, `generate`, `predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmcomponents
from mmcomponents.cli.main import main
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.demos.handwriting.picture_builder import make_pictures
from mmcomponents.generation import ImageSampler, answer_prompts

TINY = [
    "--model.backbone.init_args.num_layers", "1", "--model.heads.vq_unfold.init_args.num_layers", "1",
    "--data.packing.tokens", "200", "--trainer.val_check_interval", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    assert main(
        ["data", "pictures", "--out", str(folder), "--pictures", "24", "--held_out", "3", "--val_pictures", "4"]
    ) == 0  # fmt: skip
    return folder


def shards(data: Path, test: str = "pictures") -> list[str]:
    parts = {"train": "train", "val": "val", "test": test}
    words = [word for name, part in parts.items() for word in (f"--data.{name}", f"{data}/{part}-*.tar")]
    return [*words, "--data.tokenizer", str(data / "tokenizer")]


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(last(folder), weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def tokenizer(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder of a tokenizer that was trained for two steps."""
    run, out = tmp_path_factory.mktemp("tokenizer"), tmp_path_factory.mktemp("exported") / "tokenizer"
    words = [*shards(data)[:4], "--data.tokenizer", str(data / "tokenizer")]
    given = ["--config", "synergen/tokenizer", *words, "--data.packing.tiles", "4"]
    steps = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.default_root_dir", str(run)]
    assert main(["fit", *given, *steps]) == 0
    recipe = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    assert main(["export", *recipe, "--format", "mmcomponents", "--out", str(out)]) == 0
    return out


def arguments(data: Path, tokenizer: Path, run: Path, *more: str) -> list[str]:
    start = ["--model.weights", json.dumps({"vision.tokenizer": str(tokenizer)})]
    return [
        "--config", "synergen/tiny", *shards(data), *TINY, *start,
        "--trainer.default_root_dir", str(run), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(data: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("run")
    more = ("--trainer.max_steps", "4", "--data.kinds", DROPOUT)
    assert main(["fit", *arguments(data, tokenizer, folder, *more)]) == 0
    return folder


DROPOUT = "[{class_path: Chat}, {class_path: CaptionedPicture, init_args: {dropout: 0.5}}]"


def test_the_tokenizer_is_that_of_its_own_run_and_is_not_trained(tokenizer: Path, run: Path) -> None:
    trained, found = mmcomponents.load(tokenizer), mmcomponents.load(run)
    inner = found.vision.tokenizer.state_dict()
    assert all(torch.equal(value, inner[name]) for name, value in trained.vision.state_dict().items())
    assert found.embedder.unconditional.any()


def test_a_resumed_run_has_the_weights_of_one_that_was_not_interrupted(
    data: Path, tokenizer: Path, run: Path, tmp_path: Path
) -> None:
    schedule = ("--model.scheduler.init_args.total_steps", "4", "--data.kinds", DROPOUT)
    given = arguments(data, tokenizer, tmp_path, *schedule)
    assert main(["fit", *given, "--trainer.max_steps", "2"]) == 0
    assert main(["fit", *given, "--trainer.max_steps", "4", "--ckpt_path", str(last(tmp_path))]) == 0
    found, expected = weights(tmp_path), weights(run)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_generate_writes_pictures_that_an_exported_model_makes_too(run: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    prompt = ["--prompt", "Generate an image of: 4 7", "--seed", "3", "--out", str(tmp_path)]
    capsys.readouterr()
    assert main(["generate", *recipe, *prompt]) == 0
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert path == tmp_path / "1.png"
    picture = Image.open(path)
    assert picture.size == (32, 32)
    folder = str(tmp_path / "model")
    assert main(["export", *recipe, "--format", "mmcomponents", "--out", folder]) == 0
    model, tokenizer = mmcomponents.load(folder), load_tokenizer(folder)
    again = answer_prompts(
        model, tokenizer, ["Generate an image of: 4 7"], sampler=ImageSampler(1.5), seed=3
    )[0].picture  # fmt: skip
    assert np.array_equal(np.asarray(again), np.asarray(picture))


def test_predict_and_test_write_a_picture_for_each_caption(
    data: Path, tokenizer: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = arguments(data, tokenizer, run, "--ckpt_path", str(last(run)))
    assert main(["test", *given]) == 0
    assert [Image.open(path).size for path in (run / "answers").glob("*.png")] == [(32, 32)] * 3
    assert "ask for" not in caplog.text
    assert main(["predict", *given]) == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    pictures = {row["key"]: np.asarray(Image.open(run / row["answer"])) for row in rows}
    assert all(row["question"].startswith("Generate an image of: ") for row in rows)
    assert all(Image.open(run / row["answer"]).size == (32, 32) for row in rows)
    (run / "predictions" / "old-7-0.png").touch()
    one = ["--data.questions.per_batch", "1"]
    assert main(["predict", *given, *one]) == 0
    again = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for row, other in zip(rows, again, strict=True):  # draws depend on seed and sample
        assert np.array_equal(np.asarray(Image.open(run / other["answer"])), pictures[row["key"]])
    assert len(list((run / "predictions").glob("*.png"))) == 3
    caplog.clear()
    assert main(["predict", *given, "--data.test", f"{data}/reading-*.tar"]) == 0
    assert "3 of the first 3 questions ask for text, and the sampler ImageSampler answers with picture" in caplog.text


def test_evaluate_asks_a_reader_about_each_picture(data: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    reader = ["--reader", f"{run / 'recipe.yaml'}:{last(run)}", "--reader_question", "Which digits?"]
    given = [
        "evaluate", *recipe, "--benchmark", f"{data}/pictures-*.tar", "--metric", "read_back", "--limit", "2",
        "--max_new_tokens", "4", "--out", str(tmp_path / "made"),
    ]  # fmt: skip
    assert main([*given]) == 2
    assert "--reader is missing: --reader MODEL --reader_question TEXT" in capsys.readouterr().err
    assert main([*given, *reader, "--reader_metric", "exakt"]) == 2
    assert "did you mean 'exact'" in capsys.readouterr().err
    assert main([*given, *reader, "--samples", "2"]) == 2
    assert "--metric read_back has no use for --samples" in capsys.readouterr().err
    assert main([*given, *reader[:1], str(tmp_path / "none"), *reader[2:]]) == 2
    assert "there is no reader" in capsys.readouterr().err
    assert main([*given, *reader, "--model.sampler", "Autoregressive"]) == 2
    assert "needs a model that makes pictures, and the sampler Autoregressive answers with text" in (
        capsys.readouterr().err
    )
    assert main([*given, *reader]) == 0
    out = capsys.readouterr().out
    assert "read_back 0." in out
    assert "of 2 pictures" in out
    rows = [json.loads(line) for line in (tmp_path / "made" / "results.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [f"Generate an image of: {row['references'][0]}" for row in rows]
    assert all(Image.open(tmp_path / "made" / row["picture"]).size == (32, 32) for row in rows)
    assert all(isinstance(row["read"], str) for row in rows)
    before = (tmp_path / "made" / "results.jsonl").read_bytes()
    assert main([*given, *reader]) == 0
    assert (tmp_path / "made" / "results.jsonl").read_bytes() == before
    assert main([*given, *reader, "--seed", "1"]) == 2
    assert "seed" in capsys.readouterr().err


def test_the_pictures_command_writes_the_data_set_of_its_function(data: Path, tmp_path: Path) -> None:
    make_pictures(str(tmp_path / "again"), pictures=24, held_out=3, val_pictures=4)
    for name in ("train-000000.tar", "pictures-000000.tar"):
        assert (data / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
