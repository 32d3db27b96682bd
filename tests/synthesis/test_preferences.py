from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch

from drawn import contents, records, scripted, write_questions
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.evaluation.checkers import FinalAnswer
from mmcomponents.synthesis import drawing
from mmcomponents.synthesis.checker import Checker
from mmcomponents.synthesis.drawing import DrawOptions
from mmcomponents.synthesis.preferences import make_preferences
from mmcomponents.synthesis.rollout import Sampling, rollouts

SAMPLING = Sampling(samples=4, max_new_tokens=5, temperature=1.0, seed=3)


class Short(Checker):
    """Accepts short answers and finds none in empty ones: an untrained model gives all three kinds."""

    def extract(self, response: str) -> str | None:
        return response or None

    def same(self, found: str, answer: str) -> bool:
        return len(found) < 8


def test_pairs_by_correctness(tmp_path, monkeypatch, renderer, writer) -> None:
    questions = write_questions(tmp_path, 4)
    said = [["7", "8", "none", "17"], ["7"] * 4, ["1"] * 4, ["7", "7", "8", "9"]]

    def script(question, number: int) -> str:
        answer = said[int(question.key[-1]) - 1][number]
        return "I do not know" if answer == "none" else f"So {number}.\nAnswer: {answer}"

    asked = scripted(monkeypatch, script)
    out = tmp_path / "out"
    report = make_preferences(
        writer(), renderer, questions, out, SAMPLING, FinalAnswer(), options=DrawOptions(samples_per_shard=3)
    )
    assert (report.questions, report.samples, report.correct, report.wrong) == (4, 16, 7, 8)
    assert (report.unparseable, report.contained, report.pairs) == (1, 1, 6)
    assert report.without == {"no wrong answer": 1, "no right answer": 1}
    assert report.shards == ["pairs-000000.tar", "pairs-000001.tar"]
    found = records(out, "pairs")
    assert len(found) == 6
    assert {record["question_key"] for record in found} == {"q/0000001", "q/0000004"}
    assert found[0]["messages"] == [{"role": "user", "content": "<image>\nWhat is 0?"}]
    assert all(record["chosen"].endswith("Answer: 7") and record["files"] == ["0.png"] for record in found)
    assert not any(record["rejected"].endswith("17") for record in found)
    index = Index.open([str(path) for path in sorted(out.glob("*.tar"))], renderer.tokenizer)
    assert (len(index), index.problems, index.sources) == (6, {}, ["preferences"])
    assert json.loads((out / "preferences.json").read_text())["pairs"] == 6
    assert "pairs-??????.tar" in (out / "recipe.yaml").read_text()
    # other pairs of the same answers: nothing is drawn again, and surplus shards are removed
    fewer = make_preferences(writer(), renderer, questions, out, SAMPLING, FinalAnswer(), max_pairs=1)
    assert (fewer.pairs, len(asked)) == (2, 4)
    assert sorted(path.name for path in out.glob("pairs*")) == ["pairs-000000.index.safetensors", "pairs-000000.tar"]


def test_without_answers_the_half_goes_on_blind(tmp_path, monkeypatch, renderer, writer) -> None:
    questions = write_questions(tmp_path, 3)
    questions.items[1] = replace(questions.items[1], files=None)
    messages = [{"role": "user", "content": "<image>\nWhat is it?"}]
    questions.items[0] = replace(questions.items[0], messages=messages)

    def script(question, number: int) -> str:
        if question.prefix:
            return " three four" if question.key.endswith("3/half/0") else " a guess"
        return f"one two three{' four' * (number < 2)}" if number else "word"

    asked = scripted(monkeypatch, script)
    sampling = replace(SAMPLING, samples=2)
    report = make_preferences(writer(), renderer, questions, tmp_path / "out", sampling, None)
    halves = [question for question in asked if question.prefix]
    assert {(question.prefix, question.media) for question in halves} == {("one two", None)}
    assert [dict(message) for message in halves[0].messages] == [{"role": "user", "content": "What is it?"}]
    assert report.without == {"the question has no image to leave out": 1}
    pairs = [(r["chosen"], r["rejected"], r["files"]) for r in records(tmp_path / "out", "pairs")]
    assert pairs == [("one two three four", "one two a guess", ["0.png"])] * 2


def test_an_answer_that_is_the_same_without_the_image_is_dropped(tmp_path, monkeypatch, renderer, writer) -> None:
    scripted(monkeypatch, lambda question, number: " b" if question.prefix else "a b")
    report = make_preferences(writer(), renderer, write_questions(tmp_path, 2), tmp_path / "out", SAMPLING, None)
    assert (report.pairs, report.equal) == (0, 2)
    assert report.without == {"the answer is the same without the image": 2}


