"""Tests of all reasons to skip a sample; no sample is truncated or lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcomponents.data.convert import CODES
from mmcomponents.data.convert import shard_job as shard
from mmcomponents.data.convert.checks import check_draft
from mmcomponents.data.convert.draft import Draft
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.errors import DataError

ASK, SAY = {"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}
PAIR = {"question": "What?", "chosen": "This", "rejected": "That"}


def chat(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"id": "n", "conversations": [*turns] or [ASK, SAY], **more}


def said(text: str, speaker: str = "human") -> dict[str, str]:
    return {"from": speaker, "value": text}


def parts(*more: Any, role: str = "user") -> dict[str, Any]:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    return {"messages": [{**turn, "content": [*more]} if turn["role"] == role else turn for turn in turns]}


IMAGE = {"type": "image_url", "image_url": {"url": "one.png"}}

CASES: list[tuple[str, Any, str]] = [
    ("bad_json", '{"text": ', "invalid JSON: Expecting value"),
    ("bad_json", "[" * 100_000, "nested too deeply"),
    ("bad_json", '{"text": "a", "deep": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
    ("bad_json", '{"text": "a", "score": 1e999}', "a number is too large"),
    ("bad_json", '{"text": "a", "score": ' + "1" * 5000 + "}", "invalid JSON: a number has too many digits"),
    ("bad_json", '{"image": "one.png", "image": "two.jpg", "text": "a"}', "duplicate key 'image' in an object"),
    ("bad_json", '"A page."', "a text instead of a JSON object"),
    ("bad_json", "null", "null instead of a JSON object"),
    ("bad_json", "3", "a number instead of a JSON object"),
    ("bad_json", '{"text": "a", "score": NaN}', "NaN is not JSON"),
    ("bad_json", "[1, 2]", "a list instead of a JSON object"),
    ("bad_text", {"text": "a\x00b"}, r"the text has the control character U\+0000 at character 1"),
    ("bad_text", chat(said("\x1b[0m"), SAY), r"turn 1 has the control character U\+001B"),
    ("bad_text", {**PAIR, "rejected": "\x85"}, r"the rejected answer has the control character U\+0085"),
    ("bad_text", '{"text": "\\ud800"}', r"half of a surrogate pair U\+D800"),
    ("bad_text", '{"text": "a", "tags": ["\\udfff"]}', r"the value of 'tags' has half of a surrogate pair"),
    ("unknown_form", {"ask": "a", "answer": "b"}, "none of the keys of .*; its keys are ask, answer"),
    ("unknown_form", {}, "it has no keys"),
    ("bad_field", {"text": ["a"]}, "'text' must be a text, not a list"),
    ("bad_field", {"conversations": "a"}, "must be a list of turns"),
    ("bad_field", chat({"from": "human"}, SAY), "turn 1: the content is neither"),
    ("bad_field", chat({"id": 3}, SAY), "turn 1 is not {'role': ROLE"),
    ("bad_field", {"messages": "a"}, "must be a list of turns"),
    ("bad_field", {"messages": [1]}, "turn 1 is not"),
    ("bad_field", {"messages": [{"role": "user", "content": 3}]}, "neither a text nor a list of parts"),
    ("bad_field", parts("a"), "a part is a text, not"),
    ("bad_field", parts({"type": "text"}), "has no text"),
    ("bad_field", parts({"type": "image", "image": 3}), "a part of type image has no file"),
    ("bad_field", parts({"type": "image"}, IMAGE), "some parts of type image have a file, some have none"),
    ("placeholders", parts({"type": "image"}), "1 <image> in .*0 images"),
    ("bad_field", {**parts(IMAGE), "images": ["one.png"]}, "both in parts of the turns and beside them"),
    ("bad_field", chat(image=3), "a path or a list of paths"),
    ("bad_field", chat(image="one.png", images=["one.png"]), "both 'image' and 'images'"),
    ("bad_field", chat(video="film.mp4", clip=[0]), r"a clip must be \[begin, end\]"),
    ("bad_field", chat(clips=[[0, 1]]), "one entry per video, of which there are none"),
    ("bad_field", chat(video="film.mp4", clips=[]), "of which there is 1"),
    ("bad_field", chat(video="film.mp4", clip=[-1, 1]), "the clip from -1.0 s to 1.0 s begins before 0"),
    ("bad_field", chat(video="film.mp4", clip=[1, 1]), "the clip from 1.0 s to 1.0 s is empty"),
    (
        "bad_field",
        '{"video": "film.mp4", "text": "a", "clip": [0, 1' + "0" * 400 + "]}",
        r"in seconds, not \[0, 10{70,}…",
    ),
    ("bad_field", chat(video="film.mp4", start=-1, end=1), "begins before 0"),
    ("bad_field", chat(video="film.mp4", start=0.1), "must both be seconds, not 0.1 and None"),
    ("bad_field", chat(video="film.mp4", start="00:01", end="00:02"), "must both be seconds"),
    ("bad_field", chat(videos=["film.mp4"] * 2, start=0, end=1), "beside 2 videos: write 'clips'"),
    ("bad_field", {"question": "What?", "chosen": "This"}, "'rejected' must be a text, not nothing"),
    ("unknown_media", chat(audio="a.wav"), "the unknown key 'audio' seems to give media: 'a.wav'"),
    ("unknown_media", chat(image_path="one.png"), "the unknown key 'image_path'"),
    ("unknown_media", chat(path="a/one.jpg"), "the unknown key 'path'"),
    ("unknown_media", chat(image_url="https://here/picture?n=3"), "the unknown key 'image_url'"),
    ("unknown_media", {"text": "a", "frames": [{"path": "x.jpg"}]}, "the unknown key 'frames'"),
    ("unknown_media", parts({"type": "input_audio", "input_audio": {}}), "unknown type 'input_audio'"),
    ("unknown_media", chat({**ASK, "image": "one.png"}, SAY), "the unknown key 'image'"),
    ("unsupported", chat(ASK, {**SAY, "weight": 0}), "turn 2 has 'weight': 0, but all answers have the same weight in"),
    ("unsupported", chat(ASK, {**SAY, "weight": 0.5}), "turn 2 has 'weight': 0.5"),
    ("unsupported", chat(ASK, {**SAY, "loss": False}, ASK, SAY), "turn 2 has 'loss': false"),
    ("unsupported", chat(weight=0), "the sample has 'weight': 0, which excludes it from training"),
    ("unsupported", chat(ASK, {**SAY, "tool_calls": [{"id": "a"}]}), "turn 2 has 'tool_calls'"),
    ("unsupported", chat(ASK, {**SAY, "function_call": {"name": "a"}}), "turn 2 has 'function_call'"),
    ("unsupported", chat(ASK, {**SAY, "audio": {"id": "a"}}), "turn 2 has 'audio'"),
    ("unsupported", chat(tools=[{"type": "function"}]), "the sample has 'tools' beside its turns, which training"),
    ("unsupported", chat(functions=[{"name": "a"}]), "the sample has 'functions'"),
    ("bad_field", {**PAIR, "system": ["Be brief."]}, "'system' must be a text, not a list"),
    ("bad_field", chat(said("Be kind.", "system"), ASK, SAY, system="Be brief."), "'system' differs from the system"),
    ("unknown_key", {"text": "a", "label": 1}, "the key 'label' is neither used nor known to be harmless"),
    ("unknown_key", chat(margin=0.5), "the key 'margin' is neither used"),
    ("unknown_key", chat(ASK, {**SAY, "span": [0, 2]}), "the key 'turns.span' is neither"),
    ("unknown_key", parts({**IMAGE, "crop": [0, 0, 1, 1]}), "the key 'parts.crop' is neither"),
    ("unknown_key", {**chat(), "chosen": SAY, "rejected": {**SAY, "value": "!", "rank": 3}}, "'rejected.rank' is"),
    (
        "unsupported",
        parts({"type": "video", "video": "film.mp4", "video_start": 1}),
        "has 'video_start'; write 'clips'",
    ),
    ("unsupported", parts({"type": "video_url", "video_url": {"url": "film.mp4", "end": 1}}), "has 'end'; write"),
    ("empty", {"conversations": []}, "no turn"),
    ("empty", chat(said("Be brief.", "system")), "only a system turn"),
    ("empty", {"text": " \n"}, "no text"),
    ("roles", chat(ASK, ASK, SAY), "turn 2 of 3 is the user's, must be the assistant's"),
    ("roles", chat(SAY, ASK), "turn 1 of 2"),
    ("roles", chat(ASK, SAY, said("a", "system"), SAY), "turn 3 of 4"),
    ("roles", chat(ASK, said("{}", "function_call")), "has the role 'function_call'"),
    *(
        ("roles", {"messages": [{"role": role, "content": "a"}]}, f"turn 1 has the role '{role}', which is none of")
        for role in ("tool", "function", "developer")
    ),
    ("roles", {**PAIR, "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}, "end"),
    ("no_answer", chat(ASK, SAY, ASK), "turn 3, the last, is the user's"),
    ("no_answer", chat(ASK, said(" \n", "gpt")), "an answer is empty"),
    ("no_answer", {**PAIR, "chosen": ""}, "an answer is empty"),
    ("equal_answers", {**PAIR, "rejected": "This"}, "equal"),
    ("placeholders", chat(said("<image>"), SAY), "1 <image> in the user's turns, 0 images"),
    ("placeholders", chat(image=["one.png", "two.jpg"]), "0 <image> in the user's turns, 2 images"),
    ("placeholders", chat(said("<image><image>"), SAY, image="one.png"), "2 <image> in the user's turns, 1 image$"),
    ("placeholders", chat(said("<video> <video>"), SAY, video="film.mp4"), "2 <video> .* 1 video$"),
    ("placeholders", {"text": "<image><image>", "image": "one.png"}, "2 <image> in the text, 1 image$"),
    ("placeholders", parts(IMAGE, IMAGE, {"type": "text", "text": "<image>"}), "1 <image> in its text, 2 image parts"),
    ("placeholders", parts(IMAGE, role="assistant"), "of the assistant, has media"),
    ("missing_file", chat(image="nothing.png"), "there is no file 'nothing.png' below the root"),
    ("missing_file", chat(image="deep"), "'deep' is not a file|cannot be read"),
    ("missing_file", chat(image="one.png/x.png"), "cannot be read: Not a directory"),
    ("missing_file", chat(image="a\0b.png"), "cannot be read"),
    ("outside_root", chat(image="../secret.png"), r"'\.\./secret\.png' leaves the root"),
    ("outside_root", chat(image="../nothing.png"), "leaves the root"),
    ("outside_root", chat(image="/etc/hostname"), "leaves the root"),
    ("outside_root", chat(image="file:///etc/hostname"), "leaves the root"),
    ("outside_root", chat(image="way_out.png"), "leaves the root"),
    ("web_address", chat(image="https://example.com/a.png"), "URLs are not fetched"),
    ("web_address", chat(video="s3://bucket/a.mp4"), "URLs are not fetched"),
    ("bad_data_url", chat(image="data:image/png;base64,???"), "not base64"),
    ("bad_data_url", chat(image="data:image/png"), "no comma"),
    ("bad_data_url", chat(image="data:image/png;base64,"), "is empty"),
    ("broken_image", chat(image="broken.png"), "'broken.png': "),
    ("broken_image", chat(image="film.mp4"), "not an image"),
    ("broken_video", chat(video="broken.mp4"), "'broken.mp4': "),
    ("broken_video", chat(video="one.png"), "not a video of a supported format"),
    ("broken_video", chat(video="film.mp4", clip=[5, 6]), "no frame between 5.0 s and 6.0 s"),
    ("media_size", chat(image="empty.png"), "'empty.png' has 0 bytes"),
    ("over_budget", {"text": "far too long " * 500}, "tokens, more than 2000"),
]


def test_every_code_has_a_case() -> None:
    assert {*(code for code, _, _ in CASES), "unexpected"} == set(CODES)
    with pytest.raises(ValueError, match="unknown code 'odd'"):
        Refused("odd", "")


def test_every_refusal_is_told_with_its_place(pack_lines: Callable[..., Any]) -> None:
    good = {"text": "A page."}
    note, _ = pack_lines([line for _, sample, _ in CASES for line in (sample, good)])
    assert note.totals.samples == len(CASES)
    assert note.totals.refused == len(note.refused) == len(CASES)
    for number, (refusal, (code, sample, reason)) in enumerate(zip(note.refused, CASES, strict=True)):
        assert refusal["line"] == 2 * number + 1
        assert refusal["source"] == "set one"
        assert refusal["file"].endswith("lines.jsonl")
        assert refusal["code"] == code, refusal
        assert re.search(reason, refusal["reason"]), (reason, refusal["reason"])
        assert refusal["id"] == (sample.get("id") if isinstance(sample, dict) else None)
    json.dumps(note.refused).encode()


def test_what_is_allowed_outside_the_root(pack_lines: Callable[..., Any], media: Path) -> None:
    where = ["../secret.png", "way_out.png", str(media / "one.png"), f"file://{media / 'one.png'}", "deep/../one.png"]
    samples = [chat(image=path) for path in where]
    note, _ = pack_lines(samples)
    assert [refusal["line"] for refusal in note.refused] == [1, 2]
    note, _ = pack_lines(samples, allow_outside_root=True)
    assert note.refused == []


def test_what_names_media_that_are_known_is_kept(pack_lines: Callable[..., Any]) -> None:
    note, _ = pack_lines(
        [chat(image="deep/lies.png", image_id="lies.png", url="https://here/page", video_id=3, file_name="")]
    )
    assert note.refused == []


def test_budgets_count_tiles_frames_and_both_answers(pack_lines: Callable[..., Any]) -> None:
    note, _ = pack_lines([chat(image="two.jpg"), chat(video="film.mp4"), PAIR, {**PAIR, "image": "two.jpg"}])
    assert note.totals.tiles == 3 + 4 + 3  # both answers of a pair share the image
    sizes = []
    for sample in (chat(), chat(image="two.jpg"), PAIR, {**PAIR, "image": "two.jpg"}):
        sizes.append(pack_lines([sample])[0].totals.tokens)
    text = sizes[0]
    assert sizes[1] > text + 3 * 4
    assert sizes[3] - sizes[2] == 2 * (sizes[1] - text)
    note, _ = pack_lines([chat(image="two.jpg"), chat()], max_tokens=sizes[1] - 1)
    assert [refusal["code"] for refusal in note.refused] == ["over_budget"]
    assert note.refused[0]["reason"] == f"{sizes[1]} tokens, more than {sizes[1] - 1}"


def test_a_line_without_end_takes_no_memory(pack_lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "MAX_LINE", 1000)
    note, _ = pack_lines([{"text": "a" * 3000}, {"text": "A page."}, {"text": "b" * 980}])
    assert [(refusal["line"], refusal["code"]) for refusal in note.refused] == [(1, "bad_json")]
    assert note.totals.samples == 2


def test_a_shard_without_samples_is_none(pack_lines: Callable[..., Any]) -> None:
    note, path = pack_lines([{"text": ""}])
    assert (note.totals.shards, note.totals.refused) == (0, 1)
    assert not path.exists()


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Makes one particular text raise an error."""

    def fails(draft: Draft) -> None:
        if draft.text == "Fail.":
            raise error
        check_draft(draft)

    monkeypatch.setattr(shard, "check_draft", fails)


