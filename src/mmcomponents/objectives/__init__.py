"""Objectives: from a model and a pack to a loss.

    PackedBatch ── counts ──► integers, summed over window and ranks ──► totals
    model, PackedBatch, totals ── Objective ──► LossOutput

The contract is `Objective` in `base.py`.
"""

from mmcomponents.objectives.answers import answer_logps
from mmcomponents.objectives.base import Objective
from mmcomponents.objectives.diffusion import ActionRegression, Diffusion
from mmcomponents.objectives.distillation import Distillation
from mmcomponents.objectives.image_tokens import ImageTokens
from mmcomponents.objectives.mpo import MPO
from mmcomponents.objectives.next_token import NextToken
from mmcomponents.objectives.picture_diffusion import PictureDiffusion
from mmcomponents.objectives.picture_reconstruction import PictureReconstruction
from mmcomponents.objectives.process_reward import ProcessReward
from mmcomponents.objectives.references import AdaptersOff, FrozenReference, Reference, StoredReference
from mmcomponents.objectives.set_criterion import SetCriterion
from mmcomponents.objectives.vq_reconstruction import VQReconstruction
from mmcomponents.objectives.weighting import token_weights

__all__ = [
    "MPO",
    "ActionRegression",
    "AdaptersOff",
    "Diffusion",
    "Distillation",
    "FrozenReference",
    "ImageTokens",
    "NextToken",
    "Objective",
    "PictureDiffusion",
    "PictureReconstruction",
    "ProcessReward",
    "Reference",
    "SetCriterion",
    "StoredReference",
    "VQReconstruction",
    "answer_logps",
    "token_weights",
]
