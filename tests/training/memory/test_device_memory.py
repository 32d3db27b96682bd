from __future__ import annotations

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

import tiny
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.training.distributed.sharding import shard_model
from mmcomponents.training.memory.device_memory import Run, device_memory, gathered


def test_the_fullest_device_holds_pieces_rounded_up() -> None:
    model = tiny.model()
    model.backbone.requires_grad_(False)
    found = device_memory(model, Run(5))
    pieces = {p: -(-p.shape[0] // 5) * p[0].numel() for p in model.parameters()}
    assert found.weights == 4 * sum(pieces.values())
    assert found.gradients == 4 * sum(n for p, n in pieces.items() if p.requires_grad)
    assert found.optimizer == 2 * found.gradients
    with pytest.raises(ValueError, match="devices must be at least 1, got 0"):
        Run(0)
    with pytest.raises(ValueError, match="5 devices cannot hold 2 copies"):
        Run(5, replicate=2)


def test_what_is_gathered_is_what_the_sharding_makes_whole() -> None:
    """Two backbone layers are the largest neighbours; a tied embedding weight belongs to the root."""
    layer = sum(p.numel() for p in tiny.backbone().layers[0].parameters())
    table = tiny.VOCAB * tiny.WIDTH
    assert layer > table > 0
    plain = device_memory(tiny.model(), Run(2)).gathered
    assert plain == 2 * 2 * layer + 6 * layer
    tied = tiny.model(heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True)})
    # Its gradient is kept until the end of the backward pass.
    assert device_memory(tied, Run(2)).gathered == plain + 2 * table + 2 * table


def test_activations_are_freed_until_a_gradient_is_reduced() -> None:
    """The embedder's is the last; that of the head comes when what the head kept for it is free."""
    vocabulary = 4 * 1024
    heads = {"lm": LMHead(tiny.WIDTH, vocabulary)}
    model = tiny.model(embedder=TokenEmbedder(vocabulary, tiny.WIDTH), heads=heads)
    layer = sum(p.numel() for p in tiny.backbone().layers[0].parameters())
    table = vocabulary * tiny.WIDTH
    weights, gradient = 2 * (layer + table), 6 * table
    assert gathered(model, Run(2)) == weights + gradient
    assert gathered(model, Run(2), {"backbone": 10**9}) == weights + gradient
    assert gathered(model, Run(2), {"backbone": 10**9, "head": table}) == weights + gradient - table
    assert gathered(model, Run(2), {"backbone": 10**9, "head": 10**9}) == max(weights, 4 * layer + 6 * layer - 10**9)


@pytest.mark.parametrize("tied", [False, True])
def test_the_share_is_what_fsdp2_gives_the_first_rank(tied: bool) -> None:
    model = tiny.model(heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=tied)})
    found = device_memory(model, Run(5))
    torch.distributed.init_process_group("fake", rank=0, world_size=5, store=FakeStore())
    try:
        shard_model(model, init_device_mesh("cpu", (5,)))
        assert found.weights == 4 * sum(p.to_local().numel() for p in model.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_neighbours_are_gathered_together_and_not_the_largest_two() -> None:
    """Embedder and head are the largest units here; they are gathered at opposite ends of the model."""
    vocabulary = 4 * 1024
    heads = {"lm": LMHead(tiny.WIDTH, vocabulary)}
    model = tiny.model(embedder=TokenEmbedder(vocabulary, tiny.WIDTH), heads=heads)
    layer = sum(p.numel() for p in tiny.backbone().layers[0].parameters())
    table = vocabulary * tiny.WIDTH
    assert device_memory(model, Run(2)).gathered == 2 * (layer + table) + 6 * table


def test_without_sharding_each_device_has_all() -> None:
    model = tiny.model()
    total = sum(p.numel() for p in model.parameters())
    alone = device_memory(model, Run(1, sharded=False, compute=torch.float32))
    assert (alone.weights, alone.gathered) == (4 * total, 0)
    pair = device_memory(model, Run(2, sharded=False))
    assert (pair.weights, pair.gathered) == (4 * total, 2 * total + 4 * total)  # autocast; buffers of the reduction
    half = device_memory(model, Run(1, sharded=False, weights=torch.bfloat16))
    assert (half.weights, half.gradients, half.gathered) == (2 * total, 2 * total, 0)


def test_copies_hold_larger_pieces() -> None:
    model = tiny.model()
    assert device_memory(model, Run(4, replicate=2)).weights == device_memory(model, Run(2)).weights
