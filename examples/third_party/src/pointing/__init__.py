"""A policy that looks at a picture and moves to a coloured square: parts for mmcomponents from another package.

    {"instruction": …} + KEY.png + KEY.actions.npy ── PointingTask ──► text, image, one ACTION position per action
    actions + noise ── ActionEmbedder ──► backbone ── VelocityHead ──► FlowMatching (training), EulerSampler (answers)

`FirstFit` distributes samples over packs. A recipe names each class by its entry point (`pyproject.toml`).
"""

from pointing.euler_sampler import EulerSampler
from pointing.first_fit import FirstFit
from pointing.flow_matching import FlowMatching
from pointing.model_parts import ActionEmbedder, VelocityHead
from pointing.noisy_actions import NoisyActions
from pointing.pointing_task import PointingTask, read_actions

__all__ = [
    "ActionEmbedder",
    "EulerSampler",
    "FirstFit",
    "FlowMatching",
    "NoisyActions",
    "PointingTask",
    "VelocityHead",
    "read_actions",
]
