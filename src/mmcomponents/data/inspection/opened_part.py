"""Opening of one part of a run's data for inspection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.errors import DataError
from mmcomponents.data.loading.dataset import PackDataset
from mmcomponents.data.packing.mixture import Mixture

Part = Literal["train", "val"]


@dataclass(frozen=True)
class Opened:
    """An opened part of a run's data.

    Attributes:
        part: train or val.
        packs: Dataset of its packs and samples.
        mixture: Sources, and the share of each in an epoch.
    """

    part: Part
    packs: PackDataset
    mixture: Mixture


def open_part(module: PackedDataModule, part: Part) -> Opened:
    """Opens training or validation data as a run does, but without the limit on skipped samples.

    Raises:
        DataError: The recipe has no such shards, an index is missing or of another tokenizer, or no sample can be used.
    """
    index = module.open_index(part) if module.shards[part] else None
    if index is None:
        raise DataError(f"the recipe has no {part} shards: set data.{part}")
    return Opened(part, *module.plan_part(part, index))
