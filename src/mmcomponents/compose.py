"""Construction of a model from factories of its components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from torch import nn

from mmcomponents.backbones import Backbone
from mmcomponents.brought_weights import built
from mmcomponents.component import WiringError
from mmcomponents.embedders import Embedder
from mmcomponents.fusers import Fuser
from mmcomponents.heads import Head
from mmcomponents.mergers import Merger
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import Position
from mmcomponents.projectors import Projector
from mmcomponents.registry import PACKAGE, PartError, declared, find, imported, load
from mmcomponents.vision import VisionEncoder

Width = int | tuple[int, ...]

HeadFactory = Callable[[Any, Any], Head]
"""Factory of a head, called with its input width, a `Width`, and the vocabulary size, an int or None.

The input width is that of the backbone, in a model without one that of the last part of the visual side: a tuple for
several maps. The vocabulary size is None in a model of maps that has none. The arguments have the type Any, so that a
head that takes two ints is a factory too.
"""

_T = TypeVar("_T")


@dataclass
class Factories:
    """One factory per slot, called with the widths of the neighbouring components."""

    vision: Callable[[], VisionEncoder] | None = None
    fuser: Callable[[Width], Fuser] | None = None
    merger: Callable[[Width], Merger] | None = None
    projector: Callable[[Width, int], Projector] | None = None
    embedder: Callable[[int, int], Embedder] | None = None
    position: Callable[[int], Position] | None = None
    backbone: Callable[[], Backbone] | None = None
    heads: dict[str, HeadFactory] = field(default_factory=dict)

    def build(self, vocab_size: int | None, image_token_id: int | None) -> MultimodalModel:
        """Builds the components in the order of the data flow and composes them.

        Raises:
            WiringError: Two components do not fit, one needs a neighbour or a vocabulary size that is missing, or there
                is not enough memory.
        """
        try:
            return self._build(vocab_size, image_token_id)
        except RuntimeError as error:
            text = str(error).lower()
            if not any(words in text for words in ("allocate", "out of memory", "storage size")):
                raise
            raise WiringError(f"the model is too large to be built: {str(error).splitlines()[0]}") from error

    def _build(self, vocab_size: int | None, image_token_id: int | None) -> MultimodalModel:
        backbone = _made("backbone", self.backbone) if self.backbone else None
        vision = _made("vision", self.vision) if self.vision else None
        width: Width | None = vision.hidden_size if vision else None
        fuser = _made("fuser", self.fuser, _width(width, "fuser"), giver=vision) if self.fuser else None
        width = fuser.out_features if fuser else width
        merger = _made("merger", self.merger, _width(width, "merger"), giver=fuser or vision) if self.merger else None
        width = merger.out_features if merger else width
        embedder = None
        if self.embedder:
            body = _needed(backbone, "embedder", "backbone")
            rows = _needed(vocab_size, "embedder", "vocab_size")
            embedder = _made("embedder", self.embedder, rows, body.hidden_size)
        projector = None
        if self.projector:
            body = _needed(backbone, "projector", "backbone")
            takes = getattr(embedder, "visual_features", None) or body.hidden_size
            projector = _made(
                "projector", self.projector, _width(width, "projector"), takes, giver=merger or fuser or vision
            )
        position = None
        if self.position:
            position = _made("position", self.position, _needed(backbone, "position", "backbone").head_dim)
        width = backbone.hidden_size if backbone else width
        heads = {name: _head(name, factory, width, vocab_size) for name, factory in self.heads.items()}
        return MultimodalModel(
            vision=vision,
            fuser=fuser,
            merger=merger,
            projector=projector,
            embedder=embedder,
            position=position,
            backbone=backbone,
            heads=heads,
            image_token_id=image_token_id,
        )


def build(parts: Mapping[str, Any], vocab_size: int | None, image_token_id: int | None) -> MultimodalModel:
    """Builds a model from nested mappings, such as the `model:` section of a recipe.

    Args:
        parts: `{slot: {"class_path": …, "init_args": {…}}}`; `heads` holds `{name: {…}}`. Short names and dotted paths.
            A part among the arguments of another one is such a mapping too, and becomes a factory. `package` names the
            distribution of a part of another package.
        vocab_size: Vocabulary size.
        image_token_id: Token id of the placeholder of a visual token.

    Raises:
        PartError: A component is not found, or is not a subclass of its slot's base.
        WiringError: Two components do not fit together.
    """
    made = {slot: factory(slot, part) for slot, part in parts.items() if part and slot != "heads"}
    heads = {name: factory("head", part) for name, part in (parts.get("heads") or {}).items()}
    return Factories(**made, heads=heads).build(vocab_size, image_token_id)


def short_names(part: Any) -> Any:
    """Returns a part with short names instead of dotted paths, at any depth of its arguments.

    A class that no installed package declares keeps its dotted path. For one of another package, `package` names the
    distribution, so that a reader without it can say what is missing.
    """
    if isinstance(part, list | tuple):
        return [short_names(item) for item in part]
    if not isinstance(part, Mapping):
        return part
    if "class_path" not in part:
        return {key: short_names(value) for key, value in part.items()}
    path = str(part["class_path"])
    known = declared(path) if "." in path else None
    named = {"class_path": path if known is None else known.name}
    if known is not None and known.package != PACKAGE:
        named["package"] = known.package
    return named | {"init_args": short_names(dict(part.get("init_args") or {}))}


def factory(slot: str, part: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns the factory of a part, with its arguments.

    Args:
        slot: Slot that the part is for.
        part: `{"class_path": …, "init_args": {…}}`, see `build`.

    Raises:
        PartError: It is not found, or is not a subclass of its slot's base.
    """
    return partial(_loaded(slot, part), **_argument(part.get("init_args") or {}))


