"""Reading of question files with the reader of their format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path

from mmcomponents.data.convert.media_files import MediaRoot
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.shards import find_shards
from mmcomponents.data.media.frames import FrameSampling
from mmcomponents.data.storage import redact
from mmcomponents.evaluation.readers.jsonl import read_jsonl
from mmcomponents.evaluation.readers.question_rows import FRAMES
from mmcomponents.evaluation.readers.shard_questions import read_shard
from mmcomponents.evaluation.readers.tsv import read_tsv
from mmcomponents.synthesis.questions import LETTER_INSTRUCTION, Item, Questions

__all__ = ["LETTER_INSTRUCTION", "Benchmark", "Item", "open_benchmark", "read_questions"]

Benchmark = Questions
"""Questions of one benchmark."""

_TABLES = {".tsv": read_tsv, ".jsonl": read_jsonl}


def open_benchmark(where: str, images: str | Path | None = None, split: str = "", answers: bool = True) -> Benchmark:
    """Reads the questions of a benchmark: a .tsv, a .jsonl, or shards of this library. Images are read later.

    Args:
        where: Path of a file, or name, pattern or folder of shards.
        images: Folder that image paths in a file are relative to; None: the folder of the file.
        split: Split to read from a file with several splits; "": all.
        answers: Whether each question needs a reference answer. If False, answers are not read.

    Raises:
        DataError: The file is missing, malformed or without questions, or lacks a column.
    """
    if Path(where).suffix.lower() in _TABLES:
        rows = _table(where, _root(where, images, allow_outside=True), answers, split=split)
        return Benchmark(Path(where).stem).take(_filled(where, rows))
    shards = _shards(where)
    first = Path(shards[0])
    parts = (first.parent.name, first.stem.rpartition("-")[0] or first.stem)
    found = _filled(where, chain.from_iterable(read_shard(shard, answers) for shard in shards))
    return Benchmark("-".join(part for part in parts if part)).take(found)


def read_questions(
    where: Sequence[str],
    *,
    image_root: str | None = None,
    answers: bool = True,
    limit: int | None = None,
    kinds: Sequence[str] = (),
    instruction: str = "",
    frames: FrameSampling = FRAMES,
) -> Questions:
    """Reads the questions of several files to generate answers to. Media are read when a question is rendered.

    Args:
        where: Paths of .tsv or .jsonl files, or shards (pattern or folder) of conversations. The key of a question
            from a .tsv or .jsonl starts with the file name; the number of a line has seven digits.
        image_root: Folder that image paths are relative to and may not leave; None: the folder of the file.
        answers: Whether each question needs a reference answer. If False, answers are not read.
        limit: Maximum number of questions; reading stops there. None: no limit.
        kinds: Kinds (categories) of questions to read; empty: all.
        instruction: Text appended to each question, such as the required answer format; "": none.
        frames: Sampling of the frames of a video.

    Raises:
        DataError: A file is missing, remote or without questions, a kind has no questions, or questions of two files
            have the same key.
    """
    names = [Path(path).name for path in where]
    found = Questions(", ".join(names)).take(_all(where, image_root, answers, frames), kinds, limit)
    found.items = [item.worded(instruction) for item in found.items]
    return found


def _all(where: Sequence[str], image_root: str | None, answers: bool, frames: FrameSampling) -> Iterator[Item | str]:
    """Yields the questions of all files; questions of different files have different keys."""
    readers: list[tuple[str, str, Iterator[Item | str]]] = []
    for path in where:
        if Path(path).suffix.lower() in _TABLES:
            root = _root(path, image_root, allow_outside=False)
            readers.append((path, f"{Path(path).stem}/", _table(path, root, answers)))
        else:
            every = [(shard, read_shard(shard, answers, frames, recorded=True)) for shard in _shards(path)]
            readers += [(shard, "", _sample_keys(found)) for shard, found in every]
    owners: dict[str, str] = {}
    for path, prefix, reader in readers:
        for one in _filled(path, reader):
            if isinstance(one, str):
                yield one
                continue
            is_line = path.endswith(".jsonl") and one.key.isdecimal()
            key = prefix + (f"{int(one.key):07d}" if is_line else one.key)
            if owners.setdefault(key, path) != path:
                raise DataError(
                    f"{redact(owners[key])} and {redact(path)} both have a question with the key {key}: rename one of"
                    " the files"
                )
            yield replace(one, key=key)


def _sample_keys(found: Iterable[Item | str]) -> Iterator[Item | str]:
    """Yields the questions of a shard; the only question of a sample has the key of the sample."""
    for name, several in groupby(found, lambda one: one if isinstance(one, str) else one.key.rpartition("#")[0]):
        same = list(several)
        if len(same) == 1 and isinstance(only := same[0], Item):
            same = [replace(only, key=str(name))]
        yield from same


def _filled(path: str, found: Iterable[Item | str]) -> Iterator[Item | str]:
    """Yields what was found in a file; raises `DataError` if that is nothing."""
    empty = True
    for one in found:
        empty = False
        yield one
    if empty:
        raise DataError(f"no questions in {redact(path)}")


def _root(where: str, images: str | Path | None, allow_outside: bool) -> MediaRoot:
    """Returns the image folder of a file; raises `DataError` if the file or the folder is missing."""
    if not Path(where).is_file():
        raise DataError(f"question file not found: {where}")
    root = Path(where).parent if images is None else Path(images)
    if not root.is_dir():
        raise DataError(f"image folder not found: {root}")
    return MediaRoot(root, allow_outside)


def _table(where: str, root: MediaRoot, answers: bool = True, split: str = "") -> Iterator[Item | str]:
    return _TABLES[Path(where).suffix.lower()](Path(where), root, answers, split)


def _shards(where: str) -> list[str]:
    if Path(where).suffix != ".tar" and Path(where).is_file():
        raise DataError(f"{where} is not a question file: expected a .tsv, a .jsonl or shards (.tar)")
    return find_shards(where)
