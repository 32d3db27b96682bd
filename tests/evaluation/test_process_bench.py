"""VisualProcessBench: reading, metric, and resuming after an interruption."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_f1_score

import tiny
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import DataError
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.evaluation.critic import Critic
from mmcomponents.evaluation.process_bench import evaluate_process, process_report, read_process_bench

STEPS = ["It is a cat.", "A cat, or 7 dogs.", "Final answer: 7"]


def line(**changes) -> dict:
    record = {
        "image": ["images/a.png"],
        "question": "What is this?",
        "answer": "7",
        "response": {"steps": STEPS, "process_correctness": [1, 0, -1]},
        "policy_model": "some-model",
        "data_source": "MathVista",
    }
    return {**record, **changes}


def labelled(*labels: int, **changes) -> dict:
    return line(response={"steps": STEPS[: len(labels)], "process_correctness": list(labels)}, **changes)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (16, 16), (90, 0, 10 * ord(name) % 256)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def write(folder, *records):
    path = folder / "test.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def critic(tokenizer, writer):
    return Critic(writer(), SampleRenderer(tokenizer, tiny.VISUAL_TOKENS, Tiling(tile_size=tiny.TILE)), max_tokens=600)


RECORDS = [
    labelled(1, 0, -1),
    labelled(1, 1, image=["images/a.png", "images/b.png"], data_source="WeMath"),
    labelled(-1, image="images/b.png"),
    labelled(1, -1, 1, question="<image>\nA dog?", data_source="WeMath"),
]


def test_steps_are_scored_as_the_file_has_them(folder, critic) -> None:
    path = write(folder, *RECORDS)
    records, refused = read_process_bench(path, folder)
    assert not refused
    assert [record.labels for record in records] == [(1, 0, -1), (1, 1), (-1,), (1, -1, 1)]
    assert [record.solution.question.messages[0]["content"].count("<image>") for record in records] == [1, 2, 1, 1]
    assert records[0].solution.question.media is records[3].solution.question.media, "one picture, encoded once"
    scores = critic.score([record.solution for record in records])
    assert [len(found) for found in scores] == [3, 2, 1, 3]
    flat = sorted(score for found in scores for score in found)
    threshold = (flat[4] + flat[5]) / 2
    told: list[tuple[int, int]] = []
    report = evaluate_process(critic, path, folder, threshold, progress=lambda *counts: told.append(counts))
    assert told[-1] == (len(RECORDS), len(RECORDS))
    truth = [
        (n, label) for record, n in zip(records, scores, strict=True) for n, label in zip(n, record.labels, strict=True)
    ]
    called = [int(score > threshold) for score, label in truth if label]
    wanted = [int(label == 1) for _, label in truth if label]

    expected = multiclass_f1_score(torch.tensor(called), torch.tensor(wanted), num_classes=2, average="macro")
    assert report.overall.macro_f1 == pytest.approx(expected.item())
    assert (report.overall.right, report.overall.wrong, report.overall.neutral) == (5, 3, 1)
    assert list(report.sources) == ["MathVista", "WeMath"]
    assert report.sources["WeMath"].records == 2


def test_images_may_be_links_that_leave_the_folder(folder, tmp_path_factory) -> None:
    (folder / "images" / "a.png").rename(elsewhere := tmp_path_factory.mktemp("elsewhere") / "a.png")
    (folder / "images" / "a.png").symlink_to(elsewhere)
    records, _ = read_process_bench(write(folder, *RECORDS), folder)
    media = records[0].solution.question.media
    assert media is not None
    images, _ = media()
    assert [image.size for image in images] == [(16, 16)]


def test_the_metric_is_the_mean_over_both_classes_and_leaves_neutral_steps_out(folder) -> None:
    records, _ = read_process_bench(write(folder, labelled(1, 0, -1), labelled(1, 1, -1)), folder)
    report = process_report(records, {"1": [0.9, 0.1, 0.8], "2": [0.9, 0.2, 0.1]}, 0.5)
    # right: 2 true positives of 3, 1 false positive; wrong: 1 of 2, 1 false positive
    assert report.overall.f1_right == pytest.approx(2 / 3)
    assert report.overall.f1_wrong == pytest.approx(1 / 2)
    assert report.overall.macro_f1 == pytest.approx(7 / 12)
    yes_man = process_report(records, {"1": [1.0] * 3, "2": [1.0] * 3}, 0.5).overall
    assert yes_man.f1_wrong == 0
    assert yes_man.macro_f1 == pytest.approx(0.375)
    strict = process_report(records, {"1": [0.9, 0.1, 0.8], "2": [0.9, 0.2, 0.1]}, 0.85).overall
    assert strict.f1_wrong == pytest.approx(4 / 5)
    alone = process_report(records[:1], {"1": [0.9, 0.9, 0.1]}, 0.5).overall
    assert (alone.macro_f1, alone.neutral) == (1.0, 1)


def test_a_score_equal_to_the_threshold_is_not_above_it(folder) -> None:
    records, _ = read_process_bench(write(folder, labelled(-1, 1)), folder)
    report = process_report(records, {"1": [0.5, 0.75]}, 0.5)
    assert (report.overall.f1_wrong, report.overall.f1_right) == (1.0, 1.0)


def test_neutral_steps_alone_count_for_nothing(folder) -> None:
    records, _ = read_process_bench(write(folder, labelled(0, 0)), folder)
    found = process_report(records, {"1": [0.9, 0.1]}, 0.5).overall
    assert (found.f1_right, found.f1_wrong, found.macro_f1, found.neutral) == (0.0, 0.0, 0.0, 2)


def test_overall_is_over_all_steps_together(folder) -> None:
    lines = [labelled(1, 1, -1), labelled(-1, data_source="WeMath")]
    records, _ = read_process_bench(write(folder, *lines), folder)
    report = process_report(records, {"1": [0.9, 0.9, 0.1], "2": [0.9]}, 0.5)
    assert report.sources["MathVista"].macro_f1 == 1
    assert report.sources["WeMath"].macro_f1 == 0
    assert report.overall.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({k: v for k, v in line().items() if k != "question"}, "no question; its keys are: image, answer"),
        (line(response={"steps": STEPS, "process_correctness": [1, 0]}), "3 steps and 2 labels"),
        (line(response={"steps": [], "process_correctness": []}), "0 steps and 0 labels"),
        (line(response={"steps": STEPS}), "response is not an object with steps and process_correctness"),
        (line(response={"steps": "a", "process_correctness": [1]}), "no list of steps and 1 labels"),
        (labelled(1, 2), "label 2 is not 1, -1 or 0"),
        (labelled(1, None), "label None is not"),
        (line(image=[7]), '"image" is neither a path'),
        (line(image="images/nothing.png"), "image file not found"),
        (line(question="<image> and <image>"), "2 <image> placeholders"),
        ('{"image": [', "wrong JSON"),
        ("[]", "wrong JSON: expected an object, got list"),
    ],
)
def test_a_bad_record_is_left_out_and_named(folder, critic, bad, told) -> None:
    path = write(folder, labelled(1, -1), bad)
    report = evaluate_process(critic, path, folder, max_refused=0.5)
    assert report.overall.records == 1
    assert len(report.refused) == 1
    assert report.refused[0].startswith("test.jsonl:2: ")
    assert told in report.refused[0]
    with pytest.raises(
        DataError, match=r"1 of 2 records of .* cannot be scored, more than max_refused 0\.01: test\.jso"
    ):
        evaluate_process(critic, path, folder)


def test_a_file_without_any_record_is_one_error(folder, critic) -> None:
    column = {k: v for k, v in line().items() if k != "response"}
    with pytest.raises(
        DataError, match=r"none of 2 records of .*test\.jsonl:1: no response; its keys are: image, ques"
    ):
        evaluate_process(critic, write(folder, column, column), folder)
    with pytest.raises(DataError, match="none of 0 records"):
        evaluate_process(critic, write(folder), folder)
    with pytest.raises(DataError, match=r"nothing\.jsonl cannot be read: No such file"):
        evaluate_process(critic, folder / "nothing.jsonl", folder)
    with pytest.raises(DataError, match=r"none of 4 records .* can be used: test\.jsonl:1: image file not found"):
        evaluate_process(critic, write(folder, *RECORDS), folder / "elsewhere")
    (folder / "broken" / "images").mkdir(parents=True)
    for name in "ab":
        (folder / "broken" / "images" / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 4 records .* could be scored: test\.jsonl:\d: .*not an image"):
        evaluate_process(critic, write(folder, *RECORDS), folder / "broken")
    with pytest.raises(ValueError, match="threshold must be between 0 and 1, got 1"):
        evaluate_process(critic, write(folder, line()), folder, 1.0)


def test_a_stopped_evaluation_goes_on(folder, critic, tmp_path) -> None:
    path, out = write(folder, *RECORDS), tmp_path / "out"
    whole = evaluate_process(critic, path, folder, 0.5, out)
    assert json.loads((out / "report.json").read_text())["overall"]["macro_f1"] == whole.overall.macro_f1
    lines = (out / "steps.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(RECORDS)
    (out / "steps.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    calls, told = [], []
    critic.model.backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    again = evaluate_process(critic, path, folder, 0.5, out, lambda *done: told.append(done))
    assert again == whole
    assert told[0] == (2, 4)
    assert told[-1] == (4, 4)
    calls.clear()
    assert evaluate_process(critic, path, folder, 0.6, out).threshold == 0.6
    assert not calls, "scores do not depend on the threshold"
    critic.model.init_weights(5)
    with pytest.raises(DataError, match=r"other settings.*weights was"):
        evaluate_process(critic, path, folder, 0.5, out)
    write(folder, *RECORDS[:2])
    with pytest.raises(DataError, match="other settings"):
        evaluate_process(critic, path, folder, 0.5, out)
