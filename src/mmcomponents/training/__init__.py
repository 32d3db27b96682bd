"""Training: the task, its slots' options, schedules, reports, and what watches over a run."""

from mmcomponents.training.answer_pictures import AnswerPictures
from mmcomponents.training.checkpoint import FinalCheckpoint
from mmcomponents.training.fsdp2 import FSDP2Strategy, register
from mmcomponents.training.reference_logps import ReferenceLogps
from mmcomponents.training.report import AnswerReport
from mmcomponents.training.schedule import WarmupCosine
from mmcomponents.training.slots import SlotOptions
from mmcomponents.training.step_scores import StepF1
from mmcomponents.training.task import MultimodalTask
from mmcomponents.training.throughput import Throughput
from mmcomponents.training.watch import GradientWatch, NoGradientError

register()

__all__ = [
    "AnswerPictures",
    "AnswerReport",
    "FSDP2Strategy",
    "FinalCheckpoint",
    "GradientWatch",
    "MultimodalTask",
    "NoGradientError",
    "ReferenceLogps",
    "SlotOptions",
    "StepF1",
    "Throughput",
    "WarmupCosine",
]
