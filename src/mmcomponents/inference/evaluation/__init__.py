"""Evaluation: benchmarks, metrics, and runs over them with selectors."""

from mmcomponents.inference.evaluation.benchmarks import Benchmark, Item, open_benchmark
from mmcomponents.inference.evaluation.evaluate import Answering, Evaluation, Scoring
from mmcomponents.inference.evaluation.intervals import interval
from mmcomponents.inference.evaluation.outcome import Result, judge, summary
from mmcomponents.inference.evaluation.plot import draw_accuracy

__all__ = [
    "Answering",
    "Benchmark",
    "Evaluation",
    "Item",
    "Result",
    "Scoring",
    "draw_accuracy",
    "interval",
    "judge",
    "open_benchmark",
    "summary",
]
