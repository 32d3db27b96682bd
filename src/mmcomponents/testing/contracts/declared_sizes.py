"""Contract 4: the sizes that a part declares are those of what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from mmcomponents.batch import FeatureMap, ImageBatch, VisualFeatures
from mmcomponents.component import Component
from mmcomponents.fusers import Fuser
from mmcomponents.mergers import Merger
from mmcomponents.model import MultimodalModel
from mmcomponents.testing.case import Case, outputs
from mmcomponents.testing.packs import VOCAB_SIZE, join
from mmcomponents.testing.report import Findings
from mmcomponents.vision import VisionEncoder
from mmcomponents.vision.base import repeated

_GRIDS = [*((rows, columns) for rows in range(1, 7) for columns in range(1, 7)), (8, 12), (16, 16), (32, 32)]
_TILES = 2


@torch.no_grad()
def declared_sizes(case: Case, found: Findings) -> None:
    """Compares widths, grids and numbers of tokens, for all sizes of images and maps that the part supports.

    A size is not supported if `grid` or `num_tokens` raises a ValueError; then `forward` has to refuse it as well.
    """
    if case.slot == "objective":
        _counts(found, case)
        return
    model = case.copied_model()
    for name in _DECLARED[case.slot]:
        found.true(
            getattr(case.part(model), name, None) is not None, f"the part has no {name}, which wiring checks read"
        )
    if not found.failures:
        _CHECKS[case.slot](found, case, model)
    if not found.failures and model.vision is not None:
        _visual_tokens(found, model)


def _visual_tokens(found: Findings, model: MultimodalModel) -> None:
    """Compares `tokens_per_tile` with the visual tokens of the whole chain."""
    assert model.vision is not None
    tokens = model.project(model.encode(_images(model.vision, (model.vision.image_size,) * 2)))
    per_tile = model.tokens_per_tile or 0
    _size(found, "tokens_per_tile of the model gives", _TILES * per_tile, "visual tokens", tokens.shape[0])


def _vision(found: Findings, case: Case, model: MultimodalModel) -> None:
    part = cast(VisionEncoder, model.vision)
    widths = part.hidden_size if isinstance(part.hidden_size, tuple) else (part.hidden_size,)
    try:
        part.grid((part.image_size, part.image_size))
    except ValueError as error:
        found.true(False, f"grid refuses tiles of image_size, {part.image_size} pixels: {error}")
    for pixels in _pixels(part):
        features = part(_images(part, pixels))
        _maps(found, f"of {pixels[0]} x {pixels[1]} pixels", features, widths, part.grid(pixels))


def _fuser(found: Findings, case: Case, model: MultimodalModel) -> None:
    part, vision = cast(Fuser, model.fuser), cast(VisionEncoder, model.vision)
    widths = part.out_features if isinstance(part.out_features, tuple) else (part.out_features,)
    for pixels in _pixels(vision):
        features = vision(_images(vision, pixels))
        hw = features.primary.hw
        _maps(found, f"fused from {hw[0]} x {hw[1]}", part(features), widths, part.grid(hw))


def _merger(found: Findings, case: Case, model: MultimodalModel) -> None:
    part, supported = cast(Merger, model.merger), 0
    widths = part.out_features if isinstance(part.out_features, tuple) else (part.out_features,)
    for hw in _GRIDS:
        features = _features(part.in_features, hw)
        try:
            count = part.num_tokens(hw)
        except ValueError:
            found.true(
                _refuses(part, features), f"num_tokens refuses maps of {hw[0]} x {hw[1]} and forward accepts them"
            )
            continue
        supported += 1
        merged = part(features)
        tokens = merged.primary.tokens.shape[1]
        _size(found, f"num_tokens of a map of {hw[0]} x {hw[1]} is", count, "tokens", tokens)
        _maps(found, f"merged from {hw[0]} x {hw[1]}", merged, widths)
    found.true(supported > 0, "num_tokens refuses all maps that were tried, 1 x 1 to 32 x 32")


def _projector(found: Findings, case: Case, model: MultimodalModel) -> None:
    part = cast(Any, model.projector)
    assert model.vision is not None
    features = model.encode(_images(model.vision, (model.vision.image_size,) * 2))
    weight = model.embedder.embedding_weight() if part.needs_embedding_weight and model.embedder is not None else None
    _shape(found, "projected tokens", part(features, weight), (*features.primary.tokens.shape[:2], part.out_features))


def _embedder(found: Findings, case: Case, model: MultimodalModel) -> None:
    part, batch = cast(Any, model.embedder), case.mixed()
    tokens = None if batch.images is None else model.project(model.encode(batch.images))
    _shape(found, "embeddings", part(batch, tokens), (batch.num_tokens, part.hidden_size))
    weight = part.embedding_weight()
    if weight is not None:
        given, declared = list(weight.shape), [VOCAB_SIZE, part.hidden_size]
        found.true(given == declared, f"the embedding weight has the shape {given}, declared is {declared}")


def _position(found: Findings, case: Case, model: MultimodalModel) -> None:
    part, batch = cast(Any, model.position), case.mixed()
    ticks = part.ticks(batch.layout)
    found.true(ticks.dtype == torch.int64, f"ticks are {ticks.dtype}, not int64")
    _size(found, "the pack has", batch.num_tokens, "ticks", ticks.shape[0])
    for name, table in zip(("cosines", "sines"), part.rotary(batch.layout), strict=True):
        _shape(found, name, table, (batch.num_tokens, part.head_dim))
        found.true(table.dtype == torch.float32, f"{name} are {table.dtype}, not float32")
        half = part.head_dim // 2
        found.equal(f"second half of the {name}", table[:, half:], table[:, :half])


def _backbone(found: Findings, case: Case, model: MultimodalModel) -> None:
    part, batch = cast(Any, model.backbone), case.mixed()
    state = model(batch)
    _shape(found, "hidden states", state.hidden, (batch.num_tokens, part.hidden_size))


def _head(found: Findings, case: Case, model: MultimodalModel) -> None:
    part, batch = cast(Any, model.heads["lm"]), case.mixed()
    if model.backbone is not None and "hidden" in part.needs:
        _size(found, "in_features is", part.in_features, "width of hidden states", model.backbone.hidden_size)
    if case.has_language_head:
        _shape(found, "logits", outputs(model, batch)["output of lm"], (batch.num_tokens, VOCAB_SIZE))


def _counts(found: Findings, case: Case) -> None:
    """Checks that the counts of a pack are the sums of those of its samples, as the totals of a step are."""
    objective, apart = case.objective(), case.samples()
    whole = objective.counts(join(*apart))
    each = [objective.counts(pack) for pack in apart]
    found.true(
        objective.denominator in whole, f"counts returns {', '.join(whole)} without {objective.denominator!r}, the"
        " count that the loss is divided by (denominator)",
    )  # fmt: skip
    for name, value in whole.items():
        total = sum(count.get(name, 0.0) for count in each)
        found.close(f"count {name!r} of a pack and of its samples", torch.tensor(value), torch.tensor(total))
    for pack in apart:
        if pack.images is not None:
            blind = replace(pack, images=_without_content(pack.images))
            found.true(objective.counts(blind) == objective.counts(pack), "counts depend on pixels")
    model = case.copied_model()
    for name in objective.needs_heads:
        found.true(name in model.heads, f"needs_heads names {name!r}, which the model does not have")
    for name in [name for name in model.heads if name not in objective.needs_heads]:
        del model.heads[name]  # a head that is not named must not be used
    objective(model, join(*apart), whole)


_DECLARED: dict[str, tuple[str, ...]] = {
    "vision": ("hidden_size", "image_size"),
    "fuser": ("in_features", "out_features"),
    "merger": ("in_features", "out_features"),
    "projector": ("in_features", "out_features"),
    "embedder": ("hidden_size",),
    "position": ("head_dim",),
    "backbone": ("hidden_size", "head_dim"),
    "head": ("in_features",),
}
_CHECKS: dict[str, Callable[[Findings, Case, MultimodalModel], None]] = {
    "vision": _vision,
    "fuser": _fuser,
    "merger": _merger,
    "projector": _projector,
    "embedder": _embedder,
    "position": _position,
    "backbone": _backbone,
    "head": _head,
}


def _pixels(part: VisionEncoder) -> Iterator[tuple[int, int]]:
    """Yields the heights and widths of tiles that an encoder supports, some of them not square."""
    side = part.image_size
    if part.blank("cpu").pixels is None:  # the sizes of ids are the encoder's own
        yield side, side
        return
    for pixels in ((side, side), (side, 2 * side), (2 * side, side), (side // 2, side)):
        with suppress(ValueError):
            part.grid(pixels)
            yield pixels


def _images(part: VisionEncoder, pixels: tuple[int, int]) -> ImageBatch:
    blank = part.blank("cpu")
    if blank.pixels is None:
        return repeated(blank, _TILES)
    draw = torch.Generator().manual_seed(0)
    return replace(repeated(blank, _TILES), pixels=torch.randn(_TILES, 3, *pixels, generator=draw))


def _without_content(images: ImageBatch) -> ImageBatch:
    """Returns images with other pixels or ids."""
    if images.vq_ids is not None:
        return replace(images, vq_ids=torch.full_like(images.vq_ids, -1))
    return replace(images, pixels=torch.full_like(images.require_pixels(), torch.nan))


def _features(widths: int | tuple[int, ...], hw: tuple[int, int]) -> VisualFeatures:
    draw = torch.Generator().manual_seed(0)
    each = widths if isinstance(widths, tuple) else (widths,)
    return VisualFeatures([FeatureMap(torch.randn(_TILES, hw[0] * hw[1], w, generator=draw), hw) for w in each])


def _maps(
    found: Findings,
    where: str,
    features: VisualFeatures,
    widths: tuple[int, ...],
    hw: tuple[int, int] | None = None,
) -> None:
    """Compares the widths of maps with declared ones, and the grid of the primary map if it is declared."""
    given = tuple(m.tokens.shape[2] for m in features.maps)
    found.true(given == widths, f"the maps {where} have the widths {given}, declared are {widths}")
    found.true(hw in (None, features.primary.hw), f"the primary map {where} is {features.primary.hw}, grid says {hw}")
    for m in features.maps:
        h, w = m.hw
        _size(found, f"a map {where} is declared as {h} x {w} =", h * w, "tokens", m.tokens.shape[1])


def _refuses(part: Component, features: VisualFeatures) -> bool:
    try:
        part(features)
    except ValueError:
        return True
    return False


def _shape(found: Findings, what: str, value: Tensor, expected: tuple[int, ...]) -> None:
    found.true(
        tuple(value.shape) == expected, f"{what} have the shape {list(value.shape)}, declared is {list(expected)}"
    )


def _size(found: Findings, declared: str, expected: int, what: str, given: int) -> None:
    found.true(given == expected, f"{declared} {expected}, {what}: {given}")
