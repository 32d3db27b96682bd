"""A small control task with goals in words: a hand goes around a wall to the disc of a colour.

TabletopEnvironment ── observation ──► policy ── actions ──► TabletopEnvironment
demonstration       ── scripted, of two modes: left or right around the wall
"""

from mmcomponents.demos.tabletop.environment import Camera, TabletopEnvironment
from mmcomponents.demos.tabletop.expert import Demonstration, demonstrate

__all__ = ["Camera", "Demonstration", "TabletopEnvironment", "demonstrate"]
