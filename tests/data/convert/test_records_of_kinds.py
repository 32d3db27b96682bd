"""Annotations that a record kind of another package matches: the record is kept, and its files go into the shard."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.own_kinds import Height, Moves, moves
from mmcomponents.data.chat.kinds import Chat, Document, Kinds, Pair
from mmcomponents.data.convert import convert_annotations
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shard_index import index_path, load_index
from mmcomponents.registry import PartError

KINDS = ("Chat", "Document", "Pair", "data.own_kinds.Moves", "data.own_kinds.Height")
ASK, SAY = {"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}


def task(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"task": "Go there.", "id": number, "image": "one.png", "members": {"moves.npy": "go.npy"}, **more}


@pytest.fixture
def pack(pack_lines: Callable[..., Any], media: Path) -> Callable[..., Any]:
    (media / "go.npy").write_bytes(moves(1, 2, 3, 4))
    return lambda *samples, **options: pack_lines(samples, **{"kinds": KINDS, **options})


def contents(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def reason(note: Any) -> tuple[str, str]:
    (refused,) = note.refused
    return refused["code"], refused["reason"]


def test_the_record_is_kept_and_its_files_are_copied(pack: Callable[..., Any], media: Path, tokenizer: Any) -> None:
    note, shard = pack(
        task(7, source="left out", weights=[1.5]), {"height": 1.5, "of": "a tree"}, {"conversations": [ASK, SAY]}
    )
    assert note.refused == []
    assert note.totals.samples == 3
    found = contents(shard)
    own = {"source": "left out"}
    kept = {"task": "Go there.", "id": 7, "weights": [1.5], "source": "set one", "annotation": own}
    assert json.loads(found["000000001.json"]) == kept
    assert found["000000001.0.png"] == (media / "one.png").read_bytes()
    assert found["000000001.moves.npy"] == moves(1, 2, 3, 4)
    assert json.loads(found["000000002.json"]) == {"height": 1.5, "of": "a tree", "source": "set one"}
    index = load_index(index_path(shard))
    assert index.header.problems == {}
    assert index.header.kinds == ["data.own_kinds.Moves", "data.own_kinds.Height"]
    opened = Index.open([shard], tokenizer, kinds=Kinds([Chat(), Document(), Pair(), Moves(), Height()]))
    assert opened.read(0).members == {"moves.npy": moves(1, 2, 3, 4)}
    assert note.totals.images == 1


def test_tokens_and_tiles_are_those_of_the_kind(pack: Callable[..., Any]) -> None:
    note, _ = pack(task(), max_tokens=100)
    assert note.totals.tiles == 1
    note, _ = pack(task(), max_tokens=20)
    code, why = reason(note)
    assert (code, why) == ("over_budget", f"{note_tokens(why)} tokens, more than 20")


def note_tokens(why: str) -> int:
    return int(why.partition(" ")[0])


def test_a_member_may_be_written_into_the_annotation(pack: Callable[..., Any]) -> None:
    note, shard = pack(task(members={"moves.npy": "data:,abcdefgh"}))
    assert note.refused == []
    assert contents(shard)["000000001.moves.npy"] == b"abcdefgh"


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"members": {"moves.npy": "gone.npy"}}, "missing_file", "there is no file 'gone.npy' below the root"),
        ({"members": {"moves.npy": "../secret.png"}}, "outside_root", "'../secret.png' leaves the root"),
        ({"members": {"moves.npy": "https://a/b"}}, "web_address", "URLs are not fetched"),
        ({"members": {}}, "bad_field", "'members' names nothing, samples of the kind moves have moves.npy"),
        (
            {"members": {"json": "go.npy"}},
            "bad_field",
            "'members' names json, samples of the kind moves have moves.npy",
        ),
        (
            {"members": {"moves.npy": "go.npy", "0.png": "one.png"}},
            "bad_field",
            "'members' names 0.png, moves.npy, samples of the kind moves have moves.npy",
        ),
        ({"members": ["go.npy"]}, "bad_field", "'members' must be {SUFFIX: PATH, …}"),
        ({"members": {"moves.npy": 3}}, "bad_field", "'members' must be {SUFFIX: PATH, …}"),
        ({"image": "gone.png"}, "missing_file", "there is no file 'gone.png'"),
        ({"image": 3}, "bad_field", "'image' must be a path"),
        ({"members": {"moves.npy": "data:,abc"}}, "bad_text", "ValueError: buffer size must be a multiple"),
        ({"task": "a\ud800b"}, "bad_text", "half of a surrogate pair U+D800"),
        ({"text": "both"}, "unknown_form", "the kinds document and moves both match its keys"),
        ({"height": 1}, "unknown_form", "the kinds moves and Height both match its keys"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    changes: dict[str, Any], code: str, message: str, pack: Callable[..., Any]
) -> None:
    note, _ = pack(task(**changes), {"text": "words"})
    found, why = reason(note)
    assert found == code
    assert message in why
    assert "\n" not in why
    assert note.totals.samples == 1


def test_without_the_kind_the_annotation_has_no_known_form(pack: Callable[..., Any]) -> None:
    note, _ = pack(task(), {"text": "words"}, kinds=None)
    assert reason(note)[0] == "unknown_form"


def test_a_folder_is_converted_with_kinds(
    tmp_path: Path, media: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer.save_pretrained("tokenizer")
    (media / "go.npy").write_bytes(moves(1, 2))
    Path("tasks.jsonl").write_text("".join(json.dumps(task(number)) + "\n" for number in range(3)))

    def convert(*kinds: str) -> Any:
        return convert_annotations(
            ["tasks.jsonl"], "out", "tokenizer", root="media", num_workers=1, kinds=list(kinds) or None
        )

    with pytest.raises(PartError, match=r"data\.own_kinds has no Move"):
        convert("Chat", "data.own_kinds.Move")
    assert not Path("out").exists(), "a wrong name is told before anything is written"
    report = convert(*KINDS)
    assert report.totals.samples == 3
    before = Path("out/tasks-000000.tar").read_bytes()
    assert convert(*KINDS).totals.samples == 3
    assert Path("out/tasks-000000.tar").read_bytes() == before
    with pytest.raises(DataError, match="kinds"):
        convert()


def test_files_that_no_kind_takes_are_refused(pack_lines: Callable[..., Any], media: Path) -> None:
    """Without the kind, a picture to make would be the text `<image>`, and its file would be lost."""
    (media / "go.npy").write_bytes(moves(1, 2))
    chat = {"conversations": [ASK, SAY], "members": {"moves.npy": "go.npy"}}
    for kinds in (None, KINDS):
        note, _ = pack_lines([chat, {"text": "words"}], kinds=kinds)
        assert reason(note) == (
            "unknown_media",
            "'members' names the file 'moves.npy', and no record kind of another package matches (--kinds)",
        )
    note, _ = pack_lines([{"text": "words", "members": {"chair": "Ann"}}], kinds=None, keep_unknown_keys=True)
    assert (note.refused, note.unknown) == ([], {"members": 1})
