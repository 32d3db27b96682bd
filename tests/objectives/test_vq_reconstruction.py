"""Training of an image tokenizer. Contracts: tests/contracts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.functional import normalize

import synergen
import tiny
from mmcomponents.batch import PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.compose import Factories
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import VQReconstruction
from mmcomponents.testing import image_packs


def tokenizer() -> MultimodalModel:
    made = Factories(vision=synergen.TOKENIZER).build(None, None)
    made.init_weights(0)
    return made


def tiles() -> PackedBatch:
    return image_packs(0, tile=16, tokens_per_tile=0)[1]


def test_the_terms_are_those_of_the_paper() -> None:
    model, batch, objective = tokenizer(), tiles(), VQReconstruction(codebook=0.7, commitment=0.3)
    assert objective.counts(batch) == {"tiles": 3.0, "targets": 3.0}
    found = objective(model, batch, objective.counts(batch))
    pixels, part = batch.images.require_pixels(), model.vision
    features = part(batch.images).maps[0].tokens.flatten(0, 1)
    ids = part.encode_ids(pixels)
    codes = normalize(part.codebook, dim=1)[ids.flatten()]
    error = (part.decode_ids(ids) - pixels).square().mean()
    distance = (features - codes).square().sum(-1).mean()
    torch.testing.assert_close(found.parts["pixels"], error)
    torch.testing.assert_close(found.total, error + (0.7 + 0.3) * distance)
    found.total.backward()
    assert model.vision.codebook.grad.any()


def test_a_few_steps_reduce_the_error() -> None:
    model, batch, objective = tokenizer(), tiles(), VQReconstruction()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    errors = []
    for _ in range(30):
        found = objective(model, batch, objective.counts(batch))
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
        errors.append(float(found.parts["pixels"]))
    assert errors[-1] < 0.8 * errors[0]


def test_other_encoders_and_parts_after_it_are_refused() -> None:
    with pytest.raises(WiringError, match="InternViT gives maps of width 24: use ConvVQTokenizer"):
        VQReconstruction().check(Factories(vision=tiny.vision_factory()).build(None, None))
    model = tokenizer()
    model.merger = partial(PixelUnshuffle)(8)
    with pytest.raises(WiringError, match="reads the tokenizer's maps, which PixelUnshuffle changes"):
        VQReconstruction().check(model)
