"""Operations of image tokenizers; the tokenizers' own tests are in `test_conv_vq_tokenizer.py` and others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

import synergen
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from mmcomponents.vision import ConvVQTokenizer


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A mesh of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def test_a_sharded_tokenizer_counts_as_much_as_before(mesh: DeviceMesh) -> None:
    plain, sharded = (ConvVQTokenizer(16, 8, 4, (8, 16)) for _ in range(2))
    for unit in (*sharded.encoder.children(), sharded):
        fully_shard(unit, mesh=mesh)
    batch = synthetic_pack(synergen.model(), 64, 3)
    assert batch.images is not None
    assert batch.images.pixel_hw == (16, 16)
    assert sharded.flops(batch) == plain.flops(batch) > 0
    assert sharded.ids_flops(batch) == plain.ids_flops(batch) > 0
    batch.images.pixels = torch.zeros(3, 3, 32, 32)
    assert sharded.flops(batch) == pytest.approx(plain.flops(batch), rel=0.01)
