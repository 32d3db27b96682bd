"""Whether parts fit one another: found out when a model is composed, not in its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.component import Component, WiringError

if TYPE_CHECKING:
    from mmcomponents.heads.base import Head
    from mmcomponents.model import MultimodalModel

Width = int | tuple[int, ...] | None


def check_wiring(model: MultimodalModel) -> None:
    """Compares what each part gives with what the next one takes.

    A part that does not say a width (a third party's, say) is not compared.

    Raises:
        WiringError: With both parts and both numbers.
    """
    giver: Component | None = model.vision
    gives: Width = _width(giver, "hidden_size")
    for name in ("fuser", "merger", "projector"):
        taker = getattr(model, name)
        if taker is None:
            continue
        if model.vision is None:
            raise WiringError(f"the {name} {_name(taker)} has nothing to work on: the vision slot is empty")
        _compare(giver, "gives maps of width", gives, taker, "takes", _width(taker, "in_features"))
        giver, gives = taker, _width(taker, "out_features")
    if model.vision is not None:
        _check_grid(model)
    heads = cast("dict[str, Head]", dict(model.heads.items()))
    body = model.backbone
    if body is None:
        for name, head in heads.items():
            if "hidden" in head.needs:
                raise WiringError(f"the head {name} ({_name(head)}) reads hidden states and the backbone slot is empty")
        return
    if model.vision is not None:
        _compare(giver, "gives rows of width", gives, body, "takes", body.hidden_size)
    _compare(model.embedder, "gives width", _width(model.embedder, "hidden_size"), body, "takes", body.hidden_size)
    _compare(model.position, "is made for heads of", _width(model.position, "head_dim"), body, "has", body.head_dim)
    if model.position is not None and body.refuses_tables is not None:
        raise WiringError(f"{_name(model.position)} cannot be used: {body.refuses_tables}")
    for head in heads.values():
        _compare(body, "gives hidden states of width", body.hidden_size, head, "takes", _width(head, "in_features"))


def check_visual_rows(batch: PackedBatch, rows: Tensor | None) -> None:
    """Compares the rows that a pack points to with those that there are.

    Raises:
        ValueError: With both numbers. Going on would put one image's rows at another's places.
    """
    if rows is None and batch.images is None and batch.visual_index.device.type != "cpu":
        return  # text alone, checked when it was packed: nothing is read back from the device
    is_image = (batch.layout.token_type == TokenType.IMAGE).sum()
    addressed = (batch.visual_index >= 0).sum()
    highest = batch.visual_index.max() + 1 if batch.num_tokens else addressed
    images, places, used = torch.stack((is_image, addressed, highest)).tolist()
    given = 0 if rows is None else rows.shape[0]
    if used != given:
        raise ValueError(f"the pack points to {used} visual rows and its images give {given}")
    if images > places:
        raise ValueError(f"the pack has {images} image tokens and {places} of them point to a visual row")


def _check_grid(model: MultimodalModel) -> None:
    assert model.vision is not None
    side = model.vision.image_size
    try:
        tokens = model.tokens_per_tile
    except ValueError as error:
        raise WiringError(
            f"{_name(model.vision)} makes a {'x'.join(map(str, model.vision.grid((side, side))))} map of a tile of "
            f"{side} pixels, which {_name(model.merger)} cannot take: {error}"
        ) from error
    if tokens == 0:
        raise WiringError(f"{_name(model.merger)} makes no tokens of a tile of {side} pixels")


def _compare(a: Component | None, gives: str, x: Width, b: Component | None, takes: str, y: Width) -> None:
    if a is not None and b is not None and x is not None and y is not None and x != y:
        raise WiringError(f"{_name(a)} {gives} {x} and {_name(b)} {takes} {y}")


def _width(part: Component | None, name: str) -> Width:
    width: Width = getattr(part, name, None)
    return width


def _name(part: Component | None) -> str:
    return type(part).__name__
