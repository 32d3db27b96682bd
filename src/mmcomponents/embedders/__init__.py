"""Embedders: token ids and visual tokens to the input of the backbone. An embedder owns the embedding weight.

    input_ids [T], visual tokens [R, d] ── Embedder ──► [T, d]

The contract is `Embedder` in `base.py`.
"""

from mmcomponents.embedders.action_embedder import ActionEmbedder, LinearActionEmbedder
from mmcomponents.embedders.base import Embedder
from mmcomponents.embedders.guided import GuidedEmbedder
from mmcomponents.embedders.holistic import HolisticEmbedder
from mmcomponents.embedders.patch_holistic import PatchHolisticEmbedder
from mmcomponents.embedders.query_embedder import QueryEmbedder
from mmcomponents.embedders.stored_text import StoredText
from mmcomponents.embedders.text_encoder import TextEncoder
from mmcomponents.embedders.token import TokenEmbedder
from mmcomponents.embedders.transformers_text import TransformersText

__all__ = [
    "ActionEmbedder",
    "Embedder",
    "GuidedEmbedder",
    "HolisticEmbedder",
    "LinearActionEmbedder",
    "PatchHolisticEmbedder",
    "QueryEmbedder",
    "StoredText",
    "TextEncoder",
    "TokenEmbedder",
    "TransformersText",
]
