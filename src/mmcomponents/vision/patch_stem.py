"""Patch embedding alone, the image side of monolithic vision-language models.

Reference code: OpenGVLab/HoVLE on the Hugging Face hub.
"""

from __future__ import annotations

from mmcomponents.vision.intern_vit import InternViT


class PatchStem(InternViT):
    """Patches of tiles with learned positions and no blocks (HoVLE, arXiv 2412.16158; its code, `VisionEmbeddings`).

    The parameters are those of `InternViT` below its first block: a convolution whose step is a patch, positions, which
    are resized bicubically for other grids, and a class token, which checkpoints have and no map contains.

    Args:
        hidden_size: Width, C.
        image_size: Side of a tile in pixels, which sets the size of the position embedding.
        patch_size: Side of a patch in pixels.
    """

    shard_units = ()

    def __init__(self, hidden_size: int, image_size: int = 448, patch_size: int = 14) -> None:
        super().__init__(hidden_size, 1, 1, hidden_size, image_size, patch_size, levels=(0,))
