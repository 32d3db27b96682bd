"""Interface of answer checkers, which `mmcomponents.evaluation.checkers` implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Checker(ABC):
    """Checks responses: `checker(response, answer)` is True, False, or None if the response contains no answer."""

    @abstractmethod
    def extract(self, response: str) -> str | None:
        """Returns the answer in a response; None: it contains none."""

    @abstractmethod
    def same(self, found: str, answer: str) -> bool:
        """Returns whether two answers are equal.

        Args:
            found: Extracted answer.
            answer: Reference answer.
        """

    def parse(self, found: str) -> Any:
        """Returns an answer in the form that `agree` compares, so that each of many answers is parsed only once."""
        return found

    def agree(self, found: Any, answer: Any) -> bool:
        """Returns whether two parsed answers are equal."""
        return self.same(found, answer)

    def truth(self, text: str) -> str:
        """Returns the answer in a reference text: the extracted one, or the text itself."""
        found = self.extract(text)
        return text.strip() if found is None else found

    def __call__(self, response: str, *answers: str) -> bool | None:
        """Returns whether a response contains one of the reference answers; None: it contains no answer."""
        found = self.extract(response)
        return None if found is None else any(self.same(found, self.truth(answer)) for answer in answers)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({settings})"
