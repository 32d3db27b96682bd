"""A critic: a model that judges the steps of solutions, all of them in one forward pass (VisualPRM, arXiv 2503.10291).

It reads a conversation in which the user shows the question with the first step, then one step after the other, and
the assistant says one of two words after each. While scoring, every such word reads as the positive one; what the model
would have said is read off the position before it. The model is causal: one forward for each step gives the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch
from mmcomponents.data import DataError, RenderedSample, SampleError, SampleRenderer, TiledImage, collate, place_media
from mmcomponents.data.critique import SYSTEM, WORDS, critique, question_text
from mmcomponents.data.verdicts import POSITIVE, Verdicts
from mmcomponents.heads import Head, Verbalizer
from mmcomponents.inference.inputs import check_length, evaluating
from mmcomponents.inference.rollouts import Media, Question
from mmcomponents.inference.steps import ProcessSteps, Split
from mmcomponents.model import MultimodalModel

logger = logging.getLogger(__name__)

_HEAD_ROWS = 256
"""Rows that go through a head over all words at once: 150 MB of fp32 logits with 151,674 words."""

_Loaded = dict[Media, tuple[list[TiledImage], list[list[TiledImage]]]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Solution:
    """An answer to be judged.

    Attributes:
        question: What was asked, with its images.
        response: The answer; a prefix of the question is put in front of it.
        steps: Its steps, where they are given; None: the critic cuts the answer itself.
    """

    question: Question
    response: str
    steps: tuple[str, ...] | None = None


class Critic:
    """Scores the steps of solutions.

    Args:
        model: Has a `Verbalizer`, or a language-model head, of which the rows of the two words are read.
        renderer: Its tokenizer and tiling; the system text is the critic's own.
        split: Cuts an answer into what is judged: `ProcessSteps`, or `WholeAnswer` for an outcome reward.
        verdicts: The positive and the negative word.
        system: What the critic is told; None: nothing. The one that it was trained with.
        head: Name of the head.
        max_tokens: Tokens of a pack at most; a longer solution is a pack of its own.

    Raises:
        DataError: A word is no single token; the message names it and its tokens.
        ValueError: The model has no such head, or its verbalizer reads other tokens.
    """

    def __init__(
        self,
        model: MultimodalModel,
        renderer: SampleRenderer,
        *,
        split: Split | None = None,
        verdicts: Sequence[str] = WORDS,
        system: str | None = SYSTEM,
        head: str = "lm",
        max_tokens: int = 16384,
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        try:
            self.verdicts = Verdicts.of(verdicts, renderer.tokenizer)
        except DataError as error:
            raise DataError(f"this critic cannot judge: {str(error).removeprefix('data.verdicts: ')}") from error
        if head not in model.heads:
            raise ValueError(
                f"the critic reads the head {head!r}, and the model has {', '.join(model.heads) or 'none'}"
            )
        if not isinstance(model.heads[head], Verbalizer):
            logger.warning(
                "the critic's head is a plain %s, of which the words %s and %s are read: was it trained to judge?",
                type(model.heads[head]).__name__,
                *self.verdicts.words,
            )
        reads = getattr(model.heads[head], "token_ids", self.verdicts.ids)
        if tuple(reads) != self.verdicts.ids:
            raise ValueError(
                f"the critic's head reads the tokens {list(reads)}, and {' and '.join(map(repr, verdicts))} are"
                f" {list(self.verdicts.ids)} in its tokenizer"
            )
        self.model = model
        self.renderer = replace(renderer, system=None)
        self.split: Split = ProcessSteps() if split is None else split
        self.system = system
        self.head = head
        self.max_tokens = max_tokens

    def settings(self) -> dict[str, Any]:
        """What scores depend on beside the weights, as JSON: for the journal of a long run."""
        return {
            "split": repr(self.split),
            "verdicts": list(self.verdicts.words),
            "system": self.system,
            "head": self.head,
            "tiling": repr(self.renderer.tiling),
            "normalization": self.renderer.normalization,
            "frame_template": self.renderer.frame_template,
            "control_text": self.renderer.control_text,
        }

    def steps(self, solution: Solution) -> list[str]:
        """What is judged of a solution; an empty answer is one empty step."""
        if solution.steps is not None:
            return list(solution.steps)
        return self.split(solution.question.prefix + solution.response) or [""]

    def score(
        self,
        solutions: Sequence[Solution],
        progress: Progress | None = None,
        refuse: Callable[[Solution, SampleError], None] | None = None,
    ) -> list[list[float]]:
        """P(positive) of each step of each solution.

        Args:
            solutions: Those whose questions share a media function share the images: one encoding serves them all.
            progress: Called with (solutions done, solutions in all).
            refuse: Takes a solution that cannot be judged, with the reason; it has no scores. None: it is raised.

        Raises:
            SampleError: A solution cannot be judged, and `refuse` is None; the message names its question.
        """
        scores: list[list[float]] = [[] for _ in solutions]
        for number, found in self.scores(solutions, progress, refuse):
            scores[number] = found
        return scores

    def scores(
        self,
        solutions: Sequence[Solution],
        progress: Progress | None = None,
        refuse: Callable[[Solution, SampleError], None] | None = None,
    ) -> Iterator[tuple[int, list[float]]]:
        """What `score` returns, pack by pack: number and scores of each solution that was judged."""
        done = 0
        for pack, refused in self._packs(solutions):
            for number, error in refused:
                if refuse is None:
                    raise SampleError(f"{solutions[number].question.key}: {error}") from error
                refuse(solutions[number], error)
            done += len(pack) + len(refused)
            yield from self._judge(pack)
            if progress is not None:
                progress(done, len(solutions))

    def _judge(self, pack: Sequence[tuple[int, RenderedSample]]) -> Iterator[tuple[int, list[float]]]:
        if not pack:
            return
        samples = [sample for _, sample in pack]
        batch = collate(samples, self.renderer.tokens_per_tile, self.renderer.pad_id).to(self.model.device)
        with evaluating(self.model), torch.no_grad():
            found = self._verdicts(batch).cpu().split([len(sample.verdicts or ()) for sample in samples])
        for (number, _), part in zip(pack, found, strict=True):
            yield number, part.tolist()

    def _verdicts(self, batch: PackedBatch) -> Tensor:
        """P(positive) of all steps of a pack, fp32 `[n]`."""
        steps = batch.steps
        assert steps is not None

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            hidden, head = state.hidden[steps.score_at], cast(Head, heads[self.head])
            if isinstance(head, Verbalizer):
                return head.verdict_logits(hidden)
            pieces = [head(ModelState(hidden=rows), batch)[:, self.verdicts.ids] for rows in hidden.split(_HEAD_ROWS)]
            return torch.cat(pieces).float()

        logits: Tensor = self.model(batch, read=read)
        return torch.sigmoid(logits[:, 0] - logits[:, 1])

    def _packs(
        self, solutions: Sequence[Solution]
    ) -> Iterator[tuple[list[tuple[int, RenderedSample]], list[tuple[int, SampleError]]]]:
        """Fills packs with the solutions of one question after another, and tells whom it could not place."""
        pack: list[tuple[int, RenderedSample]] = []
        refused: list[tuple[int, SampleError]] = []
        loaded: _Loaded = {}
        tokens = 0
        for group in _by_question(solutions):
            rendered = list[tuple[int, RenderedSample]]()
            for number in group:
                try:
                    rendered.append((number, self._render(solutions[number], loaded)))
                except SampleError as error:
                    refused.append((number, error))
            together = sum(_length(sample) for _, sample in rendered)
            if pack and tokens + together > self.max_tokens:
                yield pack, refused
                pack, refused, tokens = [], [], 0
                kept = solutions[group[0]].question.media
                loaded = {media: found for media, found in loaded.items() if media is kept}
            for number, sample in rendered:
                if pack and tokens + _length(sample) > self.max_tokens:  # one question fills several packs
                    yield pack, refused
                    pack, refused, tokens = [], [], 0
                pack.append((number, sample))
                tokens += _length(sample)
        if pack or refused:
            yield pack, refused

    def _render(self, solution: Solution, loaded: _Loaded) -> RenderedSample:
        """One segment; the images of a question are the same objects in all of its solutions."""
        question, images, films = solution.question, list[TiledImage](), list[list[TiledImage]]()
        if question.media is not None:
            if question.media not in loaded:
                pictures, videos = question.media()
                tiled = self.renderer.tile(pictures), [self.renderer.tile_frames(frames) for frames in videos]
                loaded[question.media] = tiled
            images, films = loaded[question.media]
        placed, order = place_media(question.messages, images, films, self.renderer.frame_template)
        if order and self.model.vision is None:
            raise SampleError("the question shows an image, and the critic has no vision")
        steps = self.steps(solution)
        if not steps:
            raise SampleError("the solution has no steps")
        said = [self.verdicts.words[0]] * len(steps)
        chat = self.renderer.chat(critique(question_text(placed), steps, said, self.system), order)
        try:
            check_length(self.model, [len(chat.input_ids)], 0, None)
        except ValueError as error:
            raise SampleError(str(error)) from error
        verdicts = [POSITIVE] * len(steps)
        return RenderedSample(self.verdicts.supervise(chat, verdicts), order, key=question.key, verdicts=verdicts)


def _by_question(solutions: Sequence[Solution]) -> list[list[int]]:
    """Numbers of the solutions that share images, or a question, those with most text first."""
    groups: dict[Media | str, list[int]] = {}
    for number, solution in enumerate(solutions):
        groups.setdefault(solution.question.media or solution.question.key, []).append(number)

    def text(number: int) -> int:
        solution = solutions[number]
        return len(solution.response) + sum(map(len, solution.steps or ()))

    return sorted(groups.values(), key=lambda group: -max(map(text, group)))


def _length(sample: RenderedSample) -> int:
    return len(sample.chat.input_ids)
