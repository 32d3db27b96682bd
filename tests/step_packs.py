"""Packs with scored steps, and a tiny critic."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

import tiny
from mmcomponents.batch import IGNORE, PackedBatch, Steps
from mmcomponents.data.loading.collation import steps_of
from mmcomponents.heads import Verbalizer
from mmcomponents.model import MultimodalModel

WORDS = (7, 3)
"""Ids of the positive and the negative token."""


def critic(**parts: Any) -> MultimodalModel:
    """Returns the tiny InternVL3 with a verbalizer."""
    return tiny.model(**{"heads": {"lm": Verbalizer(tiny.WIDTH, tiny.VOCAB, WORDS)}} | parts)


def with_steps(batch: PackedBatch, steps: list[int], seed: int = 0) -> PackedBatch:
    """Adds steps at the last `steps[s]` positions of each segment, with random verdicts."""
    draw = torch.Generator().manual_seed(seed)
    ends = batch.layout.cu_seqlens.tolist()[1:]
    score_at = [end - count + n for end, count in zip(ends, steps, strict=True) for n in range(count)]
    sample = [s for s, count in enumerate(steps) for _ in range(count)]
    label = torch.randint(2, (len(score_at),), generator=draw).tolist()
    labels = torch.full_like(batch.labels, IGNORE)
    labels[score_at] = torch.tensor([WORDS[0] if verdict else WORDS[1] for verdict in label], dtype=labels.dtype)
    return replace(batch, labels=labels, steps=steps_of(score_at, sample, label))


def separate(batch: PackedBatch) -> list[PackedBatch]:
    """Returns the segments of a pack with their steps, each as a pack of its own."""
    assert batch.steps is not None
    out = []
    for s, (part, (begin, _)) in enumerate(
        zip(tiny.separate(batch), pairwise(batch.layout.cu_seqlens.tolist()), strict=True)
    ):
        mine = batch.steps.sample == s
        steps = Steps(
            batch.steps.score_at[mine] - begin, torch.zeros(int(mine.sum()), dtype=torch.long), batch.steps.label[mine]
        )
        out.append(replace(part, steps=steps))
    return out
