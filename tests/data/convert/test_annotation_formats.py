"""Tests of all forms of annotations, from a line to the sample in a shard."""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.convert.annotation_formats import read_draft
from mmcomponents.data.convert.reading import Reading
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.media.frames import DrawnFrames
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.packing.sizes import Sizes

ASK, SAY = {"from": "human", "value": "What?"}, {"from": "gpt", "value": " That. \n"}
USER, ASSISTANT = {"role": "user", "content": "What?"}, {"role": "assistant", "content": " That. \n"}
PNG = "data:image/png;base64,"


def contents(shard: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(shard) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]


def only(pack_lines: Callable[..., Any], sample: Any, **options: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns the record and the files of a sample, which must not be skipped."""
    note, shard = pack_lines([sample], **options)
    assert note.refused == []
    files = {name.removeprefix("000000001."): data for name, data in contents(shard)}
    return json.loads(files.pop("json")), files


def test_a_text_conversation_is_kept_as_it_is(pack_lines: Callable[..., Any]) -> None:
    turns = [{"from": "system", "value": "Be brief."}, ASK, SAY, {"from": "human", "value": "<image> of what?"}, SAY]
    record, files = only(pack_lines, {"id": 7, "conversations": turns[:3], "width": 3, "source": "web"})
    assert record == {
        "messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT],
        "source": "set one",
        "id": 7,
        "width": 3,
        "annotation": {"source": "web"},
    }
    assert files == {}


def test_one_image_gets_its_placeholder_and_its_real_suffix(pack_lines: Callable[..., Any], media: Path) -> None:
    record, files = only(pack_lines, {"image": "deep/lies.png", "width": 10, "conversations": [ASK, SAY]})
    assert record["messages"] == [{"role": "user", "content": "<image>\nWhat?"}, ASSISTANT]
    assert files == {"0.webp": (media / "deep/lies.png").read_bytes()}
    placed = {"from": "human", "value": "What is <image>?"}
    record, _ = only(pack_lines, {"image": ["one.png"], "conversations": [placed, SAY]})
    assert record["messages"][0]["content"] == "What is <image>?"


def test_several_images_keep_their_order(pack_lines: Callable[..., Any], media: Path) -> None:
    ask = {"from": "human", "value": "Image-1: <image>\nImage-2: <image>\nSame?"}
    later = {"from": "human", "value": "<image>?"}
    sample = {"image": ["two.jpg", "one.png", "two.jpg"], "conversations": [ask, SAY, later, SAY], "width_list": [1]}
    record, files = only(pack_lines, sample)
    assert record["width_list"] == [1]
    two, one = (media / "two.jpg").read_bytes(), (media / "one.png").read_bytes()
    assert files == {"0.jpg": two, "1.png": one, "2.jpg": two}


def test_a_video_with_and_without_a_clip(pack_lines: Callable[..., Any], media: Path) -> None:
    record, files = only(pack_lines, {"video": "film.mp4", "conversations": [ASK, SAY]})
    assert record["messages"][0]["content"] == "<video>\nWhat?"
    assert "clips" not in record
    assert files == {"0.mp4": (media / "film.mp4").read_bytes()}
    record, _ = only(pack_lines, {"video": "film.mp4", "clip": [0, 0.25], "conversations": [ASK, SAY]})
    assert record["clips"] == [[0.0, 0.25]]
    record, _ = only(pack_lines, {"video": "film.mp4", "start": 0, "end": 0.25, "conversations": [ASK, SAY]})
    assert record["clips"] == [[0.0, 0.25]]
    assert not {"start", "end"} & {*record}
    for sample in ({"video": "film.mp4", "clip": [0, 0.2], "start": 9}, {"image": "one.png", "start": 9}):
        note, _ = pack_lines([{**sample, "conversations": [ASK, SAY]}])
        assert "the key 'start' is neither used nor" in note.refused[0]["reason"], "its clip is another one"
    ask = {"from": "human", "value": "<video> and <image> and <video>"}
    sample = {"videos": ["film.mp4"] * 2, "clips": [None, [0.1, 0.2]], "image": "one.png", "conversations": [ask, SAY]}
    record, files = only(pack_lines, sample)
    assert record["clips"] == [None, [0.1, 0.2]]
    assert list(files) == ["0.png", "1.mp4", "2.mp4"]


def test_grounding_is_text(pack_lines: Callable[..., Any]) -> None:
    answer = "<ref>a cat</ref><box>[[1, 2, 300, 1000]]</box>"
    sample = {"image": "one.png", "conversations": [ASK, {"from": "gpt", "value": answer}]}
    record, _ = only(pack_lines, sample)
    assert record["messages"][1]["content"] == answer


def test_preferences(pack_lines: Callable[..., Any]) -> None:
    pair = {"question": "What?", "chosen": "This", "rejected": "That", "answer_gt": "This"}
    record, files = only(pack_lines, pair)
    assert record == {
        "messages": [USER], "chosen": "This", "rejected": "That", "answer_gt": "This", "source": "set one"
    }  # fmt: skip
    record, files = only(pack_lines, {**pair, "image": "one.png"})
    assert record["messages"] == [{"role": "user", "content": "<image>\nWhat?"}]
    assert list(files) == ["0.png"]
    record, files = only(pack_lines, {**pair, "question": "<image><image>?", "image": ["one.png", "two.jpg"]})
    assert list(files) == ["0.png", "1.jpg"]
    chat = {"messages": [USER], "chosen": "This", "rejected": "That"}
    record, _ = only(pack_lines, chat)
    assert record == {**chat, "source": "set one"}


@pytest.mark.parametrize(
    ("parts", "text", "suffixes"),
    [
        ([{"type": "text", "text": "What"}, {"type": "text", "text": "?"}], "What?", []),
        (
            [{"type": "image_url", "image_url": {"url": "one.png"}}, {"type": "text", "text": "?"}],
            "<image>\n?",
            ["png"],
        ),
        ([{"type": "text", "text": "?"}, {"type": "image", "image": "one.png"}], "?<image>\n", ["png"]),
        ([{"type": "image_url", "image_url": PNG}, {"type": "text", "text": "?"}], "<image>\n?", ["png"]),
        ([{"type": "video", "video": "film.mp4"}, {"type": "text", "text": "?"}], "<video>\n?", ["mp4"]),
        ([{"type": "video_url", "video_url": {"url": "film.mp4"}}], "<video>\n", ["mp4"]),
        (
            [
                {"type": "image_url", "image_url": {"url": "one.png", "image_wh": [40, 30]}},
                {"type": "image_url", "image_url": {"url": "two.jpg", "image_wh": [[900, 450]]}},
                {"type": "text", "text": "Is <IMG_CONTEXT>\nlike <IMG_CONTEXT>?"},
            ],
            "Is <image>\nlike <image>?",
            ["png", "jpg"],
        ),
    ],
)
def test_parts_of_chat_messages(
    pack_lines: Callable[..., Any], media: Path, parts: list[Any], text: str, suffixes: list[str]
) -> None:
    inside = PNG + base64.b64encode((media / "one.png").read_bytes()).decode()
    parts = json.loads(json.dumps(parts).replace(f'"{PNG}"', f'"{inside}"'))
    record, files = only(pack_lines, {"messages": [{"role": "user", "content": parts}, ASSISTANT]})
    assert record["messages"] == [{"role": "user", "content": text}, ASSISTANT]
    assert [name.partition(".")[2] for name in files] == suffixes


def test_keys_that_ask_for_nothing_are_fine(pack_lines: Callable[..., Any]) -> None:
    asked: dict[str, Any] = {**USER, "name": "me", "loss": False, "weight": 0}
    said: dict[str, Any] = {
        **ASSISTANT,
        "id": 3,
        "weight": 1,
        "loss": True,
        "tool_calls": [],
        "function_call": None,
        "audio": None,
    }
    sample = {
        "messages": [asked, said],
        "tools": [],
        "functions": None,
        "system": "",
        "weight": 1,
        "loss": 0.0,
        "kto_tag": True,
    }
    record, _ = only(pack_lines, sample)
    assert record["messages"] == [USER, ASSISTANT]
    only(pack_lines, {"conversations": [ASK, SAY], "tools": "[]", "weight": 1.0})


def test_chat_messages_with_images_beside_them(pack_lines: Callable[..., Any]) -> None:
    record, files = only(pack_lines, {"messages": [USER, ASSISTANT], "images": ["one.png"]})
    assert record["messages"][0]["content"] == "<image>\nWhat?"
    assert list(files) == ["0.png"]


def test_documents(pack_lines: Callable[..., Any]) -> None:
    text = "  Write <image> or <video> in HTML.\n"
    record, files = only(pack_lines, {"text": text, "url": "https://here/page.pdf"})
    assert record == {"text": text, "url": "https://here/page.pdf", "source": "set one"}
    record, files = only(pack_lines, {"text": "See <image> here", "image": "one.png"})
    assert (record["text"], list(files)) == ("See <image> here", ["0.png"])


def test_forms_may_be_mixed_and_every_sample_is_in_the_index(pack_lines: Callable[..., Any], tokenizer: Any) -> None:
    samples = [
        {"conversations": [ASK, SAY], "image": "two.jpg"},
        "",
        {"messages": [USER, ASSISTANT]},
        {"text": "A page."},
        {"question": "What?", "chosen": "This", "rejected": "That", "video": "film.mp4"},
    ]
    note, shard = pack_lines(samples)
    index = Index.open([shard], tokenizer)
    assert [index.name(number).partition("/")[2] for number in range(len(index))] == [
        "000000001", "000000003", "000000004", "000000005"
    ]  # fmt: skip
    assert index.problems == {}
    totals = note.totals
    assert (totals.lines, totals.blank, totals.samples, totals.refused) == (5, 1, 4, 0)
    assert (totals.images, totals.videos, totals.tiles) == (1, 1, 3 + 4)
    assert totals.bytes == shard.stat().st_size
    run = Sizes(SampleRenderer(tokenizer, 4, Tiling(max_tiles=2)), DrawnFrames(2, 4))
    tokens, tiles = run.largest(index.columns(0))
    assert (totals.tokens, totals.tiles) == (tokens.sum(), tiles.sum()), "what a run will plan with"


def test_a_form_may_be_asked_for() -> None:
    sample = {"text": "A page.", "messages": [USER, ASSISTANT]}
    assert read_draft(sample, Reading(keep_unknown_keys=True)).text is None
    draft = read_draft(sample, Reading("text", keep_unknown_keys=True))
    assert (draft.text, draft.messages, draft.kept) == ("A page.", [], {"messages": [USER, ASSISTANT]})
    with pytest.raises(Refused, match="the form preference needs the key 'chosen'; its keys are text, messages"):
        read_draft(sample, Reading("preference"))
