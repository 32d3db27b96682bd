from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

import tiny
from figures import figure
from mmcomponents.batch import IGNORE, Pairs
from mmcomponents.component import WiringError
from mmcomponents.objectives import NextToken, token_weights

# In p3 and p5 the reference predicts the first token of a sample from the sample before it, unlike this library.
PACKS = [p for p in figure("d_loss_weights.json")["packs"] if not p["pack"].startswith(("p3", "p5"))]


@pytest.mark.parametrize("case", PACKS, ids=lambda p: f"{p['pack']}-{p['reduction']}-{p['padded_length']}")
def test_weights_and_loss_equal_the_reference(case) -> None:
    samples = case["labels_per_sample"]
    labels = torch.cat([torch.tensor([*s[1:], IGNORE]) for s in samples])
    boundaries = torch.tensor([0, *torch.tensor([len(s) for s in samples]).cumsum(0)], dtype=torch.int32)
    weights = token_weights(labels, boundaries, case["reduction"])
    assert weights.dtype == torch.float32
    unshifted = torch.tensor(case["loss_weight_unshifted"][: len(labels)])
    torch.testing.assert_close(weights[:-1], unshifted[1:] * (labels[:-1] != IGNORE), rtol=0, atol=2e-6)
    torch.testing.assert_close(float(weights.sum()), case["loss_weight_sum_after_shift"], rtol=2e-6, atol=2e-6)
    if case["loss"] is not None and case["loss"] == case["loss"]:
        nll = torch.tensor(case["per_position_ce_after_shift"])[: len(labels) - 1]
        loss = (nll * weights[: len(nll)]).sum() / weights.sum()
        torch.testing.assert_close(float(loss), case["loss"], rtol=2e-6, atol=2e-6)


def test_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of token, sample, square, got 'sqrt'"):
        token_weights(torch.zeros(3), torch.tensor([0, 3]), "sqrt")


@pytest.mark.parametrize("weighting", ["token", "sample", "square"])
def test_value_and_gradient_equal_the_plain_computation(weighting) -> None:
    model = tiny.model()
    batch = tiny.pack([("t", 4), ("i", 2), ("t", 9)], [("t", 6)], [("t", 3)], targets=[8, 2, 0])
    objective = NextToken(weighting)
    weights = token_weights(batch.labels, batch.layout.cu_seqlens, weighting)
    nll = cross_entropy(tiny.logits(model, batch), batch.labels, reduction="none", ignore_index=IGNORE)
    expected = (nll * weights).sum() / weights.sum()
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)

    totals = objective.counts(batch)
    assert totals == {"weight": pytest.approx(float(weights.sum())), "targets": 10.0}
    out = objective(model, batch, totals)
    torch.testing.assert_close(out.total, expected)
    torch.testing.assert_close(out.parts["loss"], expected)
    torch.testing.assert_close(out.parts["nll"], nll.sum() / 10)
    found = torch.autograd.grad(out.total, parameters, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_parts_of_a_step_add_up() -> None:
    """The denominator is shared by micro-batches with different numbers of targets."""
    model, objective = tiny.model(), NextToken()
    packs = [tiny.pack([("t", 9)], targets=[8]), tiny.pack([("t", 9)], targets=[1], seed=1)]
    counts = [objective.counts(b) for b in packs]
    totals = {k: sum(c[k] for c in counts) for k in counts[0]}
    step = sum(objective(model, b, totals).total.item() for b in packs)
    means = [objective(model, b, c).total.item() for b, c in zip(packs, counts, strict=True)]
    weighted = sum(m * c["weight"] for m, c in zip(means, counts, strict=True)) / totals["weight"]
    assert step == pytest.approx(weighted, rel=1e-5)
    assert step != pytest.approx(sum(means) / 2, rel=1e-3)


def test_a_pack_without_target_is_zero() -> None:
    batch = tiny.pack([("t", 5)], targets=[0])
    objective = NextToken()
    totals = objective.counts(batch)
    assert totals == {"weight": 0.0, "targets": 0.0}
    out = objective(tiny.model(), batch, totals)
    assert out.total == 0
    assert all(torch.isfinite(v) for v in out.parts.values())


def test_logits_of_all_positions_are_never_made(monkeypatch) -> None:
    model, batch = tiny.model(), tiny.pack([("t", 40)], targets=[3])
    monkeypatch.setattr(type(model.heads["lm"]), "forward", lambda *a: pytest.fail("the head's logits were made"))
    objective = NextToken()
    objective(model, batch, objective.counts(batch)).total.backward()


def test_more_visual_tokens_than_image_tokens_raise_with_both_numbers() -> None:
    batch = tiny.pack([("t", 3), ("i", 1), ("t", 3)])
    objective = NextToken()
    images = replace(batch.images, pixels=torch.randn(2, 3, 16, 16), tile_image=torch.zeros(2))
    with pytest.raises(ValueError, match="points to 4 visual tokens and its images give 8"):
        objective(tiny.model(), replace(batch, images=images), objective.counts(batch))
    unplaced = replace(batch, visual_index=torch.full_like(batch.visual_index, -1), images=None)
    with pytest.raises(ValueError, match="4 image tokens and 0 of them"):
        objective(tiny.model(), unplaced, objective.counts(batch))


def test_rejected_answers_are_not_learnt() -> None:
    batch = tiny.pack([("t", 4), ("t", 5)])
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]))
    batch = replace(batch, keys=["a/0", "a/0"])
    with pytest.raises(WiringError, match=r"rejected answers of 1 preference pairs.*data\.sources"):
        NextToken().counts(replace(batch, pairs=pairs))
