"""Boxes with the highest scores, as answers of values."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch
from mmcomponents.component import Composition, NonFiniteError, WiringError
from mmcomponents.generation.base import Answer, AnswerKind, Context, Sampler
from mmcomponents.generation.found_boxes import FoundBox
from mmcomponents.limits import MAX_ROWS, check_numbers, check_sizes
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.box_geometry import corners
from mmcomponents.nn.detections import Detections
from mmcomponents.nn.runtime import Runtime

COLUMNS = ("class", "score", "left", "top", "right", "bottom", "tile")
"""Columns of an answer."""


class TopBoxes(Sampler):
    """Answers with the boxes of highest scores in the tiles of a prompt's images.

    A row of an answer has the class, its probability, left, top, right and bottom as shares of the tile without its
    padding, and the number of the tile among those of the prompt. A query may give several rows, one for each class.

    Args:
        num_boxes: Largest number of rows for a tile.
        min_score: Least probability.
        head: Name of the detection head.
        names: Name of each class, for what is shown. None: their numbers.
    """

    answers: ClassVar[AnswerKind] = "values"

    def __init__(
        self,
        num_boxes: int = 300,
        min_score: float = 0.0,
        head: str = "detection",
        names: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.names = names
        check_sizes(MAX_ROWS, num_boxes=num_boxes)
        check_numbers(min_score=min_score)
        self.num_boxes, self.min_score, self.head = num_boxes, min_score, head

    def check(self, model: Composition) -> None:
        """Checks that the model has a head that finds boxes.

        Raises:
            WiringError: It has not.
        """
        if self.head not in model.heads:
            found = ", ".join(model.heads) or "none"
            raise WiringError(f"{type(self).__name__} reads the head {self.head!r} and the model has {found}")
        head = model.heads[self.head]
        classes = getattr(head, "num_classes", None)
        if self.names is not None and classes is not None and len(self.names) != classes:
            raise WiringError(
                f"{type(self).__name__} has names of {len(self.names)} classes and {type(head).__name__} num_classes"
                f" {classes}"
            )
        if not callable(getattr(head, "detect", None)):
            raise WiringError(
                f"{type(self).__name__} reads boxes from the head {self.head!r}, which {type(head).__name__} does not"
                " find: use DetectionHead"
            )

    @torch.no_grad()
    def forward(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> list[Answer]:
        """See the base class.

        Raises:
            NonFiniteError: A score or a box is NaN.
            WiringError: There is no such head, or it is not known which image belongs to which prompt.
        """
        self.check(model)

        def read(heads: nn.ModuleDict, state: ModelState) -> Detections:
            assert state.visual is not None
            return cast(Any, heads[self.head]).detect(state.visual)  # type: ignore[no-any-return]

        owner = tile_segments(prompts)
        empty = torch.zeros(0, len(COLUMNS))
        rows: list[list[Tensor]] = [[] for _ in range(prompts.num_segments)]
        # Ranks without images run the encoder's blank tile, as the model does for all packs without images.
        found = model(prompts, Runtime(needs=("visual",)), read)
        for tile, (logits, boxes) in enumerate(zip(found.logits[:, -1], found.boxes[:, -1], strict=True)):
            if tile < len(owner):
                own = rows[owner[tile]]
                own.append(self.best(logits, corners(boxes).clamp(0.0, 1.0), len(own)))
        answers = [Answer(values=torch.cat(own) if own else empty) for own in rows]
        wrong = [prompts.keys[n] for n, a in enumerate(answers) if a.values is not None and a.values.isnan().any()]
        if wrong:
            raise NonFiniteError(
                f"the boxes of {', '.join(wrong[:8])} are NaN: the model's weights are damaged, or its activations"
                " exceed the range of its dtype"
            )
        return answers

    def in_pixels(self, values: Tensor, size: tuple[float, float]) -> list[FoundBox]:
        """Returns the rows of an answer as boxes in pixels of an image.

        Args:
            values: `[n, 7]`, answer of this sampler to a prompt of one image in one tile.
            size: Width and height of the image.
        """
        width, height = size
        found = []
        for label, score, left, top, right, bottom, _ in values.tolist():
            number = int(label)
            name = str(number) if self.names is None or number >= len(self.names) else self.names[number]
            box = (left * width, top * height, right * width, bottom * height)
            found.append(FoundBox(number, name, score, box))
        return found

    def best(self, logits: Tensor, boxes: Tensor, tile: int = 0) -> Tensor:
        """Returns the rows of a tile, highest scores first.

        Args:
            logits: `[Q, classes]`.
            boxes: `[Q, 4]` corners.
            tile: Number of the tile, for the last column.

        Returns:
            fp32 `[k, 7]`, see `COLUMNS`.
        """
        classes = logits.shape[-1]
        score, place = logits.sigmoid().flatten().topk(min(self.num_boxes, logits.numel()))
        kept = ~(score < self.min_score)  # NaN is kept, and told by the caller
        score, place = score[kept], place[kept]
        label = (place % classes)[:, None].to(boxes.dtype)
        number = torch.full_like(label, tile)
        return torch.cat((label, score[:, None], boxes[place // classes], number), dim=1)


def tile_segments(batch: PackedBatch) -> list[int]:
    """Returns the segment of each tile: by the positions of its visual tokens, or by order in packs without tokens.

    Raises:
        WiringError: A pack without tokens has another number of images than segments, or no position points to an
            image.
    """
    if batch.images is None:
        return []
    images = batch.images.tile_image.tolist()
    if not batch.num_tokens:
        count = len({*images})
        if count != batch.num_segments:
            raise WiringError(
                f"a pack without tokens has {count} images and {batch.num_segments} prompts: one of each is needed"
            )
        return images
    segments = batch.layout.segment_of_token().tolist()
    owner = dict(zip(batch.layout.image_id.tolist(), segments, strict=True))
    missing = [image for image in images if image not in owner]
    if missing:
        raise WiringError(f"no position of the pack points to {len(missing)} of its {len(images)} tiles")
    return [owner[image] for image in images]
