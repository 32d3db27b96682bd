"""SynerGen-VL on real handwriting: pictures of two digits that are asked for and read, on two CPU cores.

    python benchmarks/synergen_on_digits.py [--seeds 0 1 2] [--steps N] [--out FILE] [--work FOLDER] [--pictures FILE]

An image tokenizer learns the pictures first. Then a small SynerGen-VL learns to make pictures ("Generate an image of:
4 7") and to read them, and a second one of the same initial weights reads only. Twenty of the hundred pairs of digits
are in no picture of the training, and the scans of the test are not those of the training.

Measured: how many of 300 pictures of these twenty pairs a reader that was trained apart, on scans, reads as they were
asked for, for several weights of guidance, the chosen one being that with the most right pictures of other pairs; what
it reads in scans of the test, as they are and after the tokenizer; how far pictures of one digit are apart, compared
with scans of the test that went through the tokenizer; how near a digit is to those of the training, compared with
scans of the test that are varied in the same way; and how many scans of the test both models read correctly, with
McNemar's exact test. Results are added to a JSON file run by run, and finished parts of a run to the folder, so that a
second call goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digit_pictures import (
    STYLE,
    DigitPictures,
    Reader,
    asked,
    batches,
    boxes,
    caption,
    nearest,
    question,
    spread,
    train_reader,
)
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor, nn

from mmcomponents.backbones import ExpertDecoderLM
from mmcomponents.batch import PackedBatch
from mmcomponents.compose import Factories
from mmcomponents.data.chat import SampleRenderer, end_ids
from mmcomponents.data.chat.kinds import CaptionedPicture, Chat, RecordKind, Sample
from mmcomponents.data.chat.picture_prompt import ASK
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.images import TiledImage
from mmcomponents.embedders import GuidedEmbedder
from mmcomponents.generation import Autoregressive, Context, ImageSampler
from mmcomponents.heads import LMHead, VQUnfold
from mmcomponents.mergers import Fold
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import ImageTokens, Objective, VQReconstruction
from mmcomponents.positions import RoPE
from mmcomponents.projectors import LlavaProjector
from mmcomponents.testing.packs import pack
from mmcomponents.vision import ConvVQTokenizer, VQEmbedding

OUT = Path(__file__).parent / "results" / "synergen_on_digits.json"
WORK = Path("runs") / "synergen_on_digits"
CODES, WIDTH, POOL, TEST, GUIDANCE = 128, 96, 12_000, 300, (1.0, 1.5, 2.0, 3.0, 7.5)
"""Ids of the tokenizer, width of the model, pictures for training, those of the test, and weights of guidance."""

FOLD = {"rows": 2, "columns": 4}
LAYERS: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "intermediate_size": 256}
MADE, READ, BATCH = 24, 8, 32
"""Pictures of a step that are made, that are read, and that the tokenizer learns from."""

Result = dict[str, Any]
TOKENIZER = partial(ConvVQTokenizer, STYLE.side, CODES, widths=(16, 32))


def renderer() -> SampleRenderer:
    """Returns the renderer of samples, with a tokenizer of the texts."""
    pairs = [caption((a, b)) for a in range(10) for b in range(10)]
    texts = [text for pair in pairs for text in (ASK + pair, "Read the digits.", pair)]
    return SampleRenderer(train_tokenizer(texts, 320), tokens_per_tile=8, normalization="siglip")


def tokenizer_model(seed: int) -> MultimodalModel:
    """Returns an image tokenizer with random weights, as a model of its own."""
    model = Factories(vision=TOKENIZER).build(None, None)
    model.init_weights(seed)
    return model


def composed(seed: int, vocabulary: int) -> MultimodalModel:
    """Returns a model with random weights."""
    model = Factories(
        vision=partial(VQEmbedding, 64, TOKENIZER),
        merger=partial(Fold, **FOLD),
        projector=LlavaProjector,
        embedder=GuidedEmbedder,
        position=partial(RoPE, base=10000.0),
        backbone=partial(ExpertDecoderLM, WIDTH, 4, **LAYERS),
        heads={
            "lm": partial(LMHead, tied=True),
            "vq_unfold": partial(VQUnfold, codebook_size=CODES, num_layers=2, **FOLD, **LAYERS),
        },
    ).build(vocabulary, None)
    model.init_weights(seed)
    return model


def train(
    model: MultimodalModel, objective: Objective, make: Callable[[int], PackedBatch], steps: int, lr: float
) -> None:
    """Trains all weights that are not frozen, with a schedule that ends at zero."""
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        batch = make(step)
        found = objective(model.train(), batch, objective.counts(batch))
        optimizer.zero_grad()
        found.total.backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            shown = ", ".join(f"{name} {float(value):.3f}" for name, value in found.parts.items())
            sys.stderr.write(f"step {step}: {shown}\n")


def tiles(data: DigitPictures, step: int) -> PackedBatch:
    """Returns a pack of pictures without tokens."""
    made = pack(*[[("i", 1)]] * BATCH, tile=STYLE.side, tokens_per_tile=0)
    assert made.images is not None
    made.images.pixels = torch.stack([data.training(step * BATCH + number)[1] for number in range(BATCH)])
    return made


class Trained:
    """What a seed trains: tokenizer, reader, and both models, each kept in a file once it is finished.

    Args:
        seed: The seed.
        options: Options of the command.
    """

    def __init__(self, seed: int, options: argparse.Namespace) -> None:
        self.seed, self.options = seed, options
        self.data, self.renderer = DigitPictures(seed), renderer()
        self.seconds: dict[str, int] = {}
        self.reader = self._part("reader", Reader, lambda made: train_reader(made, self.data, self._steps(0.4)))
        self.tokenizer: Any = self._part("tokenizer", partial(tokenizer_model, seed), self._train_tokenizer).vision
        self.pool = self._pool()
        self.unified = self._part("unified", self._composed, lambda made: self._train(made, MADE, READ)).eval()
        self.reads = self._part("reads", self._composed, lambda made: self._train(made, 0, READ)).eval()

    def _steps(self, share: float) -> int:
        return max(int(self.options.steps * share), 20)  # fewer are no schedule

    def _part(self, name: str, make: Callable[[], Any], learn: Callable[[Any], None]) -> Any:
        """Returns a part, trained or read from its file."""
        file = self.options.work / f"{name}-{self.seed}-{self.options.steps}.pt"
        torch.manual_seed(self.seed)
        made = make()
        if not file.exists():
            begin = time.process_time()
            learn(made)
            self.options.work.mkdir(parents=True, exist_ok=True)
            state = {"state": made.state_dict(), "seconds": round(time.process_time() - begin)}
            torch.save(state, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
        kept = torch.load(file, weights_only=True)
        made.load_state_dict(kept["state"])
        self.seconds[name] = kept["seconds"]
        return made.eval()

    def _train_tokenizer(self, model: MultimodalModel) -> None:
        train(model, VQReconstruction(), partial(tiles, self.data), self._steps(0.4), 2e-3)

    def _composed(self) -> MultimodalModel:
        model = composed(self.seed, len(self.renderer.tokenizer))
        assert model.vision is not None
        model.vision.tokenizer.load_state_dict(self.tokenizer.state_dict())  # type: ignore[union-attr]
        return model

    @torch.no_grad()
    def _pool(self) -> list[tuple[tuple[int, int], Tensor]]:
        """Returns the ids of the pictures for training, which are made once."""
        found = []
        for numbers in batches(range(min(POOL, self.options.steps * (MADE + READ))), 500):
            drawn = [self.data.training(number) for number in numbers]
            ids = self.tokenizer.encode_ids(torch.stack([picture for _, picture in drawn]))
            found += [(pair, own[None]) for (pair, _), own in zip(drawn, ids, strict=True)]
        return found

    def _train(self, model: MultimodalModel, made: int, read: int) -> None:
        """Trains a model on pictures that are made and others that are read; both models read the same ones."""
        make, answer = CaptionedPicture(0.1), Chat()

        def batch(step: int) -> PackedBatch:
            samples: list[tuple[RecordKind, Sample]] = []
            for place in range(MADE + READ):
                number = step * (MADE + READ) + place
                pair, ids = self.pool[number % len(self.pool)]
                image = TiledImage(None, vq_ids=ids)
                if place >= MADE and place - MADE < read:
                    samples.append((answer, question(pair, image, number)))
                elif place < made:
                    samples.append((make, asked(pair, image, number)))
            rendered = [segment for kind, sample in samples for segment in kind.render(sample, self.renderer)]
            return collate(rendered, 8, self.renderer.pad_id)

        train(model, ImageTokens(), batch, self.options.steps, 2e-3)

    @torch.no_grad()
    def draw(self, pairs: list[tuple[int, int]], guidance: float, seed: int = 0) -> Tensor:
        """Returns pictures that the model makes, `[N, 3, side, side]` from -1 to 1."""
        sampler, found = ImageSampler(guidance), []
        generator = torch.Generator().manual_seed(1000 * self.seed + seed)
        for part in batches(pairs, 100):
            samples = [Sample({"caption": caption(pair)}) for pair in part]
            prompts = [CaptionedPicture().prompts(sample, self.renderer)[0].segment for sample in samples]
            batch = collate(prompts, 8, self.renderer.pad_id)
            for answer in sampler.answer(self.unified, batch, Context(self.renderer.tokenizer, generator=generator)):
                found.append(torch.from_numpy(np.asarray(answer.picture, np.float32) / 127.5 - 1).permute(2, 0, 1))
        return torch.stack(found)

    def answers(self, model: MultimodalModel, pictures: Tensor) -> list[str]:
        """Returns what a model reads in pictures."""
        found: list[str] = []
        sampler, tokenizer = Autoregressive(8), self.renderer.tokenizer
        for part in batches(pictures, 100):
            images = [TiledImage(picture[None]) for picture in part]
            prompts = [Chat().prompts(question((0, 0), image, 0), self.renderer)[0].segment for image in images]
            batch = collate(prompts, 8, self.renderer.pad_id)
            found += [
                answer.text or "" for answer in sampler.answer(model, batch, Context(tokenizer, end_ids(tokenizer)))
            ]
        return found

    @torch.no_grad()
    def through(self, pictures: Tensor) -> Tensor:
        """Returns pictures that went through the tokenizer, in the levels of an 8-bit picture."""
        return levels(self.tokenizer.decode_ids(self.tokenizer.encode_ids(pictures)))

    def measured(self) -> Result:
        """Returns all figures."""
        data, read = self.data, self.reader.read
        count = self.options.test
        pairs, scans = data.test(count, data.unseen)
        decoded = self.through(scans)
        found: Result = {"n": count, "seconds": self.seconds}
        found["reader"] = {"scans": share(read(scans), pairs), "after the tokenizer": share(read(decoded), pairs)}
        found["error of the tokenizer"] = float((decoded - scans).square().mean())
        used = self.tokenizer.encode_ids(torch.stack([data.training(n)[1] for n in range(256)])).unique()
        found["ids in use"] = len(used)
        digits = torch.tensor(pairs).flatten()
        known = [self.tokenizer.decode_ids(torch.cat([ids for _, ids in part])) for part in batches(self.pool, 500)]
        trained = boxes(levels(torch.cat(known))).flatten(0, 1)
        _, varied = data.test(count, data.unseen, vary=True)
        distances = nearest(boxes(self.through(varied)).flatten(0, 1), trained)
        found["real"] = {
            "spread": spread(boxes(decoded).flatten(0, 1), digits),
            "spread of varied scans": spread(boxes(self.through(varied)).flatten(0, 1), digits),
            "nearest": quantiles(distances),
        }
        tried = [data.pairs[number % len(data.pairs)] for number in range(min(count, 160))]
        for guidance in GUIDANCE:
            pictures = self.draw(pairs, guidance)
            ink = boxes(pictures).flatten(0, 1)
            near = nearest(ink, trained)
            found[f"guidance {guidance:g}"] = {
                "read of seen pairs": share(read(self.draw(tried, guidance, 1)), tried),
                "read": share(read(pictures), pairs),
                "read of each digit": float(np.mean(np.array(read(pictures)) == np.array(pairs))),
                "spread": spread(ink, digits),
                "nearest": quantiles(near),
                "nearer than any real one": int((near < distances.min()).sum()),
                "different": len(pictures.flatten(1).unique(dim=0)),
            }
        found["chosen"] = max(GUIDANCE, key=lambda guidance: found[f"guidance {guidance:g}"]["read of seen pairs"])
        anywhere, unread = data.test(count, [*data.pairs, *data.unseen])
        true = [caption(pair) for pair in anywhere]
        both = [
            [a == b for a, b in zip(self.answers(m, unread), true, strict=True)] for m in (self.unified, self.reads)
        ]
        one, other = (sum(a and not b for a, b in zip(*rows, strict=True)) for rows in (both, both[::-1]))
        found["understanding"] = {
            "unified": sum(both[0]) / count,
            "reads only": sum(both[1]) / count,
            "only unified": one,
            "only reads only": other,
            "p": float(binomtest(one, one + other).pvalue) if one + other else 1.0,
        }
        found["parameters"] = sum(p.numel() for p in self.unified.parameters() if p.requires_grad)
        return found


def levels(pictures: Tensor) -> Tensor:
    """Rounds pictures to the levels of an 8-bit picture."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def share(found: list[tuple[int, ...]], pairs: list[tuple[int, int]]) -> float:
    """Returns the share of pictures whose digits are all as asked for."""
    return sum(a == b for a, b in zip(found, pairs, strict=True)) / len(pairs)


