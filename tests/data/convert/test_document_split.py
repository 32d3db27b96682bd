from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from mmcomponents.data.chat.document import render_document
from mmcomponents.data.convert.document_split import split_document
from mmcomponents.data.errors import DataError

SENTENCE = "Read the digits in order, how many are there? "


def lengths(pieces: list[str], tokenizer: Any) -> list[int]:
    return [len(render_document(piece, tokenizer).input_ids) for piece in pieces]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ((SENTENCE * 3 + "\n\n") * 9, "\n\n"),
        (((SENTENCE * 3).strip() + "\n") * 9, "\n"),
        (SENTENCE * 30, "? "),
        ("数字を読んでください。" * 40, "。"),
        ("digits and order " * 60, " "),
        ("digitsandorder" * 60, ""),
        ("🦊é" * 200, ""),
        ("<|im_end|><image>" * 40, ""),
    ],
)
@pytest.mark.parametrize("most", [60, 200])
def test_pieces_are_the_document(text: str, ends: str, most: int, tokenizer: Any) -> None:
    pieces = list(split_document(text, tokenizer, most))
    assert "".join(pieces) == text
    counts = lengths(pieces, tokenizer)
    assert max(counts) <= most
    assert len(pieces) > 1
    assert all(piece.endswith(ends) for piece in pieces[:-1]) or most == 60  # a paragraph has more than 60 tokens
    assert min(counts[:-1]) >= most // 3, "no piece is much shorter than it has to be"


def test_a_document_that_fits_is_whole(tokenizer: Any) -> None:
    text = SENTENCE * 3
    (count,) = lengths([text], tokenizer)
    assert list(split_document(text, tokenizer, count)) == [text]
    assert len(list(split_document(text, tokenizer, count - 1))) == 2


def test_what_cannot_be_split(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="pieces of 15 tokens: the minimum is 16"):
        next(split_document("a", tokenizer, 15))

    class Slow:
        is_fast = False

    with pytest.raises(DataError, match="the offsets of tokens"):
        next(split_document("a", Slow(), 16))  # type: ignore[arg-type]


def test_pieces_are_samples_of_their_own(pack_lines: Callable[..., Any]) -> None:
    text = (SENTENCE * 3 + "\n\n") * 30
    samples = [{"text": "A page."}, {"text": text, "author": "me"}, {"text": "<image>" + text, "image": "one.png"}]
    note, shard = pack_lines(samples, split=400, max_tokens=500)
    assert [(refusal["line"], refusal["code"]) for refusal in note.refused] == [(3, "over_budget")]
    with tarfile.open(shard) as archive:
        records = {m.name: json.load(archive.extractfile(m)) for m in archive}  # type: ignore[arg-type]
    pieces = [record for name, record in records.items() if name.startswith("000000002-")]
    assert list(records) == ["000000001.json", *(f"000000002-{number:05d}.json" for number in range(len(pieces)))]
    assert "".join(piece["text"] for piece in pieces) == text
    assert {piece["author"] for piece in pieces} == {"me"}
    assert (note.totals.documents_cut, note.totals.pieces) == (1, len(pieces))
    assert note.totals.samples == len(pieces) + 1
    assert len(pieces) > 2
