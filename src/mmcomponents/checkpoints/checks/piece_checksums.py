"""Checksums of tensors that ranks read in pieces: those of the pieces are combined, and compared with the file's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from mmcomponents.checkpoints.checks.checksums import crc32, damaged

Pieces = dict[tuple[str, int], tuple[int, int]]
"""(Tensor, first byte) -> (bytes, CRC-32 of them)."""

_POLYNOMIAL = 0xEDB88320
"""That of CRC-32, reversed, as zlib has it."""


class PieceChecksums:
    """What this rank has read of the tensors of a file.

    Args:
        file: Path of the safetensors file.
        sums: CRC-32 of each tensor.
        sizes: Bytes of each tensor.
    """

    def __init__(self, file: Path, sums: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        self.file, self.sums, self.sizes = file, sums, sizes
        self._read: Pieces = {}

    def add(self, name: str, first: int, rows: Tensor) -> None:
        """Notes rows of a tensor, as they are in the file.

        Args:
            name: Name of the tensor.
            first: Number of the first of the rows in the tensor.
            rows: `[n, …]` rows on the CPU.
        """
        row = rows[:1].nbytes
        self._read[name, first * row] = rows.nbytes, crc32(rows)

    def take(self) -> Pieces:
        """Returns what was read since the last call."""
        read, self._read = self._read, {}
        return read

    def compare(self, of_all: Iterable[Pieces]) -> str:
        """Returns which tensor differs from its checksum; "" if none does.

        Args:
            of_all: What each rank has read. A tensor that they have not read completely is not compared.
        """
        pieces: Pieces = {}
        for read in of_all:
            pieces |= read
        found: dict[str, tuple[int, int]] = {}
        for (name, begin), (size, value) in sorted(pieces.items()):
            end, total = found.get(name, (0, 0))
            if begin == end:
                found[name] = begin + size, combined(total, value, size)
        for name, (end, total) in found.items():
            if end == self.sizes[name] and total != self.sums[name]:
                return damaged(self.file, name)
        return ""


def combined(first: int, second: int, size: int) -> int:
    """Returns the CRC-32 of two texts that follow one another, from those of each.

    The CRC-32 of a text and zero bytes is a linear map of that of the text, over the field of two elements. The map of
    `size` zero bytes is composed from those of 1, 2, 4, … bytes, each the square of the one before (Mark Adler's
    `crc32_combine` in zlib).

    Args:
        first: CRC-32 of the first text.
        second: CRC-32 of the second text.
        size: Bytes of the second text.
    """
    return (_image(_after(size), first) if first else 0) ^ second


@lru_cache(maxsize=512)
def _after(size: int) -> tuple[int, ...]:
    """Returns the images of the 32 bits of a checksum under `size` zero bytes. Pieces are of few sizes."""
    found = tuple(1 << bit for bit in range(32))
    power = (_POLYNOMIAL, *found[:31])  # under one zero bit
    for _ in range(3):  # to eight bits
        power = tuple(_image(power, column) for column in power)
    while size:
        if size & 1:
            found = tuple(_image(power, column) for column in found)
        power = tuple(_image(power, column) for column in power)
        size >>= 1
    return found


def _image(columns: Sequence[int], vector: int) -> int:
    """Returns the product of a matrix of bits, given by its columns, with a vector of bits."""
    found, place = 0, 0
    while vector:
        if vector & 1:
            found ^= columns[place]
        vector >>= 1
        place += 1
    return found
