"""Inference: decoding, answers from Python, and their scores."""

from mmcomponents.inference.conversation import Conversation
from mmcomponents.inference.generate import generate, stream
from mmcomponents.inference.inputs import set_delta
from mmcomponents.inference.past import Past
from mmcomponents.inference.sampler import Autoregressive, Sampler
from mmcomponents.inference.scoring import exact_match

__all__ = ["Autoregressive", "Conversation", "Past", "Sampler", "exact_match", "generate", "set_delta", "stream"]
