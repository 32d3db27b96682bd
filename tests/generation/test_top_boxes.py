"""TopBoxes: rows by score, prompts and tiles, and what it refuses. Contracts: tests/contracts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import midetr
from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.generation import Context, TopBoxes
from mmcomponents.generation.top_boxes import COLUMNS, tile_segments
from mmcomponents.heads import LMHead
from mmcomponents.nn.box_geometry import corners
from mmcomponents.testing import pack, small_model


def values(model: Any, batch: Any, **options: Any) -> list[torch.Tensor]:
    return [answer.values for answer in TopBoxes(**options).answer(model, batch, Context())]


@torch.no_grad()
def test_rows_are_the_best_classes_of_all_queries() -> None:
    model = midetr.detector()
    images = midetr.images((64, 64), (48, 64))
    logits, boxes = midetr.detected(model, images)
    for tile, found in enumerate(values(model, midetr.packed(images), num_boxes=5)):
        scores = logits[tile, -1].sigmoid()
        best = sorted(((float(s), q, c) for q, row in enumerate(scores) for c, s in enumerate(row)), reverse=True)[:5]
        assert found.shape == (5, len(COLUMNS))
        assert found[:, 0].tolist() == [c for _, _, c in best]
        assert torch.allclose(found[:, 1], torch.tensor([s for s, _, _ in best]))
        expected = corners(boxes[tile, -1, [q for _, q, _ in best]]).clamp(0, 1)
        assert torch.allclose(found[:, 2:6], expected, atol=1e-6)
        assert not found[:, 6].any()


def test_few_boxes_and_low_scores() -> None:
    model, batch = midetr.detector(), midetr.packed(midetr.images((64, 64)))
    assert values(model, batch)[0].shape == (midetr.QUERIES * 3, len(COLUMNS))
    (some,) = values(model, batch, min_score=float(values(model, batch)[0][6, 1]))
    assert len(some) == 7
    assert values(model, batch, min_score=1.0)[0].shape == (0, len(COLUMNS))


def test_tiles_of_a_prompt_and_prompts_without_images() -> None:
    model = midetr.detector()
    batch = pack([("t", 3), ("i", 2)], [("t", 2)], [("i", 1), ("t", 1)], tile=64, tokens_per_tile=1)
    one, none, other = values(model, batch, num_boxes=4)
    assert one[:, 6].tolist() == [0] * 4 + [1] * 4
    assert (len(none), len(other)) == (0, 4)
    text = pack([("t", 3)], [("t", 2)])
    assert [len(v) for v in values(model, text)] == [0, 0]


def test_prompts_without_tokens_have_an_image_each() -> None:
    batch = midetr.packed(midetr.images((64, 64), (64, 64)))
    assert tile_segments(batch) == [0, 1]
    batch.images.tile_image = torch.zeros(2, dtype=torch.long)
    with pytest.raises(WiringError, match="a pack without tokens has 1 images and 2 prompts: one of each is needed"):
        tile_segments(batch)


def test_boxes_in_pixels_have_names() -> None:
    rows = torch.tensor([[1.0, 0.75, 0.1, 0.2, 0.3, 0.4, 0.0], [0.0, 0.5, 0.0, 0.0, 1.0, 1.0, 0.0]])
    first, second = TopBoxes(names=["cat", "dog"]).in_pixels(rows, (200, 100))
    assert first.row() == {"label": 1, "name": "dog", "score": 0.75, "box": [20.0, 20.0, 60.0, 40.0]}
    assert (second.name, second.box) == ("cat", (0.0, 0.0, 200.0, 100.0))
    assert TopBoxes().in_pixels(rows, (200, 100))[0].name == "1"


def test_what_it_refuses() -> None:
    with pytest.raises(WiringError, match="TopBoxes reads the head 'detection' and the model has lm"):
        TopBoxes().check(small_model())
    with pytest.raises(WiringError, match="which LMHead does not find: use DetectionHead"):
        TopBoxes(head="lm").check(small_model(heads={"lm": LMHead}))
    with pytest.raises(WiringError, match="has names of 2 classes and DetectionHead num_classes 3"):
        TopBoxes(names=["cat", "dog"]).check(midetr.detector())
    model = midetr.detector(head=partial(midetr.HEAD, num_layers=3))
    with torch.no_grad():
        model.heads["detection"].norm.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the boxes of tiny/0 are NaN"):
        values(model, midetr.packed(midetr.images((64, 64))))
