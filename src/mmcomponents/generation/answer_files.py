"""Answers as rows of a JSON Lines file, with pictures beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mmcomponents.component import NonFiniteError, WiringError

_LONGEST = 100
"""Maximum number of characters of a key in a file name."""

_NAMED = 8
"""Maximum number of keys in an error."""


class PictureFolder:
    """Writes pictures as PNG files, under names that differ on all ranks and lead nowhere else.

    Args:
        root: Folder of the run.
        name: Name of the folder below it, which is created for the first picture.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name

    def clear(self) -> None:
        """Removes the pictures that an earlier run has written there; other files stay."""
        for file in (self.root / self.name).glob("*.png"):
            if re.search(r"-\d+-\d+\.png$", file.name):
                file.unlink(missing_ok=True)
                file.with_suffix(".txt").unlink(missing_ok=True)

    def save(self, picture: Image, key: str, batch: int, row: int, reasoning: str | None = None) -> str:
        """Writes a picture, and beside it the text that was written before it, as `NAME.txt`.

        Args:
            picture: Picture to be written as PNG.
            key: Key of its question, part of the file name as far as its characters are harmless.
            batch: Number of the batch over all ranks.
            row: Number of the question in its batch.
            reasoning: The text; None without one.

        Returns:
            The path of the file, relative to the root.
        """
        harmless = re.sub(r"[^A-Za-z0-9_-]+", "_", key)[:_LONGEST].strip("_") or "answer"
        path = f"{self.name}/{harmless}-{batch}-{row}.png"
        (self.root / self.name).mkdir(parents=True, exist_ok=True)
        save_picture(self.root / path, picture, reasoning)
        return path


def save_picture(path: Path, picture: Image, reasoning: str | None) -> None:
    """Writes a picture, and beside it the text that was written before it, if there is one."""
    picture.save(path)
    if reasoning is not None:
        path.with_suffix(".txt").write_text(f"{reasoning}\n", encoding="utf-8")


class Rows:
    """Rows of a JSON Lines file, as the lines of this rank.

    Attributes:
        lines: One JSON object each, without a line break.
        refused: Keys of rows with NaN or infinity, which JSON does not have.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.refused: list[str] = []

    def add(self, row: Any) -> None:
        """Adds a row.

        Raises:
            WiringError: JSON cannot hold a value of the row.
        """
        try:
            self.lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
        except ValueError:
            self.refused.append(str(row.get("key", "")) if isinstance(row, dict) else "")
        except TypeError as error:
            raise WiringError(f"a row of the answers is not written: {error}") from error


def check_finite(refused: Sequence[str], file: str) -> None:
    """Checks that all rows could be written.

    Args:
        refused: Keys of rows with NaN or infinity, of all ranks.
        file: Name of the file.

    Raises:
        NonFiniteError: There are such rows.
    """
    if refused:
        names = ", ".join(sorted(set(refused))[:_NAMED])
        more = f" and {len(set(refused)) - _NAMED} more" if len(set(refused)) > _NAMED else ""
        raise NonFiniteError(
            f"values for {names}{more} are NaN or infinite, which JSON does not have: {file} is not written"
        )
