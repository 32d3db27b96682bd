"""Objectives: what makes a loss."""

from mmcomponents.objectives.base import Objective
from mmcomponents.objectives.next_token import NextToken
from mmcomponents.objectives.weights import token_weights

__all__ = ["NextToken", "Objective", "token_weights"]
