"""Interactive conversation at the terminal, or with lines from a pipe."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Protocol

from PIL import Image

from mmcomponents.cli.models.media_inputs import Media
from mmcomponents.cli.user_error import UserError
from mmcomponents.plain_text import plain_line, plain_lines

HELP = """\
/image PATH   add an image to the next question
/video PATH   add a video to the next question
/reset        start a new conversation
/quit         exit (as Ctrl-D); Ctrl-C stops an answer
"""


class Talk(Protocol):
    """Protocol of a conversation, see `mmcomponents.generation.Conversation`."""

    def say(
        self, text: str, images: list[Image.Image] | None = None, *, videos: list[list[Image.Image]] | None = None
    ) -> Iterator[str]:
        """Yields the pieces of an answer."""
        ...

    def reset(self) -> None:
        """Discards all turns."""
        ...


class Interactive:
    """Reads lines, answers them, and executes commands.

    Args:
        talk: Conversation.
        media: Images and videos for the first question.
        frames: Number of frames per video.
        sees: Whether the model has an encoder of images.

    Raises:
        UserError: There are images or videos and no encoder.
    """

    def __init__(self, talk: Talk, media: Media, frames: int, sees: bool = True) -> None:
        self.talk = talk
        self.sees = sees
        if media.images or media.videos:
            self._check_sees()
        self.media = media
        self.frames = frames
        self.tty = sys.stdin.isatty()

    def run(self, first: list[str]) -> int:
        """Answers the first questions, then the lines of standard input.

        Returns:
            0; 2 if a line of a pipe was in error.
        """
        failed = False
        if self.tty:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (adds history and editing to input())
            sys.stderr.write("Type a question, or /help.\n")
        elif isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # an invalid UTF-8 line is refused without ending the loop
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
            except KeyboardInterrupt:  # at the prompt: discard the line, as a shell does
                if not self.tty:
                    raise
                sys.stdout.write("\n")
                continue
            if not line and not self.tty:
                return
            if line.strip():
                yield line.strip()

    def _try(self, line: str) -> bool:
        """Executes or answers a line; returns whether that succeeded. Errors are printed and do not end the loop."""
        try:
            self._command(line) if line.startswith("/") else self._ask(line)
        except ValueError as error:
            sys.stderr.write(f"mmcomponents: {plain_line(' '.join(str(error).split()))}\n")
            return False
        except KeyboardInterrupt:  # at a terminal: stop the answer or the reading of a video
            if not self.tty:
                raise
        return True

    def _command(self, line: str) -> None:
        name, _, path = line.partition(" ")
        if name in {"/image", "/video"}:
            self._check_sees()
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
            raise UserError(f"{line!r} is not a command; /help lists them")

    def _check_sees(self) -> None:
        if not self.sees:
            raise UserError("the model has no vision encoder, so that it takes no images")

    def _ask(self, line: str) -> None:
        answer = self.talk.say(self.media.mark(line), self.media.images, videos=self.media.videos)
        self.media = Media()
        write(answer)


def shown(text: str) -> str:
    """Returns a text of the model as it is printed: unchanged, except on a terminal, which it must not control."""
    return plain_lines(text) if sys.stdout.isatty() else text


def write(pieces: Iterator[str]) -> str:
    """Writes the pieces of an answer as they arrive, then a line break; returns the text. Ctrl-C is raised again."""
    text = ""
    try:
        for piece in pieces:
            text += piece
            sys.stdout.write(shown(piece))
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
