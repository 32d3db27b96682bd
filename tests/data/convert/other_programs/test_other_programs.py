"""Marks of other programs in annotations are used, or the sample is skipped: nothing is lost in silence."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.convert.test_annotation_formats import ASK, ASSISTANT, SAY, USER, only
from mmcomponents.data.convert.annotation_formats import read_draft
from mmcomponents.data.convert.reading import Reading
from mmcomponents.data.convert.refused import Refused


@pytest.mark.parametrize(
    "beside",
    [
        {"rejected_response": "No."},
        {"rejected_response": [{"role": "assistant", "content": "No."}]},
        {"rejected_messages": [USER, {"role": "assistant", "content": "No."}]},
        {"chosen": ASSISTANT["content"], "rejected": "No."},
        {"chosen": ASSISTANT, "rejected": {"from": "gpt", "value": "No."}},
    ],
)
def test_rejected_answers_beside_the_turns_make_pairs(pack_lines: Callable[..., Any], beside: dict[str, Any]) -> None:
    expected = {"messages": [USER], "chosen": ASSISTANT["content"], "rejected": "No.", "source": "set one"}
    for turns in ({"messages": [USER, ASSISTANT]}, {"conversations": [ASK, SAY]}):
        assert only(pack_lines, {**turns, **beside})[0] == expected
    if "chosen" in beside:
        assert only(pack_lines, {"conversations": [ASK], **beside})[0] == expected


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        ({"messages": [USER], "rejected_response": "No."}, "'rejected_response' has no chosen answer beside it"),
        ({"messages": [USER, ASSISTANT], "rejected": "a", "rejected_response": "b"}, "both 'rejected' and"),
        ({"messages": [USER, ASSISTANT], "chosen": "Other.", "rejected": "a"}, "or with the answer under 'chosen'"),
        ({"messages": [USER, ASSISTANT], "rejected_messages": [USER]}, "is not the assistant's, but 'user'"),
        ({"messages": [USER, ASSISTANT], "rejected_response": 3}, "'rejected_response' must be a text, not a number"),
        ({"messages": [USER, ASSISTANT], "label": False}, "'label': false: only true marks its answer as a good one"),
        ({"messages": [USER, ASSISTANT], "label": 0}, "'label': 0: only true"),
        ({"messages": [USER, ASSISTANT], "kto_tag": "false"}, "'kto_tag': 'false': only true"),
        ({"messages": [USER, ASSISTANT], "train": 0}, "'train': 0, which excludes it from training"),
        ({"messages": [USER, ASSISTANT], "weight": 0.5}, "'weight': 0.5, which is not supported"),
        ({"messages": [{**USER, "loss": True}, ASSISTANT]}, "turn 1 has 'loss': true, but only answers are trained on"),
        ({"messages": [USER, {**ASSISTANT, "value": "Other."}]}, "turn 2 has both 'role' or 'content' and 'from'"),
        ({"messages": [USER, ASSISTANT], "input_ids": [3]}, "the key 'input_ids'"),
        ({"messages": [USER, ASSISTANT], "file": "data:;base64,AAAA"}, "'file' seems to give media: 'data:;base64"),
        ({"messages": [USER, ASSISTANT], "kto_tag": False}, "'kto_tag': false"),
        ({"messages": [USER, ASSISTANT], "rejected_messages": [ASSISTANT, USER, ASSISTANT]}, "not those of the conv"),
        ({"messages": [USER], "chosen": ASSISTANT, "rejected": {**ASSISTANT, "weight": 0}}, "has 'weight': 0"),
        (
            {"chosen": [USER, ASSISTANT], "rejected": [{**USER, "content": "Who?"}, ASSISTANT]},
            "'chosen' and 'rejected'",
        ),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "'history' must be"),
        ({"prompt": "a", "completion": 3}, "'completion' must be a text, not a number"),
        ({"messages": [USER, {**ASSISTANT, "reasoning_content": "So."}]}, "'reasoning_content', a text beside"),
        ({"conversations": [ASK, {**SAY, "thinking": "So."}]}, "'thinking', a text beside its content"),
        ({"messages": [USER, {**ASSISTANT, "loss_scale": 0}]}, "turn 2 has 'loss_scale': 0"),
        ({"messages": [USER, {**ASSISTANT, "trainable": False}]}, "turn 2 has 'trainable': false"),
        ({"messages": [USER, {**ASSISTANT, "mask": True}]}, "turn 2 has 'mask': true"),
    ],
)
def test_marks_of_other_programs_are_not_lost(sample: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told):
        read_draft(sample)


def test_marks_that_change_nothing_are_fine() -> None:
    turn = {**ASSISTANT, "loss_scale": 1.0, "trainable": True, "mask": False, "reasoning_content": None}
    read_draft({"messages": [USER, turn], "label": True, "rejected_response": None})


@pytest.mark.parametrize("keys", [("start", "end"), ("start_time", "end_time"), ("video_start", "video_end")])
def test_clips_have_the_keys_of_several_programs(keys: tuple[str, str]) -> None:
    sample = {"video": "film.mp4", keys[0]: 0.5, keys[1]: 1, "conversations": [ASK, SAY]}
    draft = read_draft(sample)
    assert (draft.clips, draft.kept) == ([[0.5, 1.0]], {})
    with pytest.raises(Refused, match=f"'{keys[0]}' and '{keys[1]}' of a video must both be seconds"):
        read_draft({**sample, keys[1]: None})
    with pytest.raises(Refused, match="both 'start' and 'end' and 'video_start' and 'video_end' give a clip"):
        read_draft({**sample, keys[0]: None, keys[1]: None, "start": 1, "end": 2, "video_start": 1, "video_end": 2})


def test_null_keys_of_parts_say_nothing() -> None:
    parts = [
        {"type": "image", "image": None, "image_url": {"url": None, "path": "a.png"}, "text": None},
        {"type": "text", "text": "What?", "image": None},
    ]
    draft = read_draft({"messages": [{"role": "user", "content": parts}, ASSISTANT]})
    assert draft.images == ["a.png"]


def test_base64_needs_no_prefix(pack_lines: Callable[..., Any], media: Path) -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 40), 90).convert("RGB").save(file, "JPEG")
    plain = base64.b64encode(file.getvalue()).decode()
    _, files = only(pack_lines, {"image": plain, "conversations": [ASK, SAY]})
    assert files == {"0.jpg": file.getvalue()}
    note, _ = pack_lines([{"image": plain[:400] + "!", "conversations": [ASK, SAY]}])
    assert note.refused[0]["code"] in ("missing_file", "outside_root")


def boxed(answer: str, **objects: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "<image>Where is the <ref-object>?"}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "images": ["one.png"], "objects": {"ref": ["dog"], **objects}}


def test_objects_are_written_into_the_texts(pack_lines: Callable[..., Any], media: Path) -> None:
    width, height = Image.open(media / "one.png").size
    pixels = [[0, 0, width, height], [0, 0, width / 2, height / 2]]
    wanted = "<box>[[0, 0, 1000, 1000]]</box> and <box>[[0, 0, 500, 500]]</box>"
    for boxes in (
        {"bbox": pixels},
        {"bbox": [[0, 0, 1, 1], [0, 0, 0.5, 0.5]], "bbox_type": "norm1"},
        {"bbox": [[0, 0, 1000, 1000], [0, 0, 500, 500]], "bbox_type": "norm1000", "image_id": [0, 0]},
    ):
        record, _ = only(pack_lines, boxed("<bbox> and <bbox>", **boxes))
        assert record["messages"][0]["content"] == "<image>Where is the <ref>dog</ref>?"
        assert record["messages"][1]["content"] == wanted
        assert "objects" not in record


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (boxed("<bbox>", bbox=[]), "the texts have 1 <bbox>, and 'objects' has 0 entries"),
        (boxed("there", bbox=[[0, 0, 1, 1]]), "the texts have 0 <bbox>, and 'objects' has 1 entry"),
        (boxed("<bbox>", bbox=[[3, 4]]), "'objects' has the point [3, 4]"),
        (boxed("<bbox>", bbox=[[3, 4, 5]]), "must be [x1, y1, x2, y2]"),
        (boxed("<bbox>", bbox=[[0, 0, 9999, 1]]), "'objects': "),
        (boxed("<bbox>", bbox=[[0, 0, 1, 1]], image_id=[1]), "a box of image 1, counted from 0, of 1 image"),
        (boxed("<bbox>", bbox=[[0, 0, 1, 1]], bbox_type="cm"), "must be one of real, norm1, norm1000, not 'cm'"),
        ({"messages": [USER, {"role": "assistant", "content": "<bbox>"}]}, "the texts have 1 <bbox>"),
        (
            {"messages": [{"role": "user", "content": "<|image_pad|>What?"}, ASSISTANT]},
            "has <|image_pad|>, a mark of another program",
        ),
        ({"messages": [{"role": "user", "content": "<audio>a.wav</audio>?"}, ASSISTANT]}, "names the sound 'a.wav'"),
        ({"messages": [USER, {"role": "assistant", "content": "<img>a.png</img>"}]}, "only the user's may"),
        ({"messages": [USER, ASSISTANT], "rejected_response": "<img>a.png</img>"}, "an answer has '<img>a.png</img>'"),
        (
            {"messages": [{"role": "user", "content": "<img>a.png</img>?"}, ASSISTANT], "image": "one.png"},
            "media both in the text ('a.png') and beside it",
        ),
    ],
)
def test_marks_that_nothing_fills_are_refused(
    pack_lines: Callable[..., Any], sample: dict[str, Any], told: str
) -> None:
    note, _ = pack_lines([sample])
    assert told in note.refused[0]["reason"]


def test_media_that_a_text_names_are_packed(pack_lines: Callable[..., Any], media: Path) -> None:
    text = "Picture 1: <img>one.png</img>\nPicture 2: <img> deep/lies.png </img>\nAre they alike?"
    record, files = only(pack_lines, {"conversations": [{"from": "user", "value": text}, SAY]})
    assert record["messages"][0]["content"] == "Picture 1: <image>\nPicture 2: <image>\nAre they alike?"
    assert [*files] == ["0.png", "1.webp"]


QUESTION = {"role": "user", "content": "Add.\n1 2"}
ANSWER = {"role": "assistant", "content": "3"}
BEFORE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
PAIR = {"messages": BEFORE[:1], "chosen": "Ho", "rejected": "No"}
PARTS = {"role": "assistant", "content": [{"type": "text", "text": "Ho"}]}


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (
            {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["Hi", "Ho"]], "system": "Be brief."},
            {"messages": [{"role": "system", "content": "Be brief."}, *BEFORE, QUESTION, ANSWER]},
        ),
        ({"instruction": "Hi", "input": "", "output": "Ho"}, {"messages": BEFORE}),
        ({"query": "Hi", "response": "Ho", "history": []}, {"messages": BEFORE}),
        ({"query": "Hi", "response": "Ho", "rejected_response": "No"}, PAIR),
        ({"prompt": "Hi", "completion": "Ho"}, {"messages": BEFORE}),
        ({"prompt": BEFORE[:1], "completion": BEFORE[1:]}, {"messages": BEFORE}),
        ({"prompt": "Hi", "chosen": "Ho", "rejected": "No"}, PAIR),
        ({"chosen": BEFORE, "rejected": [BEFORE[0], {"role": "assistant", "content": "No"}]}, PAIR),
        ({"prompt": BEFORE[:1], "chosen": [PARTS], "rejected": "No"}, PAIR),
    ],
)
def test_questions_and_answers_without_turns(
    pack_lines: Callable[..., Any], sample: dict[str, Any], expected: dict[str, Any]
) -> None:
    record, _ = only(pack_lines, sample)
    assert record == {**expected, "source": "set one"}


def test_parts_without_a_file_give_the_places_of_images_beside(pack_lines: Callable[..., Any]) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "Like "}, {"type": "image", "image": None}]
    sample = {"messages": [{"role": "user", "content": parts}, ASSISTANT], "images": ["one.png", "two.jpg"]}
    record, files = only(pack_lines, sample)
    assert record["messages"][0]["content"] == "<image>\nLike <image>\n"
    assert [*files] == ["0.png", "1.jpg"]


def test_reasoning_is_written_into_the_answer_on_request(pack_lines: Callable[..., Any]) -> None:
    said = {"role": "assistant", "content": "4", "reasoning_content": "Two and two.\n"}
    turns = {"messages": [USER, said, USER, {**ASSISTANT, "thinking": ""}]}
    record, _ = only(pack_lines, turns, reasoning="think")
    assert [turn["content"] for turn in record["messages"]] == [
        "What?", "<think>\nTwo and two.\n</think>\n\n4", "What?", " That. \n"
    ]  # fmt: skip
    pair = {"messages": [USER], "chosen": said, "rejected": {**said, "content": "5"}}
    record, _ = only(pack_lines, pair, reasoning="think")
    assert record["rejected"] == "<think>\nTwo and two.\n</think>\n\n5"
    for wrong, told in (
        ([{**USER, "reasoning": "So."}, ASSISTANT], "only answers may have reasoning"),
        ([USER, {**said, "content": "<think>a</think>4"}], "which has <think> too"),
        ([USER, {**said, "content": "a</think>4"}], "which has <think> too"),
        ([USER, {**said, "content": " "}], "has 'reasoning_content' and no answer"),
        ([USER, {**said, "reasoning": "Else."}], "'reasoning_content' and 'reasoning' differ"),
        ([USER, {**said, "reasoning_content": [3]}], "must be a text, not a list"),
    ):
        with pytest.raises(Refused, match=told):
            read_draft({"messages": wrong}, Reading(reasoning="think"))


def test_unknown_keys_are_kept_and_counted_on_request(pack_lines: Callable[..., Any]) -> None:
    sample = {"messages": [USER, {**ASSISTANT, "span": [0, 2]}], "margin": 0.5, "image_id": 3, "note": None}
    note, _ = pack_lines([sample])
    assert (note.refused[0]["code"], note.unknown) == ("unknown_key", {})
    note, _ = pack_lines([sample, {**sample, "margin": 0, "messages": [USER, ASSISTANT]}], keep_unknown_keys=True)
    assert (note.refused, note.unknown) == ([], {"margin": 2, "turns.span": 1})
    record, _ = only(pack_lines, sample, keep_unknown_keys=True)
    assert (record["margin"], record["annotation"]) == (0.5, {"turns": [{}, {"span": [0, 2]}]})
    assert record["messages"] == [USER, ASSISTANT]
    twice = {"messages": [{**USER, "emotion": "sad"}, {**ASSISTANT, "emotion": "glad"}]}
    note, _ = pack_lines([twice], keep_unknown_keys=True)
    assert note.unknown == {"turns.emotion": 1}, "counted by sample"


def test_what_a_key_repeats_is_not_unknown(pack_lines: Callable[..., Any]) -> None:
    """Alpaca's "text" holds question and answer, and pairs often have the prompt beside their turns."""
    alpaca = {"instruction": "Add.", "input": "", "output": "3", "text": "Below is … Add. ### Response: 3"}
    assert only(pack_lines, alpaca)[0]["messages"][1]["content"] == "3"
    pair = {"prompt": "What?", "prompt_id": "a1", "messages": [USER, ASSISTANT], "chosen": [USER, ASSISTANT]}
    record, _ = only(pack_lines, {**pair, "rejected": [USER, {**ASSISTANT, "content": "No."}], "score_chosen": 8.0})
    assert record["rejected"] == "No."
    note, _ = pack_lines([{**alpaca, "text": "Below is …"}])
    assert note.refused[0]["code"] == "unknown_key"


