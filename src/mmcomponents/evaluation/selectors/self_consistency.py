"""Self-consistency: majority vote among the answers."""

from __future__ import annotations

from collections import Counter

from mmcomponents.evaluation.selectors.base import Candidates, Selector


class SelfConsistency(Selector):
    """Chooses the first candidate with the most frequent answer (arXiv 2203.11171).

    Candidates without an answer have no vote. Of equally frequent answers, the one that occurs first wins.
    """

    def choose(self, candidates: Candidates) -> int:
        """Returns the first candidate with the most frequent answer.

        Raises:
            ValueError: `candidates.answers` is empty.
        """
        if not candidates.answers:
            raise ValueError("SelfConsistency needs the candidates' answers")
        votes = Counter(answer for answer in candidates.answers if answer is not None)
        if not votes:
            return 0
        winner = max(votes, key=votes.__getitem__)  # a Counter keeps the order of first occurrence
        return candidates.answers.index(winner)
