"""Minimal task, datamodule and parts for tests of the command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmcomponents.batch import VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.heads.base import Head
from mmcomponents.projectors.base import Projector

CALLED: list[str] = []
"""What `called` and `Called` were given."""


def called(cmd: str = "") -> nn.Module:
    """A function that is no part."""
    CALLED.append(cmd)
    return nn.Identity()


class Called:
    """A class that is no part; its instances can be called."""

    def __init__(self, cmd: str = "") -> None:
        CALLED.append(cmd)

    def __call__(self, *_: object) -> None:
        CALLED.append("call")


class Open(Callback):
    """A callback whose arguments accept much.

    Args:
        anything: Any value.
        hook: A function.
        table: A mapping.
        untyped: A value without a type.
        inner: A part.
    """

    def __init__(
        self,
        anything: Any = None,
        hook: Callable | None = None,
        table: dict[str, Any] | None = None,
        untyped=None,
        inner: Callable[[int, int], Projector] | None = None,
        each: list[Callback] | None = None,
        act: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__()
        self.inner, self.each, self.act = inner, each, act


@dataclass
class Options:
    """Training options of a slot."""

    trainable: bool = True
    lr: float | None = None


class Wide(Projector):
    """A projector with a hidden width."""

    def __init__(self, in_features: int, out_features: int, hidden: int = 3, tag: str = "plain") -> None:
        super().__init__()
        self.sizes = (in_features, out_features, hidden)
        self.tag = tag
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        return self.layer(features.primary.tokens)


class Narrow(Projector):
    """A projector with another set of arguments."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, width: int = 1) -> None:
        super().__init__()
        self.sizes = (in_features, out_features, bias, width)
        self.layer = nn.Linear(in_features, out_features, bias)

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        return self.layer(features.primary.tokens)


class Words(Head):
    """A head."""

    def __init__(self, width: int, vocab: int, chunk: int = 4) -> None:
        super().__init__()
        self.sizes = (width, vocab, chunk)

    def forward(self, state: object, batch: object) -> Tensor:
        return torch.zeros(1)


class Task(LightningModule):
    """Task with one part that computes.

    Args:
        projector: Factory of the part.
        heads: Factories of heads, which are not used.
        slots: Slot -> options.
        optimizer: Factory of the optimizer.
        scheduler: Factory of the scheduler.
        width: Input width of the projector.
        label: Arbitrary text.
    """

    def __init__(
        self,
        *,
        projector: Callable[[int, int], Projector] | None = None,
        heads: dict[str, Callable[[int, int], Head]] | None = None,
        slots: dict[str, Options] | None = None,
        optimizer: OptimizerCallable = torch.optim.SGD,
        scheduler: LRSchedulerCallable | None = None,
        width: int = 2,
        label: str = "none",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.part = projector(width, 1) if projector else None
        self.heads = {name: head(width, 5) for name, head in (heads or {}).items()}
        self.slots = slots or {}
        self.make_optimizer = optimizer
        self.label = label

    def check(self, datamodule: Data) -> None:
        if self.hparams["width"] != datamodule.width:
            raise WiringError(f"projector takes width {self.hparams['width']}, the data has {datamodule.width}")

    def step(self, batch: Tensor) -> Tensor:
        return self.part.layer(batch).square().mean()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.step(batch)

    def test_step(self, batch: Tensor, index: int) -> None:
        self.log("loss", self.step(batch), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters())


class Data(LightningDataModule):
    """Data whose samples are all ones.

    Args:
        width: Width of a sample.
        batch_size: Number of samples per batch.
        names: Arbitrary texts.
    """

    def __init__(self, width: int = 2, batch_size: int = 1, names: list[str] | None = None) -> None:
        super().__init__()
        self.width, self.batch_size, self.names = width, batch_size, names

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(4, self.width), batch_size=self.batch_size)

    test_dataloader = train_dataloader
