"""Latents of pictures and of layouts, encoded together."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mmcomponents.nn.pictures.box_canvases import BLACK, canvases, mean_of_boxes

BRANCHES = ((False, False, False), (False, False, True), (True, False, True), (True, True, True))
"""Which of words, layout and reference a picture is conditioned on, in each branch of guidance and in training."""


class Codec(Protocol):
    """Interface of autoencoders; see `mmcomponents.heads.autoencoder.PictureAutoencoder`."""

    picture_size: int

    def encode(self, pictures: Tensor) -> Tensor:
        """Returns the most likely latents `[P, c, h, w]` of pictures `[P, 3, H, W]` from -1 to 1."""
        ...


class Encoded(NamedTuple):
    """Latents without a factor, `[P, c, h, w]` each.

    Attributes:
        targets: Those of pictures; P = 0 without any.
        references: Those of reference pictures.
        layouts: Those of layouts.
    """

    targets: Tensor
    references: Tensor
    layouts: Tensor


@torch.no_grad()
def encode_conditions(
    codec: Codec, targets: Tensor, references: Tensor, boxes: Tensor, colours: Tensor, owner: Tensor
) -> Encoded:
    """Encodes pictures, and layouts as the mean of the latents of their boxes' canvases (GoT, arXiv 2503.10639, 4.3).

    The autoencoder is called once, whatever the numbers are: so all ranks of a sharded model make the same calls. Black
    references and layouts without boxes share one black picture.

    Args:
        codec: The autoencoder.
        targets: `[P, 3, H, W]` from -1 to 1, or none, `[0, 3, H, W]`.
        references: `[P, 3, H, W]`, black where there is none.
        boxes: `[B, 4]`, see `canvases`.
        colours: `[B, 3]`.
        owner: `[B]` int64, picture of each box.
    """
    side = codec.picture_size
    drawn = canvases(boxes, colours, (side, side)).to(references.dtype)
    black = references.new_full((1, 3, side, side), BLACK)
    given = (references != BLACK).flatten(1).any(1).nonzero()[:, 0]
    latents = codec.encode(torch.cat((targets, black, drawn, references[given])))
    made, none, of_boxes, known = latents.split((len(targets), 1, len(drawn), len(given)))
    of_references = none.expand(len(references), *none.shape[1:]).index_copy(0, given, known)
    return Encoded(made, of_references, mean_of_boxes(of_boxes, owner, none[0], len(references)))
