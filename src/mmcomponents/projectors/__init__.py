"""Projectors: visual tokens to the width of the backbone.

    [N, n, in_features] ── Projector ──► [N, n, out_features]

The contract is `Projector` in `base.py`.
"""

from mmcomponents.projectors.base import Projector
from mmcomponents.projectors.langbridge import LangBridge, LiveLangBridge, SoftmaxLangBridge
from mmcomponents.projectors.linear_projector import LinearProjector
from mmcomponents.projectors.llava_projector import LlavaProjector
from mmcomponents.projectors.mlp_projector import MLPProjector
from mmcomponents.projectors.module_projector import ModuleProjector
from mmcomponents.projectors.two_map import TwoMap

__all__ = [
    "LangBridge",
    "LinearProjector",
    "LiveLangBridge",
    "LlavaProjector",
    "MLPProjector",
    "ModuleProjector",
    "Projector",
    "SoftmaxLangBridge",
    "TwoMap",
]
