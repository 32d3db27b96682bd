"""MMFuser and PIIP on real handwriting, each against an encoder without them, on two CPU cores.

    python benchmarks/encoders_on_digits.py [--seeds 0 1 2] [--steps 300] [--only strokes digits]
        [--digit 10 12] [--out FILE]

strokes: an encoder learns to read digits whose paper has stripes of one pixel, which do not matter. It is frozen, and
    projector and language model learn to say whether the stripes are horizontal or vertical: from its last level alone,
    and with MMFuser over four levels.
digits: encoders that read digits as large as their tile learn to read ones that are a quarter as wide: a pyramid of two
    (a large network on the small image, as two maps), one with the networks exchanged, and one encoder, both of at
    least its FLOPs.

Scans of digits are those of scikit-learn; those of the test are not seen in training, and all arms of a seed are asked
about the same images. Results are added to a JSON file run by run, so that a second call goes on. At the end, arms are
compared by McNemar's exact test over all test images of all seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import IGNORE, PackedBatch
from mmcomponents.compose import Factories
from mmcomponents.demos.handwriting.scenes import SceneStyle, draw_scene, load_scans, split_scans
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.fusers import MMFuser
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import NextToken
from mmcomponents.positions import V2PE
from mmcomponents.projectors import MLPProjector, TwoMap
from mmcomponents.testing.packs import IMAGE_TOKEN, VOCAB_SIZE, pack
from mmcomponents.training.flops import work
from mmcomponents.vision import PIIP, InternViT, VisionEncoder

OUT = Path(__file__).parent / "results" / "encoders_on_digits.json"
BATCH, TEST = 64, 600
READ, STRIPES = 1, 2
STRIPE, GRAIN = 0.05, 0.1
SMALL = (12, 14)
DIGIT, STROKE = 10, 30
"""Token ids of the questions, and of the first answer to each."""

Result = dict[str, Any]


class Images:
    """Images of real scans with what is asked about them.

    Args:
        side: Side of a tile in pixels.
        digit: Smallest and largest side of the digit.
        stripes: Amplitude of the stripes, of 2 from black to white; 0: none.
        noise: Standard deviation of the grain of the paper.
        seed: Seed of the split and of the draws.
        tokens: Number of visual tokens of a tile.
    """

    def __init__(
        self, side: int, digit: tuple[int, int], stripes: float, noise: float, seed: int, tokens: int = 4
    ) -> None:
        self.scans, self.digits = load_scans()
        self.train, _, self.test = split_scans(self.digits, (0.75, 0.05, 0.20), seed)
        self.style = SceneStyle(side, digit, (1.0,), (1.0, 0.0, 0.0))
        self.side, self.stripes, self.noise, self.seed, self.tokens = side, stripes, noise, seed, tokens

    def batch(
        self, question: int, number: int, *, test: bool = False, size: int | None = None
    ) -> tuple[PackedBatch, Tensor]:
        """Returns a pack of a question about each of `size` images (default: `BATCH`), and the right answers."""
        size = BATCH if size is None else size
        generator = np.random.default_rng((self.seed, int(test), question, number))
        allowed = self.test if test else self.train
        pixels, answers = [], []
        for _ in range(size):
            scene = draw_scene(self.scans, self.digits, allowed, self.style, generator, vary=not test)
            grey = np.asarray(scene.image, np.float32) / 127.5 - 1
            stroke = int(generator.integers(2))
            wave = self.stripes * (-1.0) ** np.arange(self.side)
            grey = grey + (wave[:, None] if stroke == 0 else wave[None])
            grey = grey + self.noise * generator.standard_normal(grey.shape, np.float32)
            pixels.append(np.broadcast_to(grey, (3, self.side, self.side)))
            answers.append(DIGIT + scene.digits[0] if question == READ else STROKE + stroke)
        made = pack(*[[("i", 1), ("t", 2)]] * size, tile=self.side, tokens_per_tile=self.tokens)
        right = torch.tensor(answers)
        asked = torch.arange(size) * (self.tokens + 2) + self.tokens
        made.input_ids[asked], made.input_ids[asked + 1] = question, right
        made.labels.fill_(IGNORE)
        made.labels[asked] = right
        assert made.images is not None
        made.images.pixels = torch.from_numpy(np.stack(pixels).astype(np.float32))
        return made, right


def composed(seed: int, vocab_size: int = VOCAB_SIZE, **changes: Any) -> MultimodalModel:
    """Returns a small InternVL3 with random weights."""
    parts: dict[str, Any] = {
        "vision": encoder(96, 28),
        "merger": PixelUnshuffle,
        "projector": MLPProjector,
        "embedder": TokenEmbedder,
        "position": partial(V2PE, base=10_000.0),
        "backbone": partial(DecoderLM, 96, 2, 4, 256, num_kv_heads=2),
        "heads": {"lm": LMHead},
    }
    model = Factories(**parts | changes).build(vocab_size, IMAGE_TOKEN)
    model.init_weights(seed)
    return model


def encoder(width: int, side: int, **changes: Any) -> partial[InternViT]:
    """Returns the factory of an encoder of four blocks."""
    sizes = {"intermediate_size": 8 * width // 3, "image_size": side, "patch_size": 7, "layer_scale": 1.0}
    return partial(InternViT, width, 4, 4, **sizes | changes)


def train(model: MultimodalModel, images: Images, question: int, steps: int, lr: float = 2e-3) -> None:
    """Trains the weights that require a gradient, with a cosine schedule."""
    objective = NextToken(weighting="token")
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        batch, _ = images.batch(question, step)
        loss = objective(model, batch, objective.counts(batch)).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def answers(model: MultimodalModel, images: Images, question: int) -> list[bool]:
    """Returns for each test image whether the answer is right."""
    model.eval()
    found: list[bool] = []
    for number in range(TEST // BATCH + 1):
        batch, right = images.batch(question, number, test=True)
        logits = model(batch, read=lambda heads, state, pack=batch: heads["lm"](state, pack))
        found += (logits[batch.labels != IGNORE].argmax(-1) == right).tolist()
    return found[:TEST]


def encoder_flops(model: MultimodalModel, images: Images) -> float:
    """Returns the FLOPs of encoder and fuser for an image."""
    counts = work(model, images.batch(READ, 0, size=1)[0])
    return counts["work/flops/vision"] + counts.get("work/flops/fuser", 0.0)


def strokes(seed: int, steps: int) -> dict[str, Callable[[], Result]]:
    """Returns the arms of the first experiment, which share an encoder that has learnt to read."""
    images = Images(28, (20, 26), STRIPE, GRAIN, seed)
    shared: list[tuple[MultimodalModel, float]] = []

    def reader() -> tuple[MultimodalModel, float]:
        if not shared:
            model = composed(seed)
            train(model, images, READ, steps)
            shared.append((model, float(np.mean(answers(model, images, READ)))))
        return shared[0]

    def arm(**changes: Any) -> Result:
        base, reading = reader()
        model = composed(seed, **changes)
        missing, unexpected = model.load_state_dict(copy.deepcopy(base.state_dict()), strict=False)
        assert not unexpected
        assert all(name.startswith("fuser.") for name in missing)
        model.vision.requires_grad_(False)
        train(model, images, STRIPES, steps)
        found = answers(model, images, STRIPES)
        return {"right": found, "reading": reading, "flops": encoder_flops(model, images)}

    levels = encoder(96, 28, levels=(1, 2, 3, 4))
    return {"last level": arm, "MMFuser": partial(arm, vision=levels, fuser=partial(MMFuser, num_heads=4))}


def digits(seed: int, steps: int, size: tuple[int, int] = SMALL) -> dict[str, Callable[[], Result]]:
    """Returns the arms of the second experiment, with the least widths that give the FLOPs of the pyramid."""
    large, images = Images(28, (20, 26), 0.0, 0.0, seed), Images(56, size, 0.0, 0.0, seed, tokens=64)
    readers: dict[int, VisionEncoder] = {}

    def reader(width: int) -> VisionEncoder:
        """Returns an encoder that has learnt to read large digits."""
        if width not in readers:
            model = composed(seed, vision=encoder(width, 28))
            train(model, large, READ, min(steps, 300))
            assert model.vision is not None
            readers[width] = model.vision
        return readers[width]

    def pyramid(first: int, second: int) -> dict[str, Any]:
        branches = {"first": encoder(first, 28), "second": encoder(second, 56)}
        parts = {"vision": partial(PIIP, branches, 4, num_heads=4), "projector": partial(TwoMap, num_groups=8)}
        return {"merger": None, **parts}

    def cost(parts: dict[str, Any]) -> float:
        return encoder_flops(composed(seed, **parts), images)

    wanted = cost(pyramid(96, 48))
    second = next(width for width in range(16, 129, 8) if cost(pyramid(8 * round(width / 16), width)) >= wanted)
    alone = next(w for w in range(16, 129, 4) if cost({"vision": encoder(w, 56), "merger": None}) >= wanted)

    def arm(parts: dict[str, Any], widths: dict[str, int]) -> Result:
        model = composed(seed, **parts)
        for path, width in widths.items():
            start_from(model.get_submodule(path), reader(width))
        train(model, images, READ, steps)
        return {"right": answers(model, images, READ), "flops": cost(parts), "widths": list(widths.values())}

    def branches(first: int, second: int) -> dict[str, int]:
        return {"vision.branches.first": first, "vision.branches.second": second}

    direct = 8 * round(second / 16)
    return {
        "inverted": lambda: arm(pyramid(96, 48), branches(96, 48)),
        "direct": lambda: arm(pyramid(direct, second), branches(direct, second)),
        "single": lambda: arm({"vision": encoder(alone, 56), "merger": None}, {"vision": alone}),
    }


@torch.no_grad()
def start_from(target: nn.Module, source: nn.Module) -> None:
    """Copies the weights of an encoder, with the position embedding resized to the target's grid."""
    state = source.state_dict()
    for name, parameter in target.named_parameters():
        value = state[name]
        if value.shape != parameter.shape:
            old, new = (math.isqrt(tensor.shape[1] - 1) for tensor in (value, parameter))
            grid = value[:, 1:].transpose(1, 2).unflatten(2, (old, old))
            resized = nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
            value = torch.cat([value[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
        parameter.copy_(value)


EXPERIMENTS = ("strokes", "digits")
PAIRS = {"strokes": [("MMFuser", "last level")], "digits": [("inverted", "single"), ("inverted", "direct")]}


def main(argv: list[str] | None = None) -> int:
    """Runs what the file lacks, then prints accuracies and tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument(
        "--digit", type=int, nargs=2, default=SMALL, help="sides of the digits of the second experiment"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    results: dict[str, Result] = json.loads(options.out.read_text()) if options.out.exists() else {}
    size = tuple(options.digit)
    for name in options.only:
        steps = f"{options.steps}" + (f"/{size[0]}-{size[1]}" if name == "digits" and size != SMALL else "")
        for seed in options.seeds:
            arms = digits(seed, options.steps, size) if name == "digits" else strokes(seed, options.steps)
            for arm, run in arms.items():
                key = f"{name}/{arm}/{seed}/{steps}"
                if key not in results:
                    begin = time.perf_counter()
                    found = run()
                    found["right"] = "".join("01"[answer] for answer in found["right"])
                    results[key] = {**found, "seconds": round(time.perf_counter() - begin)}
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(results, indent=1) + "\n")
                right = results[key]["right"]
                share, seconds = right.count("1") / len(right), results[key]["seconds"]
                more = f", reading {results[key]['reading']:.1%}" if "reading" in results[key] else ""
                sys.stdout.write(
                    f"{key}: {share:.1%} of {len(right)}, {results[key]['flops']:,.0f} FLOPs{more}, {seconds} s\n"
                )
                sys.stdout.flush()
        for one, two in PAIRS[name]:
            rights = [
                "".join(results[f"{name}/{a}/{seed}/{steps}"]["right"] for seed in options.seeds) for a in (one, two)
            ]
            sys.stdout.write(f"{name}: {compare(one, rights[0], two, rights[1])}\n")
    return 0


def compare(one: str, first: str, two: str, second: str) -> str:
    """Returns a line with the shares of right answers of two arms to the same questions, and McNemar's exact test.

    Args:
        one: Name of an arm.
        first: Its answers, 1 where right and 0 elsewhere.
        two: Name of the other arm.
        second: Its answers.
    """
    only = (
        sum(a > b for a, b in zip(first, second, strict=True)),
        sum(a < b for a, b in zip(first, second, strict=True)),
    )
    value = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    shares = [text.count("1") / len(text) for text in (first, second)]
    return (
        f"{one} {shares[0]:.1%}, {two} {shares[1]:.1%} of {len(first)}; only one is right in {only[0]} and {only[1]},"
        f" McNemar's exact p = {value:.1e}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
