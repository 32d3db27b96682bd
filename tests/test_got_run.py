"""GoT from shards to pictures: autoencoder, training, resuming, export, `generate` and its changes, `predict`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import mmcomponents
from mmcomponents.cli.main import main
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.generation import GuidedGeneration, answer_prompts

TINY = ["--model.backbone.init_args.num_layers", "1", "--data.packing.tokens", "300"]
REQUEST = "Generate an image of: a small red circle at the top left, on white"


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "blue").save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    sizes = ["--pictures", "24", "--val_pictures", "4", "--held_out", "3"]
    assert main(["data", "shapes", "--out", str(folder), *sizes]) == 0
    return folder


def shards(data: Path) -> list[str]:
    parts = [word for part in ("train", "val", "test") for word in (f"--data.{part}", f"{data}/{part}-*.tar")]
    return [*parts, "--data.tokenizer", str(data / "tokenizer"), *TINY]


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(last(folder), weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def coder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder of an autoencoder that was trained for two steps."""
    run, out = tmp_path_factory.mktemp("autoencoder"), tmp_path_factory.mktemp("exported") / "autoencoder"
    steps = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.default_root_dir", str(run)]
    assert main(["fit", "--config", "got/autoencoder", *shards(data), *steps]) == 0
    recipe = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    assert main(["export", *recipe, "--format", "mmcomponents", "--out", str(out)]) == 0
    return out


def arguments(data: Path, coder: Path, run: Path, *more: str) -> list[str]:
    start = ["--model.weights", json.dumps({"heads.autoencoder": str(coder)}), "--trainer.val_check_interval", "4"]
    return ["--config", "got/tiny", *shards(data), *start, "--trainer.default_root_dir", str(run), *more]


@pytest.fixture(scope="module")
def run(data: Path, coder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["fit", *arguments(data, coder, folder, "--trainer.max_steps", "4")]) == 0
    return folder


def test_the_autoencoder_is_that_of_its_own_run_and_is_not_trained(coder: Path, run: Path) -> None:
    trained, found = mmcomponents.load(coder), mmcomponents.load(run)
    inner = found.heads["autoencoder"].state_dict()
    for name, value in trained.heads["autoencoder"].state_dict().items():
        assert torch.equal(value, inner[name])
    assert not torch.equal(trained.embedder.queries, found.embedder.queries)
    assert found.heads["picture"].denoiser.enter.added.any()


