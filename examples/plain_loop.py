"""Parts without Lightning: a model composed in Python and trained in a plain loop.

It learns to count the bright tiles of an image, in about a minute on one core:

    python examples/plain_loop.py
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mmcomponents import MultimodalModel
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import IGNORE, PackedBatch
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.generation import Autoregressive, Context
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.objectives import NextToken
from mmcomponents.positions import V2PE
from mmcomponents.projectors import MLPProjector
from mmcomponents.sequence import one_sequence
from mmcomponents.vision import InternViT

IMAGE, ASK, END, COUNTS = 15, 14, 13, 10
"""Token ids: placeholder of a visual token, question, end, and count 4; the counts 0 to 4 are 6 to 10."""


def build() -> MultimodalModel:
    """Composes a very small InternVL3."""
    return MultimodalModel(
        vision=InternViT(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, image_size=16, patch_size=4),
        merger=PixelUnshuffle(32),
        projector=MLPProjector(128, 48),
        embedder=TokenEmbedder(16, 48),
        position=V2PE(24, base=1e4, delta=0.25),
        backbone=DecoderLM(hidden_size=48, num_layers=2, num_heads=2, intermediate_size=96),
        heads={"lm": LMHead(48, 16)},
        image_token_id=IMAGE,
    )


def sample() -> tuple[Tensor, int]:
    """Returns four tiles and the number of bright ones."""
    bright = torch.rand(4) < 0.5
    tiles = 0.3 * torch.randn(4, 3, 16, 16) + bright[:, None, None, None]
    return tiles, int(bright.sum())


def prompt(tiles: Tensor, answer: int | None = None) -> PackedBatch:
    """Returns the sequence of an image, the question and, in training, the answer with its labels."""
    ids = [IMAGE] * 16 + [ASK] + ([] if answer is None else [COUNTS - 4 + answer, END])
    batch = one_sequence(torch.tensor(ids), tiles, IMAGE)
    if answer is None:
        return batch
    return replace(batch, labels=torch.tensor([IGNORE] * 16 + [*ids[-2:], IGNORE]))


def main(steps: int = 300) -> float:
    """Trains the model; returns its accuracy on 100 new images."""
    torch.manual_seed(0)
    model, objective = build(), NextToken()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        batches = [prompt(*sample()) for _ in range(8)]
        counts = [objective.counts(b) for b in batches]
        totals = {name: sum(c[name] for c in counts) for name in counts[0]}
        loss = sum((objective(model, b, totals).total for b in batches), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    model.eval()
    sampler, correct = Autoregressive(max_new_tokens=2), 0
    for _ in range(100):
        tiles, count = sample()
        (answer,) = sampler(model, prompt(tiles), Context(stop_ids={END}))
        correct += answer.ids == [COUNTS - 4 + count]
    print(f"{correct} of 100 right")
    return correct / 100


if __name__ == "__main__":
    main()
