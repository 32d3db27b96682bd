"""A conversation at the terminal, or with lines from a pipe."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import Protocol

from PIL import Image

from mmcomponents.cli.errors import UserError
from mmcomponents.cli.media import Media

HELP = """\
/image PATH   show an image with the next question
/video PATH   show a video with the next question
/reset        begin anew
/quit         end (so does Ctrl-D); Ctrl-C stops an answer
"""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # an answer must not command the terminal


class Talk(Protocol):
    """What is talked with, see `mmcomponents.inference.Conversation`."""

    def say(
        self, text: str, images: list[Image.Image] | None = None, *, videos: list[list[Image.Image]] | None = None
    ) -> Iterator[str]:
        """Answers piece by piece."""
        ...

    def reset(self) -> None:
        """Forgets all turns."""
        ...


class Interactive:
    """Reads lines, answers them, and obeys commands.

    Args:
        talk: The conversation.
        media: Images and videos for the first question.
        frames: Frames of a video.
    """

    def __init__(self, talk: Talk, media: Media, frames: int) -> None:
        self.talk = talk
        self.media = media
        self.frames = frames
        self.tty = sys.stdin.isatty()

    def run(self, first: list[str]) -> int:
        """Asks the first questions, then what comes from standard input.

        Returns:
            0; 2 where a line of a pipe was in error.
        """
        failed = False
        if self.tty:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (input() then has a history and can be edited)
            sys.stderr.write("Ask, or type /help.\n")
        elif isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # a line that is no UTF-8 is refused, and the next one read
        for line in first:
            failed |= not self._try(line)
        for line in self._lines():
            if line == "/quit":
                break
            failed |= not self._try(line)
        return 2 if failed and not self.tty else 0

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                line = input("> ") if self.tty else sys.stdin.readline()
            except EOFError:
                sys.stdout.write("\n")
                return
            except KeyboardInterrupt:  # at the prompt: the line is given up, as in a shell
                if not self.tty:
                    raise
                sys.stdout.write("\n")
                continue
            if not line and not self.tty:
                return
            if line.strip():
                yield line.strip()

    def _try(self, line: str) -> bool:
        """Whether a line could be obeyed or answered; a mistake is told and the conversation goes on."""
        try:
            self._command(line) if line.startswith("/") else self._ask(line)
        except ValueError as error:
            sys.stderr.write(f"mmcomponents: {' '.join(str(error).split())}\n")
            return False
        except KeyboardInterrupt:  # of a terminal: an answer or the reading of a video is given up
            if not self.tty:
                raise
        return True

    def _command(self, line: str) -> None:
        name, _, path = line.partition(" ")
        if name == "/image" and path:
            self.media.add_image(path.strip())
        elif name == "/video" and path:
            self.media.add_video(path.strip(), self.frames)
        elif name == "/reset":
            self.talk.reset()
            self.media = Media()
        elif name == "/help":
            sys.stdout.write(HELP)
        else:
            raise UserError(f"{line!r} is no command; /help lists them")

    def _ask(self, line: str) -> None:
        answer = self.talk.say(self.media.mark(line), self.media.images, videos=self.media.videos)
        self.media = Media()
        write(answer)


def write(pieces: Iterator[str]) -> str:
    """Writes an answer as it comes, and a line break; Ctrl-C ends it and is raised again."""
    text = ""
    try:
        for piece in pieces:
            text += piece
            sys.stdout.write(_CONTROLS.sub("\ufffd", piece) if sys.stdout.isatty() else piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
        raise
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return text
