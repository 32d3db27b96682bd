"""Pictures after a reasoning text: generate, parse, encode, denoise.

Reference code: rongyaofang/GoT.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch, TokenType
from mmcomponents.component import Composition, NonFiniteError, WiringError
from mmcomponents.data.chat.reasoned_prompt import reasoning_ids
from mmcomponents.data.chat.special_tokens import IMAGE_START, codec
from mmcomponents.data.media.boxes import SCALE
from mmcomponents.data.media.images import picture_values, to_images
from mmcomponents.data.media.reasoned_boxes import ParsedReasoning, parse_reasoning
from mmcomponents.extras import Extra, References
from mmcomponents.generation.base import Answer, AnswerKind, Context, Sampler
from mmcomponents.generation.picture_guidance import branch_weights, guided
from mmcomponents.generation.prompt_parts import with_suffixes
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.limits import check_numbers, check_sizes
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.pictures import BLACK, encode_conditions
from mmcomponents.nn.runtime import Runtime

log = logging.getLogger(__name__)


class GuidedGeneration(Sampler):
    """Answers with a reasoning text and the picture that it describes (GoT, arXiv 2503.10639, section 4).

    The text ends with the tag that begins a picture. A second pass over prompt, text and queries gives the semantic
    condition, the boxes of the text the layout, and the last image of the prompt the reference. The picture is denoised
    by DDIM with guidance of four branches. A text that has boxes which cannot be read, or no tag at its end, is kept
    and makes a picture from the boxes that can be read; `Answer.problems` says what is wrong.

    Args:
        steps: Number of denoising steps.
        semantic: Weight of the words; with three weights of 1 there is no guidance.
        spatial: Weight of the layout.
        reference: Weight of the reference picture.
        bound: Largest absolute value of the estimated latents in each step; None: they are not bounded.
        max_new_tokens: Maximum number of tokens of a text.
        temperature: See `Autoregressive`.
        top_p: See `Autoregressive`.
        top_k: See `Autoregressive`.
        head: Name of the language-model head.
        picture_head: Name of the head with the denoiser.
        autoencoder: Name of the head that encodes and decodes pictures.
        start_id: Id of the tag that begins a picture. None: that of the context's tokenizer.

    Raises:
        ValueError: An argument is out of range.
    """

    answers: ClassVar[AnswerKind] = "picture"

    def __init__(
        self,
        steps: int = 50,
        semantic: float = 7.5,
        spatial: float = 4.0,
        reference: float = 1.0,
        bound: float | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        head: str = "lm",
        picture_head: str = "picture",
        autoencoder: str = "autoencoder",
        start_id: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes(steps=steps)
        check_numbers(semantic=semantic, spatial=spatial, reference=reference)
        if bound is not None:
            check_numbers(bound=bound)
        self.steps, self.semantic, self.spatial, self.reference = steps, semantic, spatial, reference
        self.bound, self.head, self.picture_head, self.autoencoder = bound, head, picture_head, autoencoder
        self.max_new_tokens, self.temperature, self.top_p, self.top_k = max_new_tokens, temperature, top_p, top_k
        self.start_id = start_id
        self.writer = Autoregressive(max_new_tokens, temperature, top_p, top_k, head)

    def check(self, model: Composition) -> None:
        """Checks that the model has the heads, and that the schedule has enough noise levels.

        Raises:
            WiringError: It has not.
        """
        name = type(self).__name__
        for head, method, such_as in (
            (self.head, "weighted_nll", "LMHead"),
            (self.picture_head, "predicted", "Condition"),
            (self.autoencoder, "decode", "ConvAutoencoder"),
        ):
            if head not in model.heads:
                raise WiringError(
                    f"{name} reads the head {head!r} and the model has {', '.join(model.heads) or 'none'}"
                )
            if not callable(getattr(model.heads[head], method, None)):
                kind = type(model.heads[head]).__name__
                raise WiringError(f"{name} calls {method} of the head {head!r}, which {kind} has not: use {such_as}")
        levels = model.heads[self.picture_head].schedule.levels
        if self.steps > levels:
            raise WiringError(
                f"{name} has {self.steps} steps and the schedule of {self.picture_head!r} {levels} noise levels"
            )

    def fields(self, model: MultimodalModel, images: Sequence[Sequence[Image]]) -> dict[str, Extra]:
        """Returns the last image of each prompt as its reference.

        Raises:
            ValueError: It has another size than the pictures that are made.
        """
        side = int(cast(Any, model.heads[self.autoencoder]).picture_size)
        owners = [segment for segment, own in enumerate(images) if own]
        last = [picture_values(images[segment][-1], side, "the reference picture") for segment in owners]
        return {"references": References.of(last, owners, side)}

    def answer_length(self, model: MultimodalModel) -> int:
        """Returns the largest number of tokens of a text, the tag that begins a picture, and its queries."""
        return self.max_new_tokens + 1 + int(cast(Any, model.heads[self.picture_head]).num_queries)

    @torch.no_grad()
    def forward(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> list[Answer]:
        """See the base class.

        Raises:
            NonFiniteError: Logits or latents are NaN or infinite.
            ValueError: A prompt has an image and no reference picture.
        """
        self.check(model)
        start, words = self._start_id(context), context.words("picture")
        texts: list[list[int]] = [[] for _ in range(prompts.num_segments)]
        draws = self.writer.own_draws(prompts, context)
        stop_ids, generator = [*context.stop_ids], context.generator

        def ended(segment: int) -> bool:
            return texts[segment][-1:] == [start]

        for new in self.writer.steps(model, prompts, stop_ids, generator, ended=ended, draws=draws):
            for segment, token in new.items():
                texts[segment].append(token)
        unended = [[] if ended(segment) else [self._unended(len(own))] for segment, own in enumerate(texts)]
        texts = [own[:-1] if ended(segment) else own for segment, own in enumerate(texts)]
        tokenizer = context.tokenizer
        shown = [None if tokenizer is None else str(tokenizer.decode(ids)) for ids in texts]
        parsed = [parse_reasoning(text or "") for text in shown]
        for found, told in zip(parsed, unended, strict=True):
            found.problems += told
        return self._pictures(model, prompts, texts, shown, parsed, start, words)

    @torch.no_grad()
    def draw(
        self, model: MultimodalModel, prompts: PackedBatch, reasoning: Sequence[str], context: Context
    ) -> list[Answer]:
        """Answers with the pictures of given texts, such as texts whose boxes or words were changed.

        The noise is that of `forward` for a generator in the same state.

        Args:
            model: Model in evaluation mode.
            prompts: Pack with one prompt per segment.
            reasoning: Text of each prompt.
            context: Tokenizer and random generator.

        Raises:
            WiringError: There is no tokenizer.
            ValueError: Prompts and texts differ in number, or a prompt has an image and no reference picture.
        """
        self.check(model)
        if context.tokenizer is None:
            raise WiringError(f"{type(self).__name__} needs a tokenizer to read a text")
        if len(reasoning) != prompts.num_segments:
            raise ValueError(f"{prompts.num_segments} prompts and {len(reasoning)} reasoning texts")
        ids = [reasoning_ids(text, context.tokenizer) for text in reasoning]
        words, parsed = context.words("picture"), [parse_reasoning(text) for text in reasoning]
        return self._pictures(model, prompts, ids, list(reasoning), parsed, self._start_id(context), words)

    def _pictures(
        self,
        model: MultimodalModel,
        prompts: PackedBatch,
        ids: Sequence[Sequence[int]],
        texts: Sequence[str | None],
        parsed: Sequence[ParsedReasoning],
        start: int,
        words: Sequence[object],
    ) -> list[Answer]:
        head, coder = cast(Any, model.heads[self.picture_head]), cast(Any, model.heads[self.autoencoder])
        tail = [(number, TokenType.QUERY) for number in range(head.num_queries)]
        asked = with_suffixes(
            prompts, [[*((token, TokenType.TEXT) for token in own), (start, TokenType.TEXT), *tail] for own in ids]
        )
        device, side = prompts.input_ids.device, coder.picture_size
        references = _references(prompts, side)
        shape = (coder.latent_channels, coder.latent_size, coder.latent_size)
        draws = [draw.standard_normal(shape, dtype=np.float32) for draw in prompts.generators(*words)]
        noise = torch.from_numpy(np.stack(draws)).to(device)
        boxes, colours, owner = _boxes(parsed, device)

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            made, autoencoder = cast(Any, heads[self.picture_head]), cast(Any, heads[self.autoencoder])
            known = state.hidden.dtype
            given = references.to(known)
            encoded = encode_conditions(autoencoder, given[:0], given, boxes, colours.to(known), owner)
            semantic = made.semantic(made.queries(state.hidden, asked))
            conditions = (encoded.references, encoded.layouts, semantic)
            latents = self._denoised(made, noise.to(known), *conditions)
            pictures: Tensor = autoencoder.decode(latents / autoencoder.scale).float()
            return pictures

        pictures = model(asked, Runtime(needs=("hidden",)), read)
        wrong = [key for key, one in zip(prompts.keys, pictures, strict=True) if not bool(one.isfinite().all())]
        if wrong:
            raise NonFiniteError(
                f"pictures of {', '.join(wrong[:8])} are NaN or infinite: the model's weights are damaged, or its"
                " activations exceed the range of its dtype"
            )
        _tell_problems(prompts, parsed)
        return [
            Answer(picture=picture, reasoning=text, problems=tuple(found.problems))
            for picture, text, found in zip(to_images(pictures), texts, parsed, strict=True)
        ]

    def _denoised(self, head: Any, noisy: Tensor, reference: Tensor, layout: Tensor, semantic: Any) -> Tensor:
        """Returns the latents after all steps of DDIM."""
        weights = branch_weights(self.semantic, self.spatial, self.reference)
        unsaid, nothing = head.without_words(semantic), torch.zeros_like(layout)
        descent = head.schedule.descent(self.steps)
        for level, following in zip(descent, [*descent[1:], None], strict=True):
            levels, now = torch.full((len(noisy),), level, device=noisy.device), noisy

            def estimate(given: tuple[bool, bool, bool]) -> Tensor:
                words, boxes, picture = given
                found: Tensor = head.predicted(
                    now,  # noqa: B023
                    levels,  # noqa: B023
                    reference if picture else nothing,
                    layout if boxes else nothing,
                    semantic if words else unsaid,
                )
                return found

            noisy = head.schedule.ddim(noisy, guided(weights, estimate), level, following, self.bound)
        return noisy

    def _unended(self, length: int) -> str:
        ends = "is cut after" if length == self.max_new_tokens else "ends after"
        return f"the text {ends} {length} tokens, without {IMAGE_START}"

    def _start_id(self, context: Context) -> int:
        if self.start_id is not None:
            return self.start_id
        found = None if context.tokenizer is None else codec(context.tokenizer).ids.get(IMAGE_START)
        if found is None:
            raise WiringError(f"{type(self).__name__} needs a tokenizer with {IMAGE_START}, or start_id")
        return found


def _boxes(parsed: Sequence[ParsedReasoning], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns boxes as shares `[B, 4]`, colours `[B, 3]`, and the prompt of each box `[B]`."""
    each = [(owner, one) for owner, found in enumerate(parsed) for one in found.boxes]
    boxes = torch.tensor([one.box for _, one in each], dtype=torch.float32, device=device).reshape(-1, 4) / SCALE
    colours = torch.tensor([one.rgb for _, one in each], dtype=torch.float32, device=device).reshape(-1, 3)
    return boxes, colours, torch.tensor([owner for owner, _ in each], dtype=torch.int64, device=device)


