"""Checks that the parts of a model fit each other, before it runs."""

from __future__ import annotations

import inspect
from dataclasses import fields

from mmcomponents.backbones.base import Backbone
from mmcomponents.batch import ModelState
from mmcomponents.component import Component, Composition, WiringError
from mmcomponents.embedders.base import Embedder
from mmcomponents.fusers.base import Fuser
from mmcomponents.heads.base import Head
from mmcomponents.mergers.base import Merger
from mmcomponents.positions.base import Position
from mmcomponents.projectors.base import Projector
from mmcomponents.vision.base import VisionEncoder

Width = int | tuple[int, ...] | None

_GIVEN_BY = {
    "visual": ("visual features", "vision"),
    "visual_tokens": ("visual tokens", "vision"),
    "embeds": ("embeddings", "embedder"),
    "hidden": ("hidden states", "backbone"),
}
"""Field of `ModelState` -> what it is called, and the slot without which there is none."""


_BASES: dict[str, type[Component]] = {
    "vision": VisionEncoder,
    "fuser": Fuser,
    "merger": Merger,
    "projector": Projector,
    "embedder": Embedder,
    "position": Position,
    "backbone": Backbone,
}
"""Slot -> base class of its parts."""

_WRAPPERS = {
    "vision": "TransformersVision, TimmVision or OpenClipVision",
    "projector": "ModuleProjector",
    "backbone": "TransformersLM",
}
"""Slot -> parts that wrap modules of other libraries."""


def check_wiring(model: Composition) -> None:
    """Compares the output size of each component with the input size of the next one, then calls `Component.check`.

    Parts that do not declare a size are not compared.

    Raises:
        WiringError: Two components do not fit, and the message names both and their sizes; or a slot has what is no
            part of it.
    """
    _check_bases(model)
    _check_names(model)
    giver, gives = _check_visual_side(model)
    _check_embedding_weight(model)
    _check_language_side(model, giver, gives)
    for name, head in model.heads.items():
        _check_head(model, name, head)
    for part in model.parts().values():
        part.check(model)


def last_width(model: Composition) -> tuple[Component | None, Width]:
    """Returns the last part of the visual side before the projector, and the width of what it gives."""
    for slot in ("merger", "fuser"):
        if getattr(model, slot) is not None:
            return getattr(model, slot), _width(getattr(model, slot), "out_features")
    return model.vision, _width(model.vision, "hidden_size")


def _check_bases(model: Composition) -> None:
    slots = {slot: (getattr(model, slot), base) for slot, base in _BASES.items()}
    slots |= {f"heads.{name}": (head, Head) for name, head in model.heads.items()}
    for slot, (part, base) in slots.items():
        if part is None or isinstance(part, base) or (not isinstance(part, type) and _passes_on(part, base)):
            continue
        takes = f"the slot {slot} takes an instance of {base.__name__}, got"
        if isinstance(part, type):
            raise WiringError(f"{takes} the class {part.__name__}, not an instance of it")
        wraps = f", or wrap it as {_WRAPPERS[slot]}" if slot in _WRAPPERS else ""
        raise WiringError(f"{takes} {_name(part)}: derive the part from {base.__name__}{wraps}")


def _passes_on(part: object, base: type[Component]) -> bool:
    """Whether a wrapper (`torch.compile`, checkpointing, peft) passes on the attributes that a base class declares."""
    names = {*vars(base), *inspect.get_annotations(base), "shard_units"}
    return all(hasattr(part, name) for name in names if not name.startswith("_"))


def _check_names(model: Composition) -> None:
    for part, former, name in (
        (model.projector, "needs_word_table", "needs_embedding_weight"),
        (model.embedder, "word_table", "embedding_weight"),
    ):
        if hasattr(part, former):
            raise WiringError(f"{_name(part)} has {former}; use the name {name}")


def _check_visual_side(model: Composition) -> tuple[Component | None, Width]:
    """Returns the last part of the visual side, the projector included, and the width of what it gives."""
    giver: Component | None = model.vision
    gives = _width(giver, "hidden_size")
    for name in ("fuser", "merger", "projector"):
        taker = getattr(model, name)
        if taker is None:
            continue
        if model.vision is None:
            raise WiringError(f"the {name} {_name(taker)} has no input: the vision slot is empty")
        _compare(giver, "gives maps of width", gives, taker, "takes", _width(taker, "in_features"))
        giver, gives = taker, _width(taker, "out_features")
    if model.vision is not None:
        _check_grid(model)
    return giver, gives


