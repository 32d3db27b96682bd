"""Projectors: visual tokens to the width of the backbone."""

from mmcomponents.projectors.base import Projector
from mmcomponents.projectors.linear import LinearProjector
from mmcomponents.projectors.mlp import MLPProjector

__all__ = ["LinearProjector", "MLPProjector", "Projector"]
