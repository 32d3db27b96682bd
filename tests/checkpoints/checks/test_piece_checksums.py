"""Checksums of pieces, combined."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest
import torch

from mmcomponents.checkpoints.checks.checksums import crc32
from mmcomponents.checkpoints.checks.piece_checksums import PieceChecksums, combined


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 1), (3, 1), (1, 4096), (5000, 77_777)])
def test_two_checksums_give_that_of_both_texts(sizes: tuple[int, int]) -> None:
    draw = random.Random(0)
    first, second = (draw.randbytes(size) for size in sizes)
    assert combined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_pieces_of_all_ranks_are_compared_with_the_whole() -> None:
    value = torch.randn(7, 5)
    file, sums, sizes = Path("a.safetensors"), {"w": crc32(value)}, {"w": value.nbytes}
    ranks = [PieceChecksums(file, sums, sizes) for _ in range(4)]
    for rank, (first, end) in zip(ranks, [(4, 7), (0, 4), (4, 7), (0, 4)], strict=True):  # two groups, out of order
        rank.add("w", first, value[first:end])
    read = [rank.take() for rank in ranks]
    assert ranks[0].compare(read) == ""
    assert [rank.take() for rank in ranks] == [{}] * 4
    ranks[1].add("w", 0, value[:4] + 1)
    read[1] = read[3] = ranks[1].take()
    assert "a.safetensors is damaged: w differs from its checksum" in ranks[0].compare(read)
    assert ranks[0].compare(read[:1]) == "", "not read completely"