@pytest.mark.parametrize(
    "nothing",
    [{"messages": None}, {"chosen": None, "rejected": None}, {"extra": {"a": None, "b": [None]}}, {"system": None}],
)
def test_columns_without_a_value_say_nothing(pack_lines: Callable[..., Any], nothing: dict[str, Any]) -> None:
    for sample in ({"conversations": [ASK, SAY]}, {"text": "A page."}, {"instruction": "a", "output": "b"}):
        only(pack_lines, {**nothing, **sample})


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "text", "text": "?", "image": "one.png"}, "the key 'parts.image'"),
        ({"type": "image", "image": "one.png", "text": "a"}, "the key 'parts.text'"),
        ({"type": "image", "image": "one.png", "path": "two.jpg"}, "a part of type image has 2 files"),
        ({"type": "image_url", "image_url": {"url": "one.png", "bbox": [1, 2, 3, 4]}}, "the key 'parts.bbox'"),
        ({"type": "video", "video": ["1.png", "2.png"]}, "has a list of files; give one file"),
    ],
)
def test_parts_lose_nothing(part: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told):
        read_draft({"messages": [{"role": "user", "content": [part]}, ASSISTANT]})


def test_earlier_turns_of_a_rejected_conversation_are_those_of_the_sample() -> None:
    def turns(image: str, system: str = "Be brief.", **more: Any) -> list[dict[str, Any]]:
        user = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "?"}], **more}
        return [{"role": "system", "content": system}, user, ASSISTANT]

    no = {"role": "assistant", "content": "No."}
    same = {"messages": turns("a.png"), "rejected_messages": [*turns("a.png")[:2], no]}
    assert read_draft(same).answers == (ASSISTANT["content"], "No.")
    assert read_draft({**same, "rejected_messages": [turns("a.png")[1], no]}).answers is not None
    for other in (turns("b.png"), turns("a.png", "Be kind."), turns("a.png", mood="sad")):
        with pytest.raises(Refused, match=r"not those of the conversation"):
            read_draft({**same, "rejected_messages": [*other[:2], no]})


