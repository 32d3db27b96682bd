"""Settings of single sources of the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from unicodedata import normalize

from mmcomponents.data.errors import DataError


@dataclass(frozen=True)
class SourceOptions:
    """Settings of one source.

    Attributes:
        repeat: Passes over its samples per epoch. For a fraction, the samples are drawn by the seed; 0 excludes the
            source.
        weight: Relative number of samples among the sources with a weight; overrides `repeat`. The source with the most
            samples per weight is used once, the others are repeated.
        max_tiles: Maximum number of tiles of all images of a sample, excluding thumbnails; None: that of the run.
        jpeg: Whether JPEG re-compression, if enabled in the recipe, applies to its images.
    """

    repeat: float = 1.0
    weight: float | None = None
    max_tiles: int | None = None
    jpeg: bool = True

    def check(self, name: str) -> None:
        """Validates the settings.

        Args:
            name: Name of the source, for the message.

        Raises:
            ValueError: A number is out of range.
        """
        for what, value, fine in (
            ("repeat", self.repeat, 0 <= self.repeat < float("inf")),
            ("weight", self.weight, self.weight is None or 0 < self.weight < float("inf")),
            ("max_tiles", self.max_tiles, self.max_tiles is None or self.max_tiles >= 1),
        ):
            if not fine:
                allowed = "zero or positive" if what == "repeat" else "positive"
                raise ValueError(f"data.sources.{name}.{what} must be {allowed}, not {value}")


def by_number(options: Mapping[str, SourceOptions], names: Sequence[str]) -> dict[int, SourceOptions]:
    """Returns the options by source number.

    Args:
        options: Options by source name.
        names: Source names, in the order of their numbers.

    Raises:
        DataError: A name is not that of a source; the message suggests the closest.
    """
    numbers = {normalize("NFC", name): number for number, name in enumerate(names)}
    numbers |= {name: number for number, name in enumerate(names)}
    for name, option in options.items():
        option.check(name)
        if name not in numbers and normalize("NFC", name) not in numbers:
            near = get_close_matches(name, list(names), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"data.sources names {name!r}, the shards have {', '.join(map(repr, names))}{hint}")
    return {numbers.get(name, numbers.get(normalize("NFC", name), -1)): option for name, option in options.items()}


def repeats(options: Mapping[int, SourceOptions], samples: Mapping[int, int]) -> dict[int, float]:
    """Returns the passes per epoch by source number, without the sources that are used once.

    Args:
        options: Options by source number.
        samples: Number of samples by source number.
    """
    weights = {number: option.weight for number, option in options.items() if option.weight is not None}
    unit = max((samples.get(number, 0) / weight for number, weight in weights.items()), default=0.0)
    passes = {number: option.repeat for number, option in options.items()}
    passes |= {number: weight * unit / max(1, samples.get(number, 0)) for number, weight in weights.items()}
    return {number: repeat for number, repeat in passes.items() if repeat != 1.0}
