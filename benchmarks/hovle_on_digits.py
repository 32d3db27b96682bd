"""HoVLE's distillation on real handwriting, and what it is worth for the next stage, on two CPU cores.

    python benchmarks/hovle_on_digits.py [--seeds 0 1 2] [--forms pre post] [--steps 800] [--aligned 100] [--out FILE]

A small InternVL3 learns to read digits; it is the teacher. A stem (patches, projector and holistic embedding) learns
the teacher's embeddings of images without text and of texts without images. Measured on images of scans that training
does not see, and on random texts of the whole vocabulary, with all vectors scaled to length 1, as the loss says nothing
about lengths: the mean cosine, the mean cosine of the differences from the mean of each side (an embedding that is the
same for all inputs has 0), and how often the teacher's vector of a token is the nearest one among those of 256 tokens.

Then the stem learns next-token prediction with the teacher's language model, which is frozen, for some steps: once from
the distilled weights, once from those that distillation started from. Both arms get the same packs, and are asked about
the same test images. Results are added to a JSON file run by run, so that a second call goes on. At the end, the arms
are compared by McNemar's exact test over all test images of all seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from encoders_on_digits import READ, Images, Result, answers, compare, composed, train
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from mmcomponents.batch import PackedBatch
from mmcomponents.embedders import HolisticEmbedder, PatchHolisticEmbedder
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.runtime import Runtime
from mmcomponents.objectives import Distillation
from mmcomponents.projectors import LlavaProjector
from mmcomponents.testing.packs import IMAGE_TOKEN, pack
from mmcomponents.vision import PatchStem

OUT = Path(__file__).parent / "results" / "hovle_on_digits.json"
WIDTH, VOCAB, TEACHER_STEPS = 96, 512, 300
IMAGES, TEXTS, LENGTH = 32, 16, 16
CANDIDATES = 256
LAYERS: dict[str, Any] = {"num_layers": 4, "num_heads": 4, "intermediate_size": 256}
FORMS: dict[str, dict[str, Any]] = {
    "pre": {"projector": LlavaProjector, "embedder": partial(HolisticEmbedder, **LAYERS)},
    "post": {"projector": None, "embedder": partial(PatchHolisticEmbedder, **LAYERS, grid=(4, 4))},
}


def unpaired(images: Images, number: int, *, test: bool = False) -> PackedBatch:
    """Returns a pack of images without text and of random texts without images."""
    batch, _ = images.batch(READ, number, test=test, size=IMAGES)
    made = pack(*[[("i", 1)]] * IMAGES, *[[("t", LENGTH)]] * TEXTS, tile=images.side, tokens_per_tile=images.tokens)
    draw = torch.Generator().manual_seed(2 * number + test)
    ids = torch.randint(VOCAB - 1, (TEXTS * LENGTH,), generator=draw)
    made.input_ids[-TEXTS * LENGTH :] = ids + (ids >= IMAGE_TOKEN)  # any token but the placeholder
    made.images = batch.images
    return made


def distil(model: MultimodalModel, objective: Distillation, images: Images, steps: int, lr: float = 3e-3) -> None:
    """Trains all that comes before the backbone, with a cosine schedule."""
    own = [p for part in (model.vision, model.projector, model.embedder) if part is not None for p in part.parameters()]
    optimizer = torch.optim.AdamW(own, lr=lr, weight_decay=0.0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        batch = unpaired(images, step)
        loss = objective(model.train(), batch, objective.counts(batch)).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def likeness(model: MultimodalModel, teacher: MultimodalModel, images: Images) -> dict[str, dict[str, float]]:
    """Compares the embeddings of images and texts that training does not see."""
    packs = [unpaired(images, number, test=True) for number in range(4)]
    both = [
        torch.cat([m.eval()(batch, Runtime(needs=("embeds",))).embeds for batch in packs]) for m in (model, teacher)
    ]
    image = torch.cat([batch.visual_index >= 0 for batch in packs])
    ids = torch.cat([batch.input_ids for batch in packs])
    found = {}
    for kind, places in (("image", image.nonzero()[:, 0]), ("text", _first_of_each(ids, ~image))):
        places = places[:CANDIDATES]
        ours, theirs = (normalize(values[places], dim=-1) for values in both)
        nearest = (ours @ theirs.T).argmax(1)
        found[kind] = {
            "cosine": float(cosine_similarity(ours, theirs).mean()),
            "centred": float(cosine_similarity(ours - ours.mean(0), theirs - theirs.mean(0)).mean()),
            "found": float((nearest == torch.arange(len(places))).float().mean()),
            "candidates": len(places),
        }
    return found


def _first_of_each(ids: Tensor, allowed: Tensor) -> Tensor:
    """Returns the first place of each different token."""
    first = {int(ids[place]): place for place in reversed(allowed.nonzero()[:, 0].tolist())}
    return torch.tensor(sorted(first.values()))


def student_of(form: str, teacher: MultimodalModel, seed: int) -> MultimodalModel:
    """Returns a model with a new stem and the language model of the teacher."""
    parts: dict[str, Any] = {"vision": partial(PatchStem, WIDTH, 28, 7), **FORMS[form]}
    model = composed(seed, VOCAB, **parts)
    for name in ("backbone", "heads"):
        model.get_submodule(name).load_state_dict(teacher.get_submodule(name).state_dict())
        model.get_submodule(name).requires_grad_(False)
    return model


@cache
def teacher_of(seed: int) -> tuple[MultimodalModel, float]:
    """Returns the teacher of a seed, and the share of the test images that it reads."""
    images, model = Images(28, (20, 26), 0.0, 0.0, seed), composed(seed, VOCAB)
    train(model, images, READ, TEACHER_STEPS)
    right = answers(model, images, READ)
    return model, sum(right) / len(right)


def run(form: str, seed: int, steps: int, aligned: int) -> Result:
    """Returns what distillation reaches, and the answers of both arms."""
    images, (teacher, reading) = Images(28, (20, 26), 0.0, 0.0, seed), teacher_of(seed)
    begin = time.perf_counter()
    model = student_of(form, teacher, seed)
    objective = Distillation("teacher")
    objective.prepare(model, lambda folder=None: teacher)
    distil(model, objective, images, steps)
    found: Result = {"teacher": reading, **likeness(model, teacher, images)}
    found["before"] = "".join("01"[right] for right in answers(model, images, READ))
    for arm, trained in (("distilled", model), ("new", student_of(form, teacher, seed))):
        train(trained, images, READ, aligned)
        found[arm] = "".join("01"[right] for right in answers(trained, images, READ))
    return found | {"seconds": round(time.perf_counter() - begin)}


def main(argv: list[str] | None = None) -> int:
    """Runs what the file lacks, then prints what was reached and the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--steps", type=int, default=800, help="steps of distillation")
    parser.add_argument("--aligned", type=int, default=100, help="steps of next-token prediction")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    results: dict[str, Result] = json.loads(options.out.read_text()) if options.out.exists() else {}
    keys = {(f, s): f"{f}/{s}/{options.steps}+{options.aligned}" for s in options.seeds for f in options.forms}
    for (form, seed), key in keys.items():
        if key not in results:
            results[key] = run(form, seed, options.steps, options.aligned)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
        result = results[key]
        for kind in ("image", "text"):
            told = ", ".join(f"{name} {value:.3f}" for name, value in result[kind].items() if name != "candidates")
            sys.stdout.write(f"{key}: {kind} {told} of {result[kind]['candidates']}\n")
        right = result["before"].count("1") / len(result["before"])
        sys.stdout.write(
            f"{key}: teacher {result['teacher']:.1%}, before alignment {right:.1%}, {result['seconds']} s\n"
        )
        sys.stdout.flush()
    for form in options.forms:
        both = ["".join(results[keys[form, seed]][arm] for seed in options.seeds) for arm in ("distilled", "new")]
        sys.stdout.write(f"{form}: {compare('distilled', both[0], 'new', both[1])}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
