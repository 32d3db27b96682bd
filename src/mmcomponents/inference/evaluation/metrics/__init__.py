"""Metrics: how right answers are."""

from mmcomponents.inference.evaluation.metrics.anls import ANLS
from mmcomponents.inference.evaluation.metrics.base import Metric, Target
from mmcomponents.inference.evaluation.metrics.captions import BLEU, ROUGE
from mmcomponents.inference.evaluation.metrics.checked import BoxedMatch, CheckedAnswer, FinalMatch, NumericMatch
from mmcomponents.inference.evaluation.metrics.exact_match import ExactMatch
from mmcomponents.inference.evaluation.metrics.grounding import GroundingIoU
from mmcomponents.inference.evaluation.metrics.multiple_choice import MultipleChoice
from mmcomponents.inference.evaluation.metrics.relaxed import RelaxedAccuracy

METRICS: dict[str, type[Metric]] = {
    "exact": ExactMatch,
    "final": FinalMatch,
    "numeric": NumericMatch,
    "boxed": BoxedMatch,
    "multiple_choice": MultipleChoice,
    "relaxed": RelaxedAccuracy,
    "anls": ANLS,
    "grounding": GroundingIoU,
    "bleu": BLEU,
    "rouge": ROUGE,
}
"""By their names on the command line."""

__all__ = [
    "ANLS",
    "BLEU",
    "BoxedMatch",
    "CheckedAnswer",
    "ExactMatch",
    "FinalMatch",
    "GroundingIoU",
    "METRICS",
    "Metric",
    "MultipleChoice",
    "NumericMatch",
    "ROUGE",
    "RelaxedAccuracy",
    "Target",
]
