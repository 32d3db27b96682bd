"""Deformable attention against a loop over queries, heads, levels and points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmcomponents.nn.deformable_attention import DeformableAttention, init_deformable

HEADS, POINTS = 2, 3


def attention(levels: int = 1, query: int = 8, value: int | None = None, ratio: float = 1.0) -> DeformableAttention:
    made = DeformableAttention(query, value, levels, HEADS, POINTS, ratio)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not init_deformable(name, parameter, HEADS, POINTS):
                parameter.normal_(std=0.3)
    return made


def opened(made: DeformableAttention, scale: float = 1.0) -> DeformableAttention:
    """Lets places and weights depend on the query."""
    with torch.no_grad():
        made.offsets.weight.normal_(std=scale)
        made.weights.weight.normal_(std=1.0)
    return made


def corner(image: Tensor, row: int, column: int) -> Tensor:
    """Returns a pixel of `[h, w, D]`, zero outside."""
    inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
    return image[row, column] if inside else torch.zeros(image.shape[2])


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """Returns the value at a place in pixels, where the centre of the first pixel is (0, 0)."""
    left, top = math.floor(x), math.floor(y)
    total = torch.zeros(image.shape[2])
    for row, row_share in ((top, top + 1 - y), (top + 1, y - top)):
        for column, share in ((left, left + 1 - x), (left + 1, x - left)):
            total = total + row_share * share * corner(image, row, column)
    return total


def naive(made: DeformableAttention, query: Tensor, hw: tuple[int, int], maps: list[Tensor], grids: list) -> Tensor:
    levels, width = len(maps), made.values.out_features // HEADS
    out = torch.zeros(query.shape[0], query.shape[1], HEADS, width)
    for n in range(query.shape[0]):
        offsets = made.offsets(query[n]).view(-1, HEADS, levels, POINTS, 2)
        shares = made.weights(query[n]).view(-1, HEADS, levels * POINTS).softmax(-1).view(-1, HEADS, levels, POINTS)
        for q in range(query.shape[1]):
            row, column = divmod(q, hw[1])
            centre = ((column + 0.5) / hw[1], (row + 0.5) / hw[0])
            for level, (rows, columns) in enumerate(grids):
                image = made.values(maps[level][n]).view(rows, columns, HEADS, width)
                for head in range(HEADS):
                    for point in range(POINTS):
                        dx, dy = offsets[q, head, level, point].tolist()
                        x, y = centre[0] * columns + dx - 0.5, centre[1] * rows + dy - 0.5
                        out[n, q, head] += shares[q, head, level, point] * bilinear(image[:, :, head], x, y)
    return made.out(out.flatten(2))


@pytest.mark.parametrize("scale", [0.3, 5.0])
@torch.no_grad()
def test_equals_a_loop_inside_and_outside_of_the_maps(scale: float) -> None:
    made = opened(attention(levels=2, query=8, value=6, ratio=0.5), scale)
    grids = [(3, 5), (4, 2)]
    query = torch.randn(2, 2 * 3, 8)
    maps = [torch.randn(2, rows * columns, 6) for rows, columns in grids]
    expected = naive(made, query, (2, 3), maps, grids)
    torch.testing.assert_close(made(query, (2, 3), maps, grids), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_offsets_it_is_the_mean_over_levels_at_each_place() -> None:
    made = attention(levels=3)
    made.offsets.bias.zero_()
    maps = [torch.randn(2, 12, 8) for _ in range(3)]
    mean = torch.stack([made.values(m) for m in maps]).mean(0)
    found = made(torch.randn(2, 12, 8), (3, 4), maps, [(3, 4)] * 3)
    torch.testing.assert_close(found, made.out(mean), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_first_places_are_pixels_in_the_direction_of_the_head() -> None:
    made = attention()
    x = torch.randn(1, 81, 8)
    other = x.clone()
    middle = 4 * 9 + 4
    for row in range(9):
        for column in range(9):
            changed = other.clone()
            changed[0, row * 9 + column] += 1
            found, before = (made(x, (9, 9), [image], [(9, 9)])[0, middle] for image in (changed, x))
            differs = (found - before).abs().max() > 1e-5
            # Two heads look right and left, at 1 to 3 pixels.
            assert bool(differs) == (row == 4 and 1 <= abs(column - 4) <= POINTS), (row, column)


@torch.no_grad()
def test_other_orders_of_the_levels_are_other_columns_of_the_weights() -> None:
    made = opened(attention(levels=2))
    swapped = attention(levels=2)
    swapped.load_state_dict(made.state_dict())
    split = (HEADS, 2, POINTS)
    for part, shape in ((swapped.offsets, (*split, 2)), (swapped.weights, split)):
        for value in (part.weight, part.bias):
            value.copy_(value.view(*shape, -1).flip(1).reshape(value.shape))
    query, maps = torch.randn(1, 6, 8), [torch.randn(1, 6, 8), torch.randn(1, 8, 8)]
    one = made(query, (2, 3), maps, [(2, 3), (4, 2)])
    two = swapped(query, (2, 3), maps[::-1], [(4, 2), (2, 3)])
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_places_are_exact_in_bf16() -> None:
    made = attention(levels=1, query=16).to(torch.bfloat16)
    x = torch.randn(1, 64 * 64, 16)
    with torch.no_grad():
        low, high = made(x.bfloat16(), (64, 64), [x.bfloat16()], [(64, 64)]), made.float()(x, (64, 64), [x], [(64, 64)])
    assert (low - high).abs().max() < 0.1
    assert low.dtype == torch.bfloat16


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="values of width 9"):
        DeformableAttention(9, num_heads=2)
    with pytest.raises(ValueError, match="1 maps with 1 grids for 2 levels"):
        attention(levels=2)(torch.randn(1, 4, 8), (2, 2), [torch.randn(1, 4, 8)], [(2, 2)])
