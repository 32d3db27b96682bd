"""A policy that looks at a picture and moves to a coloured square: parts for mmcomponents from another package.

    {"instruction": …} + KEY.png + KEY.actions.npy ── PointingTask ──► text, image, one ACTION position per action
    picture ── … ── PlaceProjector ──► visual tokens that know their places
    actions + noise ── NoisyActionEmbedder ──► backbone ── VelocityHead ──► FlowMatching (training)
                                                                       └──► EulerSampler (answers)

`FirstFit` distributes samples over packs. A recipe names each class by its entry point (`pyproject.toml`).
"""

from pointing.euler_sampler import EulerSampler
from pointing.first_fit import FirstFit
from pointing.flow_matching import FlowMatching
from pointing.model_parts import NoisyActionEmbedder, VelocityHead
from pointing.noisy_actions import NoisyActions
from pointing.place_projector import PlaceProjector
from pointing.pointing_task import PointingTask, read_actions

__all__ = [
    "NoisyActionEmbedder",
    "EulerSampler",
    "FirstFit",
    "FlowMatching",
    "NoisyActions",
    "PlaceProjector",
    "PointingTask",
    "VelocityHead",
    "read_actions",
]
