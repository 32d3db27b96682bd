"""Objectives: what makes a loss."""

from mmcomponents.objectives.answers import answer_logps
from mmcomponents.objectives.base import Objective
from mmcomponents.objectives.mpo import MPO
from mmcomponents.objectives.next_token import NextToken
from mmcomponents.objectives.process_reward import ProcessReward
from mmcomponents.objectives.references import AdaptersOff, FrozenReference, Reference, StoredReference
from mmcomponents.objectives.weights import token_weights

__all__ = [
    "MPO",
    "AdaptersOff",
    "FrozenReference",
    "NextToken",
    "Objective",
    "ProcessReward",
    "Reference",
    "StoredReference",
    "answer_logps",
    "token_weights",
]
