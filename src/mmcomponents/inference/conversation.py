r"""A conversation of several turns that reads nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mmcomponents.batch import IGNORE
from mmcomponents.data import RenderedChat, RenderedSample, SampleRenderer, TiledImage, collate, place_media
from mmcomponents.data.chat import Message
from mmcomponents.data.control_text import codec
from mmcomponents.data.frames import FrameSampling
from mmcomponents.inference.generate import decode, draws, stop_texts
from mmcomponents.inference.inputs import (
    FRAMES,
    Pictures,
    Videos,
    check_length,
    load_pictures,
    load_videos,
    make_renderer,
)
from mmcomponents.inference.past import Past
from mmcomponents.inference.sampler import Autoregressive
from mmcomponents.inference.text import TextStream
from mmcomponents.model import MultimodalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_Placed = tuple[tuple[int, int], TiledImage]
"""An image, with the index of its first token and their number."""


class Conversation:
    """Keeps the cache of keys and values over the turns: of a later turn only what is new is read.

    What the model wrote stays as the tokens that it wrote. The images of a turn share the budget of tiles among
    themselves, whatever came before. Where the base of the positions depends on the length (dynamic NTK) and would
    change, the conversation is read anew.

    Args:
        model: The model.
        tokenizer: Has the tokens of the chat template.
        renderer: Tiling, colours and system text; None: tiles of the encoder's size, InternVL's defaults otherwise.
        max_new_tokens: Tokens at most for an answer.
        temperature: 0 takes the likeliest token.
        top_p: Draws from the smallest set of tokens whose probabilities sum to this.
        top_k: Draws from the k likeliest tokens; 0: from all.
        stop: Further texts at which an answer ends; they are cut off.
        seed: Of the draws of the whole conversation; None: torch's global generator.
        max_length: Tokens at most of the whole conversation; None: as many as the model's positions are good for.
        frames: Which frames of a video file are looked at.

    Attributes:
        messages: All turns so far. Images and frames stand in them as `<image>`.
    """

    def __init__(
        self,
        model: MultimodalModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        renderer: SampleRenderer | None = None,
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
        self.sampler = Autoregressive(max_new_tokens, temperature, top_p, top_k)
        self.stops = stop_texts(stop)
        self.seed = seed
        self.max_length = max_length
        self.frames = frames
        self._answering: Iterator[str] | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets all turns; the draws begin anew, too."""
        self._close()
        self.messages: list[Message] = []
        self._generator = draws(self.model, self.seed)
        self._forget()
        self._ids: list[int] = []  # all tokens so far; the cache holds a begin of them
        self._images: list[
            tuple[tuple[int, int], TiledImage]
        ] = []  # each with the index of its tokens and their number

    def say(self, text: str, images: Pictures = None, *, videos: Videos = None) -> Iterator[str]:
        """Answers the next turn of the user, piece by piece.

        An answer that is given up half way (no more pieces are taken, or the iterator is closed) stays in the
        conversation as far as it went. The next turn, or `reset`, ends an answer that is still under way.

        Args:
            text: What the user says; `<image>` and `<video>` as in `generate`.
            images: The image or the images of this turn.
            videos: The video or the videos of this turn.

        Returns:
            Pieces of text; the model runs as they are taken.

        Raises:
            ConversationError: The number of images is wrong.
            ImageError: An image cannot be read.
            VideoError: A video cannot be read.
            ValueError: The conversation is too long. As after every error here, it is what it was before.
        """
        self._close()
        films = [self.renderer.tile_frames(film) for film in load_videos(videos, self.frames)]
        pictures = self.renderer.tile(load_pictures(images))
        said: Message = {"role": "user", "content": text}
        (said,), tiles = place_media([said], pictures, films, self.renderer.frame_template)
        if self.renderer.control_text == "refuse":  # alone, so that the message counts the user's own texts
            codec(self.tokenizer).refuse([("user", said["content"])])
        ids, spans = self._turn(said, tiles)
        check_length(self.model, [len(self._ids) + len(ids)], self.sampler.max_new_tokens, self.max_length)
        placed = [((start + len(self._ids), count), tile) for (start, count), tile in zip(spans, tiles, strict=True)]
        answering = self._answer(said, self._ids + ids, self._images + placed)
        self._answering = answering
        return answering

    def _turn(self, said: Message, tiles: list[TiledImage]) -> tuple[list[int], list[tuple[int, int]]]:
        """What the model reads next: the end of the last answer, the user's turn, and the begin of the assistant's."""
        if not self.messages:
            chat = self.renderer.prompt([said], tiles)
            return chat.input_ids, chat.image_spans
        # Every turn is tokenised by itself, so what stands behind an empty answer stands behind any.
        asked: Message = {"role": "user", "content": ""}
        before = len(self.renderer.prompt([asked], []).input_ids)
        chat = self.renderer.prompt([asked, {"role": "assistant", "content": ""}, said], tiles)
        return chat.input_ids[before:], [(start - before, count) for start, count in chat.image_spans]

    def _answer(self, said: Message, ids: list[int], images: list[_Placed]) -> Iterator[str]:
        position = self.model.position
        if position is not None and self._read and not position.keeps_base(self._read, len(ids)):
            self._forget()
        known, last_ticks = self._cached, self._past.last_ticks
        new = [(start - known, count, tile) for (start, count), tile in images if start >= known]
        chat = RenderedChat(ids[known:], [IGNORE] * (len(ids) - known), [(start, count) for start, count, _ in new])
        sample = RenderedSample(chat, [tile for _, _, tile in new])
        batch = collate([sample], self.renderer.tokens_per_tile, self.renderer.pad_id).to(self.model.device)
        text = TextStream(self.tokenizer, self.stops)
        marks: list[Tensor | None] = []  # last position after the prompt, after the first token that was read, …
        try:
            for (piece,) in decode(self.model, batch, self.sampler, [text], self._generator, self._past):
                if self._cached == len(ids) + len(marks):
                    marks.append(self._past.last_ticks)
                if piece:
                    yield piece
        finally:
            if marks:
                text.finish()
                self._settle(said, ids, images, text, marks)
            else:  # stopped before the model had read the turn
                self._past.cache.lengths, self._past.last_ticks = [known] * bool(known), last_ticks

    def _settle(
        self,
        said: Message,
        ids: list[int],
        images: list[_Placed],
        text: TextStream,
        marks: list[Tensor | None],
    ) -> None:
        """Takes a turn and its answer into the conversation, and out of the cache what was cut off."""
        kept, rest = _tokens_of(text)
        read = min(self._cached - len(ids), kept, len(marks) - 1)
        self._past.cache.lengths = [len(ids) + read]
        self._past.last_ticks = marks[read]
        self._read = len(ids)
        self._ids = ids + text.ids[:kept] + rest
        self._images = images
        self.messages = [*self.messages, said, {"role": "assistant", "content": text.text}]

    @property
    def _cached(self) -> int:
        return sum(self._past.cache.lengths)

    def _forget(self) -> None:
        self._past = Past()
        self._read = 0  # tokens at the last prefill, which a base that depends on the length was chosen by

    def _close(self) -> None:
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.close()  # type: ignore[attr-defined]


def _tokens_of(text: TextStream) -> tuple[int, list[int]]:
    """How many of an answer's tokens its text is made of, and the tokens of what is left where a stop cuts one."""
    if not text.ended:
        return len(text.ids), []
    kept = len(text.ids)
    while kept and not text.text.startswith(text.tokenizer.decode(text.ids[:kept])):
        kept -= 1
    rest = text.text[len(text.tokenizer.decode(text.ids[:kept])) :]
    # cut as every other text is: what was written letter by letter must not be read as a control token
    pieces = codec(text.tokenizer).pieces(rest)
    return kept, [token for piece in pieces for token in text.tokenizer.encode(piece, add_special_tokens=False)]
