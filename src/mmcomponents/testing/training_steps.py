"""A few optimizer steps of a task, with the library's own loader, objective and strategy."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mmcomponents.batch import PackedBatch
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.data.loading.skipped import SkippedSamples
from mmcomponents.data.loading.step_counts import StepCounts
from mmcomponents.testing.case import tensors_of
from mmcomponents.training import MultimodalTask


@contextmanager
def _without_tips() -> Iterator[None]:
    """Keeps Lightning's remarks about devices, loaders and products out of the output of a test."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no `val_dataloader`")
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.* is deprecated")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class PackList:
    """Loader over a list of packs."""

    def __init__(self, packs: Sequence[PackedBatch]) -> None:
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __iter__(self) -> Iterator[PackedBatch]:
        return iter(self.packs)


class StepRecorder(Callback):
    """Records loss and gradient norm of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts at the step of a resumed run."""
        self._step = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Records the gradient norm before clipping."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        self.norms.append(float(unsharded(norm)))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Records the loss after the last micro-batch of a step."""
        if self._step < trainer.global_step:
            self._step = trainer.global_step
            self.losses.append(float(trainer.callback_metrics["train/loss"]))


def unsharded(value: Tensor) -> Tensor:
    """Returns the full tensor of a sharded one, of any shape."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns copies of the unsharded parameters and buffers of a model, by name and in the shape of each.

    All shards are exchanged at once: an exchange for each parameter takes longer than the steps of a small model.
    """
    named = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
    shards = {name: value.to_local() for name, value in named.items() if isinstance(value, DTensor)}
    of_ranks: list[dict[str, Tensor]] = []
    if shards:  # all are sharded alike; replicas of a mesh of two dimensions have the same
        one = next(value for value in named.values() if isinstance(value, DTensor))
        group = one.device_mesh.get_group(next(dim for dim, kind in enumerate(one.placements) if kind.is_shard()))
        of_ranks = [{} for _ in range(group.size())]
        torch.distributed.all_gather_object(of_ranks, shards, group)
    return {
        name: torch.cat([own[name] for own in of_ranks]) if name in shards else value.clone()
        for name, value in named.items()
    }


def look_ahead(
    loader: PackList, window: int, trainer: Trainer, sources: int = 1, counts: type[StepCounts] = StepCounts
) -> Lookahead:
    """Returns a loader that attaches the totals of each step, summed as in `PackedDataModule`."""
    made = counts(SkippedSamples("train", len(loader), 1.0), sources, 1000)
    return Lookahead(loader, window, lambda batch: made.of(batch, trainer), made.reduce)


def run_steps(
    task: MultimodalTask,
    packs: Sequence[PackedBatch],
    window: int,
    *,
    ckpt_path: str | None = None,
    save_to: str | None = None,
    loader: type[PackList] = PackList,
    counts: type[StepCounts] = StepCounts,
    callbacks: Sequence[Callback] = (),
    **trainer: Any,
) -> dict[str, Any]:
    """Trains a task on the CPU, with clipped gradients.

    Args:
        task: Task whose model is trained in place.
        packs: Packs of this rank, in order.
        window: Number of packs per optimizer step.
        ckpt_path: Checkpoint to resume from.
        save_to: Path of a checkpoint to write at the end.
        loader: Class of the loader over the packs.
        counts: Class that sums the counts of a step.
        callbacks: Further callbacks.
        trainer: Further arguments of the `Trainer`, such as strategy and devices.

    Returns:
        "losses" and "norms" of the steps, final "weights" with buffers, unsharded, and the "objective"'s state_dict.
    """
    recorder = StepRecorder()
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "accumulate_grad_batches": window,
        "gradient_clip_val": 0.5,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [recorder, *callbacks],
        "default_root_dir": tempfile.gettempdir(),
    }
    with _without_tips():
        run = Trainer(**(defaults | trainer))
        run.fit(task, look_ahead(loader(packs), window, run, counts=counts), ckpt_path=ckpt_path)
    if save_to is not None:
        run.save_checkpoint(save_to)
    return {
        "losses": recorder.losses,
        "norms": recorder.norms,
        "weights": {} if task.model is None else weights_of(task.model),
        "objective": {} if task.objective is None else tensors_of(task.objective.state_dict()),
    }
