"""What making data from a model's own answers has in common: drawing into a journal, and shards of what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from mmcomponents.data import SampleRenderer, build_index, fingerprint
from mmcomponents.data.annotations.state import write_whole
from mmcomponents.data.errors import SampleError
from mmcomponents.data.index_file import index_path
from mmcomponents.data.refusals import Refusals
from mmcomponents.data.shards import ShardWriter
from mmcomponents.inference.journal import Journal
from mmcomponents.inference.questions import Asked, Questions
from mmcomponents.inference.rollouts import Answers, Question, Sampling, rollouts
from mmcomponents.model import MultimodalModel

Progress = Callable[[str, int, int], None]
"""Is told what is being drawn, how many questions are done, and how many there are."""

TOGETHER = 8192
"""Questions whose answers, and what goes on from these, are planned together."""

_COMPARED = 4096
"""Values of a tensor, about, that are compared."""


def model_digest(model: MultimodalModel) -> str:
    """Tells whether weights have changed, by some thousand values of each, from its begin to its end."""
    known = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        known.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        step = value.numel() // _COMPARED | 1  # odd, so that rows of an even length do not give one column alone
        known.update(value.flatten()[::step].to("cpu", torch.float64).numpy().tobytes())
    return known.hexdigest()[:16]


def renderer_settings(renderer: SampleRenderer) -> dict[str, Any]:
    """All of a renderer that prompts and images depend on, for a journal."""
    return {
        "tokenizer": fingerprint(renderer.tokenizer),
        "tokens_per_tile": renderer.tokens_per_tile,
        "tiling": asdict(renderer.tiling),
        "normalization": renderer.normalization,
        "system": renderer.system,
        "frame_template": renderer.frame_template,
        "control_text": renderer.control_text,
    }


def draw_settings(
    model: MultimodalModel, renderer: SampleRenderer, sampling: Sampling, questions: Questions, batching: Sequence[int]
) -> dict[str, Any]:
    """All that the answers depend on, for a journal.

    Args:
        model: Its weights.
        renderer: How prompts and images are made.
        sampling: How answers are drawn.
        questions: What is asked.
        batching: `max_tokens`, `max_segments` and `max_cache`: they change sums in their last digit.
    """
    return {
        "model": model_digest(model),
        "questions": questions.digest(),
        **renderer_settings(renderer),
        "sampling": asdict(sampling),
        "batching": list(batching),
    }


class Drawer:
    """Draws answers into a journal.

    Args:
        model: The model.
        renderer: Tokenizer, tiling and so on.
        journal: Takes what came of each question.
        refusals: Counts questions that cannot be asked.
        batching: `max_tokens`, `max_segments` and `max_cache`, see `rollouts`.
        progress: Is told of each batch.
    """

    def __init__(
        self,
        model: MultimodalModel,
        renderer: SampleRenderer,
        journal: Journal,
        refusals: Refusals,
        batching: tuple[int, int, int],
        progress: Progress | None = None,
    ) -> None:
        self.model, self.renderer, self.journal, self.refusals = model, renderer, journal, refusals
        self.batching = batching
        self.progress = progress

    def draw(
        self,
        what: str,
        questions: Sequence[Question],
        sampling: Sampling,
        record: Callable[[Question, Answers], Mapping[str, Any]] = lambda _, answers: asdict(answers),
    ) -> None:
        """Draws what the journal does not have yet.

        Args:
            what: Name of the work, for the progress.
            questions: What is asked.
            sampling: How answers are drawn.
            record: Makes of a question and its answers what the journal keeps; by default "texts" and "cut".

        Raises:
            DataError: Too many questions cannot be asked.
        """
        told = self.progress
        max_tokens, max_segments, max_cache = self.batching
        for question in questions:
            if (error := self.error(question.key)) is not None:
                self._count(question, error)
        for question, answers in rollouts(
            self.model,
            self.renderer,
            questions,
            sampling,
            max_tokens=max_tokens,
            max_segments=max_segments,
            max_cache=max_cache,
            progress=None if told is None else lambda done, total: told(what, done, total),
            done=self.journal.done,
            refuse=self._refuse,
        ):
            self.journal.add({"key": question.key, **record(question, answers)})

    def answers(self, key: str) -> Answers:
        """What was said to a question; nothing, if it could not be asked."""
        note = self.journal.done[key]
        return Answers(note.get("texts", []), note.get("cut", []))

    def error(self, key: str) -> str | None:
        """Why a question could not be asked."""
        reason = self.journal.done.get(key, {}).get("error")
        return None if reason is None else str(reason)

    def _refuse(self, question: Question, error: SampleError) -> None:
        self.journal.add({"key": question.key, "error": str(error)})
        self._count(question, str(error))

    def _count(self, question: Question, error: str) -> None:
        line = f"{question.key}: {error}"
        self.refusals.warn([line])
        self.refusals.count(0, 1, [line])


def open_refusals(questions: Questions, allowed: float) -> Refusals:
    """Counts those questions that could not even be read.

    Raises:
        DataError: They are too many.
    """
    total = len(questions.asked) + len(questions.problems)
    refusals = Refusals("questions", total, allowed)
    refusals.warn(questions.problems)
    refusals.count(total, len(questions.problems), questions.problems)
    return refusals


def write_shards(
    out: Path,
    prefix: str,
    samples: Iterable[tuple[str, Mapping[str, Any], Asked | None]],
    renderer: SampleRenderer,
    samples_per_shard: int,
) -> list[Path]:
    """Writes shards `PREFIX-000000.tar` and their indices; others of this prefix in the folder are removed.

    Args:
        out: The folder.
        prefix: Of the names.
        samples: Key, record, and the question whose media go with it.
        renderer: Its tokenizer measures the samples.
        samples_per_shard: Samples of a shard at most.
    """
    with ShardWriter(out, prefix, samples_per_shard) as writer:
        for key, record, asked in samples:
            writer.write(key, record, asked.files() if asked is not None and asked.files is not None else ())
    for path in writer.paths:
        build_index(path, renderer.tokenizer, frame_template=renderer.frame_template)
    for path in set(out.glob(f"{prefix}-??????.tar")) - set(writer.paths):  # of an earlier call that wrote more
        path.unlink()
        index_path(path).unlink(missing_ok=True)
    return writer.paths


def write_recipe(out: Path, prefix: str) -> None:
    """Writes the lines that a recipe needs to train on shards."""
    shards = str(out.resolve() / f"{prefix}-??????.tar")
    text = yaml.safe_dump({"data": {"train": [shards]}}, sort_keys=False, allow_unicode=True, width=1000)
    write_whole(out / "recipe.yaml", f"# For a recipe: what to train on.\n{text}")
