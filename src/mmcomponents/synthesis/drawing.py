"""Shared parts of making data from a model's own answers: drawing into a journal and writing shards."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from mmcomponents.data.chat.placeholders import Message
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import fingerprint
from mmcomponents.data.errors import SampleError
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shard_index import index_path
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.data.loading.skipped import SkippedSamples
from mmcomponents.data.storage.atomic_write import write_text
from mmcomponents.generation.base import Sampler
from mmcomponents.model import MultimodalModel
from mmcomponents.synthesis.journal import Journal
from mmcomponents.synthesis.questions import Item, Questions
from mmcomponents.synthesis.rollout import MAX_CACHE, Answers, Question, Sampling, rollouts

Progress = Callable[[str, int, int], None]
"""Called with (name of what is drawn, number of questions done, total number of questions)."""

TOGETHER = 8192
"""Number of questions whose answers and continuations are planned together."""

_HASHED = 4096
"""Approximate number of values of a tensor that are hashed."""


def model_digest(model: MultimodalModel) -> str:
    """Returns a hash of the weights, over a few thousand values spread over each tensor."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        step = value.numel() // _HASHED | 1  # odd: with rows of even length, several columns are sampled
        digest.update(value.flatten()[::step].to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]


def renderer_settings(renderer: SampleRenderer) -> dict[str, Any]:
    """Returns the settings of a renderer that prompts and images depend on, for a journal."""
    return {
        "tokenizer": fingerprint(renderer.tokenizer),
        "tokens_per_tile": renderer.tokens_per_tile,
        "tiling": asdict(renderer.tiling),
        "normalization": renderer.normalization,
        "system": renderer.system,
        "frame_template": renderer.frame_template,
        "control_text": renderer.control_text,
    }


def sampler_settings(sampler: Sampler) -> dict[str, Any]:
    """Returns the class of a sampler and its arguments, those of inner samplers too, for a journal."""
    kept: dict[str, Any] = {"name": type(sampler).__name__}
    for name in inspect.signature(type(sampler)).parameters:
        value = getattr(sampler, name, None)
        if isinstance(value, (int, float, str, bool, list, tuple, type(None))):
            kept[name] = value
        elif isinstance(value, Sampler):
            kept[name] = sampler_settings(value)
    return kept


@dataclass(frozen=True)
class DrawOptions:
    """Options of drawing and writing.

    Attributes:
        max_refused: Largest share of questions that may be skipped.
        samples_per_shard: Maximum number of samples of a shard.
        max_tokens: See `rollouts`.
        max_segments: See `rollouts`.
        max_cache: See `rollouts`.
        progress: Called for each batch.

    Raises:
        ValueError: `samples_per_shard` is not positive.
    """

    max_refused: float = 0.01
    samples_per_shard: int = 10_000
    max_tokens: int = 16384
    max_segments: int = 256
    max_cache: int = MAX_CACHE
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard must be at least 1, got {self.samples_per_shard}")


def draw_settings(
    model: MultimodalModel, renderer: SampleRenderer, sampling: Sampling, questions: Questions, options: DrawOptions
) -> dict[str, Any]:
    """Returns all settings that answers depend on, for a journal; batch limits change sums in the last digit."""
    return {
        "model": model_digest(model),
        "questions": questions.digest_with_answers(),
        **renderer_settings(renderer),
        "sampling": asdict(sampling),
        "batching": [options.max_tokens, options.max_segments, options.max_cache],
    }


@dataclass
class DrawReport:
    """Counts of a run.

    Attributes:
        out: Output folder.
        questions: Number of questions, including the skipped ones.
        refused: Number of skipped questions.
        shards: Names of the shards.
    """

    out: Path
    questions: int = 0
    refused: int = 0
    shards: list[str] = field(default_factory=list)

    def write(self, name: str, settings: Mapping[str, Any]) -> None:
        """Writes the counts and the settings of the run as a JSON file in the folder."""
        counts = {key: value for key, value in asdict(self).items() if key != "out"}
        write_text(self.out / name, json.dumps({"settings": settings, **counts}, indent=2) + "\n")


