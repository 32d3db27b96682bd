"""Selectors, which choose one of several candidates.

    Candidates (texts, scores of critics) ── Selector ──► index of the chosen candidate

The contract is `Selector` in `base.py`.
"""

from mmcomponents.evaluation.selectors.aggregates import AGGREGATES, Aggregate, Max, Mean, Min
from mmcomponents.evaluation.selectors.base import Candidates, Selector
from mmcomponents.evaluation.selectors.best_of_n import BestOfN
from mmcomponents.evaluation.selectors.first import First
from mmcomponents.evaluation.selectors.oracle import Oracle
from mmcomponents.evaluation.selectors.self_consistency import SelfConsistency

__all__ = [
    "AGGREGATES",
    "Aggregate",
    "BestOfN",
    "Candidates",
    "First",
    "Max",
    "Mean",
    "Min",
    "Oracle",
    "SelfConsistency",
    "Selector",
]
