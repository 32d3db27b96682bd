"""Checks of the files of a model folder before they are opened.

A folder from elsewhere may hold a link to a private file, a pipe that nobody writes to, or a file without end.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

MAX_TEXT = 64 * 2**20
"""Largest size of a file of text in bytes; the largest `tokenizer.json` of released models have 40 MB."""
MAX_DEPTH = 100
"""Largest depth of a JSON file."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Files of tokenizers of all kinds."""

HUB_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w./-]+))?")
"""Name of a model of the Hugging Face hub, `org/name` or `org/name@revision`."""

_CONFIGURATIONS = ("config.json", "generation_config.json", "adapter_config.json", "*processor_config.json")


class ModelFileError(ValueError):
    """Raised when a file of a model folder is not opened; the message is one line."""


def check_file(path: Path, root: Path | None = None) -> None:
    """Checks that a path is a regular file that lies in its folder, also after links are followed.

    The cache of the Hugging Face hub links `models--NAME/snapshots/REVISION/FILE` to `models--NAME/blobs/HASH`, which
    is accepted.

    Args:
        path: The file.
        root: The model folder; None: the folder of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ModelFileError: It is not a regular file, is larger than `MAX_TEXT`, or is a link that leaves the folder.
    """
    real = _regular(path)
    folder = (root or path.parent).resolve()
    blobs = [above / "blobs" for above in folder.parents if above.name.startswith("models--")]
    if not any(real.is_relative_to(allowed) for allowed in (folder, *blobs)):
        raise ModelFileError(f"{path} is a link to a file outside of the folder, which is not read: copy the file")
    if (size := real.stat().st_size) > MAX_TEXT:
        raise ModelFileError(f"{path} has {size:,} bytes, more than {MAX_TEXT:,}")


def check_weights_file(path: Path) -> None:
    """Checks that a path is a regular file, of any size. It may lie elsewhere, as weights on shared storage do.

    Raises:
        FileNotFoundError: There is no such file.
        ModelFileError: It is not a regular file.
    """
    _regular(path)


def _regular(path: Path) -> Path:
    """Returns the path of a regular file after links are followed."""
    try:
        found, real = path.stat(), path.resolve(strict=True)
    except FileNotFoundError:
        if path.is_symlink():
            raise ModelFileError(f"{path} is a link to a file that does not exist") from None
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links
        raise ModelFileError(f"{path} cannot be read: {error}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise ModelFileError(f"{path} is {kind}, not a file")
    return real


def check_model_files(folder: Path) -> None:
    """Checks all files of a folder that transformers may open, see `check_file`.

    Raises:
        ModelFileError: One of them is refused.
    """
    for pattern in (*TOKENIZER_FILES, *_CONFIGURATIONS, "*.safetensors.index.json"):
        for file in sorted(folder.glob(pattern)):
            check_file(file, folder)
    for file in sorted(folder.glob("*.safetensors")):
        check_weights_file(file)


def read_json_file(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        OSError: The file is missing or cannot be read.
        ModelFileError: It is refused, see `check_file`, is not JSON, or is nested too deeply.
    """
    check_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ModelFileError(f"{path} is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise ModelFileError(f"{path} is not JSON: {error}") from None
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ModelFileError(f"{path} is nested more than {MAX_DEPTH} deep")
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return value
