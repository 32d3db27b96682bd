"""What the rows of a TSV and of a JSONL file have in common."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from PIL import Image

from mmcomponents.data import ImageSource, load_image
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.inference.evaluation.benchmarks import Item, with_images
from mmcomponents.inference.evaluation.metrics import Target
from mmcomponents.inference.rollouts import Media


def check_columns(path: Path, there: Collection[str], wanted: Sequence[tuple[str, ...]]) -> None:
    """Refuses a file that lacks a column.

    Args:
        path: The file.
        there: Its columns.
        wanted: For each that is needed, the names that it may have.

    Raises:
        DataError: None of the names is there.
    """
    for names in wanted:
        if not any(name in there for name in names):
            shown = ", ".join(there) if there else "none"
            meant = difflib.get_close_matches(names[0], list(there), n=1, cutoff=0.5)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            wanted_name = " or ".join(repr(name) for name in names)
            raise DataError(f"{path} has no column {wanted_name}{hint}; its columns are: {shown}")


def text_list(text: str) -> list[str]:
    """Several texts in one cell, `['a', 'b']`, or the cell itself."""
    stripped = text.strip()
    if stripped.startswith("[") and stripped.endswith("]"):
        try:
            found = ast.literal_eval(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [text]
        if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
            return found
    return [text]


def make_item(
    key: str,
    question: str,
    answers: Sequence[str],
    options: Mapping[str, str],
    category: str,
    count: int,
    media: Media | None,
) -> Item:
    """Puts a question together.

    Args:
        key: Of the row.
        question: With a hint in front, if there is one.
        answers: What is right.
        options: Letters and texts.
        category: Of the row.
        count: Number of images.
        media: Loads them.

    Raises:
        SampleError: The question or the answer is empty.
    """
    if not question.strip():
        raise SampleError("the question is empty")
    references = tuple(answer for answer in answers if answer.strip())
    if not references:
        raise SampleError("the answer is empty")
    content = with_images(question, count)
    return Item(key, [{"role": "user", "content": content}], Target(references, dict(options)), category, media)


def loader(sources: Callable[[], Sequence[ImageSource]]) -> Media:
    """What a question's images come from, when its turn comes."""

    def load() -> tuple[list[Image.Image], list[list[Image.Image]]]:
        return [load_image(source) for source in sources()], []

    return load


def image_file(root: Path, name: str) -> Path:
    """The file of an image.

    Raises:
        SampleError: It is not there.
    """
    path = root / name
    if not path.is_file():
        raise SampleError(f"there is no image file {path}")
    return path
