"""Texts and ids of pictures in one loss. Contracts: tests/contracts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import synergen
import tiny
from mmcomponents.batch import TokenType
from mmcomponents.component import WiringError
from mmcomponents.heads import LMHead, VQUnfold
from mmcomponents.nn.folds import fold_ids
from mmcomponents.objectives import ImageTokens, NextToken
from mmcomponents.objectives.base import check_objective
from mmcomponents.testing.sample_packs import picture_packs
from mmcomponents.training.slots import SlotOptions, freeze

STAGE_1 = {
    "embedder": SlotOptions(only=["unconditional"]),
    "backbone": SlotOptions(only=["*.image_mlp.*"]),
    "heads.lm": SlotOptions(trainable=False),
}


def loss(model: Any, batch: Any, objective: ImageTokens) -> Any:
    return objective(model, batch, objective.counts(batch))


def packs() -> list[Any]:
    return picture_packs(0, tile=16, tokens_per_tile=4)


def test_the_state_before_a_fold_predicts_its_ids() -> None:
    model, batch = synergen.model().double(), packs()[0]
    state = model(batch)
    at = (batch.layout.token_type == TokenType.IMAGE_GEN).nonzero()[:, 0]
    assert len(at) == 12
    ids = fold_ids(batch.images.vq_ids, 2, 2)
    logits = model.heads["vq_unfold"].logits(state.hidden[at - 1], ids)
    expected = cross_entropy(logits.flatten(0, 1), ids.flatten())
    found = loss(model, batch, ImageTokens())
    torch.testing.assert_close(found.parts["image"], expected.float(), check_dtype=False)
    text = NextToken("token")
    alone = text(model, batch, text.counts(batch)).total
    torch.testing.assert_close(found.total, alone + 2 * found.parts["image"])


def test_twice_the_weight_is_twice_the_gradient_of_the_ids_alone() -> None:
    batch, found = packs()[0], {}
    for weight in (0.0, 2.0, 4.0):
        model = synergen.model().double()
        loss(model, batch, ImageTokens(image_weight=weight)).total.backward()
        found[weight] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for name, text in found[0.0].items():
        torch.testing.assert_close(found[4.0][name] - text, 2 * (found[2.0][name] - text), rtol=1e-5, atol=1e-6)
    assert not found[0.0]["heads.vq_unfold.weight"].any()
    assert found[2.0]["heads.vq_unfold.weight"].any()


def test_given_images_are_no_targets() -> None:
    objective = ImageTokens()
    made, given = packs()[0], packs()[3]
    assert objective.counts(made)["folds"] == 12
    assert objective.counts(given)["folds"] == 4  # the second of two
    assert objective.counts(packs()[1])["folds"] == 0
    found = loss(synergen.model(), packs()[1], objective)
    assert float(found.parts["image"]) == 0.0


def test_the_first_stage_trains_what_images_need_and_leaves_texts_as_they_were() -> None:
    model = synergen.model()
    freeze(model, STAGE_1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("projector.", "heads.vq_unfold.", "vision.embedding", "vision.positions"))
        or ".image_mlp." in name
        or name == "embedder.unconditional"
    }
    assert trained == expected
    text, mixed = packs()[1], packs()[0]
    before, seen = tiny.logits(model, text), tiny.logits(model, mixed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    kept = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    for _ in range(3):
        for batch in packs():
            optimizer.zero_grad()
            loss(model, batch, ImageTokens()).total.backward()
            optimizer.step()
    assert torch.equal(tiny.logits(model, text), before)
    assert not torch.equal(tiny.logits(model, mixed), seen)
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in kept.items())


def test_a_model_without_ids_or_without_the_head_is_refused() -> None:
    objective = ImageTokens()
    with pytest.raises(WiringError, match="ImageTokens reads the head 'vq_unfold' and the model has lm"):
        check_objective(objective, synergen.model(heads={"lm": LMHead}))
    with pytest.raises(WiringError, match="calls weighted_fold_nll of the head 'vq_unfold', which LMHead"):
        check_objective(objective, synergen.model(heads={"lm": LMHead, "vq_unfold": LMHead}))
    pixels = tiny.model(heads={"lm": LMHead(32, 64), "vq_unfold": VQUnfold(32, None, **synergen.UNFOLD)})
    with pytest.raises(WiringError, match="needs ids of an image tokenizer and InternViT has none: use VQEmbedding"):
        check_objective(objective, pixels)
