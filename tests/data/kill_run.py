"""The run that `test_kill.py` kills: trains a few numbers on all kinds of samples, and logs the hash of each batch."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.packing.mixture import TokenShare
from mmcomponents.data.packing.source_options import SourceOptions
from mmcomponents.training import FinalCheckpoint


def contents(value: Any, name: str = "batch") -> Iterator[tuple[str, Any]]:
    """Yields all tensors, texts and numbers of a batch with their names, at any depth."""
    if is_dataclass(value):
        for field in fields(value):
            yield from contents(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from contents(value[key], f"{name}.{key}")
    else:
        yield name, value


def digests(batch: PackedBatch) -> dict[str, str]:
    """Returns a hash of each entry of a batch, so that a failure shows what differs."""
    found = {}
    for name, value in contents(batch):
        data = repr(value).encode()
        if isinstance(value, Tensor):
            data = repr((value.dtype, tuple(value.shape))).encode() + value.contiguous().numpy().tobytes()
        found[name] = hashlib.sha256(data).hexdigest()[:16]
    return found


class Noting(LightningModule):
    """Appends a line per batch to a log, and trains eight numbers on the batches."""

    def __init__(self, log: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))
        self.notes = Path(log).open("a", buffering=1)  # noqa: SIM115 (for as long as the process lives)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        return {"targets": float((batch.labels >= 0).sum())}

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        number = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1
        seen = {"batch": number, "hashes": digests(batch), "weight": self.weight.double().sum().item()}
        if batch.images is not None:
            seen["pixels"] = True
        self.notes.write(json.dumps(seen) + "\n")
        target = batch.input_ids[:8].float() / 100
        return ((self.weight[: len(target)] - target) ** 2).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 0.1)


def main(settings: dict[str, Any]) -> None:
    folder, run = Path(settings["folder"]), Path(settings["run"])
    data = PackedDataModule(
        str(folder / "tokenizer"),
        4,
        str(folder / "train-*.tar"),
        tile_size=28,
        max_tiles=4,
        pack_tokens=300,
        pack_tiles=16,
        delta_log2=[0, 2, 4, 6],
        num_workers=settings["workers"],
        seed=5,
        block=24,
        sources={
            "pictures": SourceOptions(repeat=2.5),
            "films": SourceOptions(repeat=0.5),
            "books": SourceOptions(0.5),
        },
        token_share=TokenShare(1, 3),
        jpeg_quality=(75, 100),
        train_frames=(2, 4),
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=settings["epochs"],
        accumulate_grad_batches=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FinalCheckpoint(str(run), every_n_train_steps=2)],
        default_root_dir=run,
    )
    last = run / "last.ckpt"
    resume = str(last) if last.exists() else None
    trainer.fit(Noting(str(run / "log")), datamodule=data, ckpt_path=resume, weights_only=False)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
