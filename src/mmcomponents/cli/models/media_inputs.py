"""Images and videos of a prompt, and drawing of the boxes in an answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmcomponents.cli.user_error import UserError, near_file
from mmcomponents.data.errors import SampleError
from mmcomponents.data.media.boxes import draw_groundings, parse_groundings
from mmcomponents.data.media.frames import MiddleFrames
from mmcomponents.data.media.images import load_image
from mmcomponents.data.media.video import read_video
from mmcomponents.plain_text import plain_line

if TYPE_CHECKING:
    from mmcomponents.generation.found_boxes import FoundBox


@dataclass
class Media:
    """Images and videos of a prompt.

    Attributes:
        images: Images in the order of `<image>`.
        videos: Frames of each video, in the order of `<video>`.
    """

    images: list[Image.Image] = field(default_factory=list)
    videos: list[list[Image.Image]] = field(default_factory=list)

    def add_image(self, path: str) -> None:
        """Reads an image.

        Raises:
            UserError: The image is missing or cannot be read.
        """
        _check_file("image", path)
        try:
            self.images.append(load_image(path))
        except (SampleError, OSError) as error:
            raise UserError(f"image {path!r} cannot be read: {error}") from None

    def add_video(self, path: str, frames: int) -> None:
        """Reads frames of a video: the middle ones of segments of equal length.

        Raises:
            UserError: The video is missing or cannot be read, or the number of frames is invalid.
        """
        _check_file("video", path)
        try:
            self.videos.append(read_video(path, MiddleFrames(frames)))
        except (ValueError, OSError) as error:
            raise UserError(f"video {path!r} cannot be read: {error}") from None

    def mark(self, prompt: str) -> str:
        """Returns the prompt, with a placeholder for each image and video in front if it has none of the kind."""
        for name, given in (("<video>", self.videos), ("<image>", self.images)):
            if name not in prompt:
                prompt = f"{name}\n" * len(given) + prompt
        return prompt


def check_boxes(out: str, image_count: int, prompt_count: int) -> None:
    """Raises `UserError` if boxes cannot be drawn; called before the model runs."""
    if image_count != 1 or prompt_count != 1:
        raise UserError(f"--boxes needs one image and one prompt, got {image_count} and {prompt_count}")
    if not Path(out).resolve().parent.is_dir():
        raise UserError(f"--boxes {out!r}: there is no folder {Path(out).parent.as_posix()!r}")
    if Path(out).is_dir():
        raise UserError(f"--boxes {out!r} is a folder, not a file")
    if Image.registered_extensions().get(Path(out).suffix.lower()) not in Image.SAVE:
        raise UserError(f"--boxes {out!r}: the file name must have the suffix of an image format, such as .png")


def draw_boxes(answer: str, image: Image.Image, out: str) -> None:
    """Draws the boxes of an answer on its image; what cannot be parsed is reported on standard error."""
    found = parse_groundings(answer, *image.size)
    for problem in found.problems or ([] if found.groundings else ["the answer contains no boxes"]):
        sys.stderr.write(f"mmcomponents: {plain_line(problem)}\n")
    _save(draw_groundings(image, found.groundings), out)


def draw_detected(found: Sequence[FoundBox], image: Image.Image, out: str) -> None:
    """Draws the boxes that a detection head found on an image, without those of a low score."""
    from mmcomponents.generation.found_boxes import MIN_SCORE, draw_found

    drawn = sum(box.score >= MIN_SCORE for box in found)
    sys.stderr.write(
        f"mmcomponents: {drawn} of {len(found)} boxes have a score of at least {MIN_SCORE} and are drawn\n"
    )
    _save(draw_found(image, found), out)


def _save(drawn: Image.Image, out: str) -> None:
    try:
        drawn.save(out)
    except OSError as error:
        raise UserError(f"--boxes {out!r} cannot be written: {error}") from None


def _check_file(kind: str, path: str) -> None:
    if not Path(path).is_file():
        raise UserError(f"there is no {kind} {path!r}{near_file(Path(path))}")
