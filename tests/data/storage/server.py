"""HTTP server with simulated errors."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

Trick = Callable[["Handler"], None]


class Request(NamedTuple):
    """A request of a client, and the client's port."""

    path: str
    range: str | None
    port: int
    authorization: str | None


class Server(ThreadingHTTPServer):
    """Serves `files`. Requests of a path first use up `tricks[path]`, one per request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.tricks: defaultdict[str, deque[Trick]] = defaultdict(deque)
        self.log: list[Request] = []
        self.over = threading.Event()

    def url(self, path: str, auth: str = "") -> str:
        return f"http://{auth}127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores disconnected clients, which the tests cause on purpose."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        headers = self.headers
        self.server.log.append(
            Request(self.path, headers.get("Range"), self.client_address[1], headers.get("Authorization"))
        )
        tricks = self.server.tricks[path]
        if tricks:
            tricks.popleft()(self)
        else:
            self.answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    @property
    def data(self) -> bytes | None:
        return self.server.files.get(urlsplit(self.path).path)

    def wanted(self) -> tuple[int, int] | None:
        """Returns the (first, last) requested byte; None for the complete file."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return None
        last = len(self.data or b"") - 1
        return int(match[1]), min(last, int(match[2])) if match[2] else last

    def answer(self, *, send: int | None = None, ranges: bool = True, shift: int = 0, pace: float = 0.0) -> None:
        """Sends the correct response.

        Args:
            send: Number of bytes after which the connection is closed.
            ranges: Whether ranges are supported.
            shift: Offset of the range sent from the range requested, in bytes.
            pace: Pause after each 1000 bytes, in seconds.
        """
        data = self.data
        wanted = self.wanted() if ranges else None
        if data is None:
            self.status(404)
            return
        if wanted is not None and wanted[0] >= len(data):
            self.status(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        first, last = wanted or (0, len(data) - 1)
        first, last = first + shift, last + shift
        body = data[first : last + 1]
        self.send_response(200 if wanted is None else 206)
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        if etag := self.server.etags.get(self.path):
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body), 1000 if pace else len(body)):
            self.wfile.write(body[start : start + 1000 if pace else None][:send])
            time.sleep(pace)
        if send is not None:
            self.close_connection = True

    def status(self, code: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


def status(code: int, **headers: str) -> Trick:
    return lambda handler: handler.status(code, {name.replace("_", "-"): value for name, value in headers.items()})


def cut(after: int) -> Trick:
    return lambda handler: handler.answer(send=after)


def shifted(by: int) -> Trick:
    return lambda handler: handler.answer(shift=by)


def part(size: int) -> Trick:
    """Sends at most `size` bytes of the requested range, correctly labelled."""

    def trick(handler: Handler) -> None:
        data, (first, last) = handler.data or b"", handler.wanted() or (0, 0)
        last = min(last, first + size - 1)
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        handler.send_header("Content-Length", str(last - first + 1))
        handler.end_headers()
        handler.wfile.write(data[first : last + 1])

    return trick


def slow(pace: float) -> Trick:
    return lambda handler: handler.answer(pace=pace)


def whole(handler: Handler) -> None:
    """Ignores ranges."""
    handler.answer(ranges=False)


def chunked(handler: Handler) -> None:
    """Sends the complete file without a length."""
    data = handler.data or b""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))


def stall(handler: Handler) -> None:
    """Sends seven bytes, then none until the end of the test."""
    handler.send_response(206)
    data, (first, last) = handler.data or b"", handler.wanted() or (0, 0)
    handler.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
    handler.send_header("Content-Length", str(last - first + 1))
    handler.end_headers()
    handler.wfile.write(data[first : first + 7])
    handler.server.over.wait(10)
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """Resets the connection without a response."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())


def headers(code: int, body: bytes, **fields: str) -> Trick:
    """Returns a trick that sends a response with these headers."""

    def trick(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in fields.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return trick
