"""What every store shares: errors, tries again after passing trouble, addresses without secrets, the contract."""

from __future__ import annotations

import bisect
import logging
import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple, TypeVar

from mmcomponents.data.errors import SampleError

log = logging.getLogger(__name__)
T = TypeVar("T")

# Ranges of one file that lie closer than this are read in one request: the gap costs less than a second one.
GAP = 64 * 1024
# Of a whole file that is read by ranges.
PIECE = 16 * 1024 * 1024


class StorageError(SampleError):
    """Bytes could not be read: of what, after how many tries, and why."""


class MissingError(StorageError):
    """The store says that there is no such file."""


class Trouble(Exception):
    """A try failed in a way that may pass. Never leaves this package: `Retry.run` tries again or gives up.

    Args:
        reason: For people.
        wait: Seconds that the server asks for, or None.
        progress: The try brought enough bytes not to count against the number of tries.
    """

    def __init__(self, reason: str, wait: float | None = None, progress: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.progress = wait, progress


@dataclass(frozen=True)
class Retry:
    """How patient reading is.

    Attributes:
        tries: How often something is tried before giving up; a try that brings a megabyte starts the count anew.
        connect: Seconds to wait for a connection.
        timeout: Seconds without a byte after which a try has failed.
        slowest: Bytes a second; a server that is slower than this for longer than `timeout` has failed, too.
        backoff: Seconds before the second try; doubled with each further one.
        longest: Most seconds between two tries, also where a server asks for more.
        jitter: Share of a pause that is left to chance, so that many workers do not come back at one moment.
        sleep: What waits.
    """

    tries: int = 5
    connect: float = 10.0
    timeout: float = 30.0
    slowest: float = 1024.0
    backoff: float = 0.5
    longest: float = 60.0
    jitter: float = 0.5
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries has to be 1 or more, not {self.tries}")

    def pause(self, failures: int, wait: float | None = None) -> float:
        """Seconds to wait after so many failed tries in a row; `wait` is what the server asks for."""
        # Not the module's generator: it is seeded, and trouble with a network must not change what is drawn from it.
        chance = random.SystemRandom().random()
        pause = self.backoff * 2.0 ** min(failures - 1, 30) * (1 - self.jitter * chance)
        return min(max(pause, wait or 0.0), self.longest)

    def run(self, attempt: Callable[[], T], what: str) -> T:
        """Calls `attempt` until it raises no `Trouble`.

        Args:
            attempt: One try.
            what: What is read, for people; without secrets.

        Raises:
            StorageError: All tries failed.
        """
        failures = total = 0
        while True:
            try:
                return attempt()
            except Trouble as trouble:
                failures, total = 1 if trouble.progress else failures + 1, total + 1
                if failures >= self.tries:
                    tries = "1 try" if total == 1 else f"{total} tries"
                    raise StorageError(f"{what} could not be read after {tries}: {trouble}") from None
                pause = self.pause(failures, trouble.wait)
                log.info("%s: %s; trying again in %.1f s", what, trouble, pause)
            self.sleep(pause)


DEFAULT_RETRY = Retry()


class Facts(NamedTuple):
    """What a store says of a file: bytes, and something that changes with its content. None where it does not say."""

    size: int | None
    version: str | None


class Store(ABC):
    """One kind of place where files lie."""

    @abstractmethod
    def facts(self, url: str, retry: Retry) -> Facts:
        """Size and version of a file.

        Raises:
            MissingError: There is no such file.
            StorageError: It cannot be asked for.
        """

    @abstractmethod
    def read(self, url: str, offset: int, size: int, retry: Retry) -> bytes:
        """Exactly `size` bytes (1 or more) from `offset`.

        Raises:
            StorageError: They cannot be had.
        """

    @abstractmethod
    def expand(self, url: str, retry: Retry) -> list[str]:
        """What an address without braces stands for: itself, or the files that a glob or a folder holds, sorted."""

    def download(self, url: str, sink: IO[bytes], retry: Retry) -> Facts:
        """Writes a whole file into `sink`, which is empty and can seek. Returns what was written.

        Here in pieces, so that trouble costs one of them.

        Raises:
            StorageError: It cannot be read, has no known size, or changed meanwhile.
        """
        facts = self.facts(url, retry)
        if facts.size is None:
            raise StorageError(f"{redact(url)}: the store does not say how large it is")
        for offset in range(0, facts.size, PIECE):
            sink.write(self.read(url, offset, min(PIECE, facts.size - offset), retry))
        if self.facts(url, retry) != facts:
            raise StorageError(f"{redact(url)} changed while it was read")
        return facts

    def check_ranges(self, url: str, retry: Retry) -> None:
        """Makes sure that a part of a file comes without the rest of it. Most stores are made for that.

        Raises:
            DataError: It does not.
            StorageError: The file cannot be read.
        """
        return

    def read_ranges(self, url: str, ranges: Sequence[tuple[int, int]], retry: Retry) -> list[bytes]:
        """Reads (offset, size) pairs, neighbours in one request."""
        spans = merge(ranges)
        contents = [self.read(url, start, stop - start, retry) for start, stop in spans]
        starts = [start for start, _ in spans]
        found = []
        for offset, size in ranges:
            number = bisect.bisect(starts, offset) - 1
            begin = offset - starts[number] if size else 0
            found.append(contents[number][begin : begin + size] if size else b"")
        return found


def merge(ranges: Sequence[tuple[int, int]], gap: int = GAP) -> list[tuple[int, int]]:
    """(start, stop) spans that cover all (offset, size) ranges, in order; ranges closer than `gap` share one."""
    spans: list[tuple[int, int]] = []
    for offset, size in sorted(ranges):
        if not size:
            continue
        if spans and offset - spans[-1][1] < gap:
            spans[-1] = (spans[-1][0], max(spans[-1][1], offset + size))
        else:
            spans.append((offset, offset + size))
    return spans


def redact(text: str) -> str:
    """An address, or a text with addresses in it, without passwords and without queries (they may be signatures)."""
    if text.startswith("pipe:"):
        # Headers and variables of a command may be secrets, too: only its name is shown.
        name = next((word for word in text.removeprefix("pipe:").split() if "=" not in word), "")
        return f"pipe:{redact(name)} …"
    # A password may itself hold an @: what counts is the last one before the path.
    text = re.sub(r"(?<=://)[^\s/?#'\"]*@", "", text)
    return re.sub(r"(://[^\s?#'\"]*)[?#][^\s'\"]*", r"\1?…", text)


def check_member_name(name: str) -> None:
    r"""Refuses the name of an archive's member that would lie outside the folder it is unpacked to, on any system.

    Raises:
        SampleError: The name is empty or absolute, has a drive letter, a NUL or a part `..` (also spelt with `\`).
    """
    plain = name.replace("\\", "/")
    # Windows drops spaces and dots at the end of a part: ".. " and "..." are ".." there.
    climbs = any(part.startswith("..") and not part.strip(". ") for part in plain.split("/"))
    if not name or "\0" in name or plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or climbs:
        raise SampleError(f"the member name {name[:200]!r} leaves the folder")
