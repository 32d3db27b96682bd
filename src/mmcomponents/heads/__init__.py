"""Heads, which read the state of the model.

    ModelState (hidden [T, d], visual) ── Head ──► logits [T, vocab], losses of targets, boxes

The contract is `Head` in `base.py`.
"""

from mmcomponents.heads.action_heads import ActionHead
from mmcomponents.heads.base import Head
from mmcomponents.heads.condition import Condition
from mmcomponents.heads.conv_autoencoder import ConvAutoencoder
from mmcomponents.heads.denoising_heads import DenoisingHead, PooledDenoisingHead, TokenDenoisingHead
from mmcomponents.heads.detection_head import DetectionHead, LiteDetectionHead
from mmcomponents.heads.diffusers_autoencoder import DiffusersAutoencoder
from mmcomponents.heads.lm_head import LMHead
from mmcomponents.heads.noise_schedule import CosineNoise, LinearNoise, NoiseSchedule, ScaledLinearNoise
from mmcomponents.heads.verbalizer import Verbalizer
from mmcomponents.heads.vq_unfold import VQUnfold

__all__ = [
    "ActionHead",
    "Condition",
    "ConvAutoencoder",
    "CosineNoise",
    "DenoisingHead",
    "DetectionHead",
    "DiffusersAutoencoder",
    "Head",
    "LMHead",
    "LinearNoise",
    "LiteDetectionHead",
    "NoiseSchedule",
    "PooledDenoisingHead",
    "ScaledLinearNoise",
    "TokenDenoisingHead",
    "VQUnfold",
    "Verbalizer",
]
