"""Settings of `PackedDataModule`, in groups: `data.images.tile_size` of a recipe is `ImageSettings.tile_size`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mmcomponents.data.chat.placeholders import FRAME_TEMPLATE, frame_prompt
from mmcomponents.data.chat.special_tokens import ControlText
from mmcomponents.data.loading.loaders import WORKER_TIMEOUT
from mmcomponents.data.media.augmentation import JpegRecompression
from mmcomponents.data.media.frames import DrawnFrames, MiddleFrames, SameFrames
from mmcomponents.data.media.images import Normalization
from mmcomponents.data.media.tiling import Tiling, WholeImages
from mmcomponents.data.packing.pack_plan import BLOCK, Budgets
from mmcomponents.moved import FORMER_SETTINGS
from mmcomponents.registry import near


@dataclass(frozen=True)
class ImageSettings:
    """Images as input of the encoder, `data.images`.

    Attributes:
        tile_size: Side of a tile in pixels.
        min_tiles: Smallest number of tiles of an image.
        max_tiles: Largest number of tiles, without thumbnails: of all images of a sample in training and validation, of
            each image of a prompt in `test`.
        thumbnail: Whether to append a thumbnail to the tiles of an image with several.
        normalization: Mean and deviation of the colours: imagenet, clip or siglip.
        jpeg_quality: Smallest and largest quality for the re-compression of each tile of a training image; InternVL
            uses 75 to 100. None: no re-compression.
        longest_side: Images are one tile of their own aspect ratio, whose shorter side is `tile_size` and whose longer
            side is at most this, as detection takes them. None: square tiles.

    Raises:
        ValueError: A value is out of range.
    """

    tile_size: int = 448
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    normalization: Normalization = "imagenet"
    jpeg_quality: tuple[int, int] | None = None
    longest_side: int | None = None

    def __post_init__(self) -> None:
        check_types("images", self)
        for name in ("tile_size", "min_tiles", "max_tiles"):
            at_least(f"images.{name}", getattr(self, name), 1)
        self.tiling()
        self.jpeg()

    def tiling(self) -> Tiling:
        """Returns the tiling of images."""
        if self.longest_side is not None:
            with _named("images.longest_side"):
                return WholeImages(tile_size=self.tile_size, longest=self.longest_side)
        with _named("images"):
            return Tiling(self.min_tiles, self.max_tiles, self.tile_size, self.thumbnail)

    def jpeg(self) -> JpegRecompression | None:
        """Returns the re-compression of training images."""
        with _named("images.jpeg_quality"):
            return None if self.jpeg_quality is None else JpegRecompression(*self.jpeg_quality)


@dataclass(frozen=True)
class VideoSettings:
    """Frames of videos, `data.videos`.

    Attributes:
        train_frames: Smallest and largest number of frames of a video in training, drawn for each; InternVL uses 8 to
            32.
        eval_frames: Number of frames of a video in validation and tests.
        frame_template: Text of one frame; must be the one that the indices were made with.

    Raises:
        ValueError: A value is out of range.
    """

    train_frames: tuple[int, int] = (8, 32)
    eval_frames: int = 16
    frame_template: str = FRAME_TEMPLATE

    def __post_init__(self) -> None:
        check_types("videos", self)
        at_least("videos.eval_frames", self.eval_frames, 1)
        self.drawn()
        with _named("videos.frame_template"):
            frame_prompt(1, self.frame_template)

    def drawn(self) -> DrawnFrames:
        """Returns the frames of training."""
        with _named("videos.train_frames"):
            return DrawnFrames(*self.train_frames)

    def fixed(self) -> SameFrames:
        """Returns the frames of validation and tests."""
        return SameFrames(MiddleFrames(self.eval_frames))


@dataclass(frozen=True)
class TextSettings:
    """Texts of conversations, `data.text`.

    Attributes:
        system: System text for conversations that have none; None: no system block.
        allowed_tokens: Special tokens of the tokenizer that texts may contain as single tokens, such as `<loc>`; the
            indices must be made with the same. None: no text may contain a special token except `<ref>`, `<box>` and
            `<quad>`.
        control_text: Handling of a text that spells out a token of the template: "encode" tokenizes it as ordinary
            text, "refuse" skips the sample.

    Raises:
        ValueError: A value is none of these.
    """

    system: str | None = None
    control_text: ControlText = "encode"
    allowed_tokens: list[str] | None = None

    def __post_init__(self) -> None:
        check_types("text", self)


@dataclass(frozen=True)
class PackingSettings:
    """Size of packs, `data.packing`.

    Attributes:
        tokens: Largest number of tokens of a pack.
        tiles: Largest number of tiles of a pack, with thumbnails; None: no limit.
        block: Number of samples that are packed together.

    Raises:
        ValueError: A value is out of range.
    """

    tokens: int = 16384
    tiles: int | None = 48
    block: int = BLOCK

    def __post_init__(self) -> None:
        check_types("packing", self)
        at_least("packing.tokens", self.tokens, 1)
        at_least("packing.tiles", 1 if self.tiles is None else self.tiles, 1)
        at_least("packing.block", self.block, 1)

    def budgets(self) -> Budgets:
        """Returns the budgets of a pack."""
        return Budgets(self.tokens, self.tiles)


@dataclass(frozen=True)
class LoadingSettings:
    """Reading of shards, `data.loading`.

    Attributes:
        num_workers: Number of worker processes of each loader; 0: a thread of the process itself reads.
        worker_timeout: Seconds after which a run ends if a worker process returns nothing, because it is stopped or
            waits for a file; 0: no limit.
        max_refused: Largest share of samples that may be skipped.
        index_folder: Folder of the indices; None: beside the shards.
        allow_pipe: Whether a `pipe:COMMAND` among the shards may run its shell command. A recipe cannot set it, only
            the flag `--data.loading.allow_pipe true`.

    Raises:
        ValueError: A value is out of range.
    """

    num_workers: int = 2
    worker_timeout: float = WORKER_TIMEOUT
    max_refused: float = 0.01
    index_folder: str | None = None
    allow_pipe: bool = False

    def __post_init__(self) -> None:
        check_types("loading", self)
        at_least("loading.num_workers", self.num_workers, 0)
        at_least("loading.worker_timeout", self.worker_timeout, 0.0)
        at_least("loading.max_refused", self.max_refused, 0.0)
        if self.max_refused > 1:
            raise ValueError(f"data.loading.max_refused must be a share between 0 and 1, got {self.max_refused}")


@dataclass(frozen=True)
class QuestionSettings:
    """Questions of `test` and `predict`, `data.questions`.

    Attributes:
        per_batch: Largest number of questions in a batch.
        limit: Number of questions, taken from the first samples; None: all.

    Raises:
        ValueError: A value is out of range.
    """

    per_batch: int = 64
    limit: int | None = None

    def __post_init__(self) -> None:
        check_types("questions", self)
        at_least("questions.per_batch", self.per_batch, 1)
        at_least("questions.limit", 1 if self.limit is None else self.limit, 1)


def at_least(name: str, value: float, least: float) -> None:
    """Checks a number.

    Raises:
        ValueError: It is no number, no integer where `least` is one, smaller than `least`, or NaN.
    """
    _check_type(name, value, type(least))
    if not value >= least:
        raise ValueError(f"data.{name} must be at least {least:g}, not {value}")


def takes(name: str, value: object, kind: type) -> None:
    """Checks that the value of a setting is an instance of a class.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, kind):
        given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise ValueError(f"data.{name} takes {kind.__name__}, got {given}")


