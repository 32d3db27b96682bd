"""Embedders: the owner of the word table."""

from mmcomponents.embedders.base import Embedder
from mmcomponents.embedders.token import TokenEmbedder

__all__ = ["Embedder", "TokenEmbedder"]
