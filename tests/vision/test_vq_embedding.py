"""Embedding of ids. Contracts: tests/contracts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import synergen
import tiny
from mmcomponents.batch import ImageBatch
from mmcomponents.component import WiringError
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from mmcomponents.vision import VQEmbedding
from mmcomponents.vision.vq_tokenizer import nearest_codes
from synergen import CODES, TOKENIZER


def embedding() -> VQEmbedding:
    made = VQEmbedding(12, TOKENIZER)
    made.init_weights(0)
    return made


def of_ids(ids: torch.Tensor) -> ImageBatch:
    return ImageBatch(None, torch.arange(len(ids)), vq_ids=ids)


def test_pixels_have_the_vectors_of_their_ids() -> None:
    made = embedding()
    pixels = torch.randn(2, 3, 16, 16)
    found = made(ImageBatch(pixels, torch.arange(2)))
    assert torch.equal(found.vq_ids, made.tokenizer.encode_ids(pixels))
    assert torch.equal(found.primary.tokens, made(of_ids(found.vq_ids)).primary.tokens)
    expected = made.embedding.weight[found.vq_ids] + made.positions
    assert torch.equal(found.primary.tokens, expected.flatten(1, 2))


def test_a_rectangle_has_the_vectors_of_its_places() -> None:
    made, ids = embedding(), torch.randint(CODES, (3, 4, 4))
    whole = made(of_ids(ids)).primary.tokens.unflatten(1, (4, 4))
    part = made.cells(ids[:, 2:4, 1:3], origin=(2, 1)).primary.tokens
    assert torch.equal(part, whole[:, 2:4, 1:3].flatten(1, 2))


def test_autocast_does_not_change_the_ids() -> None:
    made, pixels = embedding(), torch.randn(8, 3, 16, 16)
    ids = made.ids(ImageBatch(pixels, torch.arange(8)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.ids(ImageBatch(pixels, torch.arange(8))), ids)
        assert made.decode_ids(ids).dtype == torch.float32


def test_plans_and_flops_include_the_tokenizer() -> None:
    model = synergen.model()
    made = model.vision
    batch = synthetic_pack(model, 64, 3)
    assert batch.images.pixels.shape == (3, 3, 16, 16)
    counter = FlopCounterMode(display=False)
    with counter:
        made.tokenizer.encode_ids(batch.images.pixels)
    with FlopCounterMode(display=False) as product:
        nearest_codes(torch.zeros(48, 4), torch.zeros(CODES, 4))
    assert made.flops(batch) == counter.get_total_flops() > product.get_total_flops()
    assert made.flops(replace(batch, images=of_ids(torch.zeros(3, 4, 4).long()))) == 0
    assert made.tokenizer.flops(batch) > made.flops(batch)


def test_the_tokenizer_is_never_trained() -> None:
    made = embedding()
    assert made.frozen_names() == {name for name, _ in made.named_parameters() if name.startswith("tokenizer.")}
    made(ImageBatch(torch.randn(1, 3, 16, 16), torch.zeros(1).long())).primary.tokens.sum().backward()
    assert {name for name, p in made.named_parameters() if p.grad is not None} == {"embedding.weight", "positions"}


def test_errors_have_both_numbers() -> None:
    made = embedding()
    with pytest.raises(ValueError, match="ids from 0 to 32, and the tokenizer has a codebook of 32"):
        made(of_ids(torch.tensor([[[0, 32, 1, 1]] * 4])))
    with pytest.raises(ValueError, match="VQEmbedding has places for 4 x 4 ids, got 2 x 4"):
        made(of_ids(torch.zeros(1, 2, 4).long()))
    with pytest.raises(ValueError, match="VQEmbedding has places for 4 x 4 ids, got 2 x 2"):
        made.cells(torch.zeros(1, 2, 2).long(), origin=(3, 0))
    with pytest.raises(WiringError, match=r"needs a tokenizer .*InternViT is none"):
        VQEmbedding(12, partial(tiny.vision))
