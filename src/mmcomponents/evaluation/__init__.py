"""Evaluation: benchmarks, metrics, selectors and critics.

    benchmark file ── readers ──► questions ── rollouts ──► candidates ── Critic ──► scores ── selectors ──► metrics

Accuracy against the number of candidates comes from one sampling.
"""

from mmcomponents.evaluation.benchmarks import Benchmark, Item, open_benchmark, read_questions
from mmcomponents.evaluation.critic import Critic, Solution
from mmcomponents.evaluation.evaluation import Answering, Evaluation, Scoring
from mmcomponents.evaluation.intervals import interval
from mmcomponents.evaluation.metrics.exact_match import exact_match
from mmcomponents.evaluation.outcome import Result, judge, summary
from mmcomponents.evaluation.plot import draw_accuracy
from mmcomponents.evaluation.process_bench import evaluate_process
from mmcomponents.synthesis.steps import ProcessSteps, WholeAnswer, split_steps

__all__ = [
    "Answering",
    "Benchmark",
    "Critic",
    "Evaluation",
    "Item",
    "ProcessSteps",
    "Result",
    "Scoring",
    "Solution",
    "WholeAnswer",
    "draw_accuracy",
    "evaluate_process",
    "exact_match",
    "interval",
    "judge",
    "open_benchmark",
    "read_questions",
    "split_steps",
    "summary",
]
