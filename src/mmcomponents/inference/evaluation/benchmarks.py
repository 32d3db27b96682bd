"""Questions of a benchmark: what a reader gives, and which reader a file takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmcomponents.data.chat import Message
from mmcomponents.data.errors import DataError
from mmcomponents.inference.evaluation.metrics import Target
from mmcomponents.inference.rollouts import Media

NAMED = 3
"""Broken rows that an error names."""

LETTER_INSTRUCTION = "Reply with the letter of the right option."
"""What a question with options ends with, where no other instruction is given."""


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    Attributes:
        key: Unique within the benchmark.
        messages: The conversation that ends with the question, as `Question` takes it, without options.
        target: What is right, and the options.
        category: Kind of the question, "" where the file does not say.
        media: Loads its images, see `Question`.
    """

    key: str
    messages: Sequence[Message]
    target: Target
    category: str = ""
    media: Media | None = None

    @property
    def text(self) -> str:
        """The question, without the places of images."""
        return self.messages[-1]["content"].replace("<image>", "").strip()

    def prompt(self, instruction: str = "") -> list[Message]:
        """The messages with options and an instruction behind the question.

        Args:
            instruction: Text at the end of the question, such as one that asks for the steps; "" for none, and then
                a question with options ends with `LETTER_INSTRUCTION`.
        """
        options = [f"{letter}. {text}" for letter, text in self.target.options.items()]
        last = instruction or (LETTER_INSTRUCTION if options else "")
        question = self.messages[-1]
        content = "\n".join([question["content"], *options, *([last] if last else [])])
        return [*self.messages[:-1], {**question, "content": content}]


@dataclass
class Benchmark:
    """The questions of a file.

    Attributes:
        name: Of the file or the shards.
        items: The questions, in the file's order.
        refused: What could not be used: name and reason, one line each.
        whole: All questions of the file, of which these are some; None: these are all.
    """

    name: str
    items: list[Item] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    whole: Sequence[Item] | None = None

    def digest(self, instruction: str = "") -> str:
        """Tells whether the file's questions have changed; what is in the images plays no part."""
        known = hashlib.sha256()
        for item in self.items if self.whole is None else self.whole:
            asked = [item.key, [dict(message) for message in item.prompt(instruction)]]
            known.update(json.dumps(asked, sort_keys=True).encode())
        return known.hexdigest()[:16]

    def narrow(self, kinds: Sequence[str] = (), limit: int | None = None) -> Benchmark:
        """The questions of some categories, or the first ones.

        Args:
            kinds: Categories; none: all.
            limit: Questions at most, after the categories; None: all.

        Raises:
            DataError: No question has one of the categories.
        """
        there = list(dict.fromkeys(item.category for item in self.items))
        if missing := [kind for kind in kinds if kind not in there]:
            known = ", ".join(name or "none" for name in there)
            raise DataError(f"{self.name} has no question of the kind {missing[0]!r}; there are: {known}")
        kept = [item for item in self.items if not kinds or item.category in kinds]
        return Benchmark(self.name, kept[:limit], self.refused, self.items if self.whole is None else self.whole)

    def check(self, allowed: float) -> None:
        """Judges what could not be used.

        Args:
            allowed: Largest share of the questions that may be left out.

        Raises:
            DataError: It is more than that, or there is no question at all.
        """
        count = len(self.items) + len(self.refused)
        if len(self.refused) > allowed * count:
            raise DataError(
                f"{self.name}: {len(self.refused)} of {count} questions cannot be used, more than max_refused"
                f" {allowed:g}: {few(self.refused)}"
            )
        if not self.items:
            raise DataError(f"{self.name} has no questions")


def few(lines: Sequence[str]) -> str:
    """The first of several lines."""
    return "; ".join(lines[:NAMED]) + ("; …" if len(lines) > NAMED else "")


def with_images(text: str, count: int) -> str:
    """A question with the places of its images in front, unless it has as many places itself."""
    return text if "<image>" in text and text.count("<image>") == count else "<image>\n" * count + text


def open_benchmark(where: str, images: str | Path | None = None, split: str = "") -> Benchmark:
    """Reads the questions of a benchmark: a .tsv, a .jsonl, or shards of this library. Images are not read yet.

    Args:
        where: A file, or the name, pattern or folder of shards.
        images: Folder that the paths of images in a file start from; None: the file's own.
        split: The split whose rows are taken, where the file has several; "": all.

    Raises:
        DataError: The file is missing, broken as a whole, or lacks a column.
    """
    from mmcomponents.inference.evaluation.jsonl import read_jsonl
    from mmcomponents.inference.evaluation.shards import read_shards
    from mmcomponents.inference.evaluation.tsv import read_tsv

    suffix = Path(where).suffix.lower()
    if suffix not in (".tsv", ".jsonl"):
        if suffix != ".tar" and Path(where).is_file():
            raise DataError(f"{where} is no benchmark: it has to be a .tsv, a .jsonl, or shards (.tar)")
        return read_shards(where)
    path = Path(where)
    if not path.is_file():
        raise DataError(f"there is no benchmark file {where}")
    root = path.parent if images is None else Path(images)
    if not root.is_dir():
        raise DataError(f"there is no folder of images {root}")
    return (read_tsv if suffix == ".tsv" else read_jsonl)(path, root, split)
