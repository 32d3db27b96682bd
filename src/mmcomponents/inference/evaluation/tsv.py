"""Benchmarks as VLMEvalKit keeps them: a table with tabs, images inside as base64 or beside as files.

Columns are index, question, answer, and image or image_path; hint, options A to Z, category and split may be there. An
image or a path may be a list, `['…', '…']`; an image of a few letters is the index of the row that has the image.
"""

from __future__ import annotations

import base64
import binascii
import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.inference.evaluation.benchmarks import Benchmark, Item
from mmcomponents.inference.evaluation.metrics.multiple_choice import LETTERS
from mmcomponents.inference.evaluation.rows import check_columns, image_file, loader, make_item, text_list
from mmcomponents.inference.rollouts import Media

_LONGEST_INDEX = 64
"""Letters up to which an image is the index of another row."""

_LONGEST_CELL = 1 << 30

Row = Mapping[str, str]


class _Lines:
    """Lines of a file, and where the next one begins."""

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
    """Lets cells be as long as images are: the csv module has one limit for all, which is set back."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


class _Table:
    """The rows of a file, whose images are read when they are asked for.

    Attributes:
        places: Where the row of each index begins.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root
        self.columns: list[str] = []
        self.places: dict[str, int] = {}

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(where it begins, cells) of each row but the first, which names the columns."""
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
                raise DataError(f"{self.path} is no table with tabs: line {reader.line_num + 1}: {error}") from error

    def row(self, index: str) -> Row:
        """Reads one row again."""
        with self.path.open("rb") as file, _long_cells():
            file.seek(self.places[index])
            return self.named(next(csv.reader(_Lines(file), delimiter="\t")))

    def named(self, cells: Sequence[str]) -> Row:
        """The cells of a row by their columns.

        Raises:
            SampleError: There are more or fewer cells than columns.
        """
        if len(cells) != len(self.columns):
            raise SampleError(f"{len(cells)} cells, {len(self.columns)} columns")
        return dict(zip(self.columns, cells, strict=True))

    def images(self, index: str) -> list[bytes | Path]:
        """The images of a row that has its own.

        Raises:
            SampleError: One is missing, or no base64.
        """
        row = self.row(index)
        if cell := row.get("image", ""):
            return [_decoded(text) for text in text_list(cell)]
        return [image_file(self.root, name) for name in text_list(row["image_path"])]

    def owner(self, index: str, row: Row) -> tuple[str, int]:
        """The row whose images a row shows, mostly itself, and their number.

        Raises:
            SampleError: It has no image, or is to have that of a row which has none either.
        """
        cell = row.get("image", "")
        if _is_index(cell):
            if cell not in self.places:
                raise SampleError(f"its image is that of row {cell!r}, and there is no such row")
            index, cell = cell, self.row(cell).get("image", "")
            if not cell or _is_index(cell):
                raise SampleError(f"its image is that of row {index!r}, which has none")
        elif cell.startswith("["):  # a list was cut when it was kept
            cell = self.row(index).get("image", "")
        names = cell or row.get("image_path", "")
        if not names.strip():
            raise SampleError("it has no image")
        return index, len(text_list(names))


def read_tsv(path: Path, root: Path, split: str = "") -> Benchmark:
    """Reads the questions of a TSV; see the top of this file.

    Args:
        path: The file.
        root: Folder that image paths start from.
        split: Rows whose split this is; "": all.

    Raises:
        DataError: It is no such table, or lacks a column.
    """
    table, found, kept = _Table(path, root), Benchmark(path.stem), []
    for number, (place, cells) in enumerate(table.rows(), 1):
        if number == 1:
            wanted = [("index",), ("question",), ("answer",), ("image", "image_path"), *([("split",)] if split else [])]
            check_columns(path, table.columns, wanted)
        try:
            row = table.named(cells)
            index = row["index"].strip()
            if not index or index in table.places:
                raise SampleError(f"its index {index!r} is {'that of another row' if index else 'empty'}")
            table.places[index] = place
            if not split or row["split"] == split:
                # without images and paths: they are what makes a file large
                kept.append((index, {**row, "image": row.get("image", "")[: _LONGEST_INDEX + 1]}))
        except SampleError as error:
            found.refused.append(f"{path.name} row {number}: {error}")
    if not table.columns:
        raise DataError(f"{path} is empty")
    if not table.places:
        check_columns(path, table.columns, [("index",), ("question",), ("answer",), ("image", "image_path")])
    media: dict[str, Media] = {}
    for index, row in kept:
        try:
            found.items.append(_item(table, index, row, media))
        except SampleError as error:
            found.refused.append(f"{path.name} index {index}: {error}")
    return found


def _item(table: _Table, index: str, row: Row, media: dict[str, Media]) -> Item:
    owner, count = table.owner(index, row)
    if owner not in media:  # rows that show the same image share it
        media[owner] = loader(lambda: table.images(owner))
    hint = _cell(row, "hint")
    options = {letter: _cell(row, letter) for letter in LETTERS if _cell(row, letter)}
    question = "\n".join([*([hint] if hint else []), row["question"]])
    return make_item(index, question, text_list(row["answer"]), options, _cell(row, "category"), count, media[owner])


def _is_index(cell: str) -> bool:
    return 0 < len(cell) <= _LONGEST_INDEX and not cell.startswith("[")


def _cell(row: Row, name: str) -> str:
    """A cell that may be missing; pandas writes "nan" where it had nothing."""
    text = row.get(name, "").strip()
    return "" if text.lower() == "nan" else text


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.partition("base64,")[2] or text)
    except (binascii.Error, ValueError) as error:
        raise SampleError(f"its image is no base64: {error}") from error
