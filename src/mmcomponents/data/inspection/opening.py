"""Opening one part of the data of a run for inspection, whatever share of its samples is unusable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.dataset import PackDataset
from mmcomponents.data.errors import DataError
from mmcomponents.data.index import Index
from mmcomponents.data.mixture import Mixture
from mmcomponents.data.shards import find_shards

Part = Literal["train", "val"]


@dataclass(frozen=True)
class Opened:
    """A part of the data of a run.

    Attributes:
        part: Which.
        packs: Its packs, and its samples one by one.
        mixture: What its epochs consist of.
    """

    part: Part
    packs: PackDataset
    mixture: Mixture


def open_part(module: PackedDataModule, part: Part) -> Opened:
    """Opens training or validation data as a run would, and takes any share of unusable samples.

    Raises:
        DataError: There are no such shards, an index is missing or of another tokenizer, or no sample is left.
    """
    where = module.shards[part]
    if not where:
        raise DataError(f"the recipe's data names no shards for {part}: set data.{part}")
    shards = find_shards(where, module.allow_pipe)
    index = Index.open(shards, module.tokenizer, module.index_folder, module.frame_template)
    return Opened(part, *module.plan_part(part, index))
