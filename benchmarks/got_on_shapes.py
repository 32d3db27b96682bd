"""GoT on coloured shapes: pictures after a reasoning text with boxes, on two CPU cores.

    python benchmarks/got_on_shapes.py [--seeds 0 1 2] [--steps N] [--out FILE] [--work FOLDER] [--pictures FILE]

An autoencoder learns the pictures first. Then a small GoT learns to write boxes and colours and to make the picture
("Generate an image of: a small red circle at the top left, on white"), and a second one of the same initial weights
learns the same pictures without a reasoning text. Requests of the test are not among those of the training.

Measured on 200 requests, with one thing counted at a time (a request has one or two): how often a thing is in the box
of the reasoning, by the box around the pixels of its colour (IoU over 0.7); how often a picture has all its
things in their boxes; how often all things are in the cells that the request names, with reasoning and without, and
McNemar's exact test of both; the same after one box of each reasoning was moved to an empty cell, with the same noise,
and the mean change of the pixels outside of both boxes. Results are added to a JSON file run by run, and finished parts
of a run to the folder, so that a second call goes on.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor, nn

from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import PackedBatch
from mmcomponents.compose import Factories
from mmcomponents.data.chat import SampleRenderer, end_ids
from mmcomponents.data.chat.kinds import ReasonedPicture, Sample
from mmcomponents.data.chat.kinds.reasoned_picture import MEMBER
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.boxes import SCALE
from mmcomponents.data.media.reasoned_boxes import ReasonedBox, parse_reasoning, replace_box
from mmcomponents.demos.shapes import Scene, Thing, draw_scene
from mmcomponents.demos.shapes.shape_scenes import CELL, SIDE
from mmcomponents.demos.shapes.shape_shards import new_scene, texts
from mmcomponents.embedders import QueryEmbedder
from mmcomponents.evaluation.intervals import interval
from mmcomponents.evaluation.metrics.grounding import iou
from mmcomponents.evaluation.picture_layout import located
from mmcomponents.generation import Answer, Context, GuidedGeneration
from mmcomponents.heads import Condition, ConvAutoencoder, CosineNoise, LMHead
from mmcomponents.heads.denoisers import UNetDenoiser
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import Objective, PictureDiffusion, PictureReconstruction
from mmcomponents.positions import RoPE

OUT = Path(__file__).parent / "results" / "got_on_shapes.json"
WORK = Path("runs") / "got_on_shapes"
WIDTH, QUERIES, CHANNELS, BATCH, TEST = 64, 8, 8, 16, 200
"""Width of the model, queries of a picture, channels of the latents, pictures of a step, and those of the test."""

GUIDANCE = ((1.0, 1.0), (1.5, 1.5), (3.0, 2.0), (7.5, 4.0))
"""Weights of words and layout that are tried on requests of the training."""

NEW_TOKENS = 96
"""Most tokens of a reasoning text; those of two things have about 65."""

LEAST = 0.7
"""IoU above which a thing is in its box."""

Result = dict[str, Any]
AUTOENCODER = partial(ConvAutoencoder, picture_size=SIDE, latent_channels=CHANNELS, widths=(8, 32))
DENOISER = partial(
    UNetDenoiser,
    latent_channels=CHANNELS,
    latent_size=SIDE // 4,
    widths=(48,),
    num_blocks=2,
    context_width=64,
    pooled_width=64,
)


def composed(seed: int, vocabulary: int) -> MultimodalModel:
    """Returns a model with random weights, that of `got/tiny`."""
    model = Factories(
        embedder=partial(QueryEmbedder, num_queries=QUERIES),
        position=partial(RoPE, base=10000.0),
        backbone=partial(DecoderLM, WIDTH, 3, 4, 192, num_kv_heads=2, qkv_bias=False),
        heads={
            "lm": partial(LMHead, tied=True),
            "picture": partial(
                Condition,
                denoiser=DENOISER,
                schedule=partial(CosineNoise, 100, prediction="signal"),
                num_queries=QUERIES,
            ),
            "autoencoder": AUTOENCODER,
        },
    ).build(vocabulary, None)
    model.init_weights(seed)
    return model


def train(
    model: MultimodalModel,
    weights: Sequence[nn.Parameter],
    objective: Objective,
    make: Callable[[int], PackedBatch],
    steps: int,
) -> None:
    """Trains weights of a model, with a schedule that ends at zero."""
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        batch = make(step)
        found = objective(model.train(), batch, objective.counts(batch))
        optimizer.zero_grad()
        found.total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            shown = ", ".join(f"{name} {float(value):.4f}" for name, value in found.parts.items())
            sys.stderr.write(f"step {step}: {shown}\n")
            sys.stderr.flush()


class Trained:
    """What a seed trains: the autoencoder and both models, each kept in a file once it is finished.

    Args:
        seed: The seed.
        options: Options of the command.
    """

    def __init__(self, seed: int, options: argparse.Namespace) -> None:
        self.seed, self.options, self.seconds = seed, options, dict[str, int]()
        self.renderer = SampleRenderer(train_tokenizer(texts(seed), 400), tokens_per_tile=1, normalization="siglip")
        self.kind, self.scale = ReasonedPicture(SIDE, QUERIES), 1.0
        known: set[str] = set()
        self.scenes = [new_scene(seed, "train", number, known) for number in range(options.steps * BATCH)]
        self.unseen = [new_scene(seed, "test", number, known) for number in range(options.test)]
        coder = self._part("autoencoder", self._learn_pictures)
        self.coder = coder.heads["autoencoder"].state_dict()
        self.scale = float(1 / self._latents(coder).std())

    @cached_property
    def reasons(self) -> MultimodalModel:
        """The model that writes a reasoning text before the picture."""
        return self._part("reasons", partial(self._learn, reasoning=True))

    @cached_property
    def plain(self) -> MultimodalModel:
        """The model that makes the picture at once."""
        return self._part("plain", partial(self._learn, reasoning=False))

    def _part(self, name: str, learn: Callable[[MultimodalModel], None]) -> MultimodalModel:
        """Returns a model, trained or read from its file."""
        file = self.options.work / f"{name}-{self.seed}-{self.options.steps}.pt"
        model = composed(self.seed, len(self.renderer.tokenizer))
        coder: Any = model.heads["autoencoder"]
        if name != "autoencoder":
            coder.load_state_dict(self.coder)
        coder.scale = self.scale
        if not file.exists():
            begin = time.process_time()
            learn(model)
            self.options.work.mkdir(parents=True, exist_ok=True)
            state = {"state": model.state_dict(), "seconds": round(time.process_time() - begin)}
            torch.save(state, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
        kept = torch.load(file, weights_only=True)
        model.load_state_dict(kept["state"])
        self.seconds[name] = kept["seconds"]
        return model.eval()

    def _sample(self, scene: Scene, number: int, reasoning: bool) -> Sample:
        image = io.BytesIO()
        draw_scene(scene).save(image, "png", compress_level=0)
        record = {"request": scene.request, "reasoning": scene.reasoning if reasoning else ""}
        return Sample(record, members={MEMBER: image.getvalue()}, number=number, is_training=True)

    def _batch(self, step: int, reasoning: bool = True) -> PackedBatch:
        rendered = []
        for number in range(step * BATCH, (step + 1) * BATCH):
            scene = self.scenes[number % len(self.scenes)]
            (segment,) = self.kind.render(self._sample(scene, number, reasoning), self.renderer)
            segment.sample = number
            rendered.append(segment)
        return collate(rendered, 1, self.renderer.pad_id, empty=self.kind.empty(), seed=self.seed)

    def _learn_pictures(self, model: MultimodalModel) -> None:
        own = [*model.heads["autoencoder"].parameters()]
        train(model, own, PictureReconstruction(), self._batch, max(self.options.steps // 4, 20))

    def _learn(self, model: MultimodalModel, reasoning: bool) -> None:
        frozen = {id(p) for p in model.heads["autoencoder"].requires_grad_(False).parameters()}
        own = [p for p in model.parameters() if id(p) not in frozen]
        train(model, own, PictureDiffusion(), partial(self._batch, reasoning=reasoning), self.options.steps)

    @torch.no_grad()
    def _latents(self, model: MultimodalModel) -> Tensor:
        coder: Any = model.heads["autoencoder"]
        found: Tensor = coder.encode(self._batch(0).extras["pictures"].target.tensor)  # type: ignore[attr-defined]
        return found

    def answers(
        self,
        model: MultimodalModel,
        scenes: Sequence[Scene],
        guidance: tuple[float, float] = (1.0, 1.0),
        texts_: Sequence[str] | None = None,
    ) -> list[Answer]:
        """Returns the answers of a model to requests, or its pictures of given reasoning texts."""
        found: list[Answer] = []
        sampler, tokenizer = GuidedGeneration(20, *guidance, max_new_tokens=NEW_TOKENS), self.renderer.tokenizer
        for start in range(0, len(scenes), 50):
            part = scenes[start : start + 50]
            samples = [Sample({"request": s.request, "reasoning": ""}, number=start + n) for n, s in enumerate(part)]
            prompts = [self.kind.prompts(sample, self.renderer)[0].segment for sample in samples]
            for number, prompt in enumerate(prompts):
                prompt.sample = start + number
            batch = collate(prompts, 1, self.renderer.pad_id, seed=self.seed)
            context = Context(tokenizer, end_ids(tokenizer), torch.Generator().manual_seed(self.seed))
            if texts_ is None:
                found += sampler.answer(model, batch, context)
            else:
                found += sampler.draw(model, batch, texts_[start : start + 50], context)
        return found

    def measured(self, keep: Callable[[Result], None]) -> Result:
        """Returns all figures.

        Args:
            keep: Called with the figures of the first model, before the second one is trained.
        """
        scenes, count = self.unseen, len(self.unseen)
        tried = [scene for scene in self.scenes if scene.named][: min(count, 100)]
        found: Result = {"n": count}
        chosen = found["guidance: all things in their boxes, of seen requests"] = {}
        for pair in GUIDANCE:
            answers = self.answers(self.reasons, tried, pair)
            chosen[f"{pair[0]:g}/{pair[1]:g}"] = mean(placed(s, a) for s, a in zip(tried, answers, strict=True))
        best = found["guidance"] = max(GUIDANCE, key=lambda pair: chosen[f"{pair[0]:g}/{pair[1]:g}"])
        answers = self.answers(self.reasons, scenes, best)
        both = list(zip(scenes, answers, strict=True))
        named = [in_cells(scene, answer) for scene, answer in both]
        found |= {
            "parameters": sum(p.numel() for p in self.reasons.parameters()),
            "scale": self.scale,
            "all things in their boxes": share([placed(scene, answer) for scene, answer in both]),
            "a thing in its box": share([value >= LEAST for s, a in both for value in overlaps(s, a)]),
            "texts that cannot be read": sum(bool(answer.problems) for answer in answers),
            "boxes as asked for": share([boxes_are_named(scene, answer) for scene, answer in both]),
            "moved": self._moved(scenes, answers, best),
            "all things in the cells that are named": share(named),
            "seconds": self.seconds,
        }
        keep(found)
        plain = [in_cells(s, a) for s, a in zip(scenes, self.answers(self.plain, scenes, best), strict=True)]
        one = sum(a and not b for a, b in zip(named, plain, strict=True))
        other = sum(b and not a for a, b in zip(named, plain, strict=True))
        return found | {
            "without reasoning": share(plain),
            "only with": one,
            "only without": other,
            "p": float(binomtest(one, one + other).pvalue) if one + other else 1.0,
        }

    def _moved(self, scenes: Sequence[Scene], answers: Sequence[Answer], guidance: tuple[float, float]) -> Result:
        """Moves the first box of each reasoning to an empty cell, and compares the pictures."""
        usable = [
            (scene, answer)
            for scene, answer in zip(scenes, answers, strict=True)
            if [box.colour for box in parse_reasoning(answer.reasoning or "").boxes]
            == [thing.colour for thing in scene.things]
        ]
        if not usable:
            return {"n": 0}
        changed = [moved(scene, answer.reasoning or "", n) for n, (scene, answer) in enumerate(usable)]
        same = self.answers(self.reasons, [s for s, _ in usable], guidance, [a.reasoning or "" for _, a in usable])
        again = self.answers(self.reasons, [s for s, _ in usable], guidance, changed)
        moves = [overlaps(scene, answer)[0] >= LEAST for (scene, _), answer in zip(usable, again, strict=True)]
        outside = [change_outside(a, b) for a, b in zip(same, again, strict=True)]
        return {
            "n": len(usable),
            "in the new box": share(moves),
            "mean change outside of both boxes": float(np.mean(outside)),
            "largest": float(np.max(outside)),
            "pictures under 2 %": float(np.mean([value < 0.02 for value in outside])),
        }


def pixels(answer: Answer) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Returns the picture of an answer."""
    return np.asarray(answer.picture, np.uint8)


