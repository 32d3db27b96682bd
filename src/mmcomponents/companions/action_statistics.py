"""Statistics of the actions of a data set, by which a policy normalises them; a JSON file that travels with the model.

    {"format": "mmcomponents action statistics", "dataset": "tabletop-1f0c…", "actions": 51234,
     "low": [...], "high": [...], "names": ["dx", "dy"]}

`low` and `high` are the smallest and largest value of each number of an action: normalised values lie in -1 to 1.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcomponents.model_files import ModelFileError, read_json_file

_FORMAT = "mmcomponents action statistics"


class StatisticsError(ValueError):
    """A file of action statistics cannot be used; the message is one line."""


@dataclass(frozen=True)
class ActionStatistics:
    """Range of the actions of a data set.

    Args:
        dataset: Name of the data set.
        actions: Number of actions that were counted.
        low: Smallest value of each of the k numbers of an action.
        high: Largest value of each.

    Raises:
        StatisticsError: There is no name, the ranges differ in length, or a value is not finite or not in order.
    """

    dataset: str
    actions: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.dataset or not isinstance(self.dataset, str):
            raise StatisticsError(f"action statistics name no data set, but {self.dataset!r:.40}")
        if len(self.low) != len(self.high) or not self.low:
            raise StatisticsError(f"action statistics have {len(self.low)} low and {len(self.high)} high values")
        for number, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise StatisticsError(f"action statistics have the range {low} to {high} for number {number}")

    @property
    def width(self) -> int:
        """k, the number of values of an action."""
        return len(self.low)

    @property
    def fingerprint(self) -> str:
        """Name of the data set and a digest of the ranges: equal only for statistics that can stand in for another."""
        digest = hashlib.sha256(json.dumps([self.low, self.high]).encode()).hexdigest()
        return f"{self.dataset}/{digest[:12]}"

    def normalised(self, values: Tensor) -> Tensor:
        """Returns actions `[A, k]`, in the units of the data, as `[A, k]` in -1 to 1; 0 for a constant number."""
        centre, half = self._centre_half(values)
        return (values - centre) / torch.where(half > 0, half, 1.0)

    def restored(self, values: Tensor) -> Tensor:
        """Returns normalised actions `[A, k]` as `[A, k]` in the units of the data."""
        centre, half = self._centre_half(values)
        return values * half + centre

    def _centre_half(self, values: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (torch.tensor(side, dtype=torch.float32, device=values.device) for side in (self.low, self.high))
        return (low + high) / 2, (high - low) / 2

    @staticmethod
    def of(dataset: str, actions: Sequence[Tensor]) -> ActionStatistics:
        """Returns the statistics of chunks of actions `[n, k]`.

        Raises:
            StatisticsError: There are none, or a value is not finite.
        """
        values = torch.cat(list(actions)).double() if actions else torch.zeros(0, 1)
        if not len(values):
            raise StatisticsError(f"the data set {dataset} has no actions")
        low, high = values.amin(0), values.amax(0)
        return ActionStatistics(dataset, len(values), tuple(low.tolist()), tuple(high.tolist()))

    def save(self, path: str | Path) -> None:
        """Writes the file."""
        Path(path).write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: str | Path) -> ActionStatistics:
        """Reads a file.

        Raises:
            StatisticsError: There is no such file, or it has no action statistics.
        """
        try:
            given: Any = read_json_file(Path(path))
        except FileNotFoundError:
            raise StatisticsError(
                f"there are no action statistics {path}: the command that makes the shards writes them"
            ) from None
        except (OSError, ModelFileError, ValueError) as error:
            raise StatisticsError(f"{path} has no action statistics: {error}") from error
        if not isinstance(given, dict) or given.get("format") != _FORMAT:
            raise StatisticsError(f"{path} has no action statistics")
        try:
            low, high = (tuple(float(value) for value in given[name]) for name in ("low", "high"))
            return ActionStatistics(str(given["dataset"]), int(given["actions"]), low, high)
        except (KeyError, TypeError, ValueError) as error:
            raise StatisticsError(f"{path}: {error}") from error
