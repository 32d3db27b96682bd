"""A vote among the answers."""

from __future__ import annotations

from collections import Counter

from mmcomponents.inference.selectors.base import Candidates, Selector


class SelfConsistency(Selector):
    """Takes the answer that most candidates come to (arXiv 2203.11171).

    A candidate from which no answer can be read has no vote. Of answers with equally many votes the one that came up
    first wins, and of the candidates with this answer the first is taken.
    """

    def choose(self, candidates: Candidates) -> int:
        """The first candidate with the most frequent answer.

        Raises:
            ValueError: Nothing is known of the candidates' answers.
        """
        if not candidates.answers:
            raise ValueError("SelfConsistency needs the candidates' answers")
        votes = Counter(answer for answer in candidates.answers if answer is not None)
        if not votes:
            return 0
        winner = max(votes, key=votes.__getitem__)  # a Counter keeps the order in which answers came up
        return candidates.answers.index(winner)
