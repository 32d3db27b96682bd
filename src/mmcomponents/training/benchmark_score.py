"""Callback that runs a benchmark while a model is trained, and logs its metric."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer

from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import SampleError
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.data.storage.atomic_write import write_text
from mmcomponents.evaluation.benchmarks import Item, open_benchmark
from mmcomponents.evaluation.metrics import METRICS
from mmcomponents.nn.modes import evaluating
from mmcomponents.training.answer_pictures import answer
from mmcomponents.training.answer_report import gather_lists
from mmcomponents.training.task import MultimodalTask

log = logging.getLogger(__name__)


class BenchmarkScore(Callback):
    """Answers the questions of a benchmark during training, and logs the metric as `benchmark/NAME`.

    The answers are those of `test`: by the sampler of the recipe, in the precision of the run, with the whole budget of
    tiles for each image. The ranks share the questions. `ModelCheckpoint` and `EarlyStopping` can monitor the metric.
    The answers of each time are written to `benchmarks/NAME/step=STEP.jsonl` in `trainer.default_root_dir`.

    Args:
        benchmark: A .tsv or .jsonl, or shards, see `evaluation.open_benchmark`.
        metric: Name of the metric, see `evaluation.metrics.METRICS`.
        every_n_steps: Number of optimizer steps between two times; None: after each validation.
        name: Name of the logged value; None: that of the benchmark.
        images: Folder that image paths are relative to; None: the folder of the file.
        limit: Number of questions, the first ones; None: all.
        instruction: Text after each question, such as the required form of the answer.
        per_batch: Number of questions that a rank answers together.

    Raises:
        ValueError: A number is less than one, or there is no such metric.
    """

    def __init__(
        self,
        benchmark: str,
        metric: str = "exact",
        every_n_steps: int | None = None,
        name: str | None = None,
        images: str | None = None,
        limit: int | None = None,
        instruction: str = "",
        per_batch: int = 16,
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        for key, value in (("every_n_steps", every_n_steps), ("limit", limit), ("per_batch", per_batch)):
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, got {value}")
        self.benchmark, self.images, self.limit = benchmark, images, limit
        self.metric, self.instruction, self.per_batch = METRICS[metric](), instruction, per_batch
        self.every_n_steps, self.name = every_n_steps, name
        self._items: list[Item] = []
        self._last_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reads the questions.

        Raises:
            DataError: The benchmark is missing or malformed.
            MisconfigurationException: The task does not answer with text, no question has an answer of the metric, or
                the run has no validation after which the questions would be answered.
        """
        if stage != "fit":
            self._items = []
            return
        if not isinstance(pl_module, MultimodalTask) or not hasattr(trainer.datamodule, "renderer"):  # type: ignore[attr-defined]
            raise MisconfigurationException("BenchmarkScore needs a MultimodalTask, and data with a renderer")
        if self.every_n_steps is None and not trainer.enable_validation:
            raise MisconfigurationException("BenchmarkScore: the run has no validation; set every_n_steps")
        questions = open_benchmark(self.benchmark, self.images).narrow(limit=self.limit)
        self.name = self.name or questions.name
        if Path(self.name).is_absolute() or ".." in Path(self.name).parts:
            raise MisconfigurationException(f"BenchmarkScore: {self.name!r} is the name of a folder below benchmarks/")
        others = [c for c in trainer.callbacks if isinstance(c, BenchmarkScore) and c is not self]  # type: ignore[attr-defined]
        if any(other.name == self.name for other in others):
            raise MisconfigurationException(f"two callbacks BenchmarkScore are called {self.name}: give one a name")
        self._items = [item for item in questions.items if not self.metric.check(item.target)]
        wrong = [item for item in questions.items if self.metric.check(item.target)]
        if not self._items:
            raise MisconfigurationException(f"{self.benchmark}: {self.metric.check(wrong[0].target)}")
        if wrong or questions.refused:
            first = self.metric.check(wrong[0].target) if wrong else questions.refused[0]
            log.warning(
                "%s: %d questions are skipped, first: %s", self.name, len(wrong) + len(questions.refused), first
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answers the questions after a validation."""
        if self._items and self.every_n_steps is None and not trainer.sanity_checking:
            self._log(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that the sampler answers with text.

        Raises:
            MisconfigurationException: It does not.
        """
        if (kind := getattr(pl_module.sampler, "answers", "text")) != "text":
            raise MisconfigurationException(f"BenchmarkScore scores texts, and the sampler answers with {kind}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does not answer again at the step that a run is resumed from."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Answers the questions after a number of optimizer steps."""
        step = trainer.global_step
        if self.every_n_steps is not None and step % self.every_n_steps == 0 and step not in (0, self._last_step):
            self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, MultimodalTask)
        self._last_step, begin = trainer.global_step, time.perf_counter()
        renderer: SampleRenderer = trainer.datamodule.renderer.for_prompts()  # type: ignore[attr-defined]
        share = self._items[trainer.global_rank :: trainer.world_size]
        rounds = math.ceil(math.ceil(len(self._items) / trainer.world_size) / self.per_batch)
        rows: list[tuple[int, str, str]] = []
        skipped: list[str] = []
        with evaluating(task):
            # Every rank takes part in each round, since the weights may be sharded.
            for first in range(0, rounds * self.per_batch, self.per_batch):
                some = list(enumerate(share))[first : first + self.per_batch]
                places, prompts = self._prompts(some, renderer, skipped)
                answers = answer(trainer, task, prompts)
                rows += [(place, prompts.questions[n], str(answers[n].text)) for n, place in enumerate(places)]
        own = [(place * trainer.world_size + trainer.global_rank, asked, said) for place, asked, said in rows]
        found, refused = sorted(gather_lists(own)), gather_lists(skipped)
        if refused and trainer.is_global_zero:
            log.warning("%s: %d questions were skipped, first: %s", self.name, len(refused), refused[0])
        if not found:
            raise MisconfigurationException(f"{self.name}: all questions were skipped, first: {refused[0]}")
        targets = [self._items[place].target for place, *_ in found]
        value = self.metric.total([response for *_, response in found], targets)
        by_step, key = self.every_n_steps is not None, f"benchmark/{self.name}"
        # For callbacks alone: Lightning would write a value of a step again at each later one.
        task.log(key, value, prog_bar=True, on_step=by_step, on_epoch=not by_step, batch_size=1, logger=not by_step)
        for logger in trainer.loggers if by_step else ():
            logger.log_metrics({key: value}, trainer.global_step)
        if trainer.is_global_zero:
            self._write(trainer, found)
            seconds = time.perf_counter() - begin
            told = (self.name, trainer.global_step, self.metric.title, value, len(found), seconds)
            log.info("benchmark %s at step %d: %s %.4f (%d questions, %.1f s)", *told)

    def _prompts(
        self, asked: Sequence[tuple[int, Item]], renderer: SampleRenderer, skipped: list[str]
    ) -> tuple[list[int], PromptBatch]:
        """Renders questions; those that cannot be rendered are added to `skipped`."""
        places: list[int] = []
        samples: list[RenderedSample] = []
        for place, item in asked:
            try:
                images, videos = ([], []) if item.media is None else item.media()
                placed, tiles = renderer.place(item.prompt(self.instruction), images, videos)
                chat = renderer.prompt(placed, tiles)
            except SampleError as error:
                skipped.append(f"{item.key}: {error}")
                continue
            places.append(place)
            samples.append(RenderedSample.of_chat(chat, tiles, sample=place, key=item.key))
        batch = collate(samples, renderer.tokens_per_tile, renderer.pad_id)
        items = dict(asked)
        return places, PromptBatch(batch, [items[place].text for place in places])

    def _write(self, trainer: Trainer, found: Sequence[tuple[int, str, str]]) -> None:
        """Writes the answers, one line each."""
        folder = Path(trainer.default_root_dir) / "benchmarks" / str(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            {
                "key": self._items[place].key,
                "question": question,
                "answer": self._items[place].answer,
                "response": response,
                "score": self.metric.score(response, self._items[place].target),
            }
            for place, question, response in found
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(folder / f"step={trainer.global_step}.jsonl", text)
