"""Policies in environments.

policy, environment ── RolloutReport ──► success rate, episodes, animations
"""

from mmcomponents.training.control.rollout_report import RolloutReport

__all__ = ["RolloutReport"]
