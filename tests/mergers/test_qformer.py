"""Q-Former and its conditioning on text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.mergers import FiLMQFormer, QFormer
from policy import policy

SIZES: dict[str, Any] = {"width": 8, "num_queries": 3, "num_layers": 2, "num_heads": 2}


def features(tiles: int = 2, places: int = 5, context: Tensor | None = None) -> VisualFeatures:
    tokens = torch.randn(tiles, places, 6, generator=torch.Generator().manual_seed(places))
    return VisualFeatures([FeatureMap(tokens, (1, places))], context=context)


def drawn(part: QFormer) -> QFormer:
    part.init_weights(0)
    return part.eval()


def test_blocks_are_those_of_the_released_code() -> None:
    """Self-attention, cross-attention, MLP and FiLM in this order, written out for one tile."""
    part, given = drawn(FiLMQFormer(6, 4, **SIZES)), features(1, context=torch.randn(1, 4))
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if ".film_" in name:
                parameter.normal_()
    weights, x, source = dict(part.named_parameters()), part.queries.detach(), given.primary.tokens[0]

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (8,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def attend(x: Tensor, source: Tensor, name: str) -> Tensor:
        q, (k, v) = x @ weights[f"{name}.q.weight"].T, (source @ weights[f"{name}.kv.weight"].T).split(8, dim=1)
        heads = [
            ((a @ b.T) / 2).softmax(-1) @ c for a, b, c in zip(q.split(4, 1), k.split(4, 1), v.split(4, 1), strict=True)
        ]
        return torch.cat(heads, 1) @ weights[f"{name}.proj.weight"].T + weights[f"{name}.proj.bias"]

    for block in ("blocks.0", "blocks.1"):
        own = norm(x, f"{block}.norm1")
        x = x + attend(own, own, f"{block}.self_attn")
        x = x + attend(norm(x, f"{block}.norm2"), source, f"{block}.cross_attn")
        inner = gelu(
            norm(x, f"{block}.norm3") @ weights[f"{block}.mlp.fc1.weight"].T + weights[f"{block}.mlp.fc1.bias"]
        )
        x = x + inner @ weights[f"{block}.mlp.fc2.weight"].T + weights[f"{block}.mlp.fc2.bias"]
        scale, shift = (
            given.context @ weights[f"{block}.film_{kind}.weight"].T + weights[f"{block}.film_{kind}.bias"]
            for kind in ("scale", "shift")
        )
        x = (1 + scale) * x + shift
    torch.testing.assert_close(part(given).primary.tokens[0], norm(x, "norm"), rtol=1e-4, atol=1e-5)


def test_the_number_of_tokens_is_that_of_the_queries() -> None:
    part = drawn(QFormer(6, **SIZES))
    for places in (4, 9):
        assert part(features(places=places)).primary.tokens.shape == (2, part.num_tokens((1, places)), 8)


def test_a_new_part_ignores_the_text_and_a_trained_one_does_not() -> None:
    part = drawn(FiLMQFormer(6, 4, **SIZES))
    one, other = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0))
    plain = drawn(QFormer(6, **SIZES))
    plain.load_state_dict({n: v for n, v in part.state_dict().items() if ".film_" not in n})
    assert torch.equal(part(features(context=one)).primary.tokens, plain(features()).primary.tokens)
    with torch.no_grad():
        part.blocks[0].film_shift.weight.normal_()
    found, changed = (part(features(context=text)).primary.tokens for text in (one, other))
    assert not torch.allclose(found, changed)


def test_a_text_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match="takes text features of width 4, got 5"):
        FiLMQFormer(6, 4, **SIZES)(features(context=torch.zeros(2, 5)))
    model = policy(tmp_path)
    with pytest.raises(WiringError, match="takes text features of width 7 and LinearActionEmbedder gives 10"):
        FiLMQFormer(6, 7, **SIZES).check(model)
    model.embedder = None
    with pytest.raises(WiringError, match="takes text features of width 7 and an empty embedder slot gives none"):
        FiLMQFormer(6, 7, **SIZES).check(model)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(WiringError, match="QFormer takes one feature map and is given 2"):
        QFormer((6, 8))
    with pytest.raises(ValueError, match="width 8 is not a multiple of num_heads 3"):
        QFormer(6, 8, num_heads=3)
