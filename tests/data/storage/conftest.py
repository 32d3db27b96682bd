from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from mmcomponents.data.storage import Retry, read_ranges
from mmcomponents.data.storage.access import store_of
from mmcomponents.data.storage.base import DEFAULT_RETRY

from .server import Server


def read_range(url: str, offset: int, size: int, retry: Retry = DEFAULT_RETRY) -> bytes:
    return read_ranges(url, [(offset, size)], retry)[0]


def file_size(url: str) -> int | None:
    return store_of(url).facts(url, DEFAULT_RETRY).size


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local server, accessed without a proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Patience:
    """Retry settings that record pauses instead of waiting."""

    pauses: list[float] = field(default_factory=list)
    timeout: float = 10.0

    @property
    def retry(self) -> Retry:
        return Retry(tries=4, connect=2.0, timeout=self.timeout, jitter=0.0, sleep=self.pauses.append)


@pytest.fixture
def patience() -> Patience:
    return Patience()
