"""Which lines go into which shard: a fixed number of lines each, found without holding the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmcomponents.data.annotations.sources import Source

_LEAST_BLOCK, _LARGEST_BLOCK = 2**16, 2**22


@dataclass(frozen=True)
class Chunk:
    """What becomes one shard.

    Attributes:
        source: Number of the source.
        number: Of the shard within the source.
        begin: Byte of the annotation file; for text files, the number of the first of them.
        end: Behind the last one.
        first: Number of the first line, from 1 on; for text files, of the first document.
        count: Lines, or documents.
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
    """The chunks of a source, in order, and whether each was known.

    Args:
        number: Of the source.
        source: The source.
        lines: Of a chunk.
        known: Gives a chunk that was found before by its number, so that those lines are not read again.
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
    if source.documents:
        end = min(begin + lines, len(source.files))
        return Chunk(number, shard, begin, end, first, end - begin) if end > begin else None
    end, count = _skip_lines(source.files[0], begin, lines)
    return Chunk(number, shard, begin, end, first, count) if end > begin else None


def _skip_lines(path: Path, begin: int, lines: int) -> tuple[int, int]:
    """Where the next lines end, and how many there are; the last one of a file may lack its line break."""
    with path.open("rb") as file:
        file.seek(begin)
        count, place, open_line, size = 0, begin, False, _LEAST_BLOCK
        while count < lines:
            block = file.read(size)
            size = min(2 * size, _LARGEST_BLOCK)  # little is read twice, though the next chunk begins inside a block
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
