"""Packs with scored steps, and a tiny critic."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

import tiny
from mmcomponents.batch import PackedBatch, Steps
from mmcomponents.heads import Verbalizer
from mmcomponents.model import MultimodalModel
from mmcomponents.testing.sample_packs import VERDICTS as WORDS
from mmcomponents.testing.sample_packs import with_steps

__all__ = ["with_steps"]


def critic(**parts: Any) -> MultimodalModel:
    """Returns the tiny InternVL3 with a verbalizer."""
    return tiny.model(**{"heads": {"lm": Verbalizer(tiny.WIDTH, tiny.VOCAB, WORDS)}} | parts)


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
