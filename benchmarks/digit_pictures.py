"""Pictures of two handwritten digits, a reader of them that is trained apart, and measures of made pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmcomponents.data.chat.kinds import Sample
from mmcomponents.data.media.images import TiledImage
from mmcomponents.demos.handwriting.pictures import PictureStyle, draw_picture, pairs_of_digits
from mmcomponents.demos.handwriting.scenes import load_scans, split_scans

STYLE = PictureStyle()
HELD_OUT = 20
"""Pairs of digits, of a hundred, that no picture of the training has."""

POOL = 6_000
"""Pictures that a reader learns from."""

PARTS = {"train": 0, "test": 1}


class DigitPictures:
    """Pictures of pairs of digits: those of the test have other scans.

    Args:
        seed: Seed of the split of scans and pairs, and of all pictures.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.scans, self.digits = load_scans()
        self.allowed = split_scans(self.digits, (0.8, 0.2), seed)
        self.pairs, self.unseen = pairs_of_digits(HELD_OUT, seed)
        self._of_digit = [[part[self.digits[part] == digit] for digit in range(10)] for part in self.allowed]

    def draw(self, pair: tuple[int, int], number: int, part: str, vary: bool = True) -> Tensor:
        """Returns a picture of a pair of digits, `[3, side, side]` from -1 to 1."""
        generator = np.random.default_rng((self.seed, PARTS[part], number))
        chosen = [self.scans[generator.choice(self._of_digit[PARTS[part]][digit])] for digit in pair]
        grey = np.asarray(draw_picture(chosen, STYLE, generator, vary), np.float32)
        return torch.from_numpy(grey / 127.5 - 1).expand(3, -1, -1)

    def training(self, number: int) -> tuple[tuple[int, int], Tensor]:
        """Returns a picture of the training, with its digits."""
        generator = np.random.default_rng((self.seed, 2, number))
        pair = self.pairs[int(generator.integers(len(self.pairs)))]
        return pair, self.draw(pair, number, "train")

    def test(
        self, count: int, pairs: Sequence[tuple[int, int]], vary: bool = False
    ) -> tuple[list[tuple[int, int]], Tensor]:
        """Returns pictures of the test, with their digits; the pairs take turns."""
        chosen = [pairs[number % len(pairs)] for number in range(count)]
        return chosen, torch.stack([self.draw(pair, number, "test", vary) for number, pair in enumerate(chosen)])


def caption(pair: Sequence[int]) -> str:
    """Returns the caption of a picture."""
    return " ".join(map(str, pair))


def asked(pair: Sequence[int], image: TiledImage, number: int, dropout: bool = True) -> Sample:
    """Returns the sample of a picture to be made."""
    return Sample({"caption": caption(pair)}, [image], number=number, key=(0, 0, number, 0), is_training=dropout)


def question(pair: Sequence[int], image: TiledImage, number: int) -> Sample:
    """Returns the sample of a question about a picture."""
    messages = [
        {"role": "user", "content": "<image>\nRead the digits."},
        {"role": "assistant", "content": caption(pair)},
    ]
    return Sample({"messages": messages}, [image], number=number)


def boxes(pictures: Tensor) -> Tensor:
    """Returns the ink of the digits of pictures, `[N, 3, side, side]` from -1 to 1 to `[N, digits, box, box]`."""
    top = (STYLE.side - STYLE.box) // 2
    ink = (1 - pictures.mean(1)) / 2
    return ink[:, top : top + STYLE.box].unflatten(2, (STYLE.digits, STYLE.box)).transpose(1, 2)


class Reader(nn.Module):
    """Small convolutional classifier of both digits of a picture, which has nothing in common with the models."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        side = STYLE.side // 8
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * side * side, 10 * STYLE.digits)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Returns the logits `[N, digits, 10]`."""
        found: Tensor = self.body(pictures[:, :1]).unflatten(1, (STYLE.digits, 10))
        return found

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[tuple[int, ...]]:
        """Returns the digits of pictures."""
        self.eval()
        return [tuple(row) for row in self(pictures).argmax(-1).tolist()]


def train_reader(reader: Reader, data: DigitPictures, steps: int, batch: int = 32, lr: float = 2e-3) -> None:
    """Trains a reader on pictures of scans of the training, which are not those that the models see."""
    truth, pictures = _drawn(data, min(POOL, steps * batch))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        own = torch.arange(step * batch, (step + 1) * batch) % len(truth)
        logits = reader.train()(pictures[own])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), truth[own].flatten(), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _drawn(data: DigitPictures, count: int) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng((data.seed, 3))
    pairs = [(int(a), int(b)) for a, b in generator.integers(0, 10, (count, 2))]
    pictures = [data.draw(pair, 10_000_000 + number, "train") for number, pair in enumerate(pairs)]
    return torch.tensor(pairs), torch.stack(pictures)


def spread(ink: Tensor, digit: Tensor) -> float:
    """Returns the mean distance of two boxes of the same digit, averaged over the digits.

    Args:
        ink: `[n, box, box]`.
        digit: `[n]`.
    """
    found = []
    for value in range(10):
        own = ink[digit == value].flatten(1)
        if len(own) > 1:
            found.append(torch.pdist(own).mean())
    return float(torch.stack(found).mean()) if found else float("nan")


def nearest(ink: Tensor, known: Tensor) -> Tensor:
    """Returns the distance of each box to the nearest of the known ones, `[n]`."""
    return torch.cdist(ink.flatten(1), known.flatten(1)).min(1).values


def batches(numbers: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yields consecutive parts of a sequence."""
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size]
