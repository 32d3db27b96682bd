"""A detector from annotations of COCO to boxes: training, resuming, average precision, export, `generate`."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmcomponents
from midetr import images, packed
from mmcomponents.cli.main import main
from mmcomponents.data.convert import convert_annotations
from mmcomponents.demos.handwriting.cluttered import ClutterStyle, draw_clutter
from mmcomponents.demos.handwriting.scenes import load_scans
from mmcomponents.evaluation.box_ap import FIGURES
from mmcomponents.generation import Context, TopBoxes

STYLE = ClutterStyle(64, (10, 20), (0, 5), marks=2)
SMALL = [
    "--model.vision.init_args.image_size", "64", "--data.images.tile_size", "64",
    "--model.heads.detection.init_args.num_queries", "20", "--model.objective.init_args.denoising", "4",
    "--data.packing.tiles", "2", "--trainer.val_check_interval", "4", "--model.sampler.init_args.num_boxes", "30",
    "--model.vision.init_args.width", "8", "--model.vision.init_args.depths", "[1, 1, 1]",
]  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with annotations of COCO for three parts, and their shards."""
    folder = tmp_path_factory.mktemp("digits")
    scans, labels = load_scans()
    for part, count in (("train", 8), ("val", 3), ("test", 5)):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": n + 3} for n in range(10)]}
        for number in range(count):
            draw = np.random.default_rng((number, len(part)))
            scene = draw_clutter(scans, labels, np.arange(50), STYLE, draw, True)
            name = f"{part}-{number}.png"
            scene.image.save(folder / name)
            content["images"].append({"id": number, "file_name": name, "width": 64, "height": 64})
            for (left, top, right, bottom), digit in zip(scene.boxes.tolist(), scene.digits.tolist(), strict=True):
                box = [left, top, right - left, bottom - top]
                own = {"id": len(content["annotations"]) + 1, "area": box[2] * box[3], "iscrowd": int(digit == 4)}
                content["annotations"].append({"image_id": number, "category_id": digit + 3, "bbox": box, **own})
        (folder / f"{part}.json").write_text(json.dumps(content))
    inputs = [str(folder / f"{part}.json") for part in ("train", "val", "test")]
    convert_annotations(inputs, folder / "shards", "byte-level", kinds=["BoxedImage"], tile_size=64, num_workers=1)
    return folder


def arguments(digits: Path, run: Path, *more: str) -> list[str]:
    shards = [word for part in ("train", "val", "test") for word in (f"--data.{part}", f"{digits}/shards/{part}-*.tar")]
    return ["--config", "midetr/tiny", *shards, *SMALL, "--trainer.default_root_dir", str(run), *more]


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["fit", *arguments(digits, folder, "--trainer.max_steps", "4")]) == 0
    return folder


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(last(folder), weights_only=True)["state_dict"]


