"""Elements of a file that is one JSON list, such as LLaVA's and LLaMA-Factory's, read without holding all of it."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.regular_file import open_regular

_HEAD, _BLOCK = 1024, 2**20
_SPACE = re.compile(r"[ \t\r\n]*")
_AFTER = frozenset(", ]\t\r\n")
"""Characters after an element."""
_MOST = 2**28
"""Most characters of an element."""


def is_list(path: Path) -> bool:
    """Whether a file begins like a JSON list."""
    with open_regular(path) as file:
        return file.read(_HEAD).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def read_elements(path: Path, begin: int = 0) -> Iterator[tuple[str, int]]:
    """Yields the JSON text of each element, with the byte after it.

    Args:
        path: The file.
        begin: Byte at which to begin: 0, or the byte after an element.

    Raises:
        DataError: The file is not a single JSON list in UTF-8.
    """
    decoder, scan = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder()
    with open_regular(path) as file:
        is_first = begin == 0
        if is_first:
            begin = file.read(_HEAD).index(b"[") + 1
        file.seek(begin)
        text, at, place, ended = "", 0, begin, False  # `at`: character of `text` at the byte `place`
        while True:
            start = _end(_SPACE, text, at)
            is_last = text.startswith("]", start)
            if is_last and (ended or _end(_SPACE, text, start + 1) < len(text)):
                if text[start + 1 :].strip():
                    raise DataError(f"{path} goes on after its JSON list, at byte {_byte(place, text, at, start + 1)}")
                return
            if not is_first and not is_last:  # a comma
                fault = start < len(text) and text[start] != ","
                start = _end(_SPACE, text, start + 1)
                if fault:
                    raise DataError(f"{path} is not a JSON list: no comma at byte {_byte(place, text, at, start - 1)}")
            reason = "it ends within"
            if not is_last and start < len(text):
                try:
                    _, end = scan.raw_decode(text, start)
                    # A number may go on after the text that is read so far.
                    if text[end : end + 1] in _AFTER if end < len(text) else ended:
                        place, at, is_first = _byte(place, text, at, end), end, False
                        yield text[start:end], place
                        continue
                except json.JSONDecodeError as error:
                    reason, start = error.msg, error.pos
                except RecursionError:
                    reason = "nested too deeply"
            if ended or len(text) - at > _MOST:
                raise DataError(f"{path} is not a JSON list: {reason} at byte {_byte(place, text, at, start)}")
            data = file.read(max(_BLOCK, len(text) - at))
            ended = not data
            try:
                text, at = text[at:] + decoder.decode(data, final=ended), 0
            except UnicodeDecodeError as error:
                raise DataError(f"{path} is not JSON: invalid UTF-8 after byte {place + error.start}") from None


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start


def _byte(place: int, text: str, at: int, end: int) -> int:
    """Returns the byte of a character, given that of another before it."""
    return place + len(text[at:end].encode())
