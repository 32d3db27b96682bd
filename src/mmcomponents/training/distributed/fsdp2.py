"""`fsdp2` strategy: Lightning's FSDP2 with all devices in the data-parallel group."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim import Optimizer

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.runs import (
    CheckpointWriter,
    PlainPlanner,
    ShardReader,
    check_contents,
    part_of,
    remove,
    replace,
    verify,
    write_error,
)
from mmcomponents.checkpoints.runs.checkpoint_writer import CONTENTS
from mmcomponents.checkpoints.runs.frozen_weights import left_out
from mmcomponents.limits import check_choices, check_sizes
from mmcomponents.model import MultimodalModel
from mmcomponents.training.distributed.sharding import is_sharded, materialize, shard_model
from mmcomponents.training.units.checkpointing import Checkpointing

Dtype = Literal["fp32", "bf16", "fp16"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""Data types by the names that the strategy takes."""

_T = TypeVar("_T")


class FSDP2Strategy(ModelParallelStrategy):
    """Shards parameters, gradients and optimizer state over all devices, or over groups of devices (HSDP).

    Lightning's default makes all devices tensor parallel: the same data on each, nothing sharded.

    Args:
        replicate: Number of copies of the sharded model. 1: shards over all devices.
        compute_dtype: Data type of the forward and backward passes; "bf16" over fp32 weights is the usual mixed
            precision.
        reduce_dtype: Data type in which gradients are summed over ranks.
        activation_checkpointing: What each unit of a part keeps for the backward pass: "none" computes nothing again,
            "full" all, "selective" what takes the fewest operations per byte. `model.slots.NAME` sets it for one slot.
        compile: Whether each unit of a part is compiled by inductor. `model.slots.NAME` sets it for one slot.
        save_distributed_checkpoint: Whether each rank writes its shard into a folder. False: a single file.
        async_checkpoints: Whether the model trains on while shards are written, from a copy in the memory of the CPU.
        timeout: Timeout of a collective.
    """

    def __init__(
        self,
        replicate: int = 1,
        compute_dtype: Dtype = "fp32",
        reduce_dtype: Dtype = "fp32",
        activation_checkpointing: Checkpointing = "none",
        compile: bool = False,
        save_distributed_checkpoint: bool = True,
        async_checkpoints: bool = True,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        check_sizes(replicate=replicate)
        check_choices(
            compute_dtype=(compute_dtype, Dtype),
            reduce_dtype=(reduce_dtype, Dtype),
            activation_checkpointing=(activation_checkpointing, Checkpointing),
        )
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint, timeout=timeout
        )
        self.replicate = replicate
        self.activation_checkpointing: Checkpointing = activation_checkpointing
        self.compile = compile
        self.async_checkpoints = async_checkpoints
        self._writer: CheckpointWriter | None = None
        self.policy = MixedPrecisionPolicy(
            param_dtype=None if compute_dtype == "fp32" else DTYPES[compute_dtype], reduce_dtype=DTYPES[reduce_dtype]
        )

    def setup_environment(self) -> None:
        """Starts the process group with all devices data parallel."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        if self._data_parallel_size % self.replicate:
            raise ValueError(f"{self._data_parallel_size} devices cannot hold {self.replicate} copies of the model")
        super().setup_environment()
        # Parts return views (a feature map without its class token), which are never modified in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

    def shard(self, model: MultimodalModel, seed: int, given: Mapping[str, Collection[str]] | None = None) -> None:
        """Shards a model that was built on the meta device and initialises its weights.

        Args:
            model: Composed model with all weights on the meta device.
            seed: Seed of the draws.
            given: Slot -> names of its parameters that are loaded afterwards, and not drawn.

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
            materialize(model, self.root_device, seed, given)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Returns the weights: shards where they are, or all of them on rank zero for a single file."""
        if not self._save_distributed_checkpoint:
            return super().lightning_module_state_dict()
        assert self.model is not None
        return get_model_state_dict(self.model)  # Lightning copies them to the CPU, once more than the writer

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Returns the state of an optimizer, see `lightning_module_state_dict`."""
        if not self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        assert self.model is not None
        own = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return get_optimizer_state_dict(self.model, own)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        """Writes a checkpoint with its checksums, then replaces the previous one, which stays if anything fails.

        Raises:
            CheckpointError: A rank could not write; raised on all ranks. While the model trains on, raised by a later
                step.
        """
        path = Path(self.broadcast(filepath))
        if not self._save_distributed_checkpoint:
            self._save_file(checkpoint, path, storage_options)
            return
        states = {"state_dict": checkpoint.pop("state_dict")}
        states |= {f"optimizer_{n}": state for n, state in enumerate(checkpoint.pop("optimizer_states", []))}
        task = self.lightning_module
        assert task is not None
        if self._writer is None:
            self._writer = CheckpointWriter(self._timeout, self.root_device, lambda: task.global_step)
        # Also between two steps, in a validation; a checkpoint that is asked for after the run is there on return.
        state = task.trainer.state
        goes_on = state.fn == TrainerFn.FITTING and state.status == TrainerStatus.RUNNING
        self._writer.save(states, checkpoint, path, background=self.async_checkpoints and goes_on)

    def _save_file(self, checkpoint: dict[str, Any], path: Path, storage_options: Any | None) -> None:
        part, error = part_of(path), None
        try:
            if self.is_global_zero:
                remove(part)
            super().save_checkpoint(checkpoint, part, storage_options)
            if self.is_global_zero:
                replace(part, path)
        except (OSError, RuntimeError) as failure:
            error = write_error(part, failure)
        except CheckpointError as failure:
            error = str(failure)
        if error and self.is_global_zero:
            with suppress(OSError):
                remove(part)
        self._raise_together(error)

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written while the model trains."""
        return self._writer is not None and self._writer.is_busy

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is being written, or the next batch will tell whether it is complete."""
        return self._writer is not None and self._writer.is_pending

    def remove_checkpoint(self, filepath: _PATH) -> None:
        """Removes a checkpoint when the newer ones are complete."""
        if self._writer is None:
            super().remove_checkpoint(filepath)
        else:
            self._writer.remove(Path(filepath))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Raises the error of a checkpoint that could not be written."""
        if self._writer is not None:
            self._writer.on_batch()

    def on_train_end(self) -> None:
        """Waits for the last checkpoint."""
        if self._writer is not None:
            self._writer.wait()

    def teardown(self) -> None:
        """Waits for the last checkpoint of a run that ended by an error."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        super().teardown()

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a checkpoint after all ranks together have verified its files.

        Raises:
            CheckpointError: The checkpoint is damaged, or reading it would run code; raised on all ranks.
        """
        self.on_train_end()
        path, error = Path(self.broadcast(checkpoint_path)), None
        if weights_only is False:  # the caller trusts the checkpoint with code
            return super().load_checkpoint(path, weights_only=False)
        try:
            verify(path, self.global_rank, self.world_size)
            if path.is_dir():
                check_contents(path / CONTENTS, torch.load(path / CONTENTS, map_location="cpu", weights_only=True))
        except (CheckpointError, OSError, RuntimeError, EOFError) as failure:
            error = str(failure)
        except UnpicklingError:
            error = f"{path / 'meta.pt'} holds more than plain data, and could run code"
        self._raise_together(error)
        return self._load_shards(path) if path.is_dir() else self._load_file(path)

    def _load_shards(self, path: Path) -> dict[str, Any]:
        """Loads weights and optimizer states, as Lightning does, with a reader that runs no code."""
        assert self.model is not None
        assert self.lightning_module is not None
        reader, planner = ShardReader(path), PlainPlanner()
        contents: dict[str, Any] = torch.load(path / CONTENTS, map_location="cpu", weights_only=True)
        skipped, own = left_out(contents), get_model_state_dict(self.model)
        weights = {"state_dict": {name: value for name, value in own.items() if name not in skipped}}
        load(weights, storage_reader=reader, planner=planner)
        self.model.load_state_dict(own | weights["state_dict"], strict=self.lightning_module.strict_loading)
        for number, optimizer in enumerate(self.optimizers):
            name = f"optimizer_{number}"
            state = {name: get_optimizer_state_dict(self.model, optimizer)}
            load(state, storage_reader=reader, planner=planner)
            set_optimizer_state_dict(
                self.model,
                optimizer,
                optim_state_dict=state[name],
                options=StateDictOptions(cpu_offload=True),
            )
        return contents

    def _load_file(self, path: Path) -> dict[str, Any]:
        """Loads a single file as Lightning does, which may leave out frozen weights."""
        skipped = left_out(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        task = self.lightning_module
        assert task is not None
        strict = task.strict_loading
        if strict and skipped:
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
            if other := (set(task.state_dict()) ^ (set(stored) | skipped)):
                raise CheckpointError(f"checkpoint {path} does not match the model: {min(other)}")
            task.strict_loading = False
        try:
            return super().load_checkpoint(path, weights_only=True)
        finally:
            task.strict_loading = strict

    def _raise_together(self, error: str | None) -> None:
        """Raises an error on all ranks if one of them has one.

        Raises:
            CheckpointError: The error of the first rank that has one.
        """
        if failed := [text for text in self._gathered(error) if text]:
            raise CheckpointError(failed[0])

    def _gathered(self, value: _T) -> list[_T]:
        """Returns the value of each rank."""
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def _shard_mesh(self) -> DeviceMesh:
        """Returns a mesh of one dimension (shard) or two (replicate, shard)."""
        if self.replicate == 1:
            return self.device_mesh["data_parallel"]
        shape = (self.replicate, self.world_size // self.replicate)
        return init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicate", "shard"))


def register() -> None:
    """Registers the strategy with Lightning by its short name; repeated calls have no effect."""
    if "fsdp2" not in StrategyRegistry.available_strategies():
        StrategyRegistry.register(
            "fsdp2", FSDP2Strategy, description="FSDP2 over all devices, sharded checkpoints", replicate=1
        )
