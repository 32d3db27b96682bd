import pytest
import torch

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.mergers import PixelUnshuffle


def grid(height: int, width: int, channels: int = 3) -> VisualFeatures:
    x = torch.arange(height * width * channels, dtype=torch.float32).view(1, height * width, channels)
    return VisualFeatures([FeatureMap(x, (height, width))])


def test_channels_are_the_blocks_patches() -> None:
    source = grid(4, 6)
    x = source.primary.tokens[0].view(4, 6, 3)
    out = PixelUnshuffle(3)(source).primary
    assert out.hw == (2, 3)
    tokens = out.tokens[0].view(2, 3, 12)
    for r in range(2):
        for s in range(3):
            blocks = [x[2 * r + dy, 2 * s + dx] for dy in range(2) for dx in range(2)]
            assert torch.equal(tokens[r, s], torch.cat(blocks))


def test_v1_transposes_the_grid() -> None:
    source = grid(4, 6)
    v2, v1 = (PixelUnshuffle(3, order=order)(source).primary for order in ("v2", "v1"))
    assert v1.hw == (3, 2)
    assert torch.equal(v1.tokens.view(3, 2, 12), v2.tokens.view(2, 3, 12).transpose(0, 1))


def test_other_blocks() -> None:
    merger = PixelUnshuffle(3, rows=2, columns=3)
    assert merger.out_features == 18
    assert merger.num_tokens((4, 6)) == 4
    assert merger(grid(4, 6)).primary.tokens.shape == (1, 4, 18)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 2 x 2, which a map of 3 x 6 is not a multiple of"):
        PixelUnshuffle(3)(grid(3, 6))
    with pytest.raises(ValueError, match="PixelUnshuffle takes feature maps of width 4, got 3"):
        PixelUnshuffle(4)(grid(4, 6))
    with pytest.raises(ValueError, match="order must be"):
        PixelUnshuffle(3, order="v3")
