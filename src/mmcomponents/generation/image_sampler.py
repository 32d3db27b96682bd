"""Pictures made by next-token prediction of an image tokenizer's ids."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from PIL import Image
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch
from mmcomponents.component import Composition, NonFiniteError, WiringError
from mmcomponents.data.chat.special_tokens import IMAGE_START, codec
from mmcomponents.data.media.images import Normalization, from_normalized, to_images
from mmcomponents.generation.base import Answer, AnswerKind, Context, Sampler
from mmcomponents.generation.guided_prompts import fed, with_starts
from mmcomponents.generation.past import Past
from mmcomponents.generation.uniform_draws import Draws
from mmcomponents.limits import check_choices, check_numbers
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.folds import unfold_ids
from mmcomponents.nn.runtime import Runtime

_COLDEST = 1e-4
"""Least temperature: logits that are divided by less exceed the range of fp32."""


class ImageSampler(Sampler):
    """Answers with a picture, fold after fold, with classifier-free guidance (SynerGen-VL, arXiv 2412.09604).

    Each prompt is followed by the token that begins an image. The hidden state of a position gives the ids of the next
    fold, one after the other; the fold is then fed in. With guidance, a copy of the prompt whose question is left out
    has keys and values of its own, and an id is drawn from `u + guidance * (c - u)`, c and u being the logits with and
    without the question.

    Args:
        guidance: Weight of the question, s; 1: no guidance.
        temperature: 0 selects the most likely id. From 0.0001 on, logits are divided by it and an id is drawn.
        top_k: Draws from the k most likely ids. 0: from all.
        head: Name of the head that makes ids.
        normalization: Normalisation of the pixels that the tokenizer was trained with.
        start_id: Id of the token that begins an image. None: that of the context's tokenizer.
    """

    answers: ClassVar[AnswerKind] = "picture"

    def __init__(
        self,
        guidance: float = 7.5,
        temperature: float = 1.0,
        top_k: int = 0,
        head: str = "vq_unfold",
        normalization: Normalization = "siglip",
        start_id: int | None = None,
    ) -> None:
        super().__init__()
        check_numbers(guidance=guidance, temperature=temperature, top_k=top_k)
        if 0 < temperature < _COLDEST:
            raise ValueError(f"temperature must be 0 or at least {_COLDEST}, got {temperature}")
        if start_id is not None:
            check_numbers(start_id=start_id)
        check_choices(normalization=(normalization, Normalization))
        self.guidance, self.temperature, self.top_k = guidance, temperature, top_k
        self.head, self.normalization, self.start_id = head, normalization, start_id

    def check(self, model: Composition) -> None:
        """Checks that the model makes ids, can feed them in and turn them into pixels, and can be guided.

        Raises:
            WiringError: It cannot.
        """
        name = type(self).__name__
        if self.head not in model.heads:
            raise WiringError(
                f"{name} reads the head {self.head!r} and the model has {', '.join(model.heads) or 'none'}"
            )
        if not callable(getattr(model.heads[self.head], "next_logits", None)):
            raise WiringError(
                f"{name} calls next_logits of the head {self.head!r}, which {type(model.heads[self.head]).__name__} has"
                " not: use VQUnfold"
            )
        if not callable(getattr(model.vision, "cells", None)):
            found = "the vision slot is empty" if model.vision is None else f"{type(model.vision).__name__} has none"
            raise WiringError(f"{name} needs vectors of single ids and {found}: use VQEmbedding")
        own = getattr(model.vision, "normalization", None)
        if own is not None and own != self.normalization:
            raise WiringError(
                f"{name} makes pixels of the normalization {self.normalization!r} and {type(model.vision).__name__} has"
                f" those of {own!r}"
            )
        rows = getattr(model.embedder, "vocab_size", None)
        if self.start_id is not None and rows is not None and self.start_id >= rows:
            raise WiringError(
                f"{name} has the start_id {self.start_id} and {type(model.embedder).__name__} a vocabulary of {rows}"
            )
        if self.guidance != 1 and getattr(model.embedder, "unconditional", None) is None:
            raise WiringError(
                f"{name} has guidance {self.guidance:g} and {type(model.embedder).__name__} 0 unconditional tokens: use"
                " GuidedEmbedder, or guidance 1"
            )

    @torch.no_grad()
    def forward(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> list[Answer]:
        """See the base class.

        Raises:
            NonFiniteError: Logits are NaN or infinite.
            WiringError: The model cannot make pictures, or has never seen a prompt that is left out.
        """
        self.check(model)
        guided = self.guidance != 1
        if guided:
            self._check_trained(model)
        vision, head = cast(Any, model.vision), cast(Any, model.heads[self.head])
        hw = vision.grid((vision.image_size, vision.image_size))
        folds_hw = hw[0] // head.rows, hw[1] // head.columns
        batch, past = with_starts(prompts, self._start_id(context), context.tokenizer, guided), Past()
        draws = Draws.of_prompts(prompts, hw[0] * hw[1], *context.words("picture"))
        visual: Tensor | None = None
        folds: list[Tensor] = []
        for row in range(folds_hw[0]):
            for column in range(folds_hw[1]):
                ids = self._fold(model, batch, past, visual, draws, len(folds) * head.cells)
                folds.append(ids)
                visual = self._embedded(model, ids, (row * head.rows, column * head.columns), guided)
                batch = fed(past, batch)
        ids = unfold_ids(torch.stack(folds, 1).flatten(0, 1), hw, head.rows, head.columns)
        pixels = vision.decode_ids(ids).float()
        return [Answer(picture=picture) for picture in self._pictures(pixels)]

    def answer_length(self, model: MultimodalModel) -> int:
        """Returns the number of folds of a picture, and 1 for the token that begins it."""
        vision, head = cast(Any, model.vision), cast(Any, model.heads[self.head])
        rows, columns = vision.grid((vision.image_size, vision.image_size))
        return 1 + int(rows * columns // head.cells)

    def guide(self, logits: Tensor) -> Tensor:
        """Returns logits under guidance; without it, those that are given.

        Args:
            logits: `[2 * n, K]`, with the questions and then without; `[n, K]` if there is no guidance.

        Returns:
            `[n, K]`.
        """
        if self.guidance == 1:
            return logits
        with_question, without = logits.chunk(2)
        return without + self.guidance * (with_question - without)

    def _fold(
        self, model: MultimodalModel, batch: PackedBatch, past: Past, visual: Tensor | None, draws: Draws, first: int
    ) -> Tensor:
        """Returns the ids of the next fold of each picture, `[S, cells]`."""
        ends = batch.layout.cu_seqlens[1:].long() - 1
        guided = self.guidance != 1
        segments = torch.arange(len(ends) // (2 if guided else 1), device=ends.device)

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            head, cache, hidden = cast(Any, heads[self.head]), KVCache(), state.hidden[ends]
            found: list[Tensor] = []
            for cell in range(head.cells):
                last = found[-1].repeat(2 if guided else 1) if found else None
                logits = self.guide(head.next_logits(hidden, last, cell, cache).float())
                found.append(self._pick(logits, draws, first + cell, segments))
            return torch.stack(found, 1)

        ids: Tensor = model(batch, Runtime(cache=past.cache, visual_tokens=visual), read)
        past.advance(model, batch)
        return ids

    def _pick(self, logits: Tensor, draws: Draws, step: int, segments: Tensor) -> Tensor:
        if not bool(logits.isfinite().all()):
            raise NonFiniteError(
                f"the logits of pictures are NaN or infinite at id {step + 1}: the model's weights are damaged, or its"
                " activations exceed the range of its dtype"
            )
        if self.temperature == 0:
            return logits.argmax(-1)
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        return draws.pick(logits, step, segments)

    def _embedded(self, model: MultimodalModel, ids: Tensor, origin: tuple[int, int], guided: bool) -> Tensor:
        """Returns the visual tokens of a fold of each picture, `[S, d]`, twice with guidance."""
        vision, head = cast(Any, model.vision), cast(Any, model.heads[self.head])
        features = vision.cells(ids.unflatten(1, (head.rows, head.columns)), origin=origin)
        for part in (model.fuser, model.merger):
            features = features if part is None else part(features)
        tokens = model.project(features)
        return tokens.repeat(2, 1) if guided else tokens

    def _check_trained(self, model: MultimodalModel) -> None:
        learned = cast(Any, model.embedder).unconditional.detach()
        local = learned.to_local() if hasattr(learned, "to_local") else learned
        if local.numel() and not bool(local.any()):
            raise WiringError(
                f"{type(self).__name__} has guidance {self.guidance:g} and the model has seen 0 prompts that were left"
                " out: train with CaptionedPicture's dropout, or use guidance 1"
            )

    def _start_id(self, context: Context) -> int:
        if self.start_id is not None:
            return self.start_id
        found = None if context.tokenizer is None else codec(context.tokenizer).ids.get(IMAGE_START)
        if found is None:
            raise WiringError(f"{type(self).__name__} needs a tokenizer with {IMAGE_START}, or start_id")
        return found

    def _pictures(self, pixels: Tensor) -> list[Image.Image]:
        return to_images(from_normalized(pixels, self.normalization))
