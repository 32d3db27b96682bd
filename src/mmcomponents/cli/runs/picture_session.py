"""Pictures at the terminal: requests, and changes of the boxes and words of the reasoning."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from mmcomponents.cli.models.media_inputs import Media
from mmcomponents.cli.runs.interactive import Interactive, shown
from mmcomponents.cli.terminal.inline_pictures import inline_picture
from mmcomponents.cli.user_error import UserError
from mmcomponents.generation.answer_files import save_picture
from mmcomponents.generation.base import Answer
from mmcomponents.generation.picture_editor import PictureEditor

HELP = """\
/box N LEFT TOP RIGHT BOTTOM [COLOUR]   move box N (thousandths of the picture), and draw again with the same noise
/words TEXT                             replace the whole reasoning, and draw again
/boxes                                  list the boxes
/keep                                   the next request edits this picture
/image PATH                             the next request edits this image
/reset                                  forget images
/quit                                   exit (as Ctrl-D)
"""


class PictureSession(Interactive):
    """Reads requests and changes, and writes a picture for each.

    Args:
        editor: Makes and changes pictures.
        media: Images for the first request.
        frames: Number of frames per video.
        out: Folder of the pictures, whose numbers follow those of the pictures there.
    """

    def __init__(self, editor: PictureEditor, media: Media, frames: int, out: Path) -> None:
        super().__init__(_NoTalk(), media, frames, editor.model.vision is not None)
        if len(media.images) > 1:
            raise UserError(f"a request edits one image, got {len(media.images)}")
        self.editor, self.out, self.number = editor, out, last_number(out)

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name == "/box":
            self._show(self.editor.change_box(*_box(rest)))
        elif name == "/words":
            if not rest.strip():
                raise UserError("/words takes the text of a reasoning")
            self._show(self.editor.rewrite(rest.strip()))
        elif name == "/boxes":
            self._list()
        elif name == "/keep":
            self._check_sees()
            picture = None if self.editor.answer is None else self.editor.answer.picture
            if picture is None:
                raise UserError("there is no picture to keep: ask for one first")
            self.media = Media()
            self.media.images.append(picture.convert("RGB"))
        elif name == "/image" and rest.strip():
            self._check_sees()
            media = Media()
            media.add_image(rest.strip())
            self.media = media
        elif name == "/help":
            sys.stdout.write(HELP)
        else:
            super()._command(line)

    def _ask(self, line: str) -> None:
        images: list[Image.Image] = self.media.images
        text, self.media = self.media.mark(line), Media()  # a refused image is not asked about again
        self._show(self.editor.ask(text, images))

    def _show(self, answer: Answer) -> None:
        self.number += 1
        sys.stdout.write(f"{shown(write_picture(answer, self.out / f'{self.number}.png'))}\n")
        sys.stdout.write(f"{shown(answer.reasoning or '')}\n")
        for problem in answer.problems:
            sys.stdout.write(f"not read: {shown(problem)}\n")
        self._list()
        sys.stdout.flush()

    def _list(self) -> None:
        for number, box in enumerate(self.editor.boxes, 1):
            sys.stdout.write(f"{number}: {' '.join(f'{value:g}' for value in box.box)} {shown(box.colour)}\n")


class _NoTalk:
    """Stands for the conversation, of which a session of pictures has none."""

    def say(self, text: str, images: Any = None, *, videos: Any = None) -> Any:
        raise UserError("a session of pictures has no conversation")

    def reset(self) -> None:
        """Does nothing."""


def last_number(folder: Path) -> int:
    """Returns the highest number of the numbered pictures in a folder; 0 without any."""
    return max((int(file.stem) for file in folder.glob("*.png") if file.stem.isdecimal()), default=0)


def write_picture(answer: Answer, path: Path, shows: bool = True) -> str:
    """Writes the picture of an answer, with its reasoning beside it, and returns its path.

    Args:
        answer: Answer with a picture.
        path: Path of the PNG file.
        shows: Whether a terminal that can show pictures shows it.
    """
    assert answer.picture is not None
    save_picture(path, answer.picture, answer.reasoning)
    if shows and sys.stdout.isatty():
        sys.stdout.write(inline_picture(path.read_bytes(), os.environ))
    return path.as_posix()


def _box(text: str) -> tuple[int, tuple[float, float, float, float], str | None]:
    words = text.split(maxsplit=5)
    try:
        number = int(words[0]) if words else 0
        left, top, right, bottom = (float(word) for word in words[1:5])
    except ValueError:
        raise UserError(f"/box takes N LEFT TOP RIGHT BOTTOM [COLOUR] with a whole number N, got {text!r}") from None
    return number - 1, (left, top, right, bottom), words[5] if len(words) > 5 else None
