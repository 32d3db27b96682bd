from __future__ import annotations

import torch

import tiny
from mmcomponents.batch import Exact, LossOutput
from mmcomponents.objectives import NextToken
from mmcomponents.positions import RoPE
from mmcomponents.projectors import LinearProjector
from mmcomponents.vision import InternViT
from testing.contracts.broken import failure


class FrequencyBuffer(RoPE):
    """Keeps the frequencies in a buffer, which a cast of the model rounds."""

    def __init__(self, head_dim):
        super().__init__(head_dim)
        freqs = 1e6 ** -(torch.arange(0, head_dim, 2) / head_dim)
        self.register_buffer("freqs", torch.cat((freqs, freqs)), persistent=False)

    def rotary(self, layout):
        angles = (self.ticks(layout) / 256)[:, None] * self.freqs.float()
        return Exact(angles.cos(), angles.sin())


class FloatConstant(LinearProjector):
    """Fails in bf16: a float32 constant meets the weight."""

    def forward(self, features, embedding_weight=None):
        return features.primary.tokens.float() @ self.linear.weight.T


class Changes(LinearProjector):
    """Half as large in bf16 as in fp32."""

    def forward(self, features, embedding_weight=None):
        out = super().forward(features)
        return out if out.dtype == torch.float32 else out / 2


class Pixels(InternViT):
    """Changes the pixels of the pack."""

    def forward(self, images):
        images.pixels.clamp_(-1, 1)
        return super().forward(images)


class Tripled(NextToken):
    """Is far off on a bf16 model."""

    def forward(self, model, batch, totals):
        out = super().forward(model, batch, totals)
        is_half = next(model.parameters()).dtype == torch.bfloat16
        return LossOutput(out.total * 3, out.parts) if is_half else out


class CastState(NextToken):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(513.5))


class InPlace(NextToken):
    def forward(self, model, batch, totals):
        out = super().forward(model, batch, totals)
        batch.labels.clamp_(max=3)
        return out


def test_frequencies_in_a_buffer() -> None:
    assert "cosines in bf16 differs by" in failure("half_precision", "position", FrequencyBuffer)


def test_a_part_that_does_not_run_in_bf16() -> None:
    said = failure("half_precision", "projector", FloatConstant)
    assert said.startswith("RuntimeError: ")
    assert "test_half_precision.py:" in said


def test_a_part_that_computes_something_else_in_bf16() -> None:
    assert "bf16 output of lm differs by" in failure("half_precision", "projector", Changes)


def test_a_state_that_is_cast() -> None:
    said = failure("half_precision", "objective", CastState)
    assert "the objective's state mean is cast to torch.bfloat16" in said


def test_an_objective_that_computes_something_else_in_bf16() -> None:
    assert failure("half_precision", "objective", Tripled).startswith("bf16 loss differs by 2")


def test_an_encoder_that_changes_the_pixels() -> None:
    sizes = tiny.vision_factory().keywords
    assert "pixels after a step differs by" in failure("half_precision", "vision", lambda: Pixels(**sizes))


def test_an_objective_that_changes_the_pack() -> None:
    assert "labels after a step differs by" in failure("half_precision", "objective", InPlace)
