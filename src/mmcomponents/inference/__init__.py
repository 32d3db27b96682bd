"""Inference: decoding, answers from Python, and their scores."""

from mmcomponents.data.critique import critique
from mmcomponents.inference.conversation import Conversation
from mmcomponents.inference.critic import Critic, Solution
from mmcomponents.inference.generate import generate, stream
from mmcomponents.inference.inputs import set_delta
from mmcomponents.inference.past import Past
from mmcomponents.inference.process_bench import evaluate_process
from mmcomponents.inference.sampler import Autoregressive, Sampler
from mmcomponents.inference.scoring import exact_match
from mmcomponents.inference.steps import ProcessSteps, WholeAnswer, split_steps

__all__ = [
    "Autoregressive",
    "Conversation",
    "Critic",
    "Past",
    "ProcessSteps",
    "Sampler",
    "Solution",
    "WholeAnswer",
    "critique",
    "evaluate_process",
    "exact_match",
    "generate",
    "set_delta",
    "split_steps",
    "stream",
]
