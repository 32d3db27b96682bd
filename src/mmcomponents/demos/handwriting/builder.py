"""Builder of the quickstart's data set of questions about handwritten digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.demos.handwriting.data_folder import begin, finish
from mmcomponents.demos.handwriting.digit_questions import KINDS, PHRASINGS, conversation
from mmcomponents.demos.handwriting.scenes import SceneStyle, draw_scene, load_scans, split_scans
from mmcomponents.limits import check_numbers

NAME = "handwriting"
PARTS = ("train", "val", "test")
SHARES = (0.75, 0.05, 0.20)
"""Disjoint shares of the scans for the three parts."""


def make_handwriting(
    out: str,
    scenes: int = 40_000,
    held_out: int = 600,
    val_scenes: int = 100,
    seed: int = 0,
    unit: int = 28,
    digit_size: tuple[int, int] = (20, 26),
    counts: tuple[float, float, float, float] = (9, 2, 2, 2),
    orders: tuple[float, float, float] = (2, 1, 1),
    questions: tuple[int, int] = (1, 2),
    vocab_size: int = 512,
    samples_per_shard: int = 8_000,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Writes `train-*.tar`, `val-*.tar` and `test-*.tar` with their indices, `tokenizer/` and `dataset.json`.

    The three parts use different scans. A training conversation has some kinds of questions about its scene, in random
    order; those of validation and test have all five. Digits of training scenes are slightly rotated, slanted and
    thickened, since each scan is used many times; other digits are unchanged. The same arguments give the same bytes.

    Args:
        out: Output folder; shards of an earlier call are replaced.
        scenes: Number of training scenes.
        held_out: Number of test scenes.
        val_scenes: Number of validation scenes.
        seed: Random seed.
        unit: Side in pixels of the cell of one digit, and of the quickstart's tiles.
        digit_size: Smallest and largest side of a digit in pixels.
        counts: Weights of scenes with one, two, three and four digits. Small models do not learn several digits before
            single ones, so most scenes have one.
        orders: Weights of rows, columns and two-by-two grids among scenes of several digits.
        questions: Smallest and largest number of questions in a training conversation.
        vocab_size: Vocabulary size of the tokenizer, which is trained on the training conversations.
        samples_per_shard: Largest number of scenes in a shard.
        progress: Called with (scenes done, scenes in total).

    Returns:
        The folder.

    Raises:
        DataError: The folder has other files, or is one itself.
        ValueError: Arguments are out of range.
        ModuleNotFoundError: scikit-learn is missing.
    """
    check_numbers(seed=seed)
    folder, style = Path(out), SceneStyle(unit, digit_size, counts, orders)
    sizes = dict(zip(PARTS, (scenes, val_scenes, held_out), strict=True))
    if min(sizes.values()) < 1 or not 1 <= questions[0] <= questions[1] <= len(KINDS):
        raise ValueError(
            f"scenes {sizes} must be positive, and questions {questions} must be a range within 1 to {len(KINDS)}"
        )
    scans, digits = load_scans()
    allowed = dict(zip(PARTS, split_scans(digits, SHARES, seed), strict=True))
    begin(folder, NAME, PARTS)
    texts: list[str] = []
    shards: list[Path] = []
    done, total = 0, sum(sizes.values())
    for number, part in enumerate(PARTS):
        with ShardWriter(folder, part, samples_per_shard) as writer:
            for scene_number in range(sizes[part]):
                generator = np.random.default_rng((seed, 1 + number, scene_number))
                training = part == "train"
                scene = draw_scene(scans, digits, allowed[part], style, generator, vary=training)
                asked = int(generator.integers(questions[0], questions[1], endpoint=True)) if training else len(KINDS)
                kinds = generator.permutation(KINDS)[:asked].tolist() if training else list(KINDS)
                messages = conversation(scene.digits, scene.order, kinds, generator)
                record = {
                    "messages": messages,
                    "kinds": kinds,
                    "source": "handwriting",
                    "digits": scene.digits,
                    "scans": scene.scans,
                    "order": scene.order,
                }
                writer.write(f"{scene_number:06d}", record, [("png", scene.png())])
                if training:
                    texts += [message["content"] for message in messages]
                done += 1
                if progress is not None:
                    progress(done, total)
        shards += writer.paths
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    for shard in shards:
        build_index(shard, tokenizer)
    settings: dict[str, Any] = {
        "name": NAME,
        "scans": "scikit-learn load_digits: 8x8 scans of handwritten digits, UCI (Alpaydin and Kaynak, 1998)",
        "scenes": sizes,
        "scans_of_each_part": {part: len(numbers) for part, numbers in allowed.items()},
        "seed": seed,
        "style": asdict(style),
        "questions": list(questions),
        "kinds": {kind: list(PHRASINGS[kind]) for kind in KINDS},
        "vocab_size": len(tokenizer),
        "shards": [shard.name for shard in shards],
    }
    finish(folder, settings)
    return str(folder)
