"""A picture that is changed by its reasoning: by its boxes, its colours or its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from PIL.Image import Image

from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.reasoned_prompt import reasoning_ids
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import end_ids
from mmcomponents.data.media.boxes import Box
from mmcomponents.data.media.reasoned_boxes import ReasonedBox, parse_reasoning, replace_box
from mmcomponents.generation.base import Answer, Context
from mmcomponents.generation.inputs import FRAMES, Pictures, check_length, make_renderer, segment_lengths
from mmcomponents.generation.prompt_answers import HasFields, collate_prompts, seeded
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ReasoningSampler(HasFields, Protocol):
    """Interface of samplers that draw from a reasoning text; see `GuidedGeneration`."""

    max_new_tokens: int

    def answer_length(self, model: MultimodalModel) -> int:
        """Returns the largest number of tokens that an answer adds to its prompt."""
        ...

    def answer(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> list[Answer]:
        """Answers prompts with pictures and the texts before them."""
        ...

    def draw(
        self, model: MultimodalModel, prompts: PackedBatch, reasoning: Sequence[str], context: Context
    ) -> list[Answer]:
        """Answers prompts with the pictures of given texts."""
        ...


class PictureEditor:
    """Makes a picture, then draws it again from a changed reasoning, with the same noise (GoT, arXiv 2503.10639, 5.3).

    Args:
        model: Model in evaluation mode.
        tokenizer: Tokenizer of the model.
        sampler: Draws from a reasoning text.
        seed: Seed of the noise. None: one that is drawn once.
        max_length: See `answer_prompts`.
        renderer: See `answer_prompts`.
    """

    def __init__(
        self,
        model: MultimodalModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sampler: ReasoningSampler,
        seed: int | None = None,
        max_length: int | None = None,
        renderer: SampleRenderer | None = None,
    ) -> None:
        self.model, self.sampler, self.max_length = model, sampler, max_length
        self.seed = int(torch.randint(2**62, ())) if seed is None else seed
        self.renderer = renderer or make_renderer(model, tokenizer)
        self._prompt: PackedBatch | None = None
        self.answer: Answer | None = None

    @property
    def boxes(self) -> list[ReasonedBox]:
        """The boxes of the last reasoning that can be read."""
        return parse_reasoning(self.reasoning).boxes

    @property
    def reasoning(self) -> str:
        """The last reasoning; empty before the first request."""
        return "" if self.answer is None else self.answer.reasoning or ""

    def ask(self, request: str, images: Sequence[Image] | None = None) -> Answer:
        """Answers a request with a new reasoning and its picture.

        Args:
            request: Text of the prompt.
            images: Image that is edited, if any; that of `answer` continues with the last picture.

        Raises:
            ValueError: The request is too long, or the image has another size than the pictures.
        """
        given: list[Pictures] | None = [list(images)] if images else None
        prompt = collate_prompts(self.model, self.renderer, [request], given, None, FRAMES, self.sampler)
        assert prompt is not None
        check_length(self.model, segment_lengths(prompt), self.sampler.answer_length(self.model), self.max_length)
        with evaluating(self.model):
            (self.answer,) = self.sampler.answer(self.model, prompt, self._context())
        self._prompt = prompt
        return self.answer

    def change_box(self, number: int, box: Box, colour: str | None = None) -> Answer:
        """Draws the picture with another box.

        Args:
            number: Number of the box, from 0.
            box: Left, top, right and bottom in thousandths of the picture.
            colour: Name of its colour; None: it stays.

        Raises:
            ValueError: There was no request, there is no such box, it is not within the picture, or the colour is
                unknown.
        """
        self._check_asked()
        known = self.boxes
        changed = ReasonedBox(box, colour or (known[number].colour if 0 <= number < len(known) else ""))
        if colour is not None:
            _ = changed.rgb
        return self.rewrite(replace_box(self.reasoning, number, changed))

    def rewrite(self, reasoning: str) -> Answer:
        """Draws the picture of another reasoning.

        Raises:
            ValueError: There was no request, or the text is too long.
        """
        prompt = self._check_asked()
        tokens = len(reasoning_ids(reasoning, self.renderer.tokenizer))
        more = tokens + self.sampler.answer_length(self.model) - self.sampler.max_new_tokens
        check_length(self.model, segment_lengths(prompt), more, self.max_length, has_option=False)
        with evaluating(self.model):
            (drawn,) = self.sampler.draw(self.model, prompt, [reasoning], self._context())
        self.answer = drawn
        return self.answer

    def _check_asked(self) -> PackedBatch:
        if self._prompt is None:
            raise ValueError("there is no picture to change: ask for one first")
        return self._prompt

    def _context(self) -> Context:
        tokenizer = self.renderer.tokenizer
        return Context(tokenizer, end_ids(tokenizer), seeded(self.model, self.seed))