def overlaps(scene: Scene, answer: Answer) -> list[float]:
    """Returns, for each thing, the IoU of its pixels' box and its box in the reasoning; 0 without either."""
    seen = located(pixels(answer), [thing.colour for thing in scene.things], scene.ground)
    boxes = parse_reasoning(answer.reasoning or "").boxes
    found = []
    for thing, place in zip(scene.things, seen, strict=True):
        own = [box.box for box in boxes if box.colour == thing.colour]
        scaled = None if place is None else tuple(value * SCALE / SIDE for value in place)
        found.append(iou(scaled, own[0]) if scaled is not None and len(own) == 1 else 0.0)  # type: ignore[arg-type]
    return found


def placed(scene: Scene, answer: Answer) -> bool:
    """Whether all things are in their boxes of the reasoning."""
    return min(overlaps(scene, answer)) >= LEAST


def in_cells(scene: Scene, answer: Answer) -> bool:
    """Whether the pixels of all things lie in the cells that the request names, and fill about half of them."""
    seen = located(pixels(answer), [thing.colour for thing in scene.things], scene.ground)
    return all(place is not None and _in_cell(place, thing) for thing, place in zip(scene.things, seen, strict=True))


def _in_cell(box: tuple[float, ...], thing: Thing) -> bool:
    """Whether a box has its middle in the cell of a thing, and about the size of the thing."""
    left, top, right, bottom = box
    column, row = (left + right) / 2 // CELL, (top + bottom) / 2 // CELL
    side = thing.box[2] - thing.box[0]
    sizes = (abs(right - left - side), abs(bottom - top - side))
    return (column, row) == (thing.place % 3, thing.place // 3) and max(sizes) <= 3


def boxes_are_named(scene: Scene, answer: Answer) -> bool:
    """Whether the reasoning has one box for each thing, of its colour and in its cell."""
    boxes = parse_reasoning(answer.reasoning or "").boxes
    if sorted(box.colour for box in boxes) != sorted(thing.colour for thing in scene.things):
        return False
    own = {box.colour: tuple(value * SIDE / SCALE for value in box.box) for box in boxes}
    return all(_in_cell(own[thing.colour], thing) for thing in scene.things)


def moved(scene: Scene, reasoning: str, number: int) -> str:
    """Returns a reasoning whose first box is in another cell, in which nothing is."""
    boxes = parse_reasoning(reasoning).boxes
    cells = {_cell(box) for box in boxes}
    free = [cell for cell in range(9) if cell not in cells]
    cell = free[int(np.random.default_rng((7, number)).integers(len(free)))]
    left, top, right, bottom = boxes[0].box
    step = SCALE / 3
    x, y = cell % 3 * step - left // step * step, cell // 3 * step - top // step * step
    x, y = min(max(x, -left), SCALE - right), min(max(y, -top), SCALE - bottom)
    new = (round(left + x), round(top + y), round(right + x), round(bottom + y))
    return replace_box(reasoning, 0, ReasonedBox(new, boxes[0].colour))


def _cell(box: ReasonedBox) -> int:
    left, top, right, bottom = box.box
    return int(3 * (left + right) / 2 // SCALE + 3 * (3 * (top + bottom) / 2 // SCALE))


def change_outside(one: Answer, other: Answer) -> float:
    """Returns the mean change of the pixels outside of the first boxes of both answers, as a share of their range."""
    keep = np.ones((SIDE, SIDE), bool)
    for answer in (one, other):
        box = parse_reasoning(answer.reasoning or "").boxes[0].box
        left, top, right, bottom = (round(value * SIDE / SCALE) for value in box)
        keep[top:bottom, left:right] = False
    difference = np.abs(pixels(one).astype(float) - pixels(other).astype(float)).mean(-1)
    return float(difference[keep].mean() / 255)


def mean(values: Any) -> float:
    """Returns the mean of marks."""
    return float(np.mean(list(values)))


def share(marks: Sequence[bool]) -> list[float]:
    """Returns a share with Wilson's interval of 95 %."""
    low, high = interval([float(mark) for mark in marks])
    return [mean(marks), low, high]


def kept(out: Path, results: dict[str, Result], key: str, found: Result) -> None:
    """Writes the results, with new ones of a key."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results | {key: found}, indent=1) + "\n")


def sheet(trained: Trained, count: int = 12, zoom: int = 2) -> Image.Image:
    """Returns scenes of the test, what both models make of them, and the first one of moved boxes."""
    scenes = trained.unseen[:count]
    answers = trained.answers(trained.reasons, scenes)
    texts_ = [moved(s, a.reasoning or "", n) for n, (s, a) in enumerate(zip(scenes, answers, strict=True))]
    again = trained.answers(trained.reasons, scenes, texts_=texts_)
    rows = [[np.asarray(draw_scene(scene)) for scene in scenes]]
    rows += [[pixels(a) for a in answers], [pixels(a) for a in again]]
    rows.append([pixels(a) for a in trained.answers(trained.plain, scenes)])
    whole = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    return Image.fromarray(whole).resize((whole.shape[1] * zoom, whole.shape[0] * zoom), Image.Resampling.NEAREST)


def main(argv: list[str] | None = None) -> int:
    """Runs what the file lacks, then prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--test", type=int, default=TEST)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--pictures", type=Path, help="writes pictures of the first seed")
    options = parser.parse_args(argv)
    results: dict[str, Result] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in options.seeds:
        key = f"{seed}/{options.steps}"
        if "p" not in results.get(key, {}):
            results[key] = Trained(seed, options).measured(partial(kept, options.out, results, key))
            kept(options.out, results, key, results[key])
        sys.stdout.write(f"{key}: {json.dumps(results[key])}\n")
        sys.stdout.flush()
    if options.pictures is not None:
        sheet(Trained(options.seeds[0], options)).save(options.pictures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
