"""Inference: decoding, answers from Python, and their scores."""

from mmcomponents.inference.generate import generate
from mmcomponents.inference.sampler import Autoregressive, Sampler
from mmcomponents.inference.scoring import exact_match

__all__ = ["Autoregressive", "Sampler", "exact_match", "generate"]