def test_a_fault_that_nobody_foresaw_costs_one_sample(
    pack_lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ZeroDivisionError("no\nluck" + "!" * 999))
    note, _ = pack_lines([{"text": "A page."}, {"text": "Fail.", "id": 3}, {"text": "A page."}])
    (refusal,) = note.refused
    assert (refusal["line"], refusal["id"], refusal["code"]) == (2, 3, "unexpected")
    assert re.fullmatch("ZeroDivisionError: no luck!{200,300}…", refusal["reason"])
    assert note.totals.samples == 2


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (OSError(28, "No space left on device"), OSError, "No space left"),
        (MemoryError(), DataError, r"lines\.jsonl, line 1: not enough memory; fewer --num_workers need less"),
    ],
)
def test_faults_of_the_machine_stop_the_call(
    pack_lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type, reason: str
) -> None:
    failing(monkeypatch, error)
    with pytest.raises(kind, match=reason):
        pack_lines([{"text": "Fail."}])


def test_a_sample_is_written_whole_or_not_at_all(
    pack_lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = ["One piece.", "far too long " * 500]
    monkeypatch.setattr(shard, "split_document", lambda *_: pieces)
    note, path = pack_lines([{"text": "".join(pieces)}], split=400)
    assert [refusal["code"] for refusal in note.refused] == ["over_budget"]
    assert (note.totals.samples, note.totals.pieces, note.totals.tokens) == (0, 0, 0)
    assert not path.exists()


def test_boxes_that_cannot_be_read_are_told_of(pack_lines: Callable[..., Any]) -> None:
    boxes = ["[[1, 2, 300, 1000]]", "[[1, 2, 3]]", "[[1, 2, 3, 1001]]"]
    answers = [f"<ref>a cat</ref><box>{box}</box>" for box in boxes]
    asked = [chat(said(answers[1]), said(answer, "gpt")) for answer in answers]
    note, _ = pack_lines([*asked, {**PAIR, "chosen": "</box>"}, {"text": answers[1]}])
    assert (note.totals.samples, note.totals.bad_boxes, note.refused) == (5, 3, [])
    assert re.search(r"lines\.jsonl:2: a cat: '\[\[1, 2, 3\]\]' is not a list of", note.bad_box)