def class_of(part: Mapping[str, Any]) -> type:
    """Returns the class of a part in any slot.

    Raises:
        PartError: There is none of this name, or it cannot be imported.
    """
    try:
        found: type = imported(find(str(part["class_path"])))
    except PartError as error:
        if part.get("package") is None:
            raise
        raise _missing(part, "a part") from error
    return found


def _argument(value: Any) -> Any:
    """Returns an argument of a part, in which parts are factories."""
    if isinstance(value, Mapping) and "class_path" in value:
        return partial(class_of(value), **_argument(value.get("init_args") or {}))
    if isinstance(value, Mapping):
        return {key: _argument(inner) for key, inner in value.items()}
    return [_argument(inner) for inner in value] if isinstance(value, list) else value


def _loaded(slot: str, part: Mapping[str, Any]) -> type:
    """Returns the class of a part; one that a package which is not installed declares is an error that names it."""
    try:
        return load(slot, str(part["class_path"]))
    except PartError as error:
        if part.get("package") is None:
            raise
        raise _missing(part, f"a {slot}") from error


def _missing(part: Mapping[str, Any], kind: str) -> PartError:
    """Returns the error for a part of a package that is not installed."""
    return PartError(f"{part['class_path']} is {kind} of the package {part['package']}, which is not installed")


def _made(slot: str, factory: Callable[..., _T], *widths: Any, giver: object = None) -> _T:
    """Calls the factory of a part; an error of its code that shows a wrong argument names the part.

    Args:
        slot: Slot of the part.
        factory: Its factory.
        widths: Widths of its neighbours.
        giver: The part before it, which the message of a `WiringError` names.

    Raises:
        WiringError: The constructor does not take the widths of its neighbours, or an argument.
    """
    _check_factory(f"the {slot}", factory)
    try:
        made: _T = built(factory, *widths)
        return made
    except WiringError as error:
        if giver is None:
            raise
        raise WiringError(f"{error} ({type(giver).__name__} gives maps of width {widths[0]})") from error
    except (TypeError, AttributeError, LookupError) as error:
        kind = getattr(factory, "func", factory)
        given = f" for {', '.join(map(str, widths))}" if widths else ""
        why = next(iter(str(error).splitlines()), "")
        raise WiringError(
            f"the {slot} {getattr(kind, '__name__', kind)} cannot be built{given}: {type(error).__name__}: {why}"
        ) from error


def _check_factory(slot: str, factory: object) -> None:
    if isinstance(factory, nn.Module):
        raise WiringError(
            f"{slot} is an instance of {type(factory).__name__}: give the class, or functools.partial of it with its"
            " arguments (MultimodalModel takes instances)"
        )


def _head(name: str, factory: HeadFactory, width: Width | None, vocab_size: int | None) -> Head:
    if width is None:
        raise WiringError(f"the head {name} needs a backbone or a vision encoder and the recipe has neither")
    _check_factory(f"the head {name}", factory)
    try:
        made: Head = built(factory, width, vocab_size)
        return made
    except (TypeError, ValueError) as error:
        if isinstance(error, WiringError) or (vocab_size is not None and isinstance(width, int)):
            raise
        why = str(error).partition("\n")[0]
        raise WiringError(
            f"the head {name} cannot be built for width {width} and vocab_size {vocab_size}: {why}"
        ) from error


def _needed(value: _T | None, part: str, what: str) -> _T:
    if value is None:
        raise WiringError(f"the {part} needs a {what} and the recipe has none")
    return value


def _width(width: Width | None, part: str) -> Width:
    if width is None:
        raise WiringError(f"the {part} needs a vision encoder and the recipe has none")
    return width