def _check_grid(model: Composition) -> None:
    side = model.vision.image_size
    try:
        tokens = model.tokens_per_tile
    except ValueError as error:
        maps, taker = model.vision.grid((side, side)), model.fuser or model.merger
        try:
            if model.fuser is not None:
                model.fuser.grid(maps)
                taker = model.merger
        except ValueError:
            pass
        raise WiringError(
            f"{_name(model.vision)} makes a map of {' x '.join(map(str, maps))} of a tile of {side} pixels, which"
            f" {_name(taker)} cannot take: {error}"
        ) from error
    if tokens == 0:
        raise WiringError(f"{_name(model.merger or model.fuser)} makes no tokens of a tile of {side} pixels")


def _check_embedding_weight(model: Composition) -> None:
    """Checks that the parts that read the embedding weight get one."""
    weight = None if model.embedder is None else model.embedder.embedding_weight()
    readers = [head for head in model.heads.values() if head.is_tied]
    if model.projector is not None and model.projector.needs_embedding_weight:
        readers.insert(0, model.projector)
    for part in readers:
        use = "needs" if part is model.projector else "is tied to"
        if model.embedder is None:
            raise WiringError(f"{_name(part)} {use} the embedding weight and the embedder slot is empty")
        if weight is None:
            raise WiringError(f"{_name(part)} {use} the embedding weight and {_name(model.embedder)} has none")


def _check_language_side(model: Composition, giver: Component | None, gives: Width) -> None:
    """Checks embedder, position and backbone.

    Args:
        model: The model.
        giver: Last part of the visual side.
        gives: Width of its tokens.
    """
    body, embedder = model.backbone, model.embedder
    if model.vision is not None:
        own = _width(embedder, "visual_features")
        taker = embedder if own is not None or body is None else body
        takes = own if own is not None else _width(taker, "hidden_size")
        _compare(giver, "gives tokens of width", gives, taker, "takes", takes)
    if body is None:
        return
    _compare(embedder, "gives width", _width(embedder, "hidden_size"), body, "takes", body.hidden_size)
    _compare(model.position, "is made for heads of", _width(model.position, "head_dim"), body, "has", body.head_dim)
    if model.position is not None and body.refuses_tables is not None:
        raise WiringError(f"{_name(model.position)} cannot be used: {body.refuses_tables}")
    if embedder is None:
        raise WiringError(f"the backbone {_name(body)} has no input: the embedder slot is empty")


def _check_head(model: Composition, name: str, head: Component) -> None:
    """Checks that a model has what a head reads, and compares the width of the first field that has one."""
    needs: tuple[str, ...] = getattr(head, "needs", ())
    for field in needs:
        if field not in _GIVEN_BY:
            known = ", ".join(f.name for f in fields(ModelState))
            raise WiringError(f"the head {name} ({_name(head)}) needs {field!r}, and the model's state has {known}")
        what, slot = _GIVEN_BY[field]
        if getattr(model, slot) is None:
            raise WiringError(f"the head {name} ({_name(head)}) reads {what} and the {slot} slot is empty")
    takes = _width(head, "in_features")
    if "hidden" in needs or not needs:
        body = model.backbone
        _compare(body, "gives hidden states of width", _width(body, "hidden_size"), head, "takes", takes)
    elif "embeds" in needs:
        embedder = model.embedder
        _compare(embedder, "gives width", _width(embedder, "hidden_size"), head, "takes", takes)
    elif "visual" in needs:
        giver, gives = last_width(model)
        _compare(giver, "gives maps of width", gives, head, "takes", takes)
    elif model.projector is not None:
        projector = model.projector
        _compare(projector, "gives tokens of width", _width(projector, "out_features"), head, "takes", takes)
    else:
        giver, gives = last_width(model)
        primary = gives[-1] if isinstance(gives, tuple) else gives
        _compare(giver, "gives tokens of width", primary, head, "takes", takes)


def _compare(a: Component | None, gives: str, x: Width, b: Component | None, takes: str, y: Width) -> None:
    if a is not None and b is not None and x is not None and y is not None and x != y:
        raise WiringError(f"{_name(a)} {gives} {x} and {_name(b)} {takes} {y}")


def _width(part: Component | None, name: str) -> Width:
    width: Width = getattr(part, name, None)
    return width


def _name(part: Component | None) -> str:
    return type(part).__name__
