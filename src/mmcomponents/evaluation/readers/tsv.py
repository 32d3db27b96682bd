"""Reader of questions in VLMEvalKit's TSV format, with images as base64 or as paths.

Columns are index, question, answer, and image or image_path; hint, options A to Z, category and split are optional. An
image or a path may be a list, `['…', '…']`; a short image value is the index of the row that contains the image.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from mmcomponents.data.convert.media_files import MediaFile, MediaRoot, image_file
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.evaluation.metrics.multiple_choice import LETTERS
from mmcomponents.evaluation.readers.question_rows import Shown, check_columns, references_of, shown, user_turn
from mmcomponents.synthesis.questions import Item, Target

_LONGEST_INDEX = 64
"""Maximum length of an image value that is the index of another row."""

_LONGEST_CELL = 1 << 30

_REQUIRED = (("index",), ("image", "image_path"))

Row = Mapping[str, str]


class _Lines:
    """Iterator over the lines of a file; `place` is the byte offset of the next line."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.place = file.tell()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        text = line.decode("utf-8-sig" if self.place == 0 else "utf-8")
        self.place += len(line)
        return text


@contextmanager
def _long_cells() -> Iterator[None]:
    """Raises the limit of the csv module for the length of cells, which is global, and restores it."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


class _Table:
    """Rows of a file; images are read on demand.

    Attributes:
        places: Byte offset of the row of each index.
    """

    def __init__(self, path: Path, root: MediaRoot) -> None:
        self.path, self.root = path, root
        self.columns: list[str] = []
        self.places: dict[str, int] = {}

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields (byte offset, cells) of each row after the header."""
        with self.path.open("rb") as file, _long_cells():
            lines = _Lines(file)
            reader = csv.reader(lines, delimiter="\t")
            try:
                self.columns = [name.strip() for name in next(reader, [])]
                place = lines.place
                for cells in reader:
                    if cells:
                        yield place, cells
                    place = lines.place
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"{self.path} is not a valid TSV file: line {reader.line_num + 1}: {error}") from error

    def row(self, index: str) -> Row:
        """Reads the row of an index from the file."""
        with self.path.open("rb") as file, _long_cells():
            file.seek(self.places[index])
            return self.named(next(csv.reader(_Lines(file), delimiter="\t")))

    def named(self, cells: Sequence[str]) -> Row:
        """Returns the cells of a row by column name.

        Raises:
            SampleError: The number of cells differs from the number of columns.
        """
        if len(cells) != len(self.columns):
            raise SampleError(f"{len(cells)} cells, {len(self.columns)} columns")
        return dict(zip(self.columns, cells, strict=True))

    def images(self, index: str) -> list[tuple[str, bytes]]:
        """Reads suffix and bytes of each image of a row that contains its images.

        Raises:
            SampleError: An image is missing, broken or not valid base64.
        """
        row = self.row(index)
        files: Iterator[MediaFile]
        if cell := row.get("image", ""):
            files = (image_file(_decoded(text), f"the image of row {index!r}") for text in text_list(cell))
        else:
            files = map(self.root.image, text_list(row["image_path"]))
        return [(file.suffix, file.data) for file in files]

    def owner(self, index: str, row: Row) -> tuple[str, int]:
        """Returns the index of the row that contains a row's images, usually its own, and their number.

        Raises:
            SampleError: The row has no image, or refers to a missing row or a row without an image.
        """
        cell = row.get("image", "")
        if _is_index(cell):
            if cell not in self.places:
                raise SampleError(f"its image refers to row {cell!r}, which does not exist")
            index, cell = cell, self.row(cell).get("image", "")
            if not cell or _is_index(cell):
                raise SampleError(f"its image refers to row {index!r}, which has no image")
        elif cell.startswith("["):  # `read_tsv` keeps only the start of a list
            cell = self.row(index).get("image", "")
        names = cell or row.get("image_path", "")
        if not names.strip():
            raise SampleError("the row has no image")
        return index, len(text_list(names))


def read_tsv(path: Path, root: MediaRoot, answers: bool = True, split: str = "") -> Iterator[Item | str]:
    """Reads the questions of a TSV file in the format described above; the arguments are those of `read_jsonl`.

    Yields:
        Each question, or "FILE row NUMBER: reason" or "FILE index INDEX: reason" for a row that cannot be used.

    Raises:
        DataError: The file is not a valid TSV file, or lacks a column.
    """
    table, kept = _Table(path, root), []
    for number, (place, cells) in enumerate(table.rows(), 1):
        if number == 1:
            check_columns(path, table.columns, answers, split, *_REQUIRED)
        try:
            row = table.named(cells)
            index = row["index"].strip()
            if not index or index in table.places:
                raise SampleError(f"duplicate index {index!r}" if index else "empty index")
            table.places[index] = place
            if not split or row["split"] == split:
                # images are cut: they make up most of the file
                kept.append((index, {**row, "image": row.get("image", "")[: _LONGEST_INDEX + 1]}))
        except SampleError as error:
            yield f"{path.name} row {number}: {error}"
    if not table.columns:
        raise DataError(f"{path} is empty")
    check_columns(path, table.columns, answers, split, *_REQUIRED)
    media: dict[str, Shown] = {}
    for index, row in kept:
        try:
            yield _item(table, index, row, answers, media)
        except SampleError as error:
            yield f"{path.name} index {index}: {error}"


def _item(table: _Table, index: str, row: Row, answers: bool, media: dict[str, Shown]) -> Item:
    owner, count = table.owner(index, row)
    if owner not in media:  # rows with the same image share it
        media[owner] = shown(partial(table.images, owner), count)
    files, load = media[owner]
    messages = user_turn(row["question"], _cell(row, "hint"), count)
    options = {letter: _cell(row, letter) for letter in LETTERS if _cell(row, letter)}
    target = Target(references_of(text_list(row["answer"])) if answers else (), options)
    return Item(index, messages, target, _cell(row, "category"), load, files)


def text_list(text: str) -> list[str]:
    """Returns the texts of a cell that is a list, `['a', 'b']`, else the cell itself."""
    stripped = text.strip()
    if stripped.startswith("[") and stripped.endswith("]"):
        try:
            found = ast.literal_eval(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [text]
        if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
            return found
    return [text]


def _is_index(cell: str) -> bool:
    return 0 < len(cell) <= _LONGEST_INDEX and not cell.startswith("[")


def _cell(row: Row, name: str) -> str:
    """Returns an optional cell, "" if it is missing or "nan", as pandas writes missing values."""
    text = row.get(name, "").strip()
    return "" if text.lower() == "nan" else text


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.partition("base64,")[2] or text)
    except (binascii.Error, ValueError) as error:
        raise SampleError(f"the image is not valid base64: {error}") from error
