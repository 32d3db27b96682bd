"""The head that makes the ids of a fold. Contracts: tests/contracts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

import synergen
from mmcomponents.component import WiringError
from mmcomponents.heads import LMHead, VQUnfold
from mmcomponents.mergers import Fold, PixelUnshuffle
from mmcomponents.nn.cache import KVCache


def head() -> VQUnfold:
    made = VQUnfold(32, None, **synergen.UNFOLD)
    made.init_weights(0)
    return made.double()


def given() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(5, 32, dtype=torch.float64), torch.randint(synergen.CODES, (5, 4))


def test_an_id_depends_on_the_hidden_state_and_on_the_ids_before() -> None:
    made, (hidden, ids) = head(), given()
    before = made.logits(hidden, ids)
    for cell in range(4):
        other = ids.clone()
        other[:, cell] = (ids[:, cell] + 1) % synergen.CODES
        changed = (made.logits(hidden, other) - before).abs().amax((0, 2)) > 1e-9
        assert changed.tolist() == [place > cell for place in range(4)]
    moved = hidden.clone()
    moved[2] += 1
    changed = (made.logits(moved, ids) - before).abs().amax(2) > 1e-9
    assert changed.all(1).tolist() == changed.any(1).tolist() == [number == 2 for number in range(5)]


def test_drawing_step_by_step_has_the_likelihoods_of_training() -> None:
    made, (hidden, ids) = head(), given()
    cache, steps = KVCache(), []
    for cell in range(4):
        steps.append(made.next_logits(hidden, None if cell == 0 else ids[:, cell - 1], cell, cache))
    logits = torch.stack(steps, 1)
    torch.testing.assert_close(logits, made.logits(hidden, ids))
    weights = torch.rand(5)
    total, nll = made.weighted_fold_nll(hidden, ids, weights)
    each = cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(5, 4).sum(1)
    torch.testing.assert_close(nll, each.float())
    torch.testing.assert_close(total, (weights * each).sum().float())


def test_wrong_neighbours_are_refused_with_both_numbers() -> None:
    other = partial(VQUnfold, **(synergen.UNFOLD | {"codebook_size": 40}))
    with pytest.raises(WiringError, match="VQEmbedding has a codebook of 32 ids and VQUnfold makes ids of 40"):
        synergen.model(heads={"lm": LMHead, "vq_unfold": other})
    with pytest.raises(WiringError, match="Fold folds 2 x 4 ids to a token and VQUnfold makes 2 x 2 of one"):
        synergen.model(merger=partial(Fold, rows=2, columns=4))
    with pytest.raises(WiringError, match="no merger folds ids to a token and VQUnfold makes 2 x 2 of one"):
        synergen.model(merger=None)
    with pytest.raises(WiringError, match=r"makes a map of 4 x 4 .* Fold cannot take: Fold has blocks of 2 x 8"):
        synergen.model(merger=Fold)
    with pytest.raises(WiringError, match=r"PixelUnshuffle has the order v1, which transposes .* and VQUnfold makes"):
        synergen.model(merger=partial(PixelUnshuffle, order="v1"))
    synergen.model(merger=PixelUnshuffle)


def test_only_made_pictures_are_counted() -> None:
    made, how = head(), synergen.renderer()
    samples = [synergen.sample("1 2", synergen.picture(n), n) for n in range(3)]
    one, three = (made.flops(synergen.packed(samples[:count], how)) for count in (1, 3))
    assert three == 3 * one > 0
    assert made.flops(synergen.prompts(["1 2"], how)) == 0
