"""Pictures of rows of digits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmcomponents.data.chat.kinds import CaptionedPicture, Chat, Kinds
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.format.sample_index import Index
from mmcomponents.demos.handwriting.picture_builder import make_pictures
from mmcomponents.demos.handwriting.pictures import PictureStyle, draw_picture, pairs_of_digits
from mmcomponents.demos.handwriting.scenes import draw_digit, load_scans


def test_digits_stand_side_by_side() -> None:
    scans, _ = load_scans()
    picture = draw_picture([scans[0], scans[1]], PictureStyle(32, 2, 0), np.random.default_rng(0), vary=False)
    ink = 1 - np.asarray(picture, np.float32) / 255
    assert picture.size == (32, 32)
    for place, scan in enumerate(scans[:2]):
        box = ink[8:24, 16 * place : 16 * place + 16]
        assert np.abs(box - draw_digit(scan, 16, None)).max() < 0.5 / 255 + 1e-6
    assert not ink[:8].any()
    assert not ink[24:].any()


def test_a_digit_moves_by_the_jitter_at_most() -> None:
    scans, _ = load_scans()
    pictures = {
        draw_picture([scans[0], scans[1]], PictureStyle(32, 2, 1), np.random.default_rng(n), vary=False).tobytes()
        for n in range(40)
    }
    assert len(pictures) > 9


def test_each_digit_is_held_out_equally_often_on_both_sides() -> None:
    known, unseen = pairs_of_digits(20, 3)
    assert len(known) == 80
    assert len({*known, *unseen}) == 100
    for side in (0, 1):
        assert Counter(pair[side] for pair in unseen) == dict.fromkeys(range(10), 2)
    assert pairs_of_digits(20, 4)[1] != unseen
    with pytest.raises(ValueError, match="held_out must be a multiple of 10 from 0 to 90, got 15"):
        pairs_of_digits(15, 0)


def test_styles_without_room_are_refused() -> None:
    with pytest.raises(ValueError, match="a row of 5 digits on 32 pixels needs 8 pixels for each"):
        PictureStyle(32, 5)


def test_shards_have_captions_and_questions(tmp_path: Path) -> None:
    arguments = {"pictures": 12, "held_out": 6, "val_pictures": 4}
    folder = Path(make_pictures(str(tmp_path / "a"), **arguments))
    kinds, tokenizer = Kinds([Chat(), CaptionedPicture()]), load_tokenizer(str(folder / "tokenizer"))
    _, unseen = pairs_of_digits(20, 0)
    found = {}
    for part in ("train", "val", "pictures", "reading"):
        index = Index.open([str(folder / f"{part}-000000.tar")], tokenizer, kinds=kinds)
        found[part] = [index.read(number).record for number in range(len(index))]
    assert ["caption" in record for record in found["train"]] == [True, True, True, False] * 3
    assert {record["caption"] for record in found["pictures"]} <= {f"{a} {b}" for a, b in unseen}
    seen = [record.get("caption") or record["messages"][1]["content"] for record in found["train"]]
    assert not {*seen} & {f"{a} {b}" for a, b in unseen}
    assert all("messages" in record for record in found["reading"])
    again = Path(make_pictures(str(tmp_path / "b"), **arguments))
    for shard in folder.glob("*.tar"):
        assert shard.read_bytes() == (again / shard.name).read_bytes()
