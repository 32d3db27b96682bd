"""Parts beside the settings of the data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import synergen
from mmcomponents.data.model_check import check_parts
from mmcomponents.generation import ImageSampler


def test_pixels_of_another_scale_are_refused_with_both_names() -> None:
    vision = synergen.model().vision
    parts = {"vision": vision, "sampler": ImageSampler(1.0)}
    check_parts(parts, SimpleNamespace(images=SimpleNamespace(normalization="siglip")))
    with pytest.raises(ValueError, match=r"^sampler \(ImageSampler\) has pixels of .* 'siglip', and data"):
        check_parts(parts, SimpleNamespace(images=SimpleNamespace(normalization="imagenet")))
    vision.tokenizer.normalization = "siglip"
    with pytest.raises(ValueError, match=r"^vision \(VQEmbedding\) has .* data\.images\.normalization is 'imagenet'$"):
        check_parts(parts, SimpleNamespace(images=SimpleNamespace(normalization="imagenet")))
