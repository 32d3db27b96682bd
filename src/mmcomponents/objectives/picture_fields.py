"""Pictures and boxes of a pack, as objectives of pictures read them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.component import WiringError
from mmcomponents.extras import DrawnBoxes, Pictures
from mmcomponents.nn.pictures import BLACK

PICTURES, BOXES = "pictures", "drawn_boxes"
"""Names of the pictures and of their boxes among the extras of a pack."""


class PictureFields(NamedTuple):
    """What a pack has for its pictures to be made.

    Attributes:
        target: `[P, 3, H, W]` from -1 to 1.
        reference: `[P, 3, H, W]`, black without one.
        box: `[B, 4]` shares of the picture.
        colour: `[B, 3]` from 0 to 1.
        owner: `[B]` picture of each box.
    """

    target: Tensor
    reference: Tensor
    box: Tensor
    colour: Tensor
    owner: Tensor


def picture_segments(batch: PackedBatch) -> Tensor:
    """Returns the segments that have a picture to be made, `[P]` int64, which are those with queries."""
    found: Tensor = torch.unique(batch.layout.segment_of_token()[batch.layout.token_type == TokenType.QUERY])
    return found


def count_boxes(batch: PackedBatch) -> int:
    """Returns the number of boxes of all pictures."""
    found = batch.extras.get(BOXES)
    return len(found.segment) if isinstance(found, DrawnBoxes) else 0


def check_pictures(batch: PackedBatch) -> int:
    """Returns the number of pictures.

    Raises:
        WiringError: Pictures and segments with queries differ in number.
    """
    segments, given = len(picture_segments(batch)), batch.extras.get(PICTURES)
    count = len(given.target.tensor) if isinstance(given, Pictures) else 0
    if count != segments:
        raise WiringError(
            f"a pack has {segments} segments with positions of type QUERY and {count} pictures: name the record kind in"
            " data.kinds (ReasonedPicture)"
        )
    return count


def picture_fields(batch: PackedBatch, side: int) -> PictureFields:
    """Returns the fields of a pack; of one without pictures, those of a black picture that no segment has.

    Args:
        batch: The pack.
        side: Side of a black picture in pixels.
    """
    given, drawn, device = batch.extras.get(PICTURES), batch.extras.get(BOXES), batch.input_ids.device
    black = torch.full((1, 3, side, side), BLACK, device=device)
    target = given.target.tensor if isinstance(given, Pictures) and len(given.target.tensor) else black
    reference = torch.full_like(target, BLACK)
    if isinstance(given, Pictures) and given.reference is not None and len(given.reference.tensor):
        reference = given.reference.tensor
    if not isinstance(drawn, DrawnBoxes):
        drawn = DrawnBoxes.of()
    owner = torch.searchsorted(picture_segments(batch), drawn.segment.to(device))
    return PictureFields(target, reference, drawn.box.tensor.to(device), drawn.colour.tensor.to(device), owner)
