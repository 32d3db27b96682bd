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
from mmcomponents.data import DataModule
from mmcomponents.data.packing import Packer
from mmcomponents.generation import Sampler
from mmcomponents.heads.base import Head
from mmcomponents.objectives import Objective
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


class Aim:
    """An objective.

    Args:
        head: Name of a head.
        scale: A number.
    """

    def __init__(self, head: str = "lm", scale: float = 1.0) -> None:
        self.head, self.scale = head, scale


class OtherAim(Aim):
    """An objective with other defaults."""

    def __init__(self, head: str = "rank", scale: float = 2.0) -> None:
        super().__init__(head, scale)


class StrictAim(Aim):
    """An objective without a default for its head."""

    def __init__(self, head: str, scale: float = 3.0) -> None:
        super().__init__(head, scale)


class Guided(Aim):
    """An objective with a reference, itself an objective."""

    def __init__(
        self, head: str = "guided", reference: Callable[[], Aim] = Aim, guides: dict[str, Aim] | None = None
    ) -> None:
        super().__init__(head)
        self.reference, self.guides = reference(), guides or {}


class Meter(Callback):
    """A callback.

    Args:
        every: Steps between two outputs.
        aim: An objective.
    """

    def __init__(self, every: int = 5, aim: Callable[[], Aim] = Aim) -> None:
        super().__init__()
        self.every, self.aim = every, aim()


class OtherMeter(Meter):
    """A callback with other defaults."""

    def __init__(self, every: int = 9, aim: Callable[[], Aim] = OtherAim) -> None:
        super().__init__(every, aim)


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
        aim: Factory of an objective that fills no slot.
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
        aim: Callable[[], Aim] = Aim,
        width: int = 2,
        label: str = "none",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.part = projector(width, 1) if projector else None
        self.heads = {name: head(width, 5) for name, head in (heads or {}).items()}
        self.slots = slots or {}
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.aim = aim()
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


class OtherData(DataModule):
    """Data with other arguments.

    Args:
        width: Width of a sample.
        length: Number of samples.
        allow_pipe: Whether commands may run.
    """

    def __init__(self, width: int = 3, length: int = 2, allow_pipe: bool = False) -> None:
        super().__init__()
        self.width, self.length, self.allow_pipe = width, length, allow_pipe
        self.val_dataloader = super().val_dataloader  # there is no validation

    def open(self, part: str) -> None:
        """There are no packs."""

    def setup(self, stage: str) -> None:
        """There is nothing to open."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(self.length, self.width))

    test_dataloader = train_dataloader


@dataclass(frozen=True)
class Loading:
    """Settings of reading.

    Attributes:
        allow_pipe: Whether commands may run.
        num_workers: Number of processes.
    """

    allow_pipe: bool = False
    num_workers: int = 0


DEFAULT_LOADING = Loading()


class LoadedData(OtherData):
    """Data whose settings of reading are dataclasses, at several depths.

    Args:
        loading: Settings of reading.
        parts: More of them by name.
        inner: Data of another class.
        width: Width of a sample.
    """

    def __init__(
        self,
        loading: Loading = DEFAULT_LOADING,
        parts: dict[str, list[Loading]] | None = None,
        inner: OtherData | None = None,
        width: int = 3,
    ) -> None:
        super().__init__(width)
        self.loading, self.parts, self.inner = loading, parts, inner


class NoArguments(OtherData):
    """Data whose class takes no arguments."""

    def __init__(self) -> None:
        super().__init__(width=2)


class TestedData(OtherData):
    """Data with an argument for the data of `test`."""

    def __init__(self, test: str | None = None) -> None:
        super().__init__(width=3)


class Untyped:
    """An object with required arguments without a type."""

    def __init__(self, head, *, mark) -> None:
        self.head, self.mark = head, mark


class UntypedAim(Untyped, Aim):
    """An objective with required arguments without a type."""


class UntypedAimMeter(Callback):
    """A callback with a required argument without a type, and one whose null is meant."""

    def __init__(self, every, aim: Callable[[], Aim] = Aim) -> None:
        super().__init__()
        self.every, self.aim = every, aim()


class UntypedData(OtherData):
    """Data with a required argument without a type."""

    def __init__(self, root, width: int = 2) -> None:
        super().__init__(width)
        self.root = root


class TypedData(OtherData):
    """Data with a required argument that has a type."""

    def __init__(self, root: str, width: int = 2) -> None:
        super().__init__(width)
        self.root = root


class FailingData(OtherData):
    """Data that cannot be constructed."""

    def __init__(self) -> None:
        raise RuntimeError("no\nroot")


class FailingAim(Aim):
    """An objective that cannot be constructed."""

    def __init__(self, head: str = "lm", scale: float = 1.0) -> None:
        if scale < 0:
            raise ValueError("model.aim.scale is negative")
        raise KeyError(head) if scale else ValueError(f"no scale for {head}")


class FailingMeter(Callback):
    """A callback that cannot be constructed."""

    def __init__(self) -> None:
        raise RuntimeError("no meter")


class HalfData(DataModule):
    """Data that opens nothing."""


class HalfPacker(Packer):
    """A packer that does not pack."""


class HalfSampler(Sampler):
    """A sampler that does not answer."""


class HalfObjective(Objective):
    """An objective without a loss."""


class PlainData(Data):
    """Data without the library's base class."""


def make_data(width: int = 2) -> Data:
    """A function that returns data."""
    CALLED.append("data")
    return Data(width)


class Alone(Task):
    """A task that fits any data."""

    def check(self, datamodule: Data | None = None) -> None:
        pass


RECIPE = """
seed_everything: 5
trainer: {max_steps: 2, accelerator: cpu, devices: 1, logger: false, enable_checkpointing: false,
          enable_progress_bar: false, enable_model_summary: false, default_root_dir: runs/x}
model:
  projector: {class_path: recipe_standins.Wide, init_args: {hidden: 7}}
  heads: {lm: {class_path: recipe_standins.Words, init_args: {chunk: 9}}}
  slots: {projector: {lr: 1e-3}}
  width: ${data.width}
data: {width: 3}
"""


SAVING = [
    "--trainer.enable_checkpointing=true",
    "--trainer.callbacks=[{class_path: mmcomponents.training.FinalCheckpoint, init_args: {dirpath: runs/x}}]",
]
