"""Builder of the data set of coloured shapes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmcomponents.data.chat.kinds import Kinds, ReasonedPicture
from mmcomponents.data.chat.kinds.reasoned_picture import MEMBER
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.demos.handwriting.data_folder import begin, finish
from mmcomponents.demos.shapes.shape_scenes import SIDE, Scene, draw_scene, make_scene
from mmcomponents.limits import MAX_ROWS, check_sizes

NAME = "shapes"
PARTS = ("train", "val", "test")
UNNAMED = 0.3
"""Share of the training requests that do not name places, so that a picture is known by its boxes alone."""


def make_shapes(
    out: str,
    pictures: int = 20_000,
    val_pictures: int = 200,
    held_out: int = 200,
    seed: int = 0,
    reasoning: bool = True,
    num_queries: int = 8,
    vocab_size: int = 400,
    samples_per_shard: int = 8_000,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Writes `train-*.tar`, `val-*.tar` and `test-*.tar`, their indices, a tokenizer, and a note.

    A picture of 36 pixels has one or two coloured shapes. No request of another part is among those of the training.
    The indices are for the record kind ReasonedPicture. The same arguments give the same bytes.

    Args:
        out: Output folder; shards of an earlier call are replaced.
        pictures: Number of training pictures.
        val_pictures: Number of validation pictures.
        held_out: Number of test requests.
        seed: Random seed.
        reasoning: Whether pictures have a reasoning text; without one, it is empty.
        num_queries: Number of queries of a picture, which the indices count.
        vocab_size: Vocabulary size of the tokenizer.
        samples_per_shard: Largest number of pictures in a shard.
        progress: Called with (pictures done, pictures in total).

    Returns:
        The folder.

    Raises:
        DataError: The folder has another data set, or shards or a note of unknown origin.
        ValueError: Arguments are out of range.
    """
    folder = Path(out)
    sizes = dict(zip(PARTS, (pictures, val_pictures, held_out), strict=True))
    check_sizes(MAX_ROWS, pictures=pictures, val_pictures=val_pictures, held_out=held_out)
    begin(folder, NAME, PARTS)
    known: set[str] = set()
    shards: list[Path] = []
    done, total = 0, sum(sizes.values())
    for part in PARTS:
        with ShardWriter(folder, part, samples_per_shard) as writer:
            for place in range(sizes[part]):
                scene = new_scene(seed, part, place, known)
                record = {
                    "request": scene.request,
                    "reasoning": scene.reasoning if reasoning else "",
                    "ground": scene.ground,
                    "source": NAME,
                }
                image = io.BytesIO()
                draw_scene(scene).save(image, "png")
                writer.write(f"{place:06d}", record, members={MEMBER: image.getvalue()})
                done += 1
                if progress is not None:
                    progress(done, total)
        shards += writer.paths
    tokenizer = train_tokenizer(texts(seed), vocab_size)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    for shard in shards:
        build_index(shard, tokenizer, kinds=Kinds([ReasonedPicture(SIDE, num_queries)]))
    settings: dict[str, Any] = {
        "name": NAME,
        "pictures": sizes,
        "seed": seed,
        "reasoning": reasoning,
        "side": SIDE,
        "vocab_size": len(tokenizer),
        "shards": [shard.name for shard in shards],
    }
    finish(folder, settings)
    return str(folder)


def new_scene(seed: int, part: str, place: int, known: set[str]) -> Scene:
    """Returns a scene of a part; those that are not for training have a request that training does not have.

    Args:
        seed: Random seed.
        part: Name of the part.
        place: Number of the scene in its part.
        known: Requests of the training, to which those of training scenes are added.
    """
    generator = np.random.default_rng((seed, PARTS.index(part), place))
    if part == "train":
        scene = make_scene(generator, UNNAMED)
        known.add(scene.request)
        return scene
    while (scene := make_scene(generator)).request in known:
        pass
    return scene


def texts(seed: int) -> list[str]:
    """Returns texts from which the tokenizer is trained."""
    scenes = [make_scene(np.random.default_rng((seed, len(PARTS), number)), UNNAMED) for number in range(2000)]
    return [text for scene in scenes for text in (scene.request, scene.reasoning)]