def test_a_resumed_run_has_the_weights_of_one_that_was_not_interrupted(digits: Path, run: Path, tmp_path: Path) -> None:
    schedule = ("--model.scheduler.init_args.total_steps", "4")
    assert main(["fit", *arguments(digits, tmp_path, "--trainer.max_steps", "2", *schedule)]) == 0
    assert main(
        ["fit", *arguments(digits, tmp_path, "--trainer.max_steps", "4", *schedule, "--ckpt_path", str(last(tmp_path)))]
    ) == 0  # fmt: skip
    found, expected = weights(tmp_path), weights(run)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_boxes_are_written_drawn_and_measured(digits: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools", reason="needs mmcomponents[detection]")
    assert main(["test", *arguments(digits, run, "--ckpt_path", str(last(run)))]) == 0
    report = json.loads((run / "boxes.json").read_text())
    assert f"ap {report['ap']:.3f}, ap50 {report['ap50']:.3f}" in capsys.readouterr().out
    assert report["images"] == 5
    assert 0 <= report["ap"] <= report["ap50"] <= 1
    rows = [json.loads(line) for line in (run / "boxes.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert all(len(row["boxes"]) == 30 for row in rows)
    assert rows[0]["true"]["size"] == [64, 64]
    assert Image.open(run / "boxes" / "0.png").size == (64, 64)
    events = [p for p in run.rglob("events.out*") if b"val/boxes" in p.read_bytes()]
    assert events


def test_an_exported_detector_finds_the_same_boxes(digits: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "model")
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    assert main(["export", *given, "--format", "mmcomponents", "--out", out]) == 0
    model = mmcomponents.load(out)
    trained = weights(run)
    assert all(torch.equal(value, trained[f"model.{name}"]) for name, value in model.state_dict().items())
    (answer,) = TopBoxes(num_boxes=3).answer(model, packed(images((64, 64))), Context())
    assert answer.values.shape == (3, 7)
    given += ["--image", str(digits / "test-0.png")]
    capsys.readouterr()
    assert main(["generate", *given]) == main(["generate", out, "--image", str(digits / "test-0.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1]
    assert len(json.loads(lines[0])) == 30  # the sampler of the recipe, which is in the folder


def test_evaluate_measures_a_folder_and_resumes(digits: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("pycocotools", reason="needs mmcomponents[detection]")
    model, out = str(tmp_path / "model"), tmp_path / "out"
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    assert main(["export", *given, "--format", "mmcomponents", "--out", model]) == 0
    shards = f"{digits}/shards/test-*.tar"
    asked = ["evaluate", model, "--benchmark", shards, "--metric", "box_ap", "--out", str(out)]
    assert main(asked) == 0
    report = json.loads((out / "report.json").read_text())
    assert main(["test", *arguments(digits, run, "--ckpt_path", str(last(run)))]) == 0
    tested = json.loads((run / "boxes.json").read_text())
    assert {name: report[name] for name in ("ap", "ap50", "images")} == {
        name: pytest.approx(tested[name], abs=1e-3) for name in ("ap", "ap50", "images")
    }
    assert Image.open(out / "boxes" / "0.png").size == (64, 64)
    assert official(digits / "test.json", out / "coco.json") == pytest.approx(
        [math.nan if report[name] is None else report[name] for name in FIGURES], abs=1e-9, nan_ok=True
    )
    lines = (out / "boxes.jsonl").read_text().splitlines()
    assert len(lines) == 6  # the settings, and five images
    (out / "boxes.jsonl").write_text("".join(f"{line}\n" for line in lines[:3]) + '{"key": "ha')
    assert main(asked) == 0
    assert (out / "boxes.jsonl").read_text().splitlines() == lines
    assert json.loads((out / "report.json").read_text()) == report
    capsys.readouterr()
    for wrong, said in (
        (["--system", "x"], "--metric box_ap has no use for --system"),
        (["--benchmark", "a.json"], "reads shards, not 'a.json'"),
    ):
        assert main([*asked, *wrong]) == 2
        assert said in capsys.readouterr().err


def official(truth: Path, found: Path) -> list[float]:
    """AP, AP50, AP75 and those of small, medium and large objects as pycocotools' own summary has them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content = json.loads(truth.read_text())
    known = COCO()
    known.dataset = {"info": {}, **content}
    known.createIndex()
    evaluation = COCOeval(known, known.loadRes(str(found)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [math.nan if value == -1 else value for value in evaluation.stats[:6]]


def test_a_class_that_the_head_has_not_is_told_by_evaluate(
    digits: Path, run: Path, tmp_path: Path, capsys: Any
) -> None:
    pytest.importorskip("pycocotools", reason="needs mmcomponents[detection]")
    content = json.loads((digits / "test.json").read_text())
    content["categories"] = [{"id": n} for n in (0, *(category["id"] for category in content["categories"]))]
    for name in ("test-0.png", "test-1.png", "test-2.png", "test-3.png", "test-4.png"):
        shutil.copy(digits / name, tmp_path / name)
    content["annotations"][0] = {**content["annotations"][0], "category_id": 12, "iscrowd": 0}
    (tmp_path / "more.json").write_text(json.dumps(content))
    convert_annotations(
        [str(tmp_path / "more.json")], tmp_path / "s", "byte-level", kinds=["BoxedImage"], num_workers=1
    )
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run)), "--metric", "box_ap"]
    assert main(["evaluate", *given, "--benchmark", f"{tmp_path}/s/more-*.tar", "--out", str(tmp_path / "o")]) == 2
    assert "the class 10 is none of the 10" in capsys.readouterr().err


def test_a_missing_pycocotools_is_told_before_any_image(
    digits: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("pycocotools", "pycocotools.coco", "pycocotools.cocoeval"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(TopBoxes, "best", None)  # nothing is answered
    told = "average precision of boxes needs pycocotools: pip install 'mmcomponents[detection]'"
    assert main(["test", *arguments(digits, run, "--ckpt_path", str(last(run)))]) != 0
    assert f"BoxReport: {told}" in " ".join(capsys.readouterr().err.split())
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run)), "--metric", "box_ap"]
    assert main(["evaluate", *given, "--benchmark", f"{digits}/shards/test-*.tar"]) == 2
    assert f"evaluate: {told}" in " ".join(capsys.readouterr().err.split())


def test_boxes_of_another_data_set_are_not_reused(digits: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("pycocotools", reason="needs mmcomponents[detection]")
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run)), "--metric", "box_ap"]
    asked = ["evaluate", *given, "--out", str(tmp_path / "o"), "--benchmark"]
    (shard,) = (digits / "shards").glob("val-*.tar")
    (tmp_path / "other").mkdir()
    (other,) = (digits / "shards").glob("test-*.tar")
    shutil.copy(other, tmp_path / "other" / shard.name)
    assert main([*asked, str(shard)]) == 0
    assert main([*asked, str(tmp_path / "other" / shard.name)]) == 2
    assert "was started with other settings (images was" in capsys.readouterr().err
    assert main([*asked, str(shard), str(tmp_path / "other" / shard.name)]) == 2
    assert "two benchmarks are named" in capsys.readouterr().err
    (tmp_path / "again").mkdir()
    shutil.copy(shard, tmp_path / "again" / shard.name)
    shutil.copy(shard, tmp_path / "other" / shard.name)
    assert main([*asked, f"{tmp_path}/*/{shard.name}"]) == 2
    assert "both have an image" in capsys.readouterr().err


def test_a_shard_without_boxes_is_refused_by_name(run: Path, tmp_path: Path, capsys: Any) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    )
    convert_annotations([str(chats)], tmp_path / "shards", "byte-level", num_workers=1)
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run))]
    shards = f"{tmp_path}/shards/*.tar"
    assert main(["evaluate", *given, "--benchmark", shards, "--metric", "box_ap", "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert "1 of 1 images cannot be evaluated" in said
    assert 'an image with boxes has the keys "boxes" and "labels"' in said


def test_generate_prints_and_draws_boxes(digits: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    picture = tmp_path / "out.png"
    given = ["--config", str(run / "recipe.yaml"), "--ckpt_path", str(last(run)), "--image", str(digits / "test-0.png")]
    capsys.readouterr()
    assert main(["generate", *given, "--boxes", str(picture)]) == 0
    said = capsys.readouterr()
    boxes = json.loads(said.out)
    assert len(boxes) == 30
    assert boxes[0].keys() == {"label", "name", "score", "box"}
    assert boxes[0]["score"] >= boxes[-1]["score"]
    assert f"{sum(box['score'] >= 0.3 for box in boxes)} of 30 boxes have a score of at least 0.3" in said.err
    assert Image.open(picture).size == (64, 64)
    assert main(["generate", *given, str(digits / "test-1.png")]) == 2
    assert "boxes are found in one image, got 2" in capsys.readouterr().err


def test_a_class_that_the_head_has_not_is_skipped_and_named(digits: Path, tmp_path: Path, capsys: Any) -> None:
    kinds = "[{class_path: BoxedImage, init_args: {num_classes: 2}}]"
    assert main(["fit", *arguments(digits, tmp_path, "--trainer.max_steps", "1", "--data.kinds", kinds)]) != 0
    said = capsys.readouterr()
    assert "is none of the 2 of the run (num_classes)" in said.err + said.out
