"""Token embedder with learned queries. Contracts: tests/contracts."""

from __future__ import annotations

import pytest
import torch

import tiny
from mmcomponents.embedders import QueryEmbedder


def test_queries_have_vectors_of_their_own_by_number() -> None:
    part = QueryEmbedder(tiny.VOCAB, tiny.WIDTH, 4)
    batch = tiny.pack([("t", 3), ("q", 4), ("t", 2)], [("q", 4)])
    found = part(batch, None)
    assert torch.equal(found[3:7], part.queries)
    assert torch.equal(found[9:], part.queries)
    assert torch.equal(found[:3], part.embedding(batch.input_ids[:3]))
    found.sum().backward()
    assert part.queries.grad is not None
    assert bool((part.queries.grad == 2).all())


def test_an_unknown_query_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="the pack has query 3 and QueryEmbedder has 3 queries"):
        QueryEmbedder(tiny.VOCAB, tiny.WIDTH, 3)(tiny.pack([("q", 4)]), None)