def test_images_as_structs(pack_lines: Callable[..., Any]) -> None:
    for images in ([{"bytes": None, "path": "one.png"}], {"path": "one.png"}, [None, {"url": "one.png"}]):
        _, files = only(pack_lines, {"messages": [USER, ASSISTANT], "images": images})
        assert [*files] == ["0.png"]
    _, files = only(pack_lines, {"messages": [USER, ASSISTANT], "images": [{"bytes": None, "path": None}]})
    assert files == {}
    note, _ = pack_lines([{"messages": [USER, ASSISTANT], "images": ["one.png", 3]}])
    assert note.refused[0]["reason"] == "'images' must be a path or a list of paths, not a number"


def test_pairs_that_differ_in_their_boxes(pack_lines: Callable[..., Any]) -> None:
    sample = {
        "messages": [USER, {"role": "assistant", "content": "<bbox>"}],
        "rejected_response": "<bbox>",
        "images": ["one.png"],
        "objects": {"bbox": [[0, 0, 4, 4], [0, 0, 8, 8]], "bbox_type": None},
    }
    assert only(pack_lines, sample)[0]["chosen"] != only(pack_lines, sample)[0]["rejected"]
    sample["objects"] = {"bbox": [[0, 0, 4, 4]] * 2}
    assert pack_lines([sample])[0].refused[0]["code"] == "equal_answers"
    sample["objects"] = {"bbox": [[0, 0, 4, 4], [0, 0, 8, 8]], "mask": ["rle"]}
    assert "the key 'objects.mask'" in pack_lines([sample])[0].refused[0]["reason"]
    record, _ = only(pack_lines, sample, keep_unknown_keys=True)
    assert record["objects"] == {"mask": ["rle"]}