def test_a_resumed_run_has_the_weights_of_one_that_was_not_interrupted(
    data: Path, coder: Path, run: Path, tmp_path: Path
) -> None:
    given = arguments(data, coder, tmp_path, "--model.scheduler.init_args.total_steps", "4")
    assert main(["fit", *given, "--trainer.max_steps", "2"]) == 0
    assert main(["fit", *given, "--trainer.max_steps", "4", "--ckpt_path", str(last(tmp_path))]) == 0
    found, expected = weights(tmp_path), weights(run)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_generate_writes_pictures_that_an_exported_model_makes_too(run: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    prompt = ["--prompt", REQUEST, "--seed", "3", "--out", str(tmp_path)]
    capsys.readouterr()
    assert main(["generate", *recipe, *prompt, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["answer"]["picture"] == (tmp_path / "1.png").as_posix()
    picture = Image.open(tmp_path / "1.png")
    assert picture.size == (36, 36)
    assert (tmp_path / "1.txt").read_text() == row["answer"]["reasoning"] + "\n"
    folder = str(tmp_path / "model")
    assert main(["export", *recipe, "--format", "mmcomponents", "--out", folder]) == 0
    model, tokenizer = mmcomponents.load(folder), load_tokenizer(folder)
    sampler = GuidedGeneration(20, 1.0, 1.0, max_new_tokens=96)
    (again,) = answer_prompts(model, tokenizer, [REQUEST], sampler=sampler, seed=3)
    assert np.array_equal(np.asarray(again.picture), np.asarray(picture))


def test_boxes_are_changed_at_the_terminal(
    run: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "/words <ref>a circle</ref><box>[[0, 0, 300, 300]]</box> (red)",
        "/box 1 0 0 10 10",
        REQUEST,
        "/words <ref>a circle</ref><box>[[0, 0, 300, 300]]</box> (red)",
        "/box 1 600 600 900 900 blue",
        "/box 2 0 0 10 10",
        "/box 1 0 0 10 1200",
        "/box inf 0 0 10 10",
        "/box 1.7 0 0 10 10",
        "/box 1 0 0 10 10 reddish",
        "/words",
        "/keep",
        "/boxes",
        "/quit",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    recipe = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    capsys.readouterr()
    assert main(["generate", *recipe, "--interactive", "--seed", "3", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["1.png", "2.png", "3.png"]
    assert printed.out.endswith("1: 600 600 900 900 blue\n")
    assert (tmp_path / "3.txt").read_text() == "<ref>a circle</ref><box>[[600, 600, 900, 900]]</box> (blue)\n"
    for message in (
        "there is no picture to change: ask for one first",
        "the reasoning has 1 boxes, and box 2 was named",
        "the box [0, 0, 10, 1200] is not within the picture, 0 to 1000",
        "with a whole number N, got 'inf 0 0 10 10'",
        "with a whole number N, got '1.7 0 0 10 10'",
        "the colour 'reddish' is unknown: colours are those of CSS",
        "/words takes the text of a reasoning",
        "the model has no vision encoder, so that it takes no images",
    ):
        assert message in printed.err
    two, three = (np.asarray(Image.open(tmp_path / f"{number}.png"), int) for number in (2, 3))
    assert np.abs(two - three).max() > 0


def test_evaluate_looks_for_things_in_their_boxes(data: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    given = [
        "evaluate", "--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run)),
        "--benchmark", f"{data}/test-*.tar", "--metric", "things_in_boxes", "--limit", "2", "--out", str(tmp_path),
    ]  # fmt: skip
    assert main([*given, "--reader", "a"]) == 2
    assert "--metric things_in_boxes has no use for --reader" in capsys.readouterr().err
    assert main(given) == 0
    assert "things_in_boxes 0.000 of 2 pictures" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["pictures"], report["metric"]) == (2, "things_in_boxes")
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert report["unread_reasoning"] == sum(bool(row["problems"]) for row in rows)
    assert all((tmp_path / row["picture"]).with_suffix(".txt").is_file() for row in rows)


def test_predict_and_test_write_a_picture_with_its_reasoning_for_each_request(
    data: Path, coder: Path, run: Path
) -> None:
    given = arguments(data, coder, run, "--ckpt_path", str(last(run)))
    assert main(["test", *given]) == 0
    assert [Image.open(path).size for path in (run / "answers").glob("*.png")] == [(36, 36)] * 3
    report = json.loads((run / "report.json").read_text())
    answers = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    assert report["unread_reasoning"] == sum(bool(row["problems"]) for row in answers)
    assert main(["predict", *given]) == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert row["question"].startswith("Generate an image of: ")
        assert (run / row["answer"]).with_suffix(".txt").read_text() == row["reasoning"] + "\n"


EDITS = """
extends: got/tiny
model:
  vision:
    class_path: InternViT
    init_args: {hidden_size: 32, num_layers: 1, num_heads: 2, intermediate_size: 64, image_size: 28, patch_size: 7}
  merger: PixelUnshuffle
  projector: MLPProjector
data:
  tokens_per_tile: 4
  images: {tile_size: 28, max_tiles: 1}
"""


def test_edits_train_with_tiles_of_another_size_than_pictures(
    data: Path, coder: Path, tmp_path: Path, capsys: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "<ref>a circle</ref><box>[[0, 0, 300, 300]]</box> (red)"
    with ShardWriter(tmp_path, "edits", 100) as writer:
        for number in range(4):
            record = {"request": "<image>\nMake the circle red", "reasoning": text, "source": "edits"}
            writer.write(f"{number}", record, [("png", png(36))], {"picture.png": png(36)})
        writer.write("4", record, [("png", png(28))], {"picture.png": png(36)})
    kind = "{class_path: ReasonedPicture, init_args: {picture_size: 36, num_queries: 8}}"
    shard = str(tmp_path / "edits-000000.tar")
    assert main(["data", "index", shard, "--tokenizer", str(data / "tokenizer"), "--kinds", kind]) == 0
    recipe, run = tmp_path / "edits.yaml", tmp_path / "run"
    recipe.write_text(EDITS)
    words = arguments(
        data, coder, run, "--trainer.max_steps", "1", "--data.val", "null", "--data.loading.max_refused", "1"
    )
    words[words.index("got/tiny")] = str(recipe)
    words[words.index("--data.train") + 1] = words[words.index("--data.test") + 1] = shard
    capsys.readouterr()
    assert main(["fit", *words]) == 0
    assert main(["predict", *words, "--ckpt_path", str(last(run))]) == 0
    told = "the reference picture has 28 x 28 pixels, and pictures are made with 36 x 36 (picture_size)"
    assert told in caplog.text
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [Image.open(run / row["answer"]).size for row in rows] == [(36, 36)] * 4
    (tmp_path / "small.png").write_bytes(png(28))
    small = f"/image {tmp_path / 'small.png'}"
    lines = [REQUEST, "/keep", "Make it blue", small, small, "Make it red", REQUEST, f"/words {'a b ' * 4000}"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    checkpoint = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    assert (
        main(
            [
                "generate",
                *checkpoint,
                "--interactive",
                "--max_length",
                "300",
                "--seed",
                "3",
                "--out",
                str(tmp_path / "made"),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert told in error
    assert "more than the limit of 300" in error
    assert len(list((tmp_path / "made").glob("*.png"))) == 3


def test_own_data_are_converted_with_the_kind_in_their_recipe(data: Path, tmp_path: Path) -> None:
    text = "<box>[[0, 0, 300, 300]]</box> (red)"
    rows = []
    for name, side in (("good", 36), ("small", 28)):
        (tmp_path / f"{name}.png").write_bytes(png(side))
        row = {"request": "<image>\nMake it red", "reasoning": text, "image": f"{name}.png"}
        rows.append(json.dumps(row | {"members": {"picture.png": "good.png"}}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    kind = "{class_path: ReasonedPicture, init_args: {picture_size: 36, num_queries: 8}}"
    words = ["--out", str(tmp_path / "own"), "--tokenizer", str(data / "tokenizer"), "--kinds", kind]
    assert main(["data", "convert", str(tmp_path / "rows.jsonl"), *words]) == 0
    recipe = yaml.safe_load((tmp_path / "own" / "recipe.yaml").read_text())
    assert recipe["data"]["kinds"] == [yaml.safe_load(kind)]
    refused = (tmp_path / "own" / "refused.jsonl").read_text()
    assert "the reference picture has 28 x 28 pixels" in refused
    assert refused.count("\n") == 1
