"""The text of a segment as its token ids decode, cut where something is to be seen: control tokens, images, targets.

Texts of data are hostile: what would change the direction of other text, or act on a terminal, is made visible.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat import RenderedChat
from mmcomponents.data.control_text import codec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HARMLESS = "\n\t\u200c\u200d"
"""Line breaks, and the joiners that Persian script and emoji need."""
_ODD = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


@dataclass(frozen=True)
class Piece:
    """Tokens that are shown alike.

    Attributes:
        kind: text; control, one token of the template; rows, all `<IMG_CONTEXT>` of an image.
        text: As decoded; of rows, the number of the image within the sample.
        supervised: Whether the tokens are targets.
        tokens: How many they are.
    """

    kind: Literal["text", "control", "rows"]
    text: str
    supervised: bool
    tokens: int


def cut_text(
    chat: RenderedChat, tokenizer: PreTrainedTokenizerBase, begin: int = 0, end: int | None = None
) -> list[Piece]:
    """Cuts a segment, or a part of one, into pieces.

    Args:
        chat: The segment.
        tokenizer: That it was rendered with.
        begin: First token of the part.
        end: Token behind the part; None: the end of the segment.
    """
    names = {number: token for token, number in codec(tokenizer).ids.items()}
    images = {start: (image, count) for image, (start, count) in enumerate(chat.image_spans)}
    pieces, place, last = list[Piece](), begin, len(chat.input_ids) if end is None else end
    while place < last:
        if place in images:
            image, count = images[place]
            pieces.append(Piece("rows", str(image + 1), False, count))
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
        # What is to be learnt is shown: only in a critic sample does something else stand there, see `Verdicts`.
        shown = (chat.labels if supervised else chat.input_ids)[place:stop]
        pieces.append(Piece("text", _decode(shown, tokenizer), supervised, stop - place))
        place = stop
    return pieces


def _decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def odd_marks(text: str) -> Iterator[tuple[str, str]]:
    """Cuts a text at characters that cannot be seen or that act on what stands around them.

    Yields:
        (text, "") for harmless text, and ("U+202E", "RIGHT-TO-LEFT OVERRIDE") for each other character.
    """
    for odd, found in groupby(text, lambda letter: unicodedata.category(letter) in _ODD and letter not in _HARMLESS):
        letters = "".join(found)
        if not odd:
            yield letters, ""
            continue
        for letter in letters:
            yield f"U+{ord(letter):04X}", unicodedata.name(letter, "control character")


def plain(text: str) -> str:
    """A text in one line that does nothing to a terminal: what cannot be seen is spelled out."""
    marked = (f"<{part}>" if name else part for part, name in odd_marks(text))
    return " ".join("".join(marked).split())
