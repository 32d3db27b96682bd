"""Vision encoders.

    ImageBatch (pixels [N, 3, H, W]) ── VisionEncoder ──► VisualFeatures (maps [N, h * w, hidden_size])

The contract is `VisionEncoder` in `base.py`.
"""

from mmcomponents.vision.base import VisionEncoder
from mmcomponents.vision.conv_vq_tokenizer import ConvVQTokenizer
from mmcomponents.vision.intern_vit import InternViT
from mmcomponents.vision.open_clip_vision import OpenClipVision
from mmcomponents.vision.patch_stem import PatchStem
from mmcomponents.vision.piip import PIIP
from mmcomponents.vision.resnet import ResNet
from mmcomponents.vision.timm_vision import TimmVision
from mmcomponents.vision.transformers_convnet import TransformersConvNet
from mmcomponents.vision.transformers_emu3 import Emu3Tokenizer
from mmcomponents.vision.transformers_vision import TransformersVision
from mmcomponents.vision.vq_embedding import VQEmbedding

__all__ = [
    "PIIP",
    "ConvVQTokenizer",
    "Emu3Tokenizer",
    "InternViT",
    "OpenClipVision",
    "PatchStem",
    "ResNet",
    "TimmVision",
    "TransformersConvNet",
    "TransformersVision",
    "VQEmbedding",
    "VisionEncoder",
]
