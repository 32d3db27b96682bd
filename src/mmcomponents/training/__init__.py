"""Training: the task, its slots' options, schedules, reports."""

from mmcomponents.training.report import AnswerReport
from mmcomponents.training.schedule import WarmupCosine
from mmcomponents.training.slots import SlotOptions
from mmcomponents.training.task import MultimodalTask

__all__ = ["AnswerReport", "MultimodalTask", "SlotOptions", "WarmupCosine"]
