"""HTTP servers, by ranges: kept connections, cut bodies continued, broken answers noticed."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO

import urllib3
from urllib3 import exceptions

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import Facts, MissingError, Retry, StorageError, Store, Trouble, redact
from mmcomponents.data.storage.connections import drain, follow, split_auth

CHUNK = 1024 * 1024
# A try that brings this much is progress: a large file may come through a line that breaks now and then.
PROGRESS = 1024 * 1024
# A server without ranges sends a file from its start: so far we read on to get at a part.
MOST_READ = 64 * 1024 * 1024
PASSING = {408, 425, 429, 500, 502, 503, 504}
_HINTS = {401: " (a user and a password are asked for)", 403: " (no permission, or a signed address that has expired)"}


class HttpStore(Store):
    """`http://` and `https://`. A user and a password may stand in the address; proxies come from the environment."""

    def facts(self, url: str, retry: Retry) -> Facts:
        """Asks for the first byte: signed addresses often allow no HEAD. The version is the ETag, or the time."""

        def attempt() -> Facts:
            with _answer(url, "bytes=0-0", retry) as response:
                facts = _facts(url, response)
                if response.status == HTTPStatus.PARTIAL_CONTENT:
                    response.read(1)  # so that the connection can be used again
                return facts

        try:
            return retry.run(attempt, redact(url))
        except _NoSuchRange as error:
            if error.size != 0:
                raise
            return Facts(0, None)  # an empty file has no first byte

    def check_ranges(self, url: str, retry: Retry) -> None:
        """Asks for one byte; a server that knows no ranges answers with the whole file, which is not read."""

        def attempt() -> bool:
            with _answer(url, "bytes=0-0", retry) as response:
                partial = response.status == HTTPStatus.PARTIAL_CONTENT
                if partial:
                    response.read(1)
                return partial or response.headers.get("Content-Length") in ("0", "1")

        try:
            partial = retry.run(attempt, redact(url))
        except _NoSuchRange:  # an empty file: that it says so shows that it knows ranges
            return
        if not partial:
            raise DataError(
                f"the server of {redact(url)} ignores ranges and sends whole files, so that single samples cannot be"
                " read: fetch its shards to a local disk, or serve them with a server that knows Range requests"
            )

    def read(self, url: str, offset: int, size: int, retry: Retry) -> bytes:
        """See `Store.read`."""
        sink = io.BytesIO()
        _Transfer(url, offset, offset + size, sink, retry).run()
        return sink.getvalue()

    def download(self, url: str, sink: IO[bytes], retry: Retry) -> Facts:
        """See `Store.download`."""
        return _Transfer(url, 0, None, sink, retry).run()

    def expand(self, url: str, retry: Retry) -> list[str]:
        """The address itself.

        Raises:
            DataError: A glob or a folder: a server cannot be asked for a list.
        """
        path = re.split(r"[?#]", url.partition("://")[2])[0].partition("/")[2]
        if "*" in path or "[" in path or not path or path.endswith("/"):
            raise DataError(
                f"{redact(url)}: an HTTP server cannot list its files: name them with braces, as in {{000000..000099}}"
            )
        return [url]


class _Transfer:
    """Brings the bytes from `start` to `stop` (None: the end) into a sink, over as many requests as it takes."""

    def __init__(self, url: str, start: int, stop: int | None, sink: IO[bytes], retry: Retry) -> None:
        self.url, self.start, self.stop, self.sink, self.retry = url, start, stop, sink, retry
        self.done = 0
        self.known: Facts | None = None

    def run(self) -> Facts:
        return self.retry.run(self._attempt, redact(self.url))

    def _attempt(self) -> Facts:
        before = self.done
        try:
            return self._request()
        except Trouble as trouble:
            trouble.progress = self.done - before >= PROGRESS
            raise

    def _request(self) -> Facts:
        at = self.start + self.done
        last = "" if self.stop is None else self.stop - 1
        wanted = None if at == 0 and self.stop is None else f"bytes={at}-{last}"
        with _answer(self.url, wanted, self.retry) as response:
            facts = self._check(_facts(self.url, response))
            skip = 0
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                self._check_range(response, at)
            elif self.stop is None:
                self._restart()
            elif self.stop > MOST_READ:
                raise StorageError(
                    f"{redact(self.url)}: the server ignores ranges, and would send {self.stop} bytes to get at the "
                    f"{self.stop - at} at {at}, more than {MOST_READ}: fetch the file to a local disk"
                )
            else:
                skip = at
            self._receive(response, skip, facts.size)
        size = self.start + self.done
        return facts._replace(size=size) if self.stop is None else facts

    def _check(self, facts: Facts) -> Facts:
        if self.known is not None and any(
            old is not None and new is not None and old != new for old, new in zip(self.known, facts, strict=True)
        ):
            # What came before belongs to another file.
            self._restart()
            self.known = None
            raise Trouble("it changed while it was read")
        if facts.size is not None and self.stop is not None and self.stop > facts.size:
            raise StorageError(
                f"{redact(self.url)} has {facts.size} bytes, not the {self.stop - self.start} at {self.start}"
            )
        self.known = facts
        return facts

    def _check_range(self, response: urllib3.BaseHTTPResponse, at: int) -> None:
        first, last, _ = _content_range(self.url, response)
        length = response.headers.get("Content-Length")
        if first != at or (self.stop is not None and last >= self.stop):
            wanted = f"{at}-{'' if self.stop is None else self.stop - 1}"
            raise StorageError(f"{redact(self.url)}: asked for the bytes {wanted}, the server sent {first}-{last}")
        if length is not None and length != str(last - first + 1):
            raise StorageError(
                f"{redact(self.url)}: the server says that the bytes {first}-{last} are {length}: one of them is wrong"
            )

    def _restart(self) -> None:
        self.done = 0
        self.sink.seek(0)
        self.sink.truncate()

    def _receive(self, response: urllib3.BaseHTTPResponse, skip: int, size: int | None) -> None:
        """Reads on until all is there; `skip` bytes are thrown away first."""
        end = size if self.stop is None else self.stop
        if end is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise StorageError(f"{redact(self.url)}: the server does not say how long it is: a cut would go unseen")
        begun, received = time.monotonic(), 0
        while end is None or self.start + self.done < end:
            left = CHUNK if end is None else skip or end - self.start - self.done
            piece = response.read1(min(CHUNK, left), decode_content=False)
            if not piece:
                if end is None:
                    return
                raise Trouble(f"the answer ended {end - self.start - self.done} bytes early")
            if skip:
                skip -= len(piece)
            else:
                self.sink.write(piece)
                self.done += len(piece)
            received += len(piece)
            seconds = time.monotonic() - begun
            if seconds > self.retry.timeout + received / self.retry.slowest:
                raise Trouble(f"{received} bytes in {seconds:.0f} s are too slow")


@contextmanager
def _answer(url: str, wanted: str | None, retry: Retry) -> Iterator[urllib3.BaseHTTPResponse]:
    """A good answer to a request for a range, its body unread; closed at the end unless it was read out."""
    plain, auth = split_auth(url)
    headers = {"Accept-Encoding": "identity"}  # a range of a compressed form would be of no use
    if wanted is not None:
        headers["Range"] = wanted
    if auth is not None:
        headers |= urllib3.make_headers(basic_auth=auth)
    try:
        response = follow(plain, headers, retry)
        try:
            _check_status(url, response)
            yield response
        finally:
            response.close()
    except exceptions.ReadTimeoutError:
        raise Trouble(f"nothing came for {retry.timeout:g} s") from None
    except exceptions.NameResolutionError:
        raise Trouble("the name of the server is not known") from None
    except exceptions.NewConnectionError:
        raise Trouble("the server refuses the connection, or cannot be reached") from None
    except exceptions.ConnectTimeoutError:
        raise Trouble(f"no connection within {retry.connect:g} s") from None
    except exceptions.ProxyError:
        raise Trouble("the proxy gives no connection") from None
    except exceptions.SSLError as error:
        if "certificate" in str(error).lower():
            raise StorageError(f"{redact(url)}: the server's certificate is not trusted") from None
        raise Trouble("the encrypted connection broke") from None
    except exceptions.ProtocolError:
        raise Trouble("the connection broke off") from None
    except exceptions.HTTPError as error:  # its words may hold the address
        raise StorageError(f"{redact(url)} could not be read: {type(error).__name__}") from None


def _check_status(url: str, response: urllib3.BaseHTTPResponse) -> None:
    status = response.status
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise StorageError(f"{redact(url)}: the server sends it compressed, though asked not to")
        return
    drain(response)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        raise _NoSuchRange(url, int(total[1]) if total else None)
    try:
        words = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        words = str(status)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise MissingError(f"{redact(url)} is not there ({words})")
    if status in PASSING:
        raise Trouble(f"the server answers {words}", wait=_retry_after(response))
    raise StorageError(f"{redact(url)} could not be read: the server answers {words}{_HINTS.get(status, '')}")


class _NoSuchRange(StorageError):
    def __init__(self, url: str, size: int | None) -> None:
        has = "" if size is None else f": it has {size} bytes"
        super().__init__(f"{redact(url)} ends before the bytes that were asked for{has}")
        self.size = size


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    try:
        return urllib3.Retry().get_retry_after(response)
    except exceptions.InvalidHeader:
        return None


def _content_range(url: str, response: urllib3.BaseHTTPResponse) -> tuple[int, int, int | None]:
    """(first byte, last byte, size of the file or None) that an answer 206 says it holds."""
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", text, re.IGNORECASE)
    if match is None or int(match[2]) < int(match[1]):
        raise StorageError(f"{redact(url)}: the server does not say which part it sends (Content-Range: {text[:80]!r})")
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def _facts(url: str, response: urllib3.BaseHTTPResponse) -> Facts:
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        size = _content_range(url, response)[2]
    else:
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
    return Facts(size, response.headers.get("ETag") or response.headers.get("Last-Modified"))
