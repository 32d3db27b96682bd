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
_SPACE = re.compile(r"[\s,]*")
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
        DataError: The file is not a JSON list in UTF-8.
    """
    decoder, scan = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder()
    with open_regular(path) as file:
        if begin == 0:
            begin = file.read(_HEAD).index(b"[") + 1
        file.seek(begin)
        text, place, ended = "", begin, False
        while True:
            spaces = _SPACE.match(text)
            start = spaces.end() if spaces else 0
            if text.startswith("]", start):
                return
            fault: Exception | None = None
            try:
                _, end = scan.raw_decode(text, start)
            except (json.JSONDecodeError, RecursionError) as error:
                fault = error
            # A number may go on after the text that is read so far.
            if fault is None and (text[end : end + 1] in _AFTER if end < len(text) else ended):
                place += len(text[:end].encode())
                yield text[start:end], place
                text = text[end:]
                continue
            if ended or len(text) > _MOST:
                raise DataError(f"{path} is not a JSON list: {fault} after byte {place}")
            data = file.read(max(_BLOCK, len(text)))
            ended = not data
            try:
                text += decoder.decode(data, final=ended)
            except UnicodeDecodeError as error:
                raise DataError(f"{path} is not JSON: invalid UTF-8 after byte {place + error.start}") from None
