"""Interface of stores, errors, retries after transient errors, and redaction of addresses."""

from __future__ import annotations

import bisect
import logging
import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple, TypeVar

from mmcomponents.data.errors import SampleError

log = logging.getLogger(__name__)
T = TypeVar("T")

# Ranges of one file with a smaller gap (bytes) share a request: reading the gap costs less than a second request.
GAP = 64 * 1024
# Maximum number of bytes per request: a failed request is repeated completely.
PIECE = 4 * 1024 * 1024


class StorageError(SampleError):
    """Bytes could not be read. The message contains the address, the number of tries and the reason."""


class MissingError(StorageError):
    """The store reports that the file does not exist."""


class Trouble(Exception):
    """A transient error of one try. Internal to this package: `Retry.run` retries or raises a `StorageError`.

    Args:
        reason: Reason, for the message.
        wait: Seconds to wait requested by the server, or None.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Retry:
    """Settings for time limits and retries.

    Attributes:
        tries: Maximum number of tries per request.
        connect: Timeout of a connection, in seconds.
        timeout: Seconds without received data after which a try fails.
        slowest: Minimum rate, in bytes per second; a request fails after `timeout` plus its size at this rate.
        backoff: Seconds before the second try; doubled for each further try.
        longest: Maximum seconds between two tries, also if a server requests more.
        jitter: Random share of a pause, so that many workers do not retry at the same time.
        sleep: Function that waits a number of seconds.
    """

    tries: int = 5
    connect: float = 10.0
    timeout: float = 30.0
    slowest: float = 4096.0
    backoff: float = 0.5
    longest: float = 60.0
    jitter: float = 0.5
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries must be 1 or more, not {self.tries}")

    def pause(self, failures: int, wait: float | None = None) -> float:
        """Returns the seconds to wait after `failures` consecutive failures; `wait` is the server's request."""
        # Not the seeded global generator: network errors must not change the values drawn from it.
        chance = random.SystemRandom().random()
        pause = self.backoff * 2.0 ** min(failures - 1, 30) * (1 - self.jitter * chance)
        return min(max(pause, wait or 0.0), self.longest)

    def run(self, attempt: Callable[[], T], what: str) -> T:
        """Calls `attempt` until it does not raise `Trouble`, and returns its result.

        Args:
            attempt: Function for one try.
            what: Name of the file for messages, without secrets.

        Raises:
            StorageError: All tries failed.
        """
        failures = 0
        while True:
            try:
                return attempt()
            except Trouble as trouble:
                failures += 1
                if failures >= self.tries:
                    tries = "1 try" if failures == 1 else f"{failures} tries"
                    raise StorageError(f"{what} could not be read after {tries}: {trouble}") from None
                pause = self.pause(failures, trouble.wait)
                log.info("%s: %s; retrying in %.1f s", what, trouble, pause)
            self.sleep(pause)


DEFAULT_RETRY = Retry()


class Facts(NamedTuple):
    """Size of a file in bytes, and a version that changes with its content; None if the store does not report it."""

    size: int | None
    version: str | None