@dataclass(frozen=True)
class Drawer:
    """Draws answers into a journal.

    Attributes:
        model: Model that answers.
        renderer: Renders its prompts and images.
        journal: Stores the result for each question.
        skipped: Counts the skipped questions.
        options: Limits of a batch, and the progress callback.
    """

    model: MultimodalModel
    renderer: SampleRenderer
    journal: Journal
    skipped: SkippedSamples
    options: DrawOptions

    def draw(
        self,
        what: str,
        questions: Sequence[Question],
        sampling: Sampling,
        record: Callable[[Question, Answers], Mapping[str, Any]] = lambda _, answers: asdict(answers),
    ) -> None:
        """Draws the answers that are not in the journal yet.

        Args:
            what: Name of what is drawn, for the progress.
            questions: Questions with unique keys.
            sampling: Sampling settings.
            record: Converts a question and its answers to a record of the journal; default: "texts" and "cut".

        Raises:
            DataError: Too many questions are skipped.
        """
        progress = self.options.progress
        for question in questions:
            if (error := self.error(question.key)) is not None:
                self._count(question, error)
        for question, answers in rollouts(
            self.model,
            self.renderer,
            questions,
            sampling,
            max_tokens=self.options.max_tokens,
            max_segments=self.options.max_segments,
            max_cache=self.options.max_cache,
            progress=None if progress is None else lambda done, total: progress(what, done, total),
            done=self.journal.done,
            refuse=self._skip,
        ):
            self.journal.add({"key": question.key, **record(question, answers)})

    def answers(self, key: str) -> Answers:
        """Returns the answers to a question; empty if it was skipped."""
        note = self.journal.done[key]
        return Answers(note.get("texts", []), note.get("cut", []))

    def error(self, key: str) -> str | None:
        """Returns the reason why a question was skipped; None: it was not."""
        reason = self.journal.done.get(key, {}).get("error")
        return None if reason is None else str(reason)

    def _skip(self, question: Question, error: SampleError) -> None:
        self.journal.add({"key": question.key, "error": str(error)})
        self._count(question, str(error))

    def _count(self, question: Question, error: str) -> None:
        line = f"{question.key}: {error}"
        self.skipped.warn([line])
        self.skipped.count(0, 1, [line])


@contextmanager
def open_drawer(
    model: MultimodalModel,
    renderer: SampleRenderer,
    questions: Questions,
    out: Path,
    sampling: Sampling,
    makes: Mapping[str, Any],
    options: DrawOptions,
) -> Iterator[Drawer]:
    """Opens the journal of a folder to start or resume a run.

    Args:
        model: Model that answers.
        renderer: Renders its prompts and images.
        questions: Questions; those that were skipped while reading are counted.
        out: Folder of `journal.jsonl`.
        sampling: Sampling settings.
        makes: Other settings that the records of the journal depend on.
        options: Limits.

    Raises:
        DataError: Too many questions were skipped, or the journal was started with other settings.
    """
    total = len(questions.items) + len(questions.refused)
    skipped = SkippedSamples("questions", total, options.max_refused)
    skipped.warn(questions.refused)
    skipped.count(total, len(questions.refused), questions.refused)
    settings = {**makes, **draw_settings(model, renderer, sampling, questions, options)}
    with Journal(out / "journal.jsonl", settings) as journal:
        yield Drawer(model, renderer, journal, skipped, options)


def groups(questions: Questions) -> Iterator[list[Item]]:
    """Yields the questions in groups that are planned together."""
    for first in range(0, len(questions.items), TOGETHER):
        yield questions.items[first : first + TOGETHER]


def make_record(item: Item, messages: Sequence[Message], source: str, **more: Any) -> dict[str, Any]:
    """Returns the record of a sample that is derived from a question.

    Args:
        item: The question.
        messages: Messages of the sample.
        source: Source of the sample if the question has none.
        more: Additional fields; those that are None are omitted.
    """
    record = {"messages": [dict(message) for message in messages], **more}
    record |= {"source": item.source or source, "question_key": item.key, "clips": item.clips}
    return {name: value for name, value in record.items() if value is not None}


def write_shards(
    out: Path,
    prefix: str,
    samples: Iterable[tuple[str, Mapping[str, Any], Item]],
    renderer: SampleRenderer,
    samples_per_shard: int,
) -> list[str]:
    """Writes shards `PREFIX-000000.tar` and their indices; removes other shards with this prefix from the folder.

    Args:
        out: Output folder.
        prefix: Prefix of the file names.
        samples: (key, record, question whose media are stored with it).
        renderer: Its tokenizer is used for the indices.
        samples_per_shard: Maximum number of samples of a shard.

    Returns:
        Names of the shards.
    """
    with ShardWriter(out, prefix, samples_per_shard) as writer:
        for key, record, item in samples:
            writer.write(key, record, () if item.files is None else item.files())
    for path in writer.paths:
        build_index(path, renderer.tokenizer, frame_template=renderer.frame_template)
    for path in set(out.glob(f"{prefix}-??????.tar")) - set(writer.paths):  # from an earlier call that wrote more
        path.unlink()
        index_path(path).unlink(missing_ok=True)
    return [path.name for path in writer.paths]


def write_recipe(out: Path, prefix: str) -> None:
    """Writes `recipe.yaml`, the section of a recipe that trains on the shards."""
    shards = str(out.resolve() / f"{prefix}-??????.tar")
    text = yaml.safe_dump({"data": {"train": [shards]}}, sort_keys=False, allow_unicode=True, width=1000)
    write_text(out / "recipe.yaml", f"# Training data of a recipe.\n{text}")
