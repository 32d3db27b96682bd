"""Critic that scores all steps of a solution in one forward pass (VisualPRM, arXiv 2503.10291).

The input is a conversation: the user sends the question with the first step, then one step per turn, and the assistant
replies to each with one of two words. For scoring, every reply is the positive word; the score is computed from the
logits at the position before it. The model is causal, so one forward pass per step gives the same scores.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch, Steps
from mmcomponents.component import NonFiniteError
from mmcomponents.data.chat.critic_prompt import SYSTEM, WORDS, critique, question_text
from mmcomponents.data.chat.kinds.scored_steps import scored_steps
from mmcomponents.data.chat.placeholders import place_media
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.verdicts import POSITIVE, Verdicts
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.loading.collation import collate
from mmcomponents.generation.inputs import check_length
from mmcomponents.heads import Head, Verbalizer
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.modes import evaluating
from mmcomponents.synthesis.rollout import LoadedMedia, Media, Question, tiled_media
from mmcomponents.synthesis.steps import ProcessSteps, Split

logger = logging.getLogger(__name__)

_HEAD_POSITIONS = 256
"""Positions per call of a language-model head: 150 MB of fp32 logits at a vocabulary size of 151,674."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Solution:
    """A response to be scored.

    Attributes:
        question: The question with its images.
        response: The response; `question.prefix` is prepended to it.
        steps: Its steps; None: the critic splits the response.
    """

    question: Question
    response: str
    steps: tuple[str, ...] | None = None