class Store(ABC):
    """Interface of a storage backend."""

    @abstractmethod
    def facts(self, url: str, retry: Retry) -> Facts:
        """Returns size and version of a file.

        Raises:
            MissingError: The file does not exist.
            StorageError: The request fails.
        """

    @abstractmethod
    def read(self, url: str, offset: int, size: int, retry: Retry) -> bytes:
        """Reads exactly `size` bytes (1 or more) from `offset`.

        Raises:
            StorageError: They cannot be read.
        """

    @abstractmethod
    def expand(self, url: str, retry: Retry) -> list[str]:
        """Returns the files of an address without braces: itself, or the sorted files of a glob or a folder."""

    def download(self, url: str, sink: IO[bytes], retry: Retry) -> Facts:
        """Writes a complete file to `sink`, which is empty and seekable. Returns the size and version written.

        Raises:
            StorageError: The file cannot be read, has no known size, or changes during each attempt.
        """

        def attempt() -> Facts:
            sink.seek(0)
            sink.truncate()
            facts = self.facts(url, retry)
            self._copy(url, sink, facts, retry)
            if self.facts(url, retry) != facts:
                raise Trouble("it changed while it was read")
            return facts._replace(size=sink.tell())

        return retry.run(attempt, redact(url))

    def _copy(self, url: str, sink: IO[bytes], facts: Facts, retry: Retry) -> None:
        """Writes a complete file to `sink`."""
        if facts.size is None:
            raise StorageError(f"{redact(url)}: the store does not report its size")
        sink.writelines(self._pieces(url, 0, facts.size, retry))

    def _pieces(self, url: str, start: int, stop: int, retry: Retry) -> Iterator[bytes]:
        """Reads the bytes from `start` to `stop` in requests of at most `PIECE` bytes."""
        for offset in range(start, stop, PIECE):
            yield self.read(url, offset, min(PIECE, stop - offset), retry)

    def check_ranges(self, url: str, retry: Retry) -> None:
        """Checks that the store supports range reads. Most stores do.

        Raises:
            StorageError: It does not, or the file cannot be read.
        """
        return

    def read_ranges(self, url: str, ranges: Sequence[tuple[int, int]], retry: Retry) -> list[bytes]:
        """Reads (offset, size) ranges; adjacent ranges share a request."""
        spans = merge(ranges)
        contents = [b"".join(self._pieces(url, start, stop, retry)) for start, stop in spans]
        starts = [start for start, _ in spans]
        found = []
        for offset, size in ranges:
            number = bisect.bisect(starts, offset) - 1
            begin = offset - starts[number] if size else 0
            found.append(contents[number][begin : begin + size] if size else b"")
        return found


def merge(ranges: Sequence[tuple[int, int]], gap: int = GAP) -> list[tuple[int, int]]:
    """Returns sorted (start, stop) spans that cover all (offset, size) ranges; gaps below `gap` are included."""
    spans: list[tuple[int, int]] = []
    for offset, size in sorted(ranges):
        if not size:
            continue
        if spans and offset - spans[-1][1] < gap:
            spans[-1] = (spans[-1][0], max(spans[-1][1], offset + size))
        else:
            spans.append((offset, offset + size))
    return spans


def check_complete(content: bytes, where: str, offset: int, size: int) -> None:
    """Checks that `content`, read at `offset` of a file, has the requested `size`.

    Raises:
        StorageError: It is shorter or longer.
    """
    if len(content) != size:
        raise StorageError(f"{where} has {len(content)} of the {size} bytes at {offset}")


def redact(text: str) -> str:
    """Removes passwords and queries, which may be signatures, from the addresses in a text."""
    if text.startswith("pipe:"):
        # Headers and variables of a command may be secrets: only the name of the command is shown.
        name = next((word for word in text.removeprefix("pipe:").split() if "=" not in word), "")
        return f"pipe:{redact(name)} …"
    # A password may contain an @: the last one before the path ends it.
    text = re.sub(r"(?<=://)[^\s/?#'\"]*@", "", text)
    return re.sub(r"(://[^\s?#'\"]*)[?#][^\s'\"]*", r"\1?…", text)


def check_member_name(name: str) -> None:
    r"""Checks that the name of an archive member stays inside the folder it is unpacked to, on any operating system.

    Raises:
        SampleError: The name is empty or absolute, has a drive letter, a NUL or a part `..` (also separated by `\`).
    """
    plain = name.replace("\\", "/")
    # Windows drops trailing spaces and dots of a part: ".. " and "..." are ".." there.
    has_parent = any(part.startswith("..") and not part.strip(". ") for part in plain.split("/"))
    if not name or "\0" in name or plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or has_parent:
        raise SampleError(f"the member name {name[:200]!r} leaves the folder")
