"""One process of a run of `test_elastic.py`, which logs the packs that it trains on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch
from mmcomponents.data.datamodule import PackedDataModule


class Noting(LightningModule):
    """Logs a line for each batch, and trains one number."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.weight, self.log_file = nn.Parameter(torch.zeros(())), log

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        step = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        packs: Any = self.trainer.datamodule.train_packs.plan  # type: ignore[attr-defined]
        wanted = tuple(batch.segment_sample.tolist())
        number = next(n for n in range(100) if packs.pack(n).samples == wanted)
        with self.log_file.open("a") as log:
            log.write(json.dumps({"step": step, "rank": self.global_rank, "pack": number}) + "\n")
        return self.weight * 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Stop(Callback):
    """Writes a checkpoint after a number of batches, as `ModelCheckpoint` does, and ends the run."""

    def __init__(self, batches: int, path: str) -> None:
        self.batches, self.path = batches, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.total.processed == self.batches:
            trainer.save_checkpoint(self.path)
            trainer.strategy.barrier()
            os._exit(0)


def main(settings: dict[str, Any]) -> None:
    folder, world = Path(settings["folder"]), settings["world"]
    data = PackedDataModule(
        str(folder / "tokenizer"), 4, str(folder / "train-*.tar"), tile_size=28, max_tiles=4, pack_tokens=1500,
        pack_tiles=16, num_workers=0, seed=3,
    )  # fmt: skip
    callbacks = [Stop(settings["stop"], settings["checkpoint"])] if "stop" in settings else []
    trainer = Trainer(
        accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", max_epochs=settings["epochs"],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=callbacks, default_root_dir=folder,
    )  # fmt: skip
    log = Path(f"{settings['log']}.{os.environ['RANK']}")
    trainer.fit(Noting(log), datamodule=data, ckpt_path=settings.get("resume"), weights_only=False)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
