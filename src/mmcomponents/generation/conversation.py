"""Multi-turn conversation that reuses the key-value cache across turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.placeholders import Message, place_media
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import codec
from mmcomponents.data.chat.template import RenderedChat
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.frames import FrameSampling
from mmcomponents.data.media.images import TiledImage
from mmcomponents.generation.base import Sampler, check_tokens
from mmcomponents.generation.generate_text import decode, stop_texts, text_sampler
from mmcomponents.generation.inputs import (
    FRAMES,
    Pictures,
    Videos,
    check_length,
    load_pictures,
    load_videos,
    make_renderer,
)
from mmcomponents.generation.past import Past
from mmcomponents.generation.prompt_answers import seeded
from mmcomponents.generation.text_stream import TextStream
from mmcomponents.model import MultimodalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_Placed = tuple[tuple[int, int], TiledImage]
"""Index of an image's first token and number of its tokens, with the image."""


class Conversation:
    """Conversation that keeps the key-value cache between turns, so that each turn prefills only its new tokens.

    Generated tokens are kept as they are and not tokenised again. Each image has the whole tile budget, unless the
    renderer's tiling shares it, among the images of a turn. If the base of the positions depends on the length (dynamic
    NTK) and would change, the complete conversation is prefilled again. Arguments that are not listed are those of
    `generate`.

    Args:
        model: Model with a backbone that has a cache.
        tokenizer: Has the tokens of the chat template.
        seed: Seed of the draws of the complete conversation. None: torch's global generator.
        max_length: Maximum number of tokens of the complete conversation. None: the limit of the model's positions.

    Attributes:
        messages: All turns so far, with `<image>` for each image and frame.
    """

    def __init__(
        self,
        model: MultimodalModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        renderer: SampleRenderer | None = None,
        sampler: Sampler | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        max_length: int | None = None,
        frames: FrameSampling = FRAMES,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.renderer = renderer or make_renderer(model, tokenizer)
        chosen = text_sampler(sampler, max_new_tokens, temperature, top_p, top_k)
        self.sampler = check_tokens(chosen, "a conversation")
        self.stops = stop_texts(stop)
        self.seed = seed
        self.max_length = max_length
        self.frames = frames
        self._answering: Iterator[str] | None = None
        self.reset()

    def reset(self) -> None:
        """Removes all turns and restarts the random generator."""
        self._close()
        self.messages: list[Message] = []
        self._generator = seeded(self.model, self.seed)
        self._forget()
        self._ids: list[int] = []  # all tokens so far; the cache holds a prefix of them
        self._images: list[_Placed] = []

    def say(self, text: str, images: Pictures = None, *, videos: Videos = None) -> Iterator[str]:
        """Streams the answer to the next user turn.

        If the answer is abandoned (the iterator is closed or no longer advanced), the text generated so far stays in
        the conversation. The next turn, or `reset`, ends an unfinished answer. An error leaves the conversation
        unchanged.

        Args:
            text: The user's message; `<image>` and `<video>` as in `generate`.
            images: The image or the images of this turn.
            videos: The video or the videos of this turn.

        Returns:
            Pieces of text. The model runs when the next piece is requested.

        Raises:
            ConversationError: The number of images is wrong.
            ImageError: An image cannot be read.
            VideoError: A video cannot be read.
            ValueError: The conversation is too long.
        """
        self._close()
        tiled_videos = [self.renderer.tile_frames(video) for video in load_videos(videos, self.frames)]
        tiled_images = self.renderer.tile(load_pictures(images))
        message: Message = {"role": "user", "content": text}
        (message,), tiles = place_media([message], tiled_images, tiled_videos, self.renderer.frame_template)
        if self.renderer.control_text == "refuse":  # checked alone, so that the error counts only the user's messages
            codec(self.tokenizer).refuse([("user", message["content"])])
        ids, spans = self._turn(message, tiles)
        check_length(self.model, [len(self._ids) + len(ids)], self.sampler.max_new_tokens, self.max_length)
        placed = [((start + len(self._ids), count), tile) for (start, count), tile in zip(spans, tiles, strict=True)]
        answering = self._answer(message, self._ids + ids, self._images + placed)
        self._answering = answering
        return answering

    def _turn(self, message: Message, tiles: list[TiledImage]) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the next token ids: end of the last answer, user turn, start of the assistant's turn."""
        if not self.messages:
            chat = self.renderer.prompt([message], tiles)
            return chat.input_ids, chat.image_spans
        # Every turn is tokenised separately, so the tokens after an empty answer are those after any answer.
        empty: Message = {"role": "user", "content": ""}
        before = len(self.renderer.prompt([empty], []).input_ids)
        chat = self.renderer.prompt([empty, {"role": "assistant", "content": ""}, message], tiles)
        return chat.input_ids[before:], [(start - before, count) for start, count in chat.image_spans]

    def _answer(self, message: Message, ids: list[int], images: list[_Placed]) -> Iterator[str]:
        position = self.model.position
        if position is not None and self._read and not position.keeps_base(self._read, len(ids)):
            self._forget()
        cached, last_ticks = self._cached, self._past.last_ticks
        new = [(start - cached, count, tile) for (start, count), tile in images if start >= cached]
        chat = RenderedChat(ids[cached:], [IGNORE] * (len(ids) - cached), [(start, count) for start, count, _ in new])
        sample = RenderedSample.of_chat(chat, [tile for _, _, tile in new])
        batch = collate([sample], self.renderer.tokens_per_tile, self.renderer.pad_id).to(self.model.device)
        text = TextStream(self.tokenizer, self.stops)
        ticks: list[Tensor | None] = []  # last position after the prompt, after the first cached token, …
        try:
            for (piece,) in decode(self.model, batch, self.sampler, [text], self._generator, self._past):
                if self._cached == len(ids) + len(ticks):
                    ticks.append(self._past.last_ticks)
                if piece:
                    yield piece
        finally:
            if ticks:
                text.finish()
                self._append(message, ids, images, text, ticks)
            else:  # stopped before the prefill of the turn
                self._past.cache.lengths, self._past.last_ticks = [cached] * bool(cached), last_ticks

    def _append(
        self,
        message: Message,
        ids: list[int],
        images: list[_Placed],
        text: TextStream,
        ticks: list[Tensor | None],
    ) -> None:
        """Appends a turn and its answer to the conversation and removes cut-off tokens from the cache."""
        kept, rest = _tokens_of(text)
        read = min(self._cached - len(ids), kept, len(ticks) - 1)
        if self._past.cache.has_inner and self._cached > len(ids) + read:
            self._forget()  # the whole conversation is read again in the next turn
        else:
            self._past.cache.lengths = [len(ids) + read]
            self._past.last_ticks = ticks[read]
            self._read = len(ids)
        self._ids = ids + text.ids[:kept] + rest
        self._images = images
        self.messages = [*self.messages, message, {"role": "assistant", "content": text.text}]

    @property
    def _cached(self) -> int:
        return sum(self._past.cache.lengths)

    def _forget(self) -> None:
        self._past = Past()
        self._read = 0  # number of tokens at the last prefill, which determines a length-dependent base

    def _close(self) -> None:
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.close()  # type: ignore[attr-defined]


def _tokens_of(text: TextStream) -> tuple[int, list[int]]:
    """Returns the number of tokens of an answer's text, and the tokens of the remainder if a stop text splits one."""
    if not text.ended:
        return len(text.ids), []
    kept = len(text.ids)
    while kept and not text.text.startswith(text.tokenizer.decode(text.ids[:kept])):
        kept -= 1
    rest = text.text[len(text.tokenizer.decode(text.ids[:kept])) :]
    # Encoded as plain text: a control token that the model spelled in letters must not become that token.
    pieces = codec(text.tokenizer).pieces(rest)
    return kept, [token for piece in pieces for token in text.tokenizer.encode(piece, add_special_tokens=False)]
