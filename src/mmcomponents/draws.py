"""Random draws that depend on names and numbers only: equal on any number of ranks and after a resumption."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed(*words: object) -> np.random.Generator:
    """Returns a random generator that depends only on the words, on every machine and with every version of numpy.

    Args:
        words: Numbers and texts, such as the seed of the run, the number of the sample and the name of the draw.

    Raises:
        TypeError: A word is neither a number nor a text.
    """
    digest = hashlib.sha256("\0".join(map(_spelled, words)).encode("utf-8", "surrogatepass")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _spelled(word: object) -> str:
    if isinstance(word, np.generic):
        word = word.item()  # its representation differs between versions of numpy
    if word is not None and not isinstance(word, bool | int | float | str):
        raise TypeError(f"a draw is keyed by numbers and texts, got {type(word).__name__}")
    return repr(word)
