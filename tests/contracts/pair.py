"""Two persistent CPU ranks that train on request of a test, with the library's own task and strategy."""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Optimizer

import tiny
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import PackedBatch
from mmcomponents.data.loading.lookahead import Lookahead, Sums
from mmcomponents.data.loading.skipped import SkippedSamples
from mmcomponents.data.loading.step_counts import StepCounts
from mmcomponents.data.packing.pack_plan import Budgets
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.positions import V2PE
from mmcomponents.projectors import MLPProjector
from mmcomponents.training import MultimodalTask


def make_task(**changes: Any) -> MultimodalTask:
    """Returns the tiny InternVL3 as a task."""
    arguments: dict[str, Any] = {
        "vision": tiny.vision,
        "merger": PixelUnshuffle,
        "projector": MLPProjector,
        "embedder": TokenEmbedder,
        "position": V2PE,
        "backbone": partial(DecoderLM, 32, 2, 4, 48, num_kv_heads=2),
        "heads": {"lm": LMHead},
        "optimizer": partial(SGD, lr=0.05, momentum=0.9),
        "vocab_size": tiny.VOCAB,
        "image_token_id": tiny.IMAGE_TOKEN,
    }
    return MultimodalTask(**(arguments | changes))


def micro_batches(steps: int, ranks: int, window: int) -> list[list[list[PackedBatch]]]:
    """Returns packs by step, micro-batch and rank: unequal targets, no image on rank 1, one pack without target."""
    out = []
    for step in range(steps):
        batches = []
        for micro in range(window):
            ranked = []
            for rank in range(ranks):
                seed = 100 * step + 10 * micro + rank
                text = [("t", 4 + (seed * 7) % 9)]
                pieces = [*text, ("i", 1 + seed % 2), ("t", 9)] if rank == 0 else [*text, ("t", 3)]
                ranked.append(
                    tiny.pack(pieces, text, seed=seed, targets=[1 + (step + 3 * micro + rank) % 7, 0 if micro else 2])
                )
            batches.append(ranked)
        out.append(batches)
    return out


class Sized:
    """Loader over a list of packs."""

    def __init__(self, packs: list[PackedBatch]) -> None:
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __iter__(self) -> Iterator[PackedBatch]:
        return iter(self.packs)


class Notes(Callback):
    """Records loss and gradient norm of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        self.norms.append(float(whole(norm)))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.step < trainer.global_step:
            self.step = trainer.global_step
            self.losses.append(float(trainer.callback_metrics["train/loss"]))


def whole(value: Tensor) -> Tensor:
    """Returns the unsharded tensor."""
    return value.full_tensor() if isinstance(value, DTensor) else value


class OwnCounts(StepCounts):
    """Counts that are not summed over ranks, for negative tests."""

    def reduce(self, sums: Sums) -> Sums:
        return sums


def look_ahead(
    loader: Sized, window: int, run: Trainer, sources: int = 1, counts: type[StepCounts] = StepCounts
) -> Lookahead:
    """Returns a loader that attaches the totals of each step, made as `PackedDataModule` makes it."""
    made = counts(SkippedSamples("train", len(loader), 1.0), sources, Budgets(1000))
    return Lookahead(loader, window, lambda batch: made.of(batch, run), made.reduce)


def train(
    packs: list[PackedBatch],
    window: int,
    task: dict[str, Any] | None = None,
    ckpt_path: str | None = None,
    save_to: str | None = None,
    loader: type[Sized] = Sized,
    counts: type[StepCounts] = StepCounts,
    max_epochs: int = 1,
    more_callbacks: Sequence[Callback] = (),
    **trainer: Any,
) -> dict[str, Any]:
    """Trains the tiny model and returns losses, norms and unsharded weights."""
    notes, module = Notes(), make_task(**(task or {}))
    run = Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        accumulate_grad_batches=window,
        gradient_clip_val=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[notes, *more_callbacks],
        default_root_dir=tempfile.gettempdir(),
        **trainer,
    )
    run.fit(module, look_ahead(loader(packs), window, run, counts=counts), ckpt_path=ckpt_path)
    if save_to is not None:
        run.save_checkpoint(save_to)
    assert module.model is not None
    weights = {name: whole(p.detach()).clone() for name, p in module.model.named_parameters()}
    return {"losses": notes.losses, "norms": notes.norms, "weights": weights}


def train_as_rank(rank: int, strategy: str, steps: int, window: int, options: dict[str, Any]) -> dict[str, Any]:
    """Trains one rank of a run over two ranks."""
    mine = [ranked[rank] for batches in micro_batches(steps, 2, window) for ranked in batches]
    return train(mine, window, strategy=strategy, devices=2, **options)


def _serve(rank: int, world: int, port: int, asked: Any, answered: Any) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(world)
    )
    torch.set_num_threads(1)
    faulthandler.enable()  # prints the traceback of a crash
    while (job := asked.get()) is not None:
        faulthandler.register(signal.SIGUSR1, all_threads=True)  # for each job: Lightning resets handlers after a run
        function, arguments = job
        try:
            answered.put((None, function(rank, *arguments)))
        except Exception as error:
            answered.put((f"rank {rank}: {type(error).__name__}: {error}", None))


class Pair:
    """Two processes (or another number) that wait for jobs."""

    def __init__(self, world: int = 2) -> None:
        context = mp.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.asked = [context.Queue() for _ in range(world)]
        self.answered = [context.Queue() for _ in range(world)]
        self.processes = [
            context.Process(target=_serve, args=(r, world, port, self.asked[r], self.answered[r]), daemon=True)
            for r in range(world)
        ]
        for process in self.processes:
            process.start()

    def run(self, function: Callable[..., Any], *arguments: Any, timeout: float = 240.0) -> list[Any]:
        """Returns the results of the function on each rank; raises if a rank hangs or fails.

        The timeout allows for busy machines: jobs take seconds.
        """
        for line in self.asked:
            line.put((function, arguments))
        until = time.monotonic() + timeout
        answers = [self._answer(rank, until) for rank in range(len(self.processes))]  # all, before one can raise
        if errors := [error for error, _ in answers if error]:
            raise RuntimeError("; ".join(errors))
        return [result for _, result in answers]

    def _answer(self, rank: int, until: float) -> tuple[str | None, Any]:
        """Waits for a rank; reports a rank that died, and prints the traceback of one that hangs to standard error."""
        while True:
            try:
                answer: tuple[str | None, Any] = self.answered[rank].get(
                    timeout=min(1.0, max(0.0, until - time.monotonic()))
                )
                return answer
            except queue.Empty:
                process = self.processes[rank]
                if not process.is_alive():
                    return f"rank {rank} ended with exit code {process.exitcode}", None
                if time.monotonic() > until:
                    os.kill(process.pid, signal.SIGUSR1)
                    process.join(2)  # time to write
                    return f"rank {rank} gave no answer in time", None

    def close(self) -> None:
        for process in self.processes:
            process.kill()  # they hold nothing: an orderly end takes seconds
        for process in self.processes:
            process.join()


def folder_of(path: Path) -> list[str]:
    """Returns the names of the files of a checkpoint."""
    return sorted(p.name for p in path.iterdir())