def _references(prompts: PackedBatch, side: int) -> Tensor:
    """Returns the reference of each prompt, `[S, 3, side, side]` from -1 to 1; black without an image."""
    layout, device, given = prompts.layout, prompts.input_ids.device, prompts.extras.get("references")
    found = torch.full((prompts.num_segments, 3, side, side), BLACK, device=device)
    known = given if isinstance(given, References) else References.of([], [], side)
    found[known.segment.to(device)] = known.picture.tensor.to(device)
    shown = layout.segment_of_token()[layout.image_id >= 0].unique().tolist()
    if missing := [segment for segment in shown if segment not in known.segment.tolist()]:
        raise ValueError(
            f"{prompts.keys[missing[0]] or f'prompt {missing[0] + 1}'} has an image that is not given as a reference"
            " picture: name the record kind in data.kinds (ReasonedPicture)"
        )
    return found


def _tell_problems(prompts: PackedBatch, parsed: Sequence[ParsedReasoning]) -> None:
    wrong = [(key, found) for key, found in zip(prompts.keys, parsed, strict=True) if found.problems]
    if wrong:
        key, first = wrong[0]
        log.warning(
            "%d of %d reasoning texts cannot be read as a whole; the first is that of %s: %s",
            len(wrong), len(parsed), key or "prompt 1", first.problems[0],
        )  # fmt: skip
