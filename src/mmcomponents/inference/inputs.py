"""From what a caller gives to what the sampler takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image

from mmcomponents.batch import PackedBatch
from mmcomponents.data import ImageSource, MiddleFrames, SampleRenderer, Tiling, load_image, read_video
from mmcomponents.data.frames import FrameSampling
from mmcomponents.model import MultimodalModel
from mmcomponents.positions.v2pe import V2PE, delta_to_log2

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pictures: TypeAlias = "ImageSource | list[ImageSource] | tuple[ImageSource, ...] | None"
"""The image of a prompt, a list of images, or None."""

VideoSource: TypeAlias = "str | Path | bytes | Sequence[ImageSource]"
"""A video: the path or the bytes of a file, or its frames."""

Videos: TypeAlias = "str | Path | bytes | Sequence[VideoSource] | None"
"""The file of a video, or a list of videos, or None."""

FRAMES = MiddleFrames(16)


def make_renderer(model: MultimodalModel, tokenizer: PreTrainedTokenizerBase) -> SampleRenderer:
    """Tiles of the encoder's own size, and InternVL's defaults otherwise."""
    side = 448 if model.vision is None else model.vision.image_size
    return SampleRenderer(tokenizer, model.tokens_per_tile or 1, Tiling(tile_size=side))


def load_pictures(given: Pictures) -> list[Image.Image]:
    """Decodes the image or the images of a prompt.

    Raises:
        ImageError: One cannot be read.
    """
    if given is None:
        return []
    return [_decoded(picture) for picture in (given if isinstance(given, list | tuple) else [given])]


def _decoded(picture: ImageSource) -> Image.Image:
    # A Pillow image stays the object that it is: one that comes with several prompts is encoded once.
    return picture if isinstance(picture, Image.Image) else load_image(picture)


def load_videos(given: Videos, frames: FrameSampling) -> list[list[Image.Image]]:
    """Reads the chosen frames of each video of a prompt; a video that comes as frames is taken whole.

    Raises:
        VideoError: A video cannot be read.
        ImageError: A frame cannot be read.
    """
    if given is None:
        return []
    videos = [given] if isinstance(given, str | Path | bytes) else given
    return [
        read_video(video, frames) if isinstance(video, str | Path | bytes) else [_decoded(frame) for frame in video]
        for video in videos
    ]


def check_length(model: MultimodalModel, lengths: Sequence[int], max_new_tokens: int, max_length: int | None) -> None:
    """Refuses prompts that leave no room for their answers.

    Args:
        model: Its positions may have a limit.
        lengths: Tokens of each prompt.
        max_new_tokens: Tokens of an answer.
        max_length: A limit that is given by hand instead.

    Raises:
        ValueError: A prompt and its answer are longer than the limit.
    """
    limit = model.position.max_positions if max_length is None and model.position is not None else max_length
    for number, length in enumerate(lengths, 1):
        if limit is not None and length + max_new_tokens > limit:
            which = "the prompt" if len(lengths) == 1 else f"prompt {number}"
            raise ValueError(
                f"{which} has {length} tokens, with {max_new_tokens} new ones more than the limit of {limit}: "
                "shorten it, take fewer tiles or frames, or lower max_new_tokens"
            )


def set_delta(model: MultimodalModel, delta: float) -> None:
    """Sets the step of a visual token from here on.

    Args:
        model: Its positions are V2PE's.
        delta: A power of two from 1 to 1/256.

    Raises:
        ValueError: The positions are others, or the step is no such number.
    """
    if not isinstance(model.position, V2PE):
        raise ValueError(f"delta is a setting of V2PE, and the model's positions are {type(model.position).__name__}")
    model.position.delta_log2 = delta_to_log2(delta)


def segment_lengths(batch: PackedBatch) -> list[int]:
    """Tokens of each segment."""
    lengths: list[int] = batch.layout.cu_seqlens.diff().tolist()
    return lengths


@contextmanager
def evaluating(model: MultimodalModel) -> Iterator[None]:
    """Sets a model to evaluation, and each module back to its own mode in the end."""
    modes = [(module, module.training) for module in model.modules()]
    if not any(training for _, training in modes):
        yield
        return
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:  # each by itself: a frozen part of a model in training is not
            module.training = was_training