def check_types(name: str, settings: Any) -> None:
    """Checks the types of the settings of a group.

    Raises:
        ValueError: A value has another type than its field.
    """
    for key, hint in get_type_hints(type(settings)).items():
        _check_type(f"{name}.{key}", getattr(settings, key), hint)


def _check_type(name: str, value: object, hint: Any) -> None:
    if not _fits(value, hint):
        choices = f"one of {', '.join(get_args(hint))}" if get_origin(hint) is Literal else None
        wanted = choices or (hint.__name__ if isinstance(hint, type) else hint)
        raise ValueError(f"data.{name} must be {wanted}, not {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has a type, of those that settings have."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is tuple:
        return isinstance(value, tuple | list) and len(value) == len(inner) and all(map(_fits, value, inner))
    kind: Any = {int: Integral, float: Real}.get(hint, hint)  # those of NumPy too
    return isinstance(value, kind) and (hint is bool or not isinstance(value, bool))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Adds the name of a setting to an error in its value."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"data.{name}: {error}") from error


GROUPS: Mapping[str, type] = MappingProxyType(
    {
        "images": ImageSettings,
        "videos": VideoSettings,
        "text": TextSettings,
        "packing": PackingSettings,
        "loading": LoadingSettings,
        "questions": QuestionSettings,
    }
)
"""Name of a group -> class of its settings."""


def with_former(groups: Mapping[str, Any], former: Mapping[str, Any]) -> dict[str, Any]:
    """Returns groups of settings with values that are given by their former names.

    Args:
        groups: Name of a group -> its settings.
        former: Former name -> value.

    Raises:
        TypeError: A name is unknown, or its setting is also given in its group.
        ValueError: A group has settings of another class.
    """
    found = dict(groups)
    for name, settings in groups.items():
        takes(name, settings, GROUPS[name])
    for name, value in former.items():
        if name not in FORMER_SETTINGS:
            raise TypeError(f"PackedDataModule has no argument {name!r}{near(name, GROUPS, FORMER_SETTINGS)}")
        group, _, new = FORMER_SETTINGS[name].partition(".")
        default = next(field.default for field in fields(found[group]) if field.name == new)
        if getattr(groups[group], new) != default:
            raise TypeError(f"{name} is the former name of {group}.{new}, which is given too")
        found[group] = replace(found[group], **{new: value})
    return found
