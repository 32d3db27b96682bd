"""Decoded text of a segment, split into control tokens, images, targets and other text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.special_tokens import codec
from mmcomponents.data.chat.template import RenderedChat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """Tokens that are shown in the same way.

    Attributes:
        kind: text; control, one token of the template; or image, all `<IMG_CONTEXT>` of an image.
        text: The decoded text; of an image, its number within the sample.
        supervised: Whether the tokens are targets.
        tokens: Number of tokens.
    """

    kind: Literal["text", "control", "image"]
    text: str
    supervised: bool
    tokens: int


def cut_text(
    chat: RenderedChat, tokenizer: PreTrainedTokenizerBase, begin: int = 0, end: int | None = None
) -> list[Piece]:
    """Splits a segment, or a part of one, into pieces.

    Args:
        chat: The segment.
        tokenizer: Tokenizer that it was rendered with.
        begin: First token of the part.
        end: Token after the part; None: the end of the segment.
    """
    names = {number: token for token, number in codec(tokenizer).ids.items()}
    images = {start: (image, count) for image, (start, count) in enumerate(chat.image_spans)}
    pieces, place, last = list[Piece](), begin, len(chat.input_ids) if end is None else end
    while place < last:
        if place in images:
            image, count = images[place]
            pieces.append(Piece("image", str(image + 1), False, count))
            place += count
            continue
        supervised, number = chat.labels[place] != IGNORE, chat.input_ids[place]
        if number in names:
            pieces.append(Piece("control", names[number], supervised, 1))
            place += 1
            continue
        stop = place
        while stop < last and chat.input_ids[stop] not in names and (chat.labels[stop] != IGNORE) == supervised:
            stop += 1
        # Supervised tokens are shown as their labels, from which the inputs of critic samples differ, see `Verdicts`.
        shown = (chat.labels if supervised else chat.input_ids)[place:stop]
        pieces.append(Piece("text", _decode(shown, tokenizer), supervised, stop - place))
        place = stop
    return pieces


def _decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
