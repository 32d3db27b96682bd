"""Builder of the data set of pictures of handwritten digits that are made from captions, and read."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmcomponents.data.chat.kinds import CaptionedPicture, Chat, Kinds
from mmcomponents.data.chat.picture_prompt import ASK
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.demos.handwriting.data_folder import begin, finish
from mmcomponents.demos.handwriting.pictures import PictureStyle, draw_picture, pairs_of_digits
from mmcomponents.demos.handwriting.scenes import load_scans, split_scans
from mmcomponents.limits import MAX_ROWS, check_numbers, check_sizes

NAME = "pictures"
PARTS = ("train", "val", "pictures", "reading")
SCANS = {"train": 0, "val": 1, "pictures": 2, "reading": 2}
"""Part -> number of its share of the scans."""

SHARES = (0.75, 0.05, 0.20)
QUESTION = "Read the digits."
_ASKED_OF = 4
"""One of that many training pictures is read, the others are made."""


def make_pictures(
    out: str,
    pictures: int = 20_000,
    held_out: int = 300,
    val_pictures: int = 200,
    held_out_pairs: int = 20,
    seed: int = 0,
    side: int = 32,
    jitter: int = 1,
    vocab_size: int = 320,
    samples_per_shard: int = 8_000,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Writes `train-*.tar`, `val-*.tar`, `pictures-*.tar` and `reading-*.tar`, their indices, a tokenizer, and a note.

    A picture has two digits. Three of four are to be made from their caption, one of four is read. `pictures` has
    captions of pairs of digits that no other part has, `reading` questions about pictures of scans that training does
    not see. The indices are for the record kinds Chat and CaptionedPicture. The same arguments give the same bytes.

    Args:
        out: Output folder; shards of an earlier call are replaced.
        pictures: Number of training pictures.
        held_out: Number of test captions, and of test questions.
        val_pictures: Number of validation pictures.
        held_out_pairs: Number of pairs of digits that only test captions have, a multiple of 10.
        seed: Random seed.
        side: Side of a picture in pixels.
        jitter: Largest distance of a digit from the middle of its place, in pixels.
        vocab_size: Vocabulary size of the tokenizer.
        samples_per_shard: Largest number of pictures in a shard.
        progress: Called with (pictures done, pictures in total).

    Returns:
        The folder.

    Raises:
        DataError: The folder has other files, or is one itself.
        ValueError: Arguments are out of range.
        ModuleNotFoundError: scikit-learn is missing.
    """
    check_numbers(seed=seed)
    folder, style = Path(out), PictureStyle(side, 2, jitter)
    sizes = dict(zip(PARTS, (pictures, val_pictures, held_out, held_out), strict=True))
    check_sizes(MAX_ROWS, pictures=pictures, val_pictures=val_pictures, held_out=held_out)
    known, unseen = pairs_of_digits(held_out_pairs, seed)
    scans, digits = load_scans()
    shares = split_scans(digits, SHARES, seed)
    begin(folder, NAME, PARTS)
    shards: list[Path] = []
    done, total = 0, sum(sizes.values())
    for number, part in enumerate(PARTS):
        own = shares[SCANS[part]]
        of_digit = [own[digits[own] == digit] for digit in range(10)]
        pairs = unseen if part == "pictures" and unseen else known
        with ShardWriter(folder, part, samples_per_shard) as writer:
            for place in range(sizes[part]):
                generator = np.random.default_rng((seed, 1 + number, place))
                pair = pairs[int(generator.integers(len(pairs)))]
                chosen = [scans[generator.choice(of_digit[digit])] for digit in pair]
                image = io.BytesIO()
                draw_picture(chosen, style, generator, vary=part == "train").save(image, "png")
                is_read = part == "reading" or (part in ("train", "val") and place % _ASKED_OF == _ASKED_OF - 1)
                writer.write(f"{place:06d}", _record(pair, is_read), [("png", image.getvalue())])
                done += 1
                if progress is not None:
                    progress(done, total)
        shards += writer.paths
    texts = [text for pair in (*known, *unseen) for text in (ASK + _caption(pair), QUESTION, _caption(pair))]
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    for shard in shards:
        build_index(shard, tokenizer, kinds=Kinds([Chat(), CaptionedPicture()]))
    settings: dict[str, Any] = {
        "name": NAME,
        "scans": "scikit-learn load_digits: 8x8 scans of handwritten digits, UCI (Alpaydin and Kaynak, 1998)",
        "pictures": sizes,
        "unseen": [_caption(pair) for pair in unseen],
        "seed": seed,
        "style": asdict(style),
        "vocab_size": len(tokenizer),
        "shards": [shard.name for shard in shards],
    }
    finish(folder, settings)
    return str(folder)


def _caption(pair: tuple[int, int]) -> str:
    return " ".join(map(str, pair))


def _record(pair: tuple[int, int], is_read: bool) -> dict[str, Any]:
    if not is_read:
        return {"caption": _caption(pair), "source": "pictures"}
    messages = [
        {"role": "user", "content": f"<image>\n{QUESTION}"},
        {"role": "assistant", "content": _caption(pair)},
    ]
    return {"messages": messages, "kinds": ["read"], "source": "reading"}
