from __future__ import annotations

import pytest
import torch

import tiny
from mmcomponents.heads import LMHead
from mmcomponents.objectives import AdaptersOff, FrozenReference, StoredReference
from mmcomponents.training.estimate import make_plan, synthetic_pack


def test_heads_are_one_slot_and_a_shared_weight_counts_once() -> None:
    heads = {"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True), "other": LMHead(tiny.WIDTH, tiny.VOCAB)}
    model = tiny.model(heads=heads)
    found = make_plan(model, devices=1, tokens=64, tiles=None)
    assert found.parts["head"] == "LMHead, LMHead"
    assert found.parameters["head"] == tiny.VOCAB * tiny.WIDTH
    assert found.parameters["total"] == sum(p.numel() for p in model.parameters())
    assert found.flops["head"] == 2 * 2 * found.pack["targets"] * tiny.VOCAB * tiny.WIDTH
    assert found.pack["tiles"] == 12  # three quarters of 64 tokens at 4 per tile


def test_a_reference_costs_a_forward_pass_where_one_is_run_and_memory_where_a_model_is_held() -> None:
    model = tiny.model()
    plain = make_plan(model, devices=1, tokens=64, tiles=None)
    seen = {}
    for reference in (StoredReference(), AdaptersOff(), FrozenReference()):
        found = make_plan(model, devices=1, tokens=64, tiles=None, reference=reference)
        more = {slot: found.training_flops[slot] - plain.training_flops[slot] for slot in plain.flops}
        runs, holds = more == plain.flops, found.memory != plain.memory
        assert runs or not any(more.values())
        seen[type(reference)] = runs, holds
    assert seen == {StoredReference: (False, False), AdaptersOff: (True, False), FrozenReference: (True, True)}


def test_the_pack_is_one_that_the_model_takes() -> None:
    model = tiny.model()
    for tiles in (0, 3):
        batch = synthetic_pack(model, 20, tiles)
        assert tiny.logits(model, batch).shape == (20, tiny.VOCAB)
    with pytest.raises(ValueError, match="no vision encoder"):
        synthetic_pack(tiny.model(vision=None, merger=None, projector=None), 20, 1)


def test_the_tiles_of_the_pack_take_the_memory_of_one() -> None:
    with torch.device("meta"):
        model = tiny.model(vision=tiny.vision(image_size=4096, patch_size=1024))
    images = synthetic_pack(model, 10**6, 10**5).images
    assert images is not None
    assert images.pixels.shape == (10**5, 3, 4096, 4096)
    assert images.pixels.untyped_storage().nbytes() == 4 * 3 * 4096**2
