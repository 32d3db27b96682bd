"""`fsdp2` strategy: Lightning's FSDP2 with all devices in the data-parallel group."""

from __future__ import annotations

import shutil
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from mmcomponents.model import MultimodalModel
from mmcomponents.training.sharding import is_sharded, materialize, shard_model

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class FSDP2Strategy(ModelParallelStrategy):
    """Shards parameters, gradients and optimizer state over all devices, or over groups of devices (HSDP).

    Lightning's default makes all devices tensor parallel: the same data on each, nothing sharded.

    Args:
        replicate: Number of copies of the sharded model. 1: shards over all devices.
        compute_dtype: Data type of the forward and backward passes; "bf16" over fp32 weights is the usual mixed
            precision.
        reduce_dtype: Data type in which gradients are summed over ranks.
        save_distributed_checkpoint: Whether each rank writes its shard into a folder. False: a single file.
        timeout: Timeout of a collective.
    """

    def __init__(
        self,
        replicate: int = 1,
        compute_dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        reduce_dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        save_distributed_checkpoint: bool = True,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint, timeout=timeout
        )
        self.replicate = replicate
        self.policy = MixedPrecisionPolicy(
            param_dtype=None if compute_dtype == "fp32" else _DTYPES[compute_dtype], reduce_dtype=_DTYPES[reduce_dtype]
        )

    def setup_environment(self) -> None:
        """Starts the process group with all devices data parallel."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        if self._data_parallel_size % self.replicate:
            raise ValueError(f"{self._data_parallel_size} devices cannot hold {self.replicate} copies of the model")
        super().setup_environment()
        # Parts return views (a feature map without its class token), which are never modified in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

    def shard(self, model: MultimodalModel, seed: int) -> None:
        """Shards a model that was built on the meta device and initialises its weights.

        Raises:
            MisconfigurationException: The trainer uses Lightning's weight averaging, which cannot copy a sharded model.
        """
        callbacks = getattr(getattr(self.lightning_module, "trainer", None), "callbacks", [])
        averaging = next((c for c in callbacks if isinstance(c, WeightAveraging)), None)
        if averaging is not None:
            raise MisconfigurationException(
                f"{type(averaging).__name__} copies the model, which fsdp2 shards: use trainer.strategy ddp or auto"
            )
        if not is_sharded(model):
            shard_model(model, self._shard_mesh(), self.policy)
            materialize(model, self.root_device, seed)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        """Writes a checkpoint beside its final path and renames it: an interrupted run keeps the last complete one."""
        path = Path(self.broadcast(filepath))
        part = path.with_name(f"{path.name}.part")
        if self.is_global_zero:
            _remove(part)
        self.barrier()
        super().save_checkpoint(checkpoint, part, storage_options)
        self.barrier()
        if self.is_global_zero:
            _remove(path)
            part.rename(path)
        self.barrier()

    def _shard_mesh(self) -> DeviceMesh:
        """Returns a mesh of one dimension (shard) or two (replicate, shard)."""
        if self.replicate == 1:
            return self.device_mesh["data_parallel"]
        shape = (self.replicate, self.world_size // self.replicate)
        return init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicate", "shard"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def register() -> None:
    """Registers the strategy with Lightning by its short name; repeated calls have no effect."""
    if "fsdp2" not in StrategyRegistry.available_strategies():
        StrategyRegistry.register(
            "fsdp2", FSDP2Strategy, description="FSDP2 over all devices, sharded checkpoints", replicate=1
        )
