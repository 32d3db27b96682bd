"""Denoising queries: groups of an image alone, noise within its limits, and draws by sample."""

from __future__ import annotations

import numpy as np
import torch

from mmcomponents.extras import Boxes
from mmcomponents.movable import Exact
from mmcomponents.nn.box_geometry import corners
from mmcomponents.objectives.box_matching import Truth
from mmcomponents.objectives.denoising import NoisyTruth, noisy_truth

CLASSES = 5


def truth(*counts: int) -> Truth:
    draw = torch.Generator().manual_seed(0)
    tile = torch.tensor([n for n, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
    box = torch.cat((0.4 + 0.2 * torch.rand(len(tile), 2, generator=draw), 0.1 * torch.ones(len(tile), 2)), dim=1)
    label = torch.randint(CLASSES, (len(tile),), generator=draw)
    return Truth.of(Boxes(Exact(box), label, tile, tile), len(counts), torch.device("cpu"))


def noisy(given: Truth, number: int = 12, label: float = 0.5, box: float = 1.0, seed: int = 0) -> NoisyTruth:
    return noisy_truth(
        given, [np.random.default_rng((seed, n)) for n in range(len(given.counts))], CLASSES, number, label, box
    )


def test_groups_are_those_of_each_image() -> None:
    found = noisy(truth(3, 0, 20, 5))
    assert found.queries.group.shape == (4, 40)
    groups = [{*row.tolist()} - {-1} for row in found.queries.group]
    assert [len(own) for own in groups] == [4, 0, 1, 2]  # 12 // 3, no boxes, at least one, 12 // 5
    assert [int((row >= 0).sum()) for row in found.queries.group] == [24, 0, 40, 20]
    for tile, count in ((0, 3), (3, 5)):
        for group in groups[tile]:
            mine = found.queries.group[tile] == group
            for near in (True, False):
                own = mine & (found.near[tile] == near)
                assert found.box[tile][own].tolist() == list(range(count))
    # Each image weighs as much as one group.
    assert torch.allclose(found.weight.sum(1), torch.tensor([6.0, 0.0, 40.0, 10.0]))


def test_near_corners_move_by_at_most_half_a_box_and_far_ones_by_more() -> None:
    given = truth(4)
    found = noisy(given, 400)
    shift = (corners(found.queries.box) - corners(given.box.gather(1, found.box[..., None].expand(-1, -1, 4)))).abs()
    shift = shift / 0.05  # in halves of a side
    near = shift[found.near & (found.queries.group >= 0)]
    far = shift[~found.near & (found.queries.group >= 0)]
    assert near.max() <= 1.0 + 1e-4
    assert near.max() > 0.95
    assert far.min() >= 1.0 - 1e-4
    assert 1.95 < far.max() <= 2.0 + 1e-4


def test_a_quarter_of_the_classes_is_drawn_anew() -> None:
    given = truth(4)
    found = noisy(given, 4000)
    wrong = (found.queries.label != given.label.gather(1, found.box))[found.queries.group >= 0].float().mean()
    assert abs(float(wrong) - 0.25 * (CLASSES - 1) / CLASSES) < 0.02
    assert torch.equal(noisy(given, 40, label=0.0).queries.label, given.label.gather(1, noisy(given, 40).box))


def test_an_image_gets_the_same_queries_whatever_shares_its_pack() -> None:
    given = truth(3, 20)
    both = noisy(given)
    single = Truth(given.box[:1, :3], given.label[:1, :3], [3], [0])
    alone = noisy(single)
    assert torch.equal(both.queries.box[0, :24], alone.queries.box[0])
    assert torch.equal(both.queries.label[0, :24], alone.queries.label[0])
    other = noisy(single, seed=1)
    assert not torch.equal(other.queries.box, alone.queries.box)


def test_no_queries() -> None:
    for found in (noisy(truth(0, 0)), noisy(truth(2, 3), number=0)):
        assert found.queries.box.shape[1:] == (0, 4)
        assert found.weight.shape == (2, 0)
