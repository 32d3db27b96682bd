"""Decoded text of a segment, split into control tokens, images, targets and other text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.special_tokens import codec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """Tokens that are shown in the same way.

    Attributes:
        kind: text; control, one token of the template; image, all visual tokens of an image; or other, tokens of
            another type, such as actions.
        text: The decoded text; of an image, its number within the sample; of other tokens, the name of their type.
        supervised: Whether the tokens are targets.
        tokens: Number of tokens.
    """

    kind: Literal["text", "control", "image", "other"]
    text: str
    supervised: bool
    tokens: int


def cut_text(
    segment: RenderedSample,
    tokenizer: PreTrainedTokenizerBase,
    begin: int = 0,
    end: int | None = None,
    images: Sequence[int] | None = None,
) -> list[Piece]:
    """Splits a segment, or a part of one, into pieces.

    Args:
        segment: Rendered segment, such as a conversation.
        tokenizer: Tokenizer that it was rendered with.
        begin: First token of the part.
        end: Token after the part; None: the end of the segment.
        images: Index in the sample of each image of the segment; None: the same.
    """
    names = {number: token for token, number in codec(tokenizer).ids.items()}
    spans = {span.start: span for span in segment.spans if span.count}
    ids, labels = segment.input_ids, segment.labels
    pieces, place, last = list[Piece](), begin, len(ids) if end is None else end
    while place < last:
        if (span := spans.get(place)) is not None:
            number = span.image if images is None or span.image < 0 else images[span.image]
            name = span.type.name.lower() if number < 0 else str(number + 1)
            pieces.append(Piece("image" if span.image >= 0 else "other", name, False, span.count))
            place += span.count
            continue
        supervised, token = labels[place] != IGNORE, ids[place]
        if token in names:
            pieces.append(Piece("control", names[token], supervised, 1))
            place += 1
            continue
        stop = place
        while stop < last and ids[stop] not in names and (labels[stop] != IGNORE) == supervised and stop not in spans:
            stop += 1
        # Supervised tokens are shown as their labels, from which the inputs of critic samples differ, see `Verdicts`.
        shown = (labels if supervised else ids)[place:stop]
        pieces.append(Piece("text", _decode(shown, tokenizer), supervised, stop - place))
        place = stop
    return pieces


def _decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
