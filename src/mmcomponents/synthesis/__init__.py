"""Training data made from a model's own answers.

    questions ── rollouts ──► answers (Journal) ──┬─ pairs ───────► preference shards
                                                  └─ step scores ──► critic shards

Questions and answer checkers are arguments; `mmcomponents.evaluation` has readers and checkers.
"""

from mmcomponents.synthesis.checker import Checker
from mmcomponents.synthesis.drawing import DrawOptions
from mmcomponents.synthesis.journal import Journal
from mmcomponents.synthesis.pairs import pair_by_correctness
from mmcomponents.synthesis.preferences import make_preferences
from mmcomponents.synthesis.questions import Item, Questions, Target
from mmcomponents.synthesis.rollout import Answers, Question, Sampling, rollouts
from mmcomponents.synthesis.step_scores import make_step_scores
from mmcomponents.synthesis.steps import ProcessSteps, WholeAnswer, split_steps

__all__ = [
    "Answers",
    "Checker",
    "DrawOptions",
    "Item",
    "Journal",
    "ProcessSteps",
    "Question",
    "Questions",
    "Sampling",
    "Target",
    "WholeAnswer",
    "make_preferences",
    "make_step_scores",
    "pair_by_correctness",
    "rollouts",
    "split_steps",
]
