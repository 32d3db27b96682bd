"""Pieces of networks over pictures.

boxes, colours ── canvases ──► pictures;  pictures, boxes ── encode_conditions ──► latents
maps ── ResidualConv, WidenedConv ──► maps
"""

from mmcomponents.nn.pictures.box_canvases import BLACK, canvases, mean_of_boxes
from mmcomponents.nn.pictures.condition_latents import BRANCHES, Codec, Encoded, encode_conditions
from mmcomponents.nn.pictures.residual_conv import GROUP, ResidualConv
from mmcomponents.nn.pictures.widened_conv import WidenedConv

__all__ = [
    "BLACK",
    "BRANCHES",
    "GROUP",
    "Codec",
    "Encoded",
    "ResidualConv",
    "WidenedConv",
    "canvases",
    "encode_conditions",
    "mean_of_boxes",
]
