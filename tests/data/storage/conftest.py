from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from mmcomponents.data.storage import Retry

from .server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine, reached without any proxy."""
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
    """Settings that wait for nothing, and the pauses that would have been made."""

    pauses: list[float] = field(default_factory=list)
    timeout: float = 10.0

    @property
    def retry(self) -> Retry:
        return Retry(tries=4, connect=2.0, timeout=self.timeout, jitter=0.0, sleep=self.pauses.append)


@pytest.fixture
def patience() -> Patience:
    return Patience()
