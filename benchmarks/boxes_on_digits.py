"""Detection of real handwritten digits in cluttered scenes: MI-DETR against one inquiry, on two CPU cores.

    python benchmarks/boxes_on_digits.py [--seeds 0 1 2] [--arms inquiries plain] [--encoder resnet] [--steps N]
        [--overlap SHARE] [--out FILE]

inquiries: four parallel inquiries and U-like feature interaction with all layers of the encoder, as MI-DETR has them.
plain: one inquiry, every decoder layer reads the last layer of the encoder, as in DINO.

Scenes of 96 pixels have up to 30 digits of 10 to 20 pixels that overlap, and strokes that are none. Scans of digits are
those of scikit-learn; those of the test are not seen in training. Both arms of a seed see the same scenes in the same
order and take the same number of steps. Results are added to a JSON file run by run, so that a second call goes on. At
the end, arms are compared by a paired t-test over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_rel
from torch import Tensor

from mmcomponents.batch import PackedBatch
from mmcomponents.compose import Factories
from mmcomponents.demos.handwriting.cluttered import Clutter, ClutterStyle, draw_clutter
from mmcomponents.demos.handwriting.scenes import load_scans, split_scans
from mmcomponents.evaluation.box_ap import BoxesOfImage, box_ap
from mmcomponents.extras import Boxes
from mmcomponents.fusers import ChannelMapper, DeformableEncoder, UFIEncoder
from mmcomponents.generation import Context, TopBoxes
from mmcomponents.heads import DetectionHead
from mmcomponents.model import MultimodalModel
from mmcomponents.movable import Exact
from mmcomponents.nn.box_geometry import centred
from mmcomponents.objectives import SetCriterion
from mmcomponents.testing.packs import pack
from mmcomponents.vision import PIIP, InternViT, ResNet

OUT = Path(__file__).parent / "results" / "boxes_on_digits.json"
SIDE, DIGIT, BATCH, TEST, SMALL = 96, (10, 20), 8, 200, 12.0
"""Sides of a scene and of its digits in pixels, scenes of a step and of the test, and the side of a small box."""

POOL, OVERLAP = 12_000, 0.1
"""Scenes for training, which are seen again after that many, and the largest IoU of the cells of two digits."""

WIDTH, LEVELS, LAYERS, QUERIES = 64, 2, 2, 50
LR = 1e-3

Result = dict[str, Any]

_VIT = partial(InternViT, 96, 4, 4, 256, image_size=SIDE, patch_size=6, layer_scale=1.0)
ENCODERS: dict[str, Any] = {
    "resnet": partial(ResNet, (1, 2, 2), 24, (2, 3), image_size=SIDE, norm="group_norm"),
    "intern_vit": _VIT,
    "piip": partial(
        PIIP,
        {
            "large": partial(InternViT, 96, 4, 4, 256, image_size=48, patch_size=6, layer_scale=1.0),
            "small": partial(InternViT, 48, 4, 4, 128, image_size=SIDE, patch_size=6, layer_scale=1.0),
        },
        4,
        num_heads=4,
    ),
}


class Scenes:
    """Scenes of real scans with the boxes of their digits.

    Args:
        seed: Seed of the split of the scans, and of the draws.
        overlap: Largest IoU of the cells of two digits.
    """

    def __init__(self, seed: int, overlap: float = OVERLAP) -> None:
        self.scans, self.digits = load_scans()
        self.train, _, self.test = split_scans(self.digits, (0.75, 0.05, 0.20), seed)
        self.drawn: dict[tuple[bool, int], Clutter] = {}
        self.style, self.seed = ClutterStyle(SIDE, DIGIT, overlap=overlap), seed

    def draw(self, number: int, *, test: bool) -> Clutter:
        """Returns a scene by its number; it is drawn once for both arms."""
        if (test, number) not in self.drawn:
            generator = np.random.default_rng((self.seed, int(test), number))
            allowed = self.test if test else self.train
            scene = draw_clutter(self.scans, self.digits, allowed, self.style, generator, vary=not test)
            self.drawn[test, number] = scene
        return self.drawn[test, number]

    def batch(self, numbers: range, *, test: bool = False) -> tuple[PackedBatch, list[Clutter]]:
        """Returns a pack of scenes, one segment and one tile each, without tokens."""
        drawn = [self.draw(number % POOL, test=test) for number in numbers]
        made = pack(*[[("i", 1)]] * len(drawn), tile=SIDE, tokens_per_tile=0)
        assert made.images is not None
        grey = torch.from_numpy(np.stack([np.asarray(scene.image, np.float32) for scene in drawn])) / 127.5 - 1
        images = replace(made.images, pixels=grey[:, None].expand(-1, 3, -1, -1))
        tile = torch.tensor([n for n, scene in enumerate(drawn) for _ in scene.digits], dtype=torch.int64)
        cxcywh = centred(torch.from_numpy(np.concatenate([scene.boxes for scene in drawn])) / SIDE)
        label = torch.from_numpy(np.concatenate([scene.digits for scene in drawn]))
        boxes = Boxes(Exact(cxcywh), label, tile, tile)
        return replace(made, images=images, extras={"boxes": boxes}, segment_sample=torch.tensor([*numbers])), drawn


def composed(seed: int, arm: str, encoder: str) -> MultimodalModel:
    """Returns a detector with random weights."""
    neck = partial(ChannelMapper, width=WIDTH, num_levels=LEVELS, num_groups=8)
    sizes = {"num_heads": 4, "num_points": 4, "intermediate_size": 2 * WIDTH}
    kind = UFIEncoder if arm == "inquiries" else DeformableEncoder
    head = partial(DetectionHead, num_classes=10, num_queries=QUERIES, num_inquiries=4 if arm == "inquiries" else 1)
    model = Factories(
        vision=ENCODERS[encoder],
        fuser=partial(kind, neck=neck, num_layers=LAYERS, **sizes),
        heads={"detection": partial(head, num_layers=LAYERS, num_levels=LEVELS, **sizes)},
    ).build(None, None)
    model.init_weights(seed)
    return model


def train(model: MultimodalModel, scenes: Scenes, steps: int) -> None:
    """Trains all weights, with a schedule that ends at zero."""
    objective = SetCriterion(denoising=30)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        batch, _ = scenes.batch(range(step * BATCH, (step + 1) * BATCH))
        found = objective(model, batch, objective.counts(batch))
        optimizer.zero_grad()
        found.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            shown = ", ".join(f"{name} {value:.3f}" for name, value in found.parts.items())
            sys.stderr.write(f"step {step}: {shown}\n")


def measured(model: MultimodalModel, scenes: Scenes) -> dict[str, float]:
    """Returns the average precision in the scenes of the test."""
    model.eval()
    sampler, truth, found = TopBoxes(num_boxes=100), list[BoxesOfImage](), list[BoxesOfImage]()
    for first in range(0, TEST, BATCH):
        batch, drawn = scenes.batch(range(first, min(first + BATCH, TEST)), test=True)
        for scene, answer in zip(drawn, sampler(model, batch, Context()), strict=True):
            assert answer.values is not None
            truth.append(BoxesOfImage(scene.boxes.astype(np.float64), scene.digits))
            found.append(_in_pixels(answer.values))
    return box_ap(truth, found, small=SMALL**2)


def _in_pixels(values: Tensor) -> BoxesOfImage:
    rows = values.double().numpy()
    return BoxesOfImage(rows[:, 2:6] * SIDE, rows[:, 0].astype(np.int64), rows[:, 1])


def main(argv: list[str] | None = None) -> int:
    """Runs what the file lacks, then prints average precision and tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=("inquiries", "plain"), default=["inquiries", "plain"])
    parser.add_argument("--encoder", choices=list(ENCODERS), default="resnet")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--overlap", type=float, default=OVERLAP, help="largest IoU of the cells of two digits")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    results: dict[str, Result] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in options.seeds:
        for arm in options.arms:
            key = _key(arm, seed, options)
            if key not in results:
                scenes, model = Scenes(seed, options.overlap), composed(seed, arm, options.encoder)
                begin = time.process_time()
                train(model, scenes, options.steps)
                seconds = round(time.process_time() - begin)
                size = sum(p.numel() for p in model.parameters())
                results[key] = {**measured(model, scenes), "parameters": size, "cpu_seconds": seconds}
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
            shown = ", ".join(f"{name} {results[key][name]:.3f}" for name in ("ap", "ap50", "ap_small"))
            rest = f"{results[key]['parameters']:,} parameters, {results[key]['cpu_seconds']} s of CPU"
            sys.stdout.write(f"{key}: {shown}, {rest}\n")
            sys.stdout.flush()
    if len(options.arms) == 2:
        _compare(results, options)
    return 0


def _key(arm: str, seed: int, options: argparse.Namespace) -> str:
    other = "" if options.overlap == OVERLAP else f"/{options.overlap:g}"
    return f"{options.encoder}/{arm}/{seed}/{options.steps}{other}"


def _compare(results: dict[str, Result], options: argparse.Namespace) -> None:
    for name in ("ap", "ap50", "ap_small"):
        one, two = ([results[_key(arm, seed, options)][name] for seed in options.seeds] for arm in options.arms)
        p = float(ttest_rel(one, two).pvalue) if len(one) > 1 else math.nan
        means = ", ".join(f"{arm} {np.mean(v):.3f}" for arm, v in zip(options.arms, (one, two), strict=True))
        sys.stdout.write(f"{name}: {means}, n = {len(one)} seeds, paired t-test p = {p:.3f}\n")


if __name__ == "__main__":
    raise SystemExit(main())
