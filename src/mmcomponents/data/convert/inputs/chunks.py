"""Chunks of an annotation file, one per shard, with a fixed number of lines each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mmcomponents.data.convert.inputs.json_list import read_elements
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.storage.regular_file import open_regular

_LEAST_BLOCK, _LARGEST_BLOCK = 2**16, 2**22


@dataclass(frozen=True)
class Chunk:
    """Lines of an annotation file, elements of a list, rows of tables, or text files, that become one shard.

    Attributes:
        source: Number of the source.
        number: Number of the shard within the source.
        begin: First byte in the annotation file or list; number of the first text file, or row of a table.
        end: End (exclusive) in bytes, files or rows.
        first: Number of the first line, element, row or document, from 1.
        count: Number of lines, elements, rows or documents.
    """

    source: int
    number: int
    begin: int
    end: int
    first: int
    count: int


def source_chunks(
    number: int, source: Source, lines: int, known: Callable[[int], Chunk | None] = lambda _: None
) -> Iterator[tuple[Chunk, bool]]:
    """Yields the chunks of a source in order, each with whether it was known.

    Args:
        number: Number of the source.
        source: Input file or files that are cut.
        lines: Number of lines, elements, rows or documents in a chunk.
        known: Returns the chunk of a number if it is known, so that its lines are not read again.
    """
    begin, first, shard = 0, 1, 0
    while True:
        found = known(shard)
        chunk = found or _next(number, source, shard, begin, first, lines)
        if chunk is None:
            return
        yield chunk, found is not None
        begin, first, shard = chunk.end, chunk.first + chunk.count, shard + 1


def _next(number: int, source: Source, shard: int, begin: int, first: int, lines: int) -> Chunk | None:
    if source.kind in ("texts", "table"):
        end = min(begin + lines, sum(source.rows) if source.kind == "table" else len(source.files))
        return Chunk(number, shard, begin, end, first, end - begin) if end > begin else None
    if source.kind == "list":
        ends = [end for _, end in islice(read_elements(source.files[0], begin), lines)]
        return Chunk(number, shard, begin, ends[-1], first, len(ends)) if ends else None
    end, count = _skip_lines(source.files[0], begin, lines)
    return Chunk(number, shard, begin, end, first, count) if end > begin else None


def _skip_lines(path: Path, begin: int, lines: int) -> tuple[int, int]:
    """Returns the end in bytes of the next lines, and their number. The last line of a file may lack its line break."""
    with open_regular(path) as file:
        file.seek(begin)
        count, place, open_line, size = 0, begin, False, _LEAST_BLOCK
        while count < lines:
            block = file.read(size)
            size = min(2 * size, _LARGEST_BLOCK)  # small at first, since the next chunk reads part of a block again
            if not block:
                return place, count + open_line
            breaks = block.count(b"\n")
            if count + breaks < lines:
                count, place, open_line = count + breaks, place + len(block), not block.endswith(b"\n")
                continue
            found = -1
            for _ in range(lines - count):
                found = block.index(b"\n", found + 1)
            return place + found + 1, lines
        return place, count
