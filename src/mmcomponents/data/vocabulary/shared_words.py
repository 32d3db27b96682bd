"""Words that several tokenizers have as single tokens (LangBridge, arXiv 2503.19404)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from mmcomponents.data.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 1000
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_BROKEN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Word:
    """A word that all tokenizers have.

    Attributes:
        text: The word, with the space before it if it begins one.
        count: How often the texts have its token, summed over the tokenizers.
        ids: Its token id in each tokenizer.
    """

    text: str
    count: int
    ids: tuple[int, ...]


def word_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Returns the text of each token, with its id: what it adds to a text that ends before it.

    Added tokens, tokens that are no whole characters, and those of single bytes (`<0x41>`), which no text with the
    character has, are left out; of two tokens of one text, the first is taken.
    """
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
    begin, added = tokenizer.decode(anchor), tokenizer.added_tokens_decoder
    tokens = tokenizer.get_vocab().items()
    numbers = sorted({number for token, number in tokens if number not in added and not _BYTE.fullmatch(token)})
    texts = tokenizer.batch_decode([[*anchor, number] for number in numbers], clean_up_tokenization_spaces=False)
    found: dict[str, int] = {}
    for number, text in zip(numbers, texts, strict=True):
        word = text.removeprefix(begin)
        if word and _BROKEN not in word and text.startswith(begin):
            found.setdefault(word, number)
    return found


def shared_words(
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
    texts: Iterable[str],
    size: int,
    progress: Callable[[int], None] | None = None,
) -> list[Word]:
    """Returns the most frequent words that all tokenizers share.

    The paper orders them by their number in image captions. Words of equal numbers keep the order of the first
    tokenizer, whose ids are ordered by frequency in its own training.

    Args:
        tokenizers: Tokenizers by name.
        texts: Texts whose tokens are counted.
        size: Number of words.
        progress: Called with the number of texts that were counted.

    Raises:
        DataError: The tokenizers share fewer words.
    """
    ids = {name: word_ids(tokenizer) for name, tokenizer in tokenizers.items()}
    first, *others = ids.values()
    words = [word for word in first if all(word in other for other in others)]
    if len(words) < size:
        raise DataError(f"{len(words):,} words are in {' and in '.join(tokenizers)}, and {size:,} are asked for")
    counts = {name: Counter[int]() for name in tokenizers}
    done = 0
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH)):
        for name, tokenizer in tokenizers.items():
            for tokens in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                counts[name].update(tokens)
        done += len(batch)
        if progress is not None:
            progress(done)
    found = [Word(word, sum(counts[n][ids[n][word]] for n in ids), tuple(ids[n][word] for n in ids)) for word in words]
    return sorted(found, key=lambda word: (-word.count, word.ids[0]))[:size]
