"""Training: the task, its strategy, slot options, schedules and callbacks.

    recipe ── MultimodalTask.configure_model ──► model (sharded by fsdp2) ── objective ──► loss ──► checkpoints, logs

Reports, throughput and early ends of a run are callbacks.
"""

from mmcomponents.training.answer_pictures import AnswerPictures
from mmcomponents.training.answer_report import AnswerReport
from mmcomponents.training.averaging import EMA
from mmcomponents.training.benchmark_score import BenchmarkScore
from mmcomponents.training.box_report import BoxReport
from mmcomponents.training.critic_metrics import StepF1
from mmcomponents.training.distributed.fsdp2 import FSDP2Strategy, register
from mmcomponents.training.distributed.rank_monitor import RankMonitor
from mmcomponents.training.final_checkpoint import FinalCheckpoint
from mmcomponents.training.gradients.gradient_norms import GradientNorms
from mmcomponents.training.gradients.gradient_watch import GradientWatch, NoGradientError
from mmcomponents.training.gradients.non_finite import NonFiniteGuard
from mmcomponents.training.predictions import Predictions
from mmcomponents.training.reference_logps import ReferenceLogps
from mmcomponents.training.schedule import WarmupCosine
from mmcomponents.training.slots import ParameterOptions, SlotOptions
from mmcomponents.training.task import MultimodalTask
from mmcomponents.training.throughput import Throughput

register()

__all__ = [
    "EMA",
    "AnswerPictures",
    "AnswerReport",
    "BenchmarkScore",
    "BoxReport",
    "FSDP2Strategy",
    "FinalCheckpoint",
    "GradientNorms",
    "GradientWatch",
    "MultimodalTask",
    "NoGradientError",
    "NonFiniteGuard",
    "ParameterOptions",
    "Predictions",
    "RankMonitor",
    "ReferenceLogps",
    "SlotOptions",
    "StepF1",
    "Throughput",
    "WarmupCosine",
]
