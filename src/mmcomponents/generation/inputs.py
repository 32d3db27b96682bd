"""Loading and checking of the inputs of generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from PIL import Image

from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.media.frames import FrameSampling, MiddleFrames
from mmcomponents.data.media.images import ImageSource, load_image
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.media.video import read_video
from mmcomponents.model import MultimodalModel
from mmcomponents.positions.v2pe import V2PE, delta_to_log2

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pictures: TypeAlias = "ImageSource | list[ImageSource] | tuple[ImageSource, ...] | None"
"""Image of a prompt, list of images, or None."""

VideoSource: TypeAlias = "str | Path | bytes | Sequence[ImageSource]"
"""Path or bytes of a video file, or the frames of a video."""

Videos: TypeAlias = "str | Path | bytes | Sequence[VideoSource] | None"
"""File of a video, list of videos, or None."""

FRAMES = MiddleFrames(16)


def make_renderer(model: MultimodalModel, tokenizer: PreTrainedTokenizerBase) -> SampleRenderer:
    """Returns the renderer of a model that was loaded (`MultimodalModel.renderer_of`).

    For a model that was composed: tiles of the encoder's image size, and InternVL's defaults of inference otherwise.
    """
    if model.renderer_of is not None:
        return cast(SampleRenderer, model.renderer_of(tokenizer))
    side = 448 if model.vision is None else model.vision.image_size
    return SampleRenderer(tokenizer, model.tokens_per_tile or 1, Tiling(tile_size=side, share=False))


def load_pictures(given: Pictures) -> list[Image.Image]:
    """Decodes the image or the images of a prompt.

    Raises:
        ImageError: An image cannot be read.
    """
    if given is None:
        return []
    return [_decoded(picture) for picture in (given if isinstance(given, list | tuple) else [given])]


def _decoded(picture: ImageSource) -> Image.Image:
    # A Pillow image stays the same object: an image shared by several prompts is encoded once.
    return picture if isinstance(picture, Image.Image) else load_image(picture)


def load_videos(given: Videos, frames: FrameSampling) -> list[list[Image.Image]]:
    """Reads the selected frames of each video of a prompt; a video given as frames keeps all of them.

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


def check_length(
    model: MultimodalModel,
    lengths: Sequence[int],
    max_new_tokens: int,
    max_length: int | None,
    has_option: bool = True,
) -> None:
    """Checks that prompts and their answers fit into the model's positions.

    Args:
        model: Its positions may have a limit.
        lengths: Number of tokens of each prompt.
        max_new_tokens: Maximum number of tokens of an answer.
        max_length: Replaces the limit of the positions.
        has_option: Whether `max_new_tokens` is a setting, which may be lowered.

    Raises:
        ValueError: A prompt and its answer exceed the limit.
    """
    limit = model.position.max_positions if max_length is None and model.position is not None else max_length
    for number, length in enumerate(lengths, 1):
        if limit is not None and length + max_new_tokens > limit:
            which = "the prompt" if len(lengths) == 1 else f"prompt {number}"
            raise ValueError(
                f"{which} has {length} tokens, with {max_new_tokens} new ones more than the limit of {limit}: "
                "shorten it or use fewer tiles or frames" + (", or lower max_new_tokens" if has_option else "")
            )


def set_delta(model: MultimodalModel, delta: float) -> None:
    """Sets the position increment of visual tokens for later forward passes.

    Args:
        model: A model with `V2PE` positions.
        delta: Power of two from 1 to 1/256.

    Raises:
        ValueError: The model has other positions, or delta is not such a power of two.
    """
    if not isinstance(model.position, V2PE):
        raise ValueError(f"delta is a setting of V2PE, and the model's positions are {type(model.position).__name__}")
    model.position.delta_log2 = delta_to_log2(delta)


def segment_lengths(batch: PackedBatch) -> list[int]:
    """Returns the number of tokens of each segment."""
    lengths: list[int] = batch.layout.cu_seqlens.diff().tolist()
    return lengths
