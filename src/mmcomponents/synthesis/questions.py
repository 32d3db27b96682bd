"""Questions with their reference answers; `mmcomponents.evaluation.readers` reads them from files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmcomponents.data.chat.placeholders import Message
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.reasons import few
from mmcomponents.synthesis.rollout import Media, Question

Files = Callable[[], list[tuple[str, bytes]]]
"""Reads the media files of a question: (suffix, bytes) of each, as a shard stores them, images before videos."""

LETTER_INSTRUCTION = "Reply with the letter of the right option."
"""Default instruction after a question with options."""


@dataclass(frozen=True)
class Target:
    """Reference answers of a question.

    Attributes:
        references: Correct answers; empty if unknown.
        options: Letter -> text of each option, in order; empty if the question has none.
    """

    references: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A question with its reference answers and media.

    Attributes:
        key: Unique among the questions that are read together.
        messages: Conversation that ends with the question, in the format of `Question`, without the options.
        target: Reference answers and options.
        category: Kind of the question; "" if unknown.
        media: Loads its images and videos, see `Question`; None: no media.
        files: Reads the files of its images and videos; None: no media.
        source: Origin of the question; "" if unknown.
        names: Paths of its images, if the data refer to them by path.
        clips: Time range of each video in seconds, in the format of a record; None: complete videos.
    """

    key: str
    messages: Sequence[Message]
    target: Target = field(default_factory=Target)
    category: str = ""
    media: Media | None = None
    files: Files | None = None
    source: str = ""
    names: Sequence[str] = ()
    clips: Any = None

    @property
    def text(self) -> str:
        """Text of the question, without image placeholders."""
        return self.messages[-1]["content"].replace("<image>", "").strip()

    @property
    def answer(self) -> str | list[str] | None:
        """Correct answer in the format of a record: a list if several are correct, None if unknown."""
        references = list(self.target.references)
        return references if len(references) > 1 else references[0] if references else None

    def prompt(self, instruction: str = "") -> list[Message]:
        """Returns the messages, with the options and an instruction appended to the question.

        Args:
            instruction: Text at the end of the question, such as a request for steps; "": `LETTER_INSTRUCTION` for a
                question with options, otherwise none.
        """
        options = [f"{letter}. {text}" for letter, text in self.target.options.items()]
        last = instruction or (LETTER_INSTRUCTION if options else "")
        question = self.messages[-1]
        content = "\n".join([question["content"], *options, *([last] if last else [])])
        return [*self.messages[:-1], {**question, "content": content}]

    def question(self, instruction: str = "") -> Question:
        """Returns the question with the messages of `prompt`."""
        return Question(self.key, self.prompt(instruction), self.media)

    def worded(self, instruction: str = "") -> Item:
        """Returns a copy whose messages contain the options and an instruction, see `prompt`."""
        return replace(self, messages=self.prompt(instruction), target=Target(self.target.references))


@dataclass
class Questions:
    """The questions of one or several files.

    Attributes:
        name: Name of the file or the shards.
        items: Questions, in the order of the files.
        refused: Position and reason of each skipped question, one line each.
        whole: All questions of the files, if `items` is a subset; None: `items` is complete.
    """

    name: str = ""
    items: list[Item] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    whole: Sequence[Item] | None = None

    def take(self, found: Iterable[Item | str], kinds: Sequence[str] = (), limit: int | None = None) -> Questions:
        """Adds the questions of some categories, and stops reading at a limit.

        Args:
            found: Questions, and lines about skipped ones.
            kinds: Categories to add; empty: all.
            limit: Maximum number of questions, including those already present; None: unlimited.

        Returns:
            `self`.

        Raises:
            DataError: A category has no questions.
        """
        seen: dict[str, None] = {}
        for one in found:
            if limit is not None and len(self.items) >= limit:
                return self
            if isinstance(one, str):
                self.refused.append(one)
                continue
            seen[one.category] = None
            if not kinds or one.category in kinds:
                self.items.append(one)
        if missing := [kind for kind in kinds if kind not in seen]:
            known = ", ".join(name or "none" for name in seen)
            raise DataError(f"{self.name} has no question of the kind {missing[0]!r}; there are: {known}")
        return self

    def narrow(self, kinds: Sequence[str] = (), limit: int | None = None) -> Questions:
        """Returns the questions of some categories, up to a limit.

        Args:
            kinds: Categories; empty: all.
            limit: Maximum number of questions of these categories; None: unlimited.

        Raises:
            DataError: A category has no questions.
        """
        kept = Questions(self.name).take(self.items, kinds).items
        return Questions(self.name, kept[:limit], self.refused, self.items if self.whole is None else self.whole)

    def digest(self, instruction: str = "") -> str:
        """Returns a hash of all questions of the files; image contents are not included."""
        every = self.items if self.whole is None else self.whole
        return _digest([item.key, _plain(item.prompt(instruction))] for item in every)

    def digest_with_answers(self) -> str:
        """Returns a hash of `items`, their order and their answers; image contents are not included."""
        return _digest([item.key, _plain(item.prompt()), item.answer] for item in self.items)

    def check(self, allowed: float) -> None:
        """Checks the number of skipped questions.

        Args:
            allowed: Largest share of questions that may be skipped.

        Raises:
            DataError: More are skipped, or no question remains.
        """
        total = len(self.items) + len(self.refused)
        check_skipped(self.refused, total, allowed, "questions", "used", f"{self.name}: ")
        if not self.items:
            raise DataError(f"{self.name} has no questions")


def check_skipped(refused: Sequence[str], total: int, allowed: float, what: str, done: str, where: str = "") -> None:
    """Checks the number of skipped questions or records.

    Args:
        refused: One line for each skipped one.
        total: Total number, including the skipped ones.
        allowed: Largest share that may be skipped.
        what: Their name in the message, such as "questions".
        done: What is impossible with them, such as "used".
        where: Prefix of the message.

    Raises:
        DataError: More than the allowed share is skipped.
    """
    if len(refused) > allowed * total:
        raise DataError(
            f"{where}{len(refused)} of {total} {what} cannot be {done}, more than max_refused {allowed:g}:"
            f" {few(refused)}"
        )


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [dict(message) for message in messages]


def _digest(facts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(json.dumps(fact, sort_keys=True).encode())
    return digest.hexdigest()[:16]
