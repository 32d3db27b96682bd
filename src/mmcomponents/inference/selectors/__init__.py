"""Selectors: which of several answers to a question is given."""

from mmcomponents.inference.selectors.aggregates import AGGREGATES, Aggregate, Max, Mean, Min
from mmcomponents.inference.selectors.base import Candidates, Selector
from mmcomponents.inference.selectors.best_of_n import BestOfN
from mmcomponents.inference.selectors.first import First
from mmcomponents.inference.selectors.oracle import Oracle
from mmcomponents.inference.selectors.self_consistency import SelfConsistency

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
