"""Base class of data modules: ranks, accumulation windows, totals, skipped samples and exact resumption."""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from mmcomponents.batch import PackedBatch
from mmcomponents.data.errors import DataError
from mmcomponents.data.loading.loaders import PackLoader, one_pass
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.data.loading.numbered_packs import Packs
from mmcomponents.data.loading.progress import PackProgress, batches_trained
from mmcomponents.data.loading.prompts import PromptBatch, Prompts
from mmcomponents.data.loading.skipped import SkippedSamples, Watched
from mmcomponents.data.loading.step_counts import StepCounts
from mmcomponents.data.settings import LoadingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmcomponents.data.chat.sample_renderer import SampleRenderer

logger = logging.getLogger(__name__)

Part = Literal["train", "val", "test", "predict"]
B = TypeVar("B")


class DataModule(LightningDataModule, ABC):
    """Base class of data modules. A subclass opens the packs of each part; all else is done here.

    Training iterates over an endless sequence of packs: rank r of w uses every w-th. An epoch of Lightning has as many
    batches as an epoch of the packs. A checkpoint holds the number of packs that all ranks have used; a run resumes
    there, with any number of ranks and workers. Each batch has the totals of its optimizer step.

    Args:
        loading: Worker processes and the share of samples that may be skipped.
    """

    predict_part: Part = "test"
    """Part that `predict` reads."""

    def __init__(self, loading: LoadingSettings | None = None) -> None:
        super().__init__()
        self.loading = loading or LoadingSettings()
        self._datasets: dict[str, Packs | Prompts] = {}
        self._skipped: dict[str, SkippedSamples] = {}
        self._progress = PackProgress()
        self._resumed_plan: str | None = None

    @abstractmethod
    def open(self, part: Part) -> Packs | Prompts | None:
        """Opens one part of the data: packs, or for `test` and `predict` the questions as prompts.

        Returns:
            None if there is no such data.

        Raises:
            DataError: The data cannot be used.
        """

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, by which answers are decoded.

        Raises:
            DataError: The data has none.
        """
        raise DataError(f"{type(self).__name__} has no tokenizer")

    @property
    def renderer(self) -> SampleRenderer:
        """The renderer of free prompts, as `mmcomponents generate` takes them.

        Raises:
            DataError: The data has none.
        """
        raise DataError(f"{type(self).__name__} has no renderer of prompts")

    @property
    def source_names(self) -> list[str]:
        """Names of the training sources in the order of their numbers; empty before `setup`."""
        return list(self.packs("train").source_names) if "train" in self._datasets else []

    def validation_prompts(self, count: int) -> PromptBatch | None:
        """Returns questions of the first validation samples, for pictures of the model's answers; None: there are none.

        Args:
            count: Largest number of questions.
        """
        return None

    def setup(self, stage: str) -> None:
        """Opens the parts that a stage needs.

        Raises:
            DataError: A part cannot be opened, or the constructor did not call that of the base class.
        """
        if not hasattr(self, "_datasets"):
            raise DataError(f"{type(self).__name__}.__init__ must call super().__init__() first")
        wanted: dict[str, tuple[Part, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": (self.predict_part,),
        }
        for part in wanted[stage]:
            if part not in self._datasets:
                self._open(part, optional=part == "val" and stage == "fit")
        if stage == "fit" and "val" not in self._datasets:
            # Lightning takes a method that is not overridden as the absence of data, and warns about an empty list.
            self.val_dataloader = super().val_dataloader  # type: ignore[method-assign]
        if stage == "fit":
            self._progress.forget_other_run(self.trainer)

    def packs(self, part: Part) -> Packs:
        """Returns the packs of a part; available after `setup`."""
        dataset = self._datasets[part]
        if not isinstance(dataset, Packs):
            raise DataError(
                f"{type(self).__name__}.open({part!r}) gives {type(dataset).__name__}, where packs are needed"
            )
        return dataset

    def _open(self, part: Part, optional: bool) -> None:
        opened = f"{type(self).__name__}.open({part!r})"
        try:
            dataset = self.open(part)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{opened} failed: {type(error).__name__}: {error}") from error
        if dataset is None:
            if optional:
                return
            why = f"set data.{part}" if part in inspect.signature(type(self)).parameters else f"{opened} gives None"
            raise DataError(f"the recipe has no {part} data: {why}")
        if not isinstance(dataset, Packs | Prompts):
            raise DataError(f"{opened} gives {type(dataset).__name__}, not Packs, Prompts or None")
        if not isinstance(getattr(dataset, "samples", None), int):
            raise DataError(f"{type(dataset).__name__} has no number of samples: set self.samples in its __init__")
        self._datasets[part] = dataset
        self._skipped[part] = SkippedSamples(part, dataset.samples, self.loading.max_refused)

    def train_dataloader(self) -> Lookahead:
        """Returns the loader of this rank's packs, with the totals of each optimizer step."""
        packs = self.packs("train")
        self._progress.adopt(self.trainer, self._some("train", len(packs)))
        loader = self._loader(packs, self._next_packs, self._epoch_length())
        counts = StepCounts(self._skipped["train"], len(packs.source_names), packs.capacity)
        return Lookahead(loader, self._window, lambda batch: counts.of(batch, self.trainer), counts.reduce, self._place)

    def val_dataloader(self) -> Watched[PackedBatch]:
        """Returns the loader of the validation packs, each on one rank."""
        return self._packs_once("val")

    def test_dataloader(self) -> Watched[PromptBatch]:
        """Returns the loader of the test questions, each on one rank."""
        dataset, (rank, world) = self._datasets["test"], self._ranks()
        if not isinstance(dataset, Prompts):
            name = type(dataset).__name__
            raise DataError(
                f"{type(self).__name__}.open('test') gives {name}, where Prompts are needed: questions to ask"
            )
        items = one_pass(self._some("test", len(dataset)), rank, world)
        return Watched(self._loader(dataset, lambda: items, len(items)), self._skipped["test"])

    def predict_dataloader(self) -> Watched[PackedBatch] | Watched[PromptBatch]:
        """Returns the loader of what `predict` reads: packs, or the test questions."""
        return self.test_dataloader() if self.predict_part == "test" else self._packs_once(self.predict_part)

    def _packs_once(self, part: Part) -> Watched[PackedBatch]:
        packs, (rank, world) = self.packs(part), self._ranks()
        numbers = one_pass(self._some(part, packs.one_pass()), rank, world)
        items = [None if number is None else packs.item(number) for number in numbers]
        return Watched(self._loader(packs, lambda: items, len(items)), self._skipped[part])

    def _loader(self, dataset: Dataset[B], items: Callable[[], Iterable[Any]], length: int) -> PackLoader[B]:
        kind = PromptBatch if isinstance(dataset, Prompts) else PackedBatch
        return PackLoader(dataset, items, length, self.loading.num_workers, self.loading.worker_timeout, kind)

    def _some(self, part: Part, count: int) -> int:
        """Returns the length of a part, which must not be 0."""
        if not count:
            raise DataError(f"the {part} data is empty: the length of {type(self._datasets[part]).__name__} is 0")
        return count

    def state_dict(self) -> dict[str, Any]:
        """Returns the progress in packs, equal on all ranks."""
        if "train" not in self._datasets:
            return {}
        used, packs = self._progress.used(self.trainer), self.packs("train")
        # The bookmark is that of a pack already read, so that planning is not done in two threads at once.
        read = max(self._progress.packs, used - self._ranks()[1])
        return {
            "packs": used,
            "batches": batches_trained(self.trainer),
            "world": self._ranks()[1],
            "begin": self._progress.begin,
            "plan": packs.fingerprint(),
            "bookmark": tuple(packs.bookmark(read)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the progress, so that training continues after the packs that were used."""
        self._progress.load(*(int(state_dict.get(name, 0)) for name in ("packs", "batches", "world", "begin")))
        self._resumed_plan = state_dict.get("plan")
        packs = self.packs("train") if "train" in self._datasets else None
        if packs is not None and self._resumed_plan == packs.fingerprint() and state_dict.get("bookmark"):
            packs.open_at(tuple(state_dict["bookmark"]))

    def _ranks(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _epoch_length(self) -> int:
        return -(-len(self.packs("train")) // self._ranks()[1])

    def _place(self) -> tuple[int, int]:
        return self._progress.place(self.trainer, self._epoch_length())

    def _next_packs(self) -> Iterable[Any]:
        """Returns the remaining packs of the epoch on this rank; called when the first batch is requested."""
        packs, (rank, world), (done, length) = self.packs("train"), self._ranks(), self._place()
        if self._resumed_plan not in (None, packs.fingerprint()):
            logger.warning("the data or its settings changed since the checkpoint: samples may be repeated or missed")
        self._resumed_plan = None
        first = self._progress.used(self.trainer) + rank
        return map(packs.item, range(first, first + (length - done) * world, world))

    def _window(self) -> int:
        return 1 if self.trainer is None else int(self.trainer.accumulate_grad_batches)
