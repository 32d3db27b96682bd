from __future__ import annotations

from pathlib import Path

import pytest

from mmcomponents.data.convert.inputs import chunks
from mmcomponents.data.convert.inputs.chunks import Chunk, source_chunks
from mmcomponents.data.convert.inputs.source import Source


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("block", [1, 7, 4096])
def test_every_line_is_in_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, block: int) -> None:
    monkeypatch.setattr(chunks, "_LEAST_BLOCK", block)
    monkeypatch.setattr(chunks, "_LARGEST_BLOCK", 2 * block)
    path = tmp_path / "lines.jsonl"
    lines = [f"{'x' * (number * 5 % 17)}{number}\n" for number in range(11)]
    lines[-1] = lines[-1].strip() + end
    path.write_text("".join(lines))
    source = Source("a", (path,), "lines", tmp_path)
    found = [chunk for chunk, known in source_chunks(3, source, 4) if not known]
    assert [(chunk.number, chunk.first, chunk.count) for chunk in found] == [(0, 1, 4), (1, 5, 4), (2, 9, 3)]
    text = path.read_text()
    assert [text[chunk.begin : chunk.end] for chunk in found] == ["".join(lines[n : n + 4]) for n in (0, 4, 8)]
    assert [chunk for chunk, _ in source_chunks(3, source, 11)] == [Chunk(3, 0, 0, len(text), 1, 11)]


def test_what_is_known_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("a\nb\nc\nd\ne\n")
    source = Source("a", (path,), "lines", tmp_path)
    known = Chunk(0, 0, 0, 4, 1, 2)
    found = list(source_chunks(0, source, 2, lambda number: known if number == 0 else None))
    assert found == [(known, True), (Chunk(0, 1, 4, 8, 3, 2), False), (Chunk(0, 2, 8, 10, 5, 1), False)]


def test_text_files_and_an_empty_file(tmp_path: Path) -> None:
    files = tuple(tmp_path / f"{number}.txt" for number in range(5))
    found = [chunk for chunk, _ in source_chunks(0, Source("a", files, "texts", tmp_path), 2)]
    assert [(c.begin, c.end, c.first, c.count) for c in found] == [(0, 2, 1, 2), (2, 4, 3, 2), (4, 5, 5, 1)]
    (tmp_path / "empty.jsonl").touch()
    assert list(source_chunks(0, Source("a", (tmp_path / "empty.jsonl",), "lines", tmp_path), 2)) == []