def quantiles(values: Tensor) -> list[float]:
    """Returns minimum, first percentile and median."""
    return [values.min().item(), values.quantile(0.01).item(), values.median().item()]


def sheet(rows: list[Tensor], zoom: int = 2) -> Image.Image:
    """Returns rows of pictures as one image."""
    grey = torch.cat([torch.cat(list(row.mean(1)), dim=1) for row in rows])
    values = ((grey.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    return Image.fromarray(values).resize((values.shape[1] * zoom, values.shape[0] * zoom), Image.Resampling.NEAREST)


def main(argv: list[str] | None = None) -> int:
    """Runs what the file lacks, then prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--test", type=int, default=TEST)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument(
        "--pictures", type=Path, help="writes pictures of the first seed: scans, after the tokenizer, made"
    )
    options = parser.parse_args(argv)
    results: dict[str, Result] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in options.seeds:
        key = f"{seed}/{options.steps}"
        if key not in results:
            results[key] = Trained(seed, options).measured()
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
        sys.stdout.write(f"{key}: {json.dumps(results[key])}\n")
        sys.stdout.flush()
    if options.pictures is not None:
        trained = Trained(options.seeds[0], options)
        pairs, scans = trained.data.test(10, trained.data.unseen)
        made = [trained.draw(pairs, guidance) for guidance in GUIDANCE]
        sheet([scans, trained.through(scans), *made]).save(options.pictures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
