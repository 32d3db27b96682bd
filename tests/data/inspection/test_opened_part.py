from __future__ import annotations

from pathlib import Path

import pytest

from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.errors import DataError
from mmcomponents.data.inspection import open_part


def test_what_a_run_would_refuse_can_be_looked_at(mixed: Path) -> None:
    shards = str(mixed / "mix-000000.tar")
    module = PackedDataModule(str(mixed / "tokenizer"), 4, shards, tile_size=28, max_refused=0.0)
    with pytest.raises(DataError, match="more than max_refused 0"):
        module.setup("fit")
    opened = open_part(module, "train")
    assert len(opened.packs.index) == 16
    assert opened.mixture.shuffle
    with pytest.raises(DataError, match=r"the recipe has no val shards: set data\.val"):
        open_part(module, "val")


def test_validation_data_are_in_the_order_of_the_shards(mixed: Path, tmp_path: Path) -> None:
    (mixed / "mix-000000.index.safetensors").rename(tmp_path / "mix-000000.index.safetensors")
    try:
        shards = str(mixed / "mix-000000.tar")
        module = PackedDataModule(str(mixed / "tokenizer"), 4, val=shards, tile_size=28, index_folder=str(tmp_path))
        opened = open_part(module, "val")
    finally:
        (tmp_path / "mix-000000.index.safetensors").rename(mixed / "mix-000000.index.safetensors")
    assert not opened.mixture.shuffle
    assert opened.mixture.block(0, 0).samples.tolist() == [*range(13), 15]
