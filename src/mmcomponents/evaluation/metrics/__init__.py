"""Metrics of answers.

    answer, Target (references, options) ── Metric ──► score of one answer ── mean ──► figure

The contract is `Metric` in `base.py`.
"""

from mmcomponents.evaluation.metrics.anls import ANLS
from mmcomponents.evaluation.metrics.base import Metric, Target
from mmcomponents.evaluation.metrics.captions import BLEU, ROUGE
from mmcomponents.evaluation.metrics.checked import BoxedMatch, CheckedAnswer, FinalMatch, NumericMatch
from mmcomponents.evaluation.metrics.cider import CIDEr
from mmcomponents.evaluation.metrics.exact_match import ExactMatch, ExactStrict
from mmcomponents.evaluation.metrics.grounding import GroundingIoU
from mmcomponents.evaluation.metrics.mathvista import MathVista
from mmcomponents.evaluation.metrics.multiple_choice import MultipleChoice
from mmcomponents.evaluation.metrics.relaxed import RelaxedAccuracy
from mmcomponents.evaluation.metrics.vqa_accuracy import VQAAccuracy

METRICS: dict[str, type[Metric]] = {
    "exact": ExactMatch,
    "exact_strict": ExactStrict,
    "final": FinalMatch,
    "numeric": NumericMatch,
    "boxed": BoxedMatch,
    "multiple_choice": MultipleChoice,
    "mathvista": MathVista,
    "vqa": VQAAccuracy,
    "relaxed": RelaxedAccuracy,
    "anls": ANLS,
    "grounding": GroundingIoU,
    "bleu": BLEU,
    "rouge": ROUGE,
    "cider": CIDEr,
}
"""Metrics by their names on the command line."""

__all__ = [
    "ANLS",
    "BLEU",
    "CIDEr",
    "BoxedMatch",
    "CheckedAnswer",
    "ExactMatch",
    "ExactStrict",
    "FinalMatch",
    "GroundingIoU",
    "METRICS",
    "MathVista",
    "Metric",
    "MultipleChoice",
    "NumericMatch",
    "ROUGE",
    "RelaxedAccuracy",
    "Target",
    "VQAAccuracy",
]
