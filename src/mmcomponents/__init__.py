"""Multimodal model parts as LightningModules, and what composes them into InternVL3."""

__version__ = "0.1.0"