@pytest.mark.parametrize("checker", [Short(), None], ids=["checked", "blind"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path, monkeypatch, renderer, writer, checker) -> None:
    model, questions = writer(), write_questions(tmp_path, 6)
    sampling = SAMPLING
    if checker is None:  # so that some answers end before the limit
        sampling = replace(SAMPLING, max_new_tokens=12)
        with torch.no_grad():
            model.heads["lm"].weight[renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")] *= 3

    def run(name: str):
        options = DrawOptions(max_segments=8)
        return make_preferences(model, renderer, questions, tmp_path / name, sampling, checker, options=options)

    whole = run("whole")
    assert whole.pairs > 3
    assert 0 < whole.cut < whole.samples
    wanted = contents(tmp_path / "whole")

    def dies(*args, **rest):
        yield from itertools.islice(rollouts(*args, **rest), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "rollouts", dies)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    monkeypatch.setattr(drawing, "rollouts", rollouts)
    assert not list((tmp_path / "stopped").glob("*.tar"))
    run("stopped")
    assert contents(tmp_path / "stopped") == _moved(wanted, tmp_path)
    journal = tmp_path / "stopped" / "journal.jsonl"
    data = journal.read_bytes()
    for size in (len(data) - 5, len(data) // 2, 10):
        journal.write_bytes(data[:size])
        run("stopped")
        assert contents(tmp_path / "stopped") == _moved(wanted, tmp_path)


def _moved(files: dict[str, bytes], folder) -> dict[str, bytes]:
    recipe = files["recipe.yaml"].replace(b"/whole/", b"/stopped/")
    return {**files, "recipe.yaml": recipe}


def test_other_settings_and_other_weights_are_refused(tmp_path, monkeypatch, renderer, writer) -> None:
    scripted(monkeypatch, lambda question, number: f"Answer: {7 + number}")
    questions = write_questions(tmp_path, 1)
    model = writer()
    make_preferences(model, renderer, questions, tmp_path / "out", SAMPLING, FinalAnswer())
    with pytest.raises(DataError, match=r"started with other settings \(sampling\.seed was"):
        make_preferences(model, renderer, questions, tmp_path / "out", replace(SAMPLING, seed=4), FinalAnswer())
    model.backbone.layers[0].mlp.down_proj.weight.data.add_(1e-3)
    with pytest.raises(DataError, match=r"started with other settings \(model was"):
        make_preferences(model, renderer, questions, tmp_path / "out", SAMPLING, FinalAnswer())


def test_questions_that_cannot_be_asked_are_counted_and_too_many_end_it(tmp_path, renderer, writer, caplog) -> None:
    questions = write_questions(tmp_path, 4)
    (tmp_path / "2.png").unlink()
    out = tmp_path / "out"
    for _ in range(2):  # the second time from the journal
        report = make_preferences(
            writer(), renderer, questions, out, SAMPLING, Short(), options=DrawOptions(max_refused=0.25)
        )
        assert (report.refused, report.samples) == (1, 12)
        assert "skipped q/0000003: there is no file '2.png' below the root" in caplog.text
        caplog.clear()
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2 of 4 samples were skipped, more than max_refused 0.25 of 4; q/"):
        make_preferences(
            writer(), renderer, questions, tmp_path / "new", SAMPLING, Short(), options=DrawOptions(max_refused=0.25)
        )
    blind = writer(vision=None, merger=None, projector=None)
    with pytest.raises(DataError, match="contains an image, but the model has no vision"):
        make_preferences(blind, renderer, questions, tmp_path / "blind", SAMPLING, Short())


def test_wrong_numbers_are_refused(tmp_path, renderer, writer) -> None:
    with pytest.raises(ValueError, match="max_pairs must be at least 1, got 0"):
        make_preferences(writer(), renderer, write_questions(tmp_path, 1), tmp_path / "o", SAMPLING, None, max_pairs=0)
    with pytest.raises(ValueError, match="samples_per_shard must be at least 1, got 0"):
        DrawOptions(samples_per_shard=0)


def test_answers_that_were_cut_are_never_chosen(tmp_path, monkeypatch, renderer, writer) -> None:
    said = ["Answer: 7~", "Answer: 7", "Answer: 8", "So it is~"]
    scripted(monkeypatch, lambda question, number: said[number])
    questions = write_questions(tmp_path, 1)
    report = make_preferences(writer(), renderer, questions, tmp_path / "out", SAMPLING, FinalAnswer())
    assert (report.samples, report.correct, report.wrong, report.unparseable, report.cut) == (4, 1, 1, 2, 2)
    assert {(r["chosen"], r["rejected"]) for r in records(tmp_path / "out", "pairs")} == {
        ("Answer: 7", "Answer: 8"),
        ("Answer: 7", "So it is"),
    }
    assert json.loads((tmp_path / "out" / "preferences.json").read_text())["cut"] == 2


def test_without_answers_only_whole_ones_are_gone_on_from(tmp_path, monkeypatch, renderer, writer) -> None:
    said = ["It is cut~", "It is a cat", "It is a dog", "It is 7"]

    def script(question, number: int) -> str:
        if question.prefix:
            return " what else"
        return "It is~" if question.key.endswith("2") else said[number]

    asked = scripted(monkeypatch, script)
    sampling, out = replace(SAMPLING, max_new_tokens=40), tmp_path / "out"
    questions = write_questions(tmp_path, 2)
    report = make_preferences(writer(), renderer, questions, out, sampling, None, max_pairs=2)
    assert [r["chosen"] for r in records(out, "pairs")] == said[1:3]
    assert (report.cut, report.without) == (5, {"every answer was cut": 1})
    halves = [question for question in asked if question.prefix]
    assert len(halves) == 2  # only continuations that will be written are drawn
    used = len(renderer.tokenizer.encode("It is", add_special_tokens=False))
    assert [question.new_tokens for question in halves] == [40 - used] * 2
    with pytest.raises(DataError, match="max_pairs was 2 and is 3"):
        make_preferences(writer(), renderer, questions, out, sampling, None, max_pairs=3)


def test_groups_of_questions_change_nothing(tmp_path, monkeypatch, renderer, writer) -> None:
    def script(question, number: int) -> str:
        return f" {question.key}" if question.prefix else f"It is {number} {question.key}"

    questions, names = write_questions(tmp_path, 5), []
    scripted(monkeypatch, script)
    for together in (8192, 2):
        monkeypatch.setattr(drawing, "TOGETHER", together)
        make_preferences(writer(), renderer, questions, tmp_path / str(together), SAMPLING, None)
        names.append(records(tmp_path / str(together), "pairs"))
    assert names[0] == names[1]
    assert len(names[0]) == 20
