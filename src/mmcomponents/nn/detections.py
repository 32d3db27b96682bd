"""What a detection head takes and returns besides feature maps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Denoising(NamedTuple):
    """Queries made of true boxes with noise, which learn to find the true ones (contrastive denoising).

    Attributes:
        label: `[N, D]` class of each query, with noise.
        box: fp32 `[N, D, 4]` centre and size, with noise.
        group: `[N, D]` number of the group of each query, -1 for padding. Groups do not see each other.
    """

    label: Tensor
    box: Tensor
    group: Tensor


class Detections(NamedTuple):
    """Predictions of a detection head for N tiles: stage 0 is that of the proposals, the others of the decoder layers.

    Attributes:
        logits: fp32 `[N, stages, Q, classes]`.
        boxes: fp32 `[N, stages, Q, 4]` centre and size in shares of the image.
        noisy_logits: fp32 `[N, layers, D, classes]` of denoising queries; D may be 0.
        noisy_boxes: fp32 `[N, layers, D, 4]` likewise.
    """

    logits: Tensor
    boxes: Tensor
    noisy_logits: Tensor
    noisy_boxes: Tensor