class Critic:
    """Scores the steps of solutions.

    Args:
        model: Model with a `Verbalizer`, or with a language-model head, of which the logits of the two words are used.
        renderer: Tokenizer and tiling of the model; its system prompt is replaced by `system`.
        split: Splits a response into steps: `ProcessSteps`, or `WholeAnswer` for an outcome reward.
        verdicts: The positive and the negative word.
        system: System prompt that the critic was trained with; None: no system prompt.
        head: Name of the head.
        max_tokens: Maximum number of tokens of a pack; a longer solution gets its own pack.

    Raises:
        DataError: A word is not a single token; the message shows its tokens.
        ValueError: The model has no such head, or its verbalizer has other token ids.
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
            raise DataError(f"invalid verdicts of the critic: {str(error).removeprefix('data.verdicts: ')}") from error
        if head not in model.heads:
            raise ValueError(
                f"the critic needs a head {head!r}; the heads of the model are: {', '.join(model.heads) or 'none'}"
            )
        if not isinstance(model.heads[head], Verbalizer):
            logger.warning(
                "the critic's head is a %s, of which the logits of %s and %s are used: is the model a trained critic?",
                type(model.heads[head]).__name__,
                *self.verdicts.words,
            )
        reads = getattr(model.heads[head], "token_ids", self.verdicts.ids)
        if tuple(reads) != self.verdicts.ids:
            raise ValueError(
                f"the critic's head has the token ids {list(reads)}, but {' and '.join(map(repr, verdicts))} have the"
                f" ids {list(self.verdicts.ids)} in the tokenizer"
            )
        self.model = model
        self.renderer = replace(renderer, system=None)
        self.split: Split = ProcessSteps() if split is None else split
        self.system = system
        self.head = head
        self.max_tokens = max_tokens

    def settings(self) -> dict[str, Any]:
        """Returns what the scores depend on besides the weights, as JSON values for a `Journal`."""
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
        """Returns the steps of a solution; an empty response is one empty step."""
        if solution.steps is not None:
            return list(solution.steps)
        return self.split(solution.question.prefix + solution.response) or [""]

    def score(
        self,
        solutions: Sequence[Solution],
        progress: Progress | None = None,
        refuse: Callable[[Solution, SampleError], None] | None = None,
    ) -> list[list[float]]:
        """Computes P(positive) of each step of each solution.

        Args:
            solutions: Solutions. Images are encoded once for solutions whose questions have the same media function.
            progress: Called with (solutions done, total).
            refuse: Called with each solution that cannot be scored and the error; its scores are empty. None: the
                error is raised.

        Raises:
            NonFiniteError: The critic computes NaN; the message contains the question's key.
            SampleError: A solution cannot be scored and `refuse` is None; the message contains the question's key.
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
        """Yields the index and the scores of each scored solution, pack by pack; see `score`."""
        done = 0
        for pack, skipped in self._packs(solutions):
            for number, error in skipped:
                if refuse is None:
                    raise SampleError(f"{solutions[number].question.key}: {error}") from error
                refuse(solutions[number], error)
            done += len(pack) + len(skipped)
            yield from self._judge(pack)
            if progress is not None:
                progress(done, len(solutions))

    def _judge(self, pack: Sequence[tuple[int, RenderedSample]]) -> Iterator[tuple[int, list[float]]]:
        if not pack:
            return
        samples = [sample for _, sample in pack]
        batch = collate(samples, self.renderer.tokens_per_tile, self.renderer.pad_id).to(self.model.device)
        with evaluating(self.model), torch.no_grad():
            found = self._verdicts(batch).cpu().split([_steps(sample) for sample in samples])
        for (number, sample), part in zip(pack, found, strict=True):
            if part.isnan().any():
                raise NonFiniteError(f"{sample.key}: the critic's scores are NaN: its weights are damaged")
            yield number, part.tolist()

    def _verdicts(self, batch: PackedBatch) -> Tensor:
        """Computes P(positive) of all steps of a pack, fp32 `[n]`."""
        steps = batch.steps
        assert steps is not None

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            hidden, head = state.hidden[steps.score_at], cast(Head, heads[self.head])
            if isinstance(head, Verbalizer):
                return head.verdict_logits(hidden)
            parts = hidden.split(_HEAD_POSITIONS)
            pieces = [head(ModelState(hidden=part), batch)[:, self.verdicts.ids] for part in parts]
            return torch.cat(pieces).float()

        logits: Tensor = self.model(batch, read=read)
        return torch.sigmoid(logits[:, 0] - logits[:, 1])

    def _packs(
        self, solutions: Sequence[Solution]
    ) -> Iterator[tuple[list[tuple[int, RenderedSample]], list[tuple[int, SampleError]]]]:
        """Yields packs, filled question by question, each with the solutions skipped while it was filled."""
        pack: list[tuple[int, RenderedSample]] = []
        skipped: list[tuple[int, SampleError]] = []
        loaded: LoadedMedia = {}
        tokens = 0
        for group in _by_question(solutions):
            rendered = list[tuple[int, RenderedSample]]()
            for number in group:
                try:
                    rendered.append((number, self._render(solutions[number], loaded)))
                except SampleError as error:
                    skipped.append((number, error))
            together = sum(_length(sample) for _, sample in rendered)
            if pack and tokens + together > self.max_tokens:
                yield pack, skipped
                pack, skipped, tokens = [], [], 0
                kept = solutions[group[0]].question.media
                loaded = {media: found for media, found in loaded.items() if media is kept}
            for number, sample in rendered:
                if pack and tokens + _length(sample) > self.max_tokens:  # a question may fill several packs
                    yield pack, skipped
                    pack, skipped, tokens = [], [], 0
                pack.append((number, sample))
                tokens += _length(sample)
        if pack or skipped:
            yield pack, skipped

    def _render(self, solution: Solution, loaded: LoadedMedia) -> RenderedSample:
        """Renders a solution as one segment; all solutions of a question share its image objects."""
        question = solution.question
        images, films = tiled_media(question.media, self.renderer, loaded)
        placed, order = place_media(question.messages, images, films, self.renderer.frame_template)
        if order and self.model.vision is None:
            raise SampleError("the question has an image, but the critic has no vision encoder")
        steps = self.steps(solution)
        if not steps:
            raise SampleError("the solution has no steps")
        replies = [self.verdicts.words[0]] * len(steps)
        chat = self.renderer.chat(critique(question_text(placed), steps, replies, self.system), order)
        try:
            check_length(self.model, [len(chat.input_ids)], 0, None)
        except ValueError as error:
            raise SampleError(str(error)) from error
        segment = RenderedSample.of_chat(chat, order, key=question.key)
        segment.extras["steps"] = scored_steps(chat.labels, [POSITIVE] * len(steps))
        return segment


def _by_question(solutions: Sequence[Solution]) -> list[list[int]]:
    """Groups indices of solutions with the same media or the same question; the longest texts come first."""
    groups: dict[Media | str, list[int]] = {}
    for number, solution in enumerate(solutions):
        groups.setdefault(solution.question.media or solution.question.key, []).append(number)

    def text(number: int) -> int:
        solution = solutions[number]
        return len(solution.response) + sum(map(len, solution.steps or ()))

    return sorted(groups.values(), key=lambda group: -max(map(text, group)))


def _length(sample: RenderedSample) -> int:
    return len(sample.input_ids)


def _steps(sample: RenderedSample) -> int:
    steps = sample.extras["steps"]
    assert isinstance(steps, Steps)
    return len(steps.label)
