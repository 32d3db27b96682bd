"""Joint loss of texts and pictures. Contracts: tests/contracts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import got
from mmcomponents.component import WiringError
from mmcomponents.heads import LMHead
from mmcomponents.objectives import NextToken, PictureDiffusion


def batch() -> tuple[object, object]:
    how = got.renderer()
    made = got.packed([got.sample(number=n, reasoning=got.TEXT if n else "") for n in range(3)], how)
    return made, got.model(vocabulary=len(how.tokenizer))


def gradients(model, objective, pack) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    model.zero_grad()
    objective(model, pack, objective.counts(pack)).total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def test_the_error_of_pictures_reaches_queries_and_language_model_and_that_of_texts_not_the_denoiser() -> None:
    pack, model = batch()
    only = replace(pack, labels=torch.full_like(pack.labels, -100))  # type: ignore[arg-type,attr-defined]
    found = gradients(model, PictureDiffusion(), only)
    assert "embedder.queries" in found
    assert any(name.startswith("backbone.") for name in found)
    assert any(name.startswith("heads.picture.denoiser.") for name in found)
    assert not any(name.startswith("heads.autoencoder.") for name in found)
    found = gradients(model, PictureDiffusion(picture_weight=0.0), pack)
    assert not any(name.startswith("heads.picture.") for name in found)
    text = gradients(model, NextToken("token"), pack)
    assert found.keys() == text.keys()


def test_the_loss_is_the_sum_of_both_terms() -> None:
    pack, model = batch()
    one, three = (PictureDiffusion(picture_weight=weight) for weight in (1.0, 3.0))
    first, second = (made(model, pack, made.counts(pack)) for made in (one, three))
    torch.testing.assert_close(first.total, first.parts["text"] + first.parts["picture"])
    torch.testing.assert_close(second.total, first.parts["text"] + 3 * first.parts["picture"])
    assert one.counts(pack)["pictures"] == 3


def test_draws_depend_on_the_sample_and_give_each_combination_its_share() -> None:
    pack, _ = batch()
    many = replace(pack, segment_copy=torch.tensor([0, 1, 2]))  # type: ignore[type-var]
    latents = torch.zeros(3, 2, 4, 4)
    objective = PictureDiffusion(dropout=0.2)
    again = objective._draws(many, latents, 20)
    assert all(torch.equal(a, b) for a, b in zip(objective._draws(many, latents, 20), again, strict=True))
    assert not torch.equal(objective._draws(replace(many, epoch=1), latents, 20)[0], again[0])
    kept = torch.cat([objective._draws(replace(many, epoch=e), latents, 20)[2] for e in range(300)])
    shares = {
        tuple(row): float((kept == torch.tensor(row)).all(1).float().mean()) for row in kept.unique(dim=0).tolist()
    }
    assert set(shares) == {(False, False, False), (False, False, True), (True, False, True), (True, True, True)}
    assert shares[(True, True, True)] == pytest.approx(0.4, abs=0.06)
    assert all(share == pytest.approx(0.2, abs=0.06) for row, share in shares.items() if not all(row))


def test_each_picture_has_its_own_boxes() -> None:
    how = got.renderer()
    model = got.model(vocabulary=len(how.tokenizer))
    objective = PictureDiffusion(dropout=0.0)

    def error(reasonings: list[str]) -> torch.Tensor:
        pack = got.packed([got.sample(text, number=n) for n, text in enumerate(reasonings)], how)
        other = got.packed([got.sample(number=n) for n, _ in enumerate(reasonings)], how)
        boxes = pack.extras["drawn_boxes"]
        return objective(
            model, replace(other, extras=other.extras | {"drawn_boxes": boxes}), objective.counts(other)
        ).parts["picture"]  # fmt: skip

    one = "<box>[[0, 0, 500, 500]]</box> (red)"
    assert error([one, ""]) != error(["", one])
    assert error([one, one]) != error([one, ""])


def test_wrong_packs_and_models_are_refused() -> None:
    pack, _ = batch()
    objective = PictureDiffusion()
    with pytest.raises(WiringError, match="3 segments with positions of type QUERY and 0 pictures"):
        objective.counts(replace(pack, extras={}))  # type: ignore[type-var]
    with pytest.raises(WiringError, match=r"encode .*'autoencoder'|'autoencoder'.* encode|LMHead"):
        objective.check(got.model(heads={"lm": LMHead, "picture": got.CONDITION, "autoencoder": LMHead}))
    with pytest.raises(ValueError, match="dropout must be from 0 to 1/3"):
        PictureDiffusion(dropout=0.4)
