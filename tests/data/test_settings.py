"""Settings of the data in groups, and their former names."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from mmcomponents.data.chat.kinds import ScoredSteps
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.media.augmentation import JpegRecompression
from mmcomponents.data.media.frames import DrawnFrames, MiddleFrames, SameFrames
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.packing.mixture import TokenShare
from mmcomponents.data.packing.pack_plan import Budgets
from mmcomponents.data.packing.source_options import SourceOptions
from mmcomponents.data.settings import (
    FORMER_SETTINGS,
    GROUPS,
    ImageSettings,
    LoadingSettings,
    PackingSettings,
    VideoSettings,
    with_former,
)

OTHER_VALUES: dict[str, Any] = {
    "tile_size": 28, "min_tiles": 2, "max_tiles": 6, "thumbnail": False, "normalization": "clip",
    "jpeg_quality": (75, 100), "train_frames": (2, 4), "eval_frames": 5, "frame_template": "F{number}:<image>",
    "system": "Be brief.", "control_text": "refuse", "allowed_tokens": ["<loc>"],
    "pack_tokens": 900, "pack_tiles": None, "block": 7,
    "num_workers": 0, "worker_timeout": 5.0, "max_refused": 0.5, "index_folder": "indices", "allow_pipe": True,
    "prompts_per_batch": 3, "test_questions": 9,
}  # fmt: skip


def module(**settings: Any) -> PackedDataModule:
    return PackedDataModule("nowhere", 4, **settings)


def test_every_setting_of_a_group_but_new_ones_has_a_former_name() -> None:
    names = {f"{group}.{field.name}" for group, kind in GROUPS.items() for field in fields(kind)}
    assert set(FORMER_SETTINGS.values()) == names - {"images.longest_side"}
    assert set(OTHER_VALUES) == set(FORMER_SETTINGS)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_former_name_sets_the_same(name: str) -> None:
    group, _, new = FORMER_SETTINGS[name].partition(".")
    value = OTHER_VALUES[name]
    former, present = module(**{name: value}), module(**{group: GROUPS[group](**{new: value})})
    assert getattr(getattr(former, group), new) == value
    for each in GROUPS:
        assert getattr(former, each) == getattr(present, each)
    assert getattr(former, group) != GROUPS[group](), "another value than the default was tried"


def test_a_former_name_may_stand_beside_other_settings_of_the_group() -> None:
    data = module(images=ImageSettings(tile_size=28), max_tiles=3, pack_tokens=700, packing=PackingSettings(block=5))
    assert data.images == ImageSettings(tile_size=28, max_tiles=3)
    assert data.packing == PackingSettings(tokens=700, block=5)


def test_an_unknown_name_is_refused_with_the_near_one() -> None:
    with pytest.raises(
        TypeError, match=r"PackedDataModule has no argument 'pak_tokens'; did you mean 'packing.tokens'\?"
    ):
        module(pak_tokens=3)
    with pytest.raises(TypeError, match=r"no argument 'image'; did you mean 'images'\?"):
        module(image=ImageSettings())
    with pytest.raises(TypeError, match=r"no argument 'qqqq'$"):
        module(qqqq=1)


def test_a_setting_that_is_given_twice_is_refused() -> None:
    with pytest.raises(TypeError, match=r"tile_size is the former name of images\.tile_size, which is given too"):
        module(images=ImageSettings(tile_size=28), tile_size=56)
    groups = {name: kind() for name, kind in GROUPS.items()}
    assert with_former(groups, {}) == groups


@pytest.mark.parametrize(
    ("group", "name", "good", "bad"),
    [
        ("images", "tile_size", 1, 0),
        ("images", "min_tiles", 1, 0),
        ("images", "max_tiles", 1, 0),
        ("images", "jpeg_quality", (1, 100), (0, 100)),
        ("images", "jpeg_quality", (5, 5), (6, 5)),
        ("videos", "train_frames", (1, 1), (0, 1)),
        ("videos", "eval_frames", 1, 0),
        ("packing", "tokens", 1, 0),
        ("packing", "tiles", None, 0),
        ("packing", "block", 1, 0),
        ("loading", "num_workers", 0, -1),
        ("loading", "worker_timeout", 0.0, float("nan")),
        ("loading", "max_refused", 1.0, 1.01),
        ("loading", "max_refused", 0.0, float("nan")),
        ("questions", "per_batch", 1, 0),
        ("questions", "limit", None, 0),
    ],
)
def test_a_value_out_of_range_is_named_with_its_group(group: str, name: str, good: Any, bad: Any) -> None:
    GROUPS[group](**{name: good})
    with pytest.raises(ValueError, match=rf"^data\.{group}\.{name}\b") as caught:
        GROUPS[group](**{name: bad})
    assert "\n" not in str(caught.value)


def test_values_that_do_not_fit_together_are_named() -> None:
    with pytest.raises(ValueError, match=r"^data\.images: min_tiles 3 is more than max_tiles 2"):
        ImageSettings(min_tiles=3, max_tiles=2)
    with pytest.raises(ValueError, match=r"^data\.images: max_tiles must be from 1 to 4,096, got 1000000"):
        ImageSettings(max_tiles=10**6)


def test_groups_make_what_the_data_are_read_with() -> None:
    images = ImageSettings(28, 2, 6, False, jpeg_quality=(60, 70))
    assert images.tiling() == Tiling(2, 6, 28, thumbnail=False)
    jpeg = images.jpeg()
    assert jpeg is not None
    assert vars(jpeg) == vars(JpegRecompression(60, 70))
    assert ImageSettings().jpeg() is None
    videos = VideoSettings((2, 4), 5)
    assert (videos.drawn(), videos.fixed()) == (DrawnFrames(2, 4), SameFrames(MiddleFrames(5)))
    assert PackingSettings(900, None).budgets() == Budgets(900, None)


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(AttributeError):
        module().images.tile_size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("packing", None, r"data\.packing takes PackingSettings, got NoneType"),
        ("packing", PackingSettings, r"data\.packing takes PackingSettings, got the class PackingSettings"),
        ("packing", ImageSettings(), r"data\.packing takes PackingSettings, got ImageSettings"),
        ("images", {"tile_size": 28}, r"data\.images takes ImageSettings, got dict"),
        ("pack_tokens", None, r"data\.packing\.tokens must be int, not None"),
        ("pack_tokens", 64.5, r"data\.packing\.tokens must be int, not 64\.5"),
        ("pack_tokens", True, r"data\.packing\.tokens must be int, not True"),
        ("min_tiles", None, r"data\.images\.min_tiles must be int, not None"),
        ("num_workers", None, r"data\.loading\.num_workers must be int, not None"),
        ("max_refused", None, r"data\.loading\.max_refused must be float, not None"),
        ("test_questions", "5", r"data\.questions\.limit must be int \| None, not '5'"),
        ("train_frames", None, r"data\.videos\.train_frames must be tuple\[int, int\], not None"),
        ("jpeg_quality", 5, r"data\.images\.jpeg_quality must be tuple\[int, int\] \| None, not 5"),
        ("jpeg_quality", [1, 2, 3], r"data\.images\.jpeg_quality must be tuple.*, not \[1, 2, 3\]"),
        ("jpeg_quality", (75, "x"), r"data\.images\.jpeg_quality must be tuple"),
        ("system", 5, r"data\.text\.system must be str \| None, not 5"),
        ("thumbnail", "no", r"data\.images\.thumbnail must be bool, not 'no'"),
        ("token_share", {"text": 1}, r"data\.token_share takes TokenShare, got dict"),
        ("token_share", TokenShare(text="1"), r"data\.token_share\.text must be float, not '1'"),
        ("sources", {"a": {"repeat": 2}}, r"data\.sources\.a takes SourceOptions, got dict"),
        ("sources", {"a": SourceOptions(jpeg=1)}, r"data\.sources\.a\.jpeg must be bool, not 1"),
        ("seed", "a", r"data\.seed must be int, not 'a'"),
        ("delta_log2", [], r"data\.delta_log2 \[\] must be values of k from 0 to 8"),
        ("delta_log2", [9], r"data\.delta_log2 \[9\] must be values"),
        ("delta_log2", 3, r"data\.delta_log2 3 must be values"),
        ("frame_template", "no image", r"data\.videos\.frame_template: "),
        ("normalization", "x", r"data\.images\.normalization must be one of .*imagenet.*, not 'x'"),
        ("control_text", "x", r"data\.text\.control_text must be one of encode, refuse, not 'x'"),
        ("packer", "BalancedPacker", r"data\.packer takes Packer, got str"),
        ("kinds", [], r"data\.kinds is empty"),
    ],
)
def test_a_value_of_another_type_is_one_line(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PackedDataModule("tokenizer", 4, **{name: value})
    assert "\n" not in str(caught.value)


def test_scored_steps_are_chosen_in_one_place() -> None:
    steps = ScoredSteps(["+", "-"])
    assert PackedDataModule("tokenizer", 4, kinds=[steps]).steps is steps
    with pytest.raises(ValueError, match="the same setting"):
        PackedDataModule("tokenizer", 4, kinds=[steps], verdicts=["+", "-"])


def test_numbers_of_numpy_are_numbers() -> None:
    assert PackingSettings(tokens=np.int64(4096)).tokens == 4096
    assert LoadingSettings(max_refused=np.float32(0.5)).max_refused == 0.5
