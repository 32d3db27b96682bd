"""Checks of the segments that kinds of other packages return, so that a wrong sample is skipped before it is packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.extras import Extra, Place

_OPTIONAL = ("pairs", "steps")
"""Fields of the pack itself, which may lack them."""


def check_segments(
    segments: Sequence[RenderedSample], empty: Callable[[], Mapping[str, Extra]], vocabulary: int
) -> None:
    """Checks the segments of a sample.

    Args:
        segments: What the kind has rendered.
        empty: Returns the fields of a pack without samples of the kind.
        vocabulary: Number of tokens of the tokenizer.

    Raises:
        ValueError: Ids, labels, spans or fields are wrong, or a field is missing in `empty`.
        TypeError: A field is no `Extra`, or of another class than that of `empty`.
    """
    for segment in segments:
        _check(segment, vocabulary)
    found = {name: extra for segment in segments for name, extra in segment.extras.items() if name not in _OPTIONAL}
    known = empty() if found else {}
    if missing := sorted(found.keys() - known.keys()):
        raise ValueError(f"the field {missing[0]} is not among those that empty returns")
    for name, extra in found.items():
        if type(extra) is not type(known[name]):
            raise TypeError(f"the field {name} is {type_of(extra)}, and {type_of(known[name])} in empty")


def type_of(value: object) -> str:
    """Returns the name of a value's type, and those of the items of a list."""
    items = sorted({type(item).__name__ for item in value}) if isinstance(value, list) else []
    return type(value).__name__ + (f" of {', '.join(items)}" if items else "")


def _check(segment: RenderedSample, vocabulary: int) -> None:
    segment.check()
    for name, values in (("ids", segment.input_ids), ("labels", [x for x in segment.labels if x != IGNORE])):
        found = np.asarray(values)
        if found.size and found.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integers, not {found.dtype}")
        if found.size and not 0 <= found.min() <= found.max() < vocabulary:
            raise ValueError(f"{name} from {found.min()} to {found.max()}, the tokenizer has {vocabulary} tokens")
    tiles = sum(image.num_tiles for image in segment.images)
    place = Place(0, 0, torch.arange(len(segment.images)), torch.arange(tiles), len(segment.input_ids))
    for name, extra in segment.extras.items():
        if not isinstance(extra, Extra):
            raise TypeError(f"the field {name} is {type(extra).__name__}, not an Extra")
        extra.check()
        extra.placed(place)
