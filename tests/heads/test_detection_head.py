"""Detection head: against a plain decoder, order of queries and layers, padding, sizes. Contracts: tests/contracts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import midetr
from mmcomponents.batch import VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.compose import Factories
from mmcomponents.heads import DetectionHead, LiteDetectionHead
from mmcomponents.heads.inquiries import Memory
from mmcomponents.nn.detections import Denoising
from mmcomponents.nn.sine_positions import sine_embedding

WIDTH = midetr.WIDTH


def head(groups: int = 1, **changes: Any) -> DetectionHead:
    made = midetr.HEAD((WIDTH,) * (midetr.LEVELS * groups), **changes)
    made.init_weights(0)
    midetr.stir(made)
    return made.eval()


def plain_decoder(made: DetectionHead, features: VisualFeatures) -> list[tuple[Tensor, Tensor]]:
    """A deformable DETR decoder with box refinement in the words of its paper: logits and boxes of each layer."""
    maps = features.maps
    tokens = torch.cat([m.tokens for m in maps], dim=1)
    places = []
    for level, m in enumerate(maps):
        rows, columns = m.hw
        size = 0.05 * 2**level
        places += [((c + 0.5) / columns, (r + 0.5) / rows, size, size) for r in range(rows) for c in range(columns)]
    start = torch.tensor(places)
    memory = made.proposal_norm(made.proposal_map(tokens))
    scores = made.class_maps[-1](memory).max(-1).values
    best = scores.argsort(dim=1, descending=True)[:, : made.num_queries]
    rows_ = torch.arange(len(tokens))[:, None]
    boxes = (made.box_maps[-1](memory[rows_, best]) + torch.log(start / (1 - start))[best]).sigmoid()
    x = made.queries.expand(len(tokens), -1, -1)
    seen = Memory([m.tokens for m in maps], [m.hw for m in maps], torch.ones(1, len(maps), 2), None)
    stages = []
    for number, layer in enumerate(made.decoder):
        y_x_w_h = torch.stack((boxes[..., 1], boxes[..., 0], boxes[..., 2], boxes[..., 3]), dim=-1)
        positions = made.position_map(sine_embedding(y_x_w_h, WIDTH // 2))
        (only,) = layer.layers
        x = only(x, positions, boxes, seen, None)
        out = made.norm(x)
        logit = torch.log(boxes / (1 - boxes))
        stages.append((made.class_maps[number](out), (made.box_maps[number](out) + logit).sigmoid()))
        boxes = (made.box_maps[number](x) + logit).sigmoid()
    return stages


@torch.no_grad()
def test_one_inquiry_is_a_plain_deformable_decoder() -> None:
    made, features = head(num_inquiries=1), midetr.levels(groups=1)
    assert not list(made.fusion.parameters())
    found = made.detect(features)
    for number, (logits, boxes) in enumerate(plain_decoder(made, features), start=1):
        assert torch.allclose(found.logits[:, number], logits, atol=1e-5)
        assert torch.allclose(found.boxes[:, number], boxes, atol=1e-5)


@torch.no_grad()
def test_equal_inquiries_with_an_averaging_map_are_one() -> None:
    one, four, features = head(num_inquiries=1), head(num_inquiries=4), midetr.levels(groups=1)
    state = one.state_dict()
    same = {name: value for name, value in state.items() if not name.startswith("decoder.")}
    for name, value in state.items():
        if name.startswith("decoder."):
            same |= {name.replace(".layers.0.", f".layers.{n}."): value for n in range(4)}
    four.load_state_dict(same, strict=False)
    average = nn.Linear(4 * WIDTH, WIDTH, bias=False)
    average.weight.copy_(torch.cat([torch.eye(WIDTH) / 4] * 4, dim=1))
    four.fusion = average
    expected, found = one.detect(features), four.detect(features)
    assert torch.allclose(found.logits, expected.logits, atol=1e-4)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-4)
    four.decoder[1].layers[2].fc1.weight.add_(1.0)  # inquiries have weights of their own
    assert (four.detect(features).logits - expected.logits).abs().max() > 1e-3


@torch.no_grad()
def test_decoder_layers_read_the_layers_of_the_encoder_in_reverse() -> None:
    made, features = head(groups=3), midetr.levels(groups=3)
    read: list[int] = []
    marks = {m.tokens.data_ptr(): n // midetr.LEVELS for n, m in enumerate(features.maps)}
    for layer in made.decoder:
        layer.register_forward_pre_hook(lambda _, args: read.append(marks[args[3].maps[0].data_ptr()]))
    made.detect(features)
    assert read == [2, 1, 0]
    proposals = made.detect(features).logits[:, 0]
    features.maps[0].tokens.add_(1.0)
    assert torch.equal(made.detect(features).logits[:, 0], proposals)  # they come of the last layer
    single = head(groups=1)
    read.clear()
    marks |= {m.tokens.data_ptr(): 2 for m in features.maps[-midetr.LEVELS :]}
    for layer in single.decoder:
        layer.register_forward_pre_hook(lambda _, args: read.append(marks[args[3].maps[0].data_ptr()]))
    single.detect(VisualFeatures(features.maps[-midetr.LEVELS :]))
    assert read == [2, 2, 2]


@torch.no_grad()
def test_the_order_of_denoising_queries_is_theirs() -> None:
    """Permuted queries give permuted predictions, and those of the boxes stay as they are."""
    made, features = head(), midetr.levels(groups=1)
    draw = torch.Generator().manual_seed(2)
    box = 0.2 + 0.5 * torch.rand(2, 6, 4, generator=draw)
    label, group = torch.randint(3, (2, 6), generator=draw), torch.tensor([[0, 0, 1, 1, 2, -1]] * 2)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    one = made.detect(features, Denoising(label, box, group))
    two = made.detect(features, Denoising(label[:, order], box[:, order], group[:, order]))
    known = group[0, order] >= 0
    assert torch.allclose(two.noisy_boxes[:, :, known], one.noisy_boxes[:, :, order][:, :, known], atol=1e-5)
    assert torch.allclose(two.noisy_logits[:, :, known], one.noisy_logits[:, :, order][:, :, known], atol=1e-4)
    without = made.detect(features)
    for found in (one, two):
        assert torch.allclose(found.boxes, without.boxes, atol=1e-5)
        assert torch.allclose(found.logits, without.logits, atol=1e-4)


@torch.no_grad()
def test_permuted_queries_are_permuted_boxes() -> None:
    made, features = head(num_queries=61), midetr.levels(groups=1)  # all but those of the single place
    expected, order = made.detect(features), torch.randperm(61)
    chosen = made._proposals
    made._proposals = lambda *args: tuple(value[:, order] for value in chosen(*args))
    made.queries.copy_(made.queries[order].clone())
    found = made.detect(features)
    assert torch.allclose(found.boxes, expected.boxes[:, :, order], atol=1e-5)
    assert torch.allclose(found.logits, expected.logits[:, :, order], atol=1e-4)


@torch.no_grad()
def test_groups_of_denoising_queries_do_not_see_each_other() -> None:
    made, features = head(), midetr.levels(groups=1)
    box, label = torch.full((2, 4, 4), 0.4), torch.zeros(2, 4, dtype=torch.long)
    group = torch.tensor([[0, 0, 1, 1]] * 2)
    before = made.detect(features, Denoising(label, box, group)).noisy_boxes
    moved = box.clone()
    moved[:, 2:] = 0.7
    after = made.detect(features, Denoising(label, moved, group)).noisy_boxes
    assert torch.allclose(after[:, :, :2], before[:, :, :2], atol=1e-6)
    assert (after[:, :, 2:] - before[:, :, 2:]).abs().max() > 0.01


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    model = midetr.detector()
    batch = midetr.images((64, 64), (48, 64), (64, 40))
    logits, boxes = midetr.detected(model, batch)
    noise = midetr.images((64, 64), (48, 64), (64, 40), seed=1)
    for number, (height, width) in enumerate(batch.valid_hw.tolist()):
        noise.pixels[number, :, :height, :width] = batch.pixels[number, :, :height, :width]
    assert torch.equal(midetr.detected(model, noise)[0], logits)
    for number in range(3):
        own = midetr.detected(model, midetr.alone(batch, number))
        assert torch.allclose(own[0][0], logits[number], atol=1e-3)
        assert torch.allclose(own[1][0], boxes[number], atol=1e-4)


def test_boxes_of_a_layer_train_the_one_before() -> None:
    """Look forward twice: a box has a gradient in the map of its own layer and of the one before, in no earlier one."""
    made = head(num_inquiries=1)
    for layer in made.decoder:  # nothing else connects the layers
        layer.register_forward_hook(lambda _, args, out: out.detach())
    made.detect(midetr.levels(groups=1)).boxes[:, 3].sum().backward()
    trained = [number for number, part in enumerate(made.box_maps) if part.layers[2].bias.grad.abs().max() > 0]
    assert trained == [1, 2]


def test_sizes() -> None:
    with torch.device("meta"):
        sizes = {
            count: sum(p.numel() for p in DetectionHead((256,) * 24, num_inquiries=count).parameters())
            for count in (1, 4)
        }
        lite = sum(p.numel() for p in LiteDetectionHead((256,) * 24).parameters())
    d, ffn = 256, 2048
    attention = 4 * (d * d + d)
    cross = d * 8 * 4 * 4 * 3 + 8 * 4 * 4 * 3 + 2 * (d * d + d)
    layer = attention + cross + 2 * d * ffn + ffn + d + 3 * 2 * d
    fusion = 4 * d * d + d + 2 * d
    assert sizes[4] - sizes[1] == 6 * 3 * layer + fusion  # one fusion for all layers
    assert sizes[4] - lite == 6 * 3 * (attention + 2 * d)


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ((16,) * 5, r"takes maps of one width, 4 \(num_levels\) or 12 .* and is given 5 of the widths \[16\]"),
        ((16, 16, 16, 20), r"is given 4 of the widths \[16, 20\]"),
    ],
)
def test_other_maps_are_refused(widths: tuple[int, ...], said: str) -> None:
    with pytest.raises(WiringError, match=said):
        midetr.HEAD(widths)


def test_a_head_of_another_width_is_refused() -> None:
    with pytest.raises(WiringError, match=r"UFIEncoder gives maps of width \(16, .* and DetectionHead takes \(20, "):
        Factories(
            vision=midetr.RESNET,
            fuser=midetr.UNIFIED,
            heads={"detection": lambda width, rows: midetr.HEAD((20,) * len(width), rows)},
        ).build(None, None)


def test_more_queries_than_places_are_refused() -> None:
    said = "DetectionHead has num_queries 86, and a tile of 64 pixels has 85 places in the levels of UFIEncoder"
    with pytest.raises(WiringError, match=said):
        midetr.detector(head=partial(midetr.HEAD, num_queries=86))
    model = midetr.detector(head=partial(midetr.HEAD, num_queries=60))
    with pytest.raises(ValueError, match="has num_queries 60, and an image has 22 places in 4 levels"):
        midetr.detected(model, midetr.images((64, 64), (32, 30)))


def test_a_fresh_head_gives_every_class_one_percent() -> None:
    made = midetr.HEAD((WIDTH,) * 4)
    assert torch.allclose(made.class_maps[0].bias.sigmoid(), torch.full((3,), 0.01))
    found = made.detect(midetr.levels(groups=1))
    assert torch.allclose(found.boxes[:, 0], found.boxes[:, 1], atol=1e-6)  # nothing moves the boxes at the start
