"""What a recipe says of single sources of the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from mmcomponents.data.errors import DataError


@dataclass(frozen=True)
class SourceOptions:
    """How one source is used.

    Attributes:
        repeat: Times that its samples are seen in an epoch. Of a fraction, the seed draws which; 0 leaves it out.
        weight: Its part of the samples of all sources with a weight; `repeat` then plays no part. The one that has most
            for its weight is seen once, the others are repeated.
        max_tiles: Most tiles of a sample's images together, thumbnails not counted; None: as all sources.
        jpeg: Whether JPEG re-compression, where the recipe has it, is done to its images.
    """

    repeat: float = 1.0
    weight: float | None = None
    max_tiles: int | None = None
    jpeg: bool = True

    def check(self, name: str) -> None:
        """Makes sure that the numbers make sense.

        Args:
            name: Of the source, for the message.

        Raises:
            ValueError: One does not.
        """
        for what, value, fine in (
            ("repeat", self.repeat, 0 <= self.repeat < float("inf")),
            ("weight", self.weight, self.weight is None or 0 < self.weight < float("inf")),
            ("max_tiles", self.max_tiles, self.max_tiles is None or self.max_tiles >= 1),
        ):
            if not fine:
                least = "zero or positive" if what == "repeat" else "positive"
                raise ValueError(f"data.sources.{name}.{what} must be {least}, not {value}")


def by_number(options: Mapping[str, SourceOptions], names: Sequence[str]) -> dict[int, SourceOptions]:
    """The options by the numbers of the sources.

    Args:
        options: By name.
        names: Of the sources, in the order of their numbers.

    Raises:
        DataError: A name is of no source; the message has the nearest.
    """
    for name, option in options.items():
        option.check(name)
        if name not in names:
            near = get_close_matches(name, list(names), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"data.sources names {name!r}, the shards have {', '.join(map(repr, names))}{hint}")
    return {names.index(name): option for name, option in options.items()}


def repeats(options: Mapping[int, SourceOptions], samples: Mapping[int, int]) -> dict[int, float]:
    """Passes an epoch, by the number of the source; sources that are seen once are left out.

    Args:
        options: By the number of the source.
        samples: Samples of each source.
    """
    weights = {number: option.weight for number, option in options.items() if option.weight is not None}
    unit = max((samples.get(number, 0) / weight for number, weight in weights.items()), default=0.0)
    passes = {number: option.repeat for number, option in options.items()}
    passes |= {number: weight * unit / max(1, samples.get(number, 0)) for number, weight in weights.items()}
    return {number: repeat for number, repeat in passes.items() if repeat != 1.0}
