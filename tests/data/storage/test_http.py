from __future__ import annotations

import base64
import io
import logging
import multiprocessing
import random
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage import (
    MissingError,
    Retry,
    StorageError,
    base,
    check_ranges,
    exists,
    expand,
    read_ranges,
)
from mmcomponents.data.storage.http import HttpStore

from .conftest import Patience, file_size
from .conftest import read_range as read
from .server import (
    Server,
    Trick,
    chunked,
    cut,
    headers,
    part,
    reset,
    shifted,
    slow,
    stall,
    status,
    whole,
)

DATA = random.Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def _file(server: Server) -> None:
    server.files["/a.tar"] = DATA


def ranges(server: Server) -> list[str | None]:
    return [request.range for request in server.log]


def test_a_range(server: Server) -> None:
    assert read(server.url("/a.tar"), 1000, 50) == DATA[1000:1050]
    assert ranges(server) == ["bytes=1000-1049"]
    assert read(server.url("/a.tar"), 5, 0) == b""
    assert len(server.log) == 1


def test_adjacent_ranges_share_a_request(server: Server) -> None:
    asked = [(200_000, 100), (10, 20), (0, 0), (600, 5), (15, 30), (12, 3)]
    assert read_ranges(server.url("/a.tar"), asked) == [DATA[o : o + n] for o, n in asked]
    assert ranges(server) == ["bytes=10-604", "bytes=200000-200099"]


def test_one_connection_serves_many_requests(server: Server) -> None:
    for n in range(5):
        assert read(server.url("/a.tar"), n, 10) == DATA[n : n + 10]
        assert file_size(server.url("/a.tar")) == len(DATA)
        assert not exists(server.url("/b.tar"))
    assert len({request.port for request in server.log}) == 1


@pytest.mark.parametrize(
    ("tricks", "pauses"),
    [
        pytest.param([status(500), status(503)], [0.5, 1.0], id="server errors"),
        pytest.param([status(408)], [0.5], id="request timeout"),
        pytest.param([status(429, Retry_After="7")], [7.0], id="retry after"),
        pytest.param([status(503, Retry_After="86400")], [60.0], id="retry after a day"),
        pytest.param([status(429, Retry_After="soon")], [0.5], id="invalid retry after"),
        # aiohttp repeats a request once, immediately, after a connection reset.
        pytest.param([reset] * 4, [0.5, 1.0], id="reset"),
        pytest.param([cut(300), cut(0), cut(50)], [0.5, 1.0, 2.0], id="cut"),
        pytest.param([stall], [0.5], id="stalled"),
    ],
)
def test_transient_errors(server: Server, patience: Patience, tricks: list[Trick], pauses: list[float]) -> None:
    server.tricks["/a.tar"].extend(tricks)
    if stall in tricks:
        patience.timeout = 0.5
    assert read(server.url("/a.tar"), 1000, 1000, patience.retry) == DATA[1000:2000]
    assert ranges(server) == ["bytes=1000-1999"] * (len(tricks) + 1)
    assert patience.pauses == pauses


def test_retry_after_a_date(server: Server, patience: Patience) -> None:
    server.tricks["/a.tar"].append(status(503, Retry_After=formatdate(time.time() + 30, usegmt=True)))
    assert read(server.url("/a.tar"), 0, 10, patience.retry) == DATA[:10]
    assert 20 < patience.pauses[0] <= 30


@pytest.mark.parametrize(
    ("trick", "words"),
    [
        (status(500), "could not be read after 4 tries: the server returned 500 Internal Server Error"),
        (reset, "after 4 tries: ClientOSError: .* Connection reset by peer$"),
        (cut(0), r"after 4 tries: ClientPayloadError: .* \(received 0 of 1000 bytes\)"),
        (stall, "after 4 tries: SocketTimeoutError: Timeout on reading data from socket$"),
    ],
)
def test_repeated_errors(server: Server, patience: Patience, trick: Trick, words: str) -> None:
    server.tricks["/a.tar"].extend([trick] * 9)
    if trick is stall:
        patience.timeout = 0.3
    with pytest.raises(StorageError, match=words):
        read(server.url("/a.tar"), 0, 1000, patience.retry)
    assert len(server.log) == (8 if trick is reset else 4)  # aiohttp repeats a request after a connection reset
    assert patience.pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("trick", "words"),
    [
        (status(404), r"does not exist \(404 Not Found\)"),
        (headers(404, b"no gzip", Content_Encoding="gzip", Content_Length="7"), "does not exist"),
        (status(401), "401 Unauthorized .user and password required"),
        (status(403), "403 Forbidden .no permission, or an expired signed address"),
        (status(416), "ends before the requested bytes"),
        (shifted(1), "bytes 1000-1999 were requested, the server sent 1001-2000"),
        (shifted(-100), "bytes 1000-1999 were requested, the server sent 900-1899"),
        (headers(206, b"x" * 1000), "sent no valid Content-Range"),
        (
            headers(206, b"x" * 1000, Content_Range="bytes 1000-1999/300000", Content_Length="999"),
            "sent the range 1000-1999 with a Content-Length of 999|Bad status line",
        ),
        (headers(206, b"x" * 2000, Content_Range="bytes 1000-2999/300000"), "the server sent 1000-2999"),
        (headers(200, b"x" * 1000, Content_Encoding="gzip"), "sent compressed data despite Accept-Encoding: identity"),
    ],
)
def test_permanent_errors(server: Server, patience: Patience, trick: Trick, words: str) -> None:
    server.tricks["/a.tar"].append(trick)
    with pytest.raises(StorageError, match=words):
        read(server.url("/a.tar"), 1000, 1000, patience.retry)
    assert len(server.log) == 1
    assert patience.pauses == []


def test_beyond_the_end(server: Server, patience: Patience) -> None:
    with pytest.raises(StorageError, match="ends before the requested bytes: it has 300000 bytes"):
        read(server.url("/a.tar"), 299_990, 20, patience.retry)
    with pytest.raises(StorageError, match="ends before the requested bytes: it has 300000 bytes"):
        read(server.url("/a.tar"), 300_000, 20, patience.retry)
    assert patience.pauses == []


def test_the_rest_of_a_shorter_range_is_requested(server: Server, patience: Patience) -> None:
    server.tricks["/a.tar"].extend([part(400), part(1)])
    assert read(server.url("/a.tar"), 300, 1000, patience.retry) == DATA[300:1300]
    assert patience.pauses == []
    ranges = [request.range for request in server.log]
    assert ranges == ["bytes=300-1299", "bytes=700-1299", "bytes=701-1299"]


def test_a_server_without_ranges(server: Server, patience: Patience) -> None:
    server.tricks["/a.tar"].extend([whole] * 2)
    assert file_size(server.url("/a.tar")) == len(DATA)
    with pytest.raises(StorageError, match=r"ignores ranges and sends complete files.*copy its shards to a local disk"):
        read(server.url("/a.tar"), 0, 100, patience.retry)
    assert patience.pauses == []


def test_check_ranges(server: Server, patience: Patience) -> None:
    url = server.url("/a.tar", auth="me:secret@")
    check_ranges([url, url], patience.retry)
    assert ranges(server) == ["bytes=0-0"]  # one request per server
    for trick in (whole, chunked):
        server.tricks["/a.tar"].append(trick)
        with pytest.raises(DataError, match=r"the server of http://127\.0\.0\.1:\d+/a\.tar ignores ranges") as refused:
            check_ranges([url], patience.retry)
        assert "secret" not in str(refused.value)
        assert "\n" not in str(refused.value)
    server.files["/empty.tar"] = b""
    check_ranges([server.url("/empty.tar"), "/local.tar"], patience.retry)
    assert patience.pauses == []


def test_check_ranges_skips_missing_files(server: Server, patience: Patience) -> None:
    server.tricks["/a.tar"].append(whole)
    with pytest.raises(DataError, match="ignores ranges"):
        check_ranges([server.url("/no.tar"), server.url("/a.tar")], patience.retry)
    server.log.clear()
    check_ranges([server.url(f"/no{number}.tar") for number in range(9)], patience.retry)
    assert len(server.log) == 3
    server.tricks["/a.tar"].extend([status(503)] * 4)
    with pytest.raises(DataError, match="after 4 tries: the server returned 503"):
        check_ranges([server.url("/a.tar")], patience.retry)


def test_a_slow_server(server: Server, patience: Patience) -> None:
    server.tricks["/a.tar"].append(slow(0.01))
    assert read(server.url("/a.tar"), 0, 50_000, patience.retry) == DATA[:50_000]
    assert patience.pauses == []
    # Each pause is shorter than the timeout, but the rate is too low.
    server.tricks["/a.tar"].append(slow(0.2))
    eager = Retry(tries=4, timeout=0.5, slowest=1e6, jitter=0.0, sleep=patience.pauses.append)
    assert read(server.url("/a.tar"), 0, 50_000, eager) == DATA[:50_000]
    assert patience.pauses == [0.5]


def test_a_file_that_changes_between_two_tries(server: Server, patience: Patience) -> None:
    def change(handler: object) -> None:
        server.files["/a.tar"], server.etags["/a.tar"] = DATA[::-1], '"new"'
        server.tricks["/a.tar"].clear()
        cut(300)(handler)  # type: ignore[arg-type]

    server.etags["/a.tar"] = '"old"'
    server.tricks["/a.tar"].extend([cut(300), change])
    assert read(server.url("/a.tar"), 0, 1000, patience.retry) == DATA[::-1][:1000]


def test_large_ranges_come_in_pieces(server: Server, patience: Patience, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PIECE", 1000)
    # Each piece has the full number of tries.
    server.tricks["/a.tar"].extend([lambda handler: handler.answer(), cut(900), cut(900), cut(900)] * 3)
    server.tricks["/a.tar"].popleft()
    assert read(server.url("/a.tar"), 500, 2500, patience.retry) == DATA[500:3000]
    assert ranges(server)[::4] == ["bytes=500-1499", "bytes=1500-2499", "bytes=2500-2999"]


def test_whole_files(server: Server, patience: Patience) -> None:
    def download() -> bytes:
        sink = io.BytesIO()
        facts = HttpStore().download(server.url("/a.tar"), sink, patience.retry)
        assert facts.size == len(sink.getvalue())
        return sink.getvalue()

    assert download() == DATA
    server.tricks["/a.tar"].append(cut(1000))
    assert download() == DATA
    assert None not in ranges(server)
    # Without ranges or a size, the file is sent in one response, restarted after each failure.
    for trick in (whole, chunked):
        server.log.clear()
        server.tricks["/a.tar"].extend([trick, *[whole] * (trick is whole), cut(1000), trick, trick])
        assert download() == DATA
        assert ranges(server).count(None) == 2
        assert not server.tricks["/a.tar"]
    server.tricks["/a.tar"].extend([whole, whole, headers(200, DATA[:5000])])
    with pytest.raises(StorageError, match="sent no length, so truncation cannot be detected"):
        download()


def test_sizes_and_missing_files(server: Server, patience: Patience) -> None:
    server.files["/empty"] = b""
    assert file_size(server.url("/a.tar")) == len(DATA)
    assert file_size(server.url("/empty")) == 0
    assert exists(server.url("/a.tar"))
    assert not exists(server.url("/b.tar"))
    with pytest.raises(MissingError, match="does not exist"):
        file_size(server.url("/b.tar"))
    server.tricks["/a.tar"].extend([status(503), status(410)])
    assert not exists(server.url("/a.tar"), patience.retry)
    for code in (403, 500):
        server.tricks["/a.tar"].extend([status(code)] * 4)
        with pytest.raises(StorageError, match=str(code)):
            exists(server.url("/a.tar"), patience.retry)
        server.tricks["/a.tar"].clear()
    server.tricks["/a.tar"].append(chunked)
    assert file_size(server.url("/a.tar")) is None


def test_no_server(patience: Patience) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StorageError, match=r"after 4 tries: ClientConnectorError: Cannot connect to host 127\.0\.0\.1"):
        exists(f"http://127.0.0.1:{port}/a.tar", patience.retry)
    with pytest.raises(StorageError, match="invalid HTTP address"):
        exists("http://user:pa/ss@127.0.0.1/a.tar", patience.retry)


def test_redirects(server: Server, patience: Patience) -> None:
    server.tricks["/old"].append(status(302, Location="/a.tar?signature=secret"))
    assert read(server.url("/old", "me:word@"), 3, 4, patience.retry) == DATA[3:7]
    assert [request.range for request in server.log] == ["bytes=3-6"] * 2
    assert all(request.authorization for request in server.log)
    # The password is only sent to its server.
    server.log.clear()
    server.tricks["/old"].append(status(307, Location=server.url("/a.tar").replace("127.0.0.1", "localhost")))
    assert read(server.url("/old", "me:word@"), 3, 4, patience.retry) == DATA[3:7]
    assert [bool(request.authorization) for request in server.log] == [True, False]
    server.tricks["/old"].extend([status(302, Location="/old")] * 10)
    with pytest.raises(StorageError, match="could not be read: TooManyRedirects"):
        read(server.url("/old"), 3, 4, patience.retry)
    server.tricks["/away"].append(status(302, Location="file:///etc/passwd"))
    with pytest.raises(StorageError, match="could not be read: NonHttpUrlRedirectClientError: file:///etc/passwd"):
        read(server.url("/away"), 3, 4, patience.retry)


@pytest.mark.parametrize(
    "tricks",
    [
        [status(500)] * 4,
        [status(404)],
        [status(403)],
        [shifted(1)],
        [reset] * 8,
        [cut(1)] * 4,
        [status(302, Location="/a.tar?sig=h1dden")] * 10,
        [status(302, Location="/a.tar?sig=h1dden"), status(404)],
        [whole],
    ],
)
def test_messages_contain_no_secrets(
    server: Server,
    patience: Patience,
    tricks: Sequence[Trick],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server.tricks["/a.tar"].extend(tricks)
    with pytest.raises(StorageError) as failure:
        read(server.url("/a.tar?X-Signature=h1dden", "me:h1dd%40n@"), 0, 1000, patience.retry)
    assert server.log[0].authorization == "Basic " + base64.b64encode(b"me:h1dd@n").decode()
    assert "/a.tar" in str(failure.value)
    chain: BaseException | None = failure.value
    while chain is not None:
        assert "h1dd" not in str(chain)
        assert "me:" not in str(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert "h1dd" not in caplog.text
    assert len(patience.pauses) == sum("retrying in" in line for line in caplog.messages)


def test_a_proxy_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # The test server accepts complete addresses, as a proxy does.
    monkeypatch.setenv("http_proxy", server.url("", "me:word@"))
    assert read("http://elsewhere.invalid/a.tar", 7, 5) == DATA[7:12]
    assert server.log[0].path == "http://elsewhere.invalid/a.tar"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert read(server.url("/a.tar"), 7, 5) == DATA[7:12]
    assert server.log[1].path == "/a.tar"
    monkeypatch.setenv("http_proxy", "socks5://me:word@localhost:1")
    with pytest.raises(DataError, match="socks5://localhost:1 is not an HTTP proxy"):
        read("http://elsewhere.invalid/a.tar", 7, 5)


def _read_many(url: str, seed: int) -> bool:
    rng = random.Random(seed)
    return all(read(url, start, 100) == DATA[start : start + 100] for start in rng.choices(range(299_000), k=20))


def test_a_forked_process_opens_its_own_connection(server: Server) -> None:
    url = server.url("/a.tar")
    assert _read_many(url, 0)
    ours = {request.port for request in server.log}
    server.log.clear()
    fork = multiprocessing.get_context("fork")
    with fork.Pool(2) as pool:
        results = [pool.apply_async(_read_many, (url, seed)) for seed in range(4)]
        assert all(result.get(10) for result in results)
    theirs = {request.port for request in server.log}
    assert theirs
    assert not ours & theirs
    server.log.clear()
    assert _read_many(url, 9)
    assert {request.port for request in server.log} == ours


def test_many_threads(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(_read_many, [server.url("/a.tar")] * 16, range(16)))
    assert len({request.port for request in server.log}) <= 8


def test_patterns() -> None:
    urls = expand("https://host:80/data/x-{00..02}.tar?sig=a*")
    assert urls == [f"https://host:80/data/x-0{n}.tar?sig=a*" for n in range(3)]
    for pattern in (
        "http://host/*.tar",
        "http://host/x-[0-9].tar",
        "http://host/data/",
        "http://host",
        "http://[::1]/",
    ):
        with pytest.raises(DataError, match=r"cannot list its files: .* braces, as in \{000000\.\.000099\}"):
            expand(pattern)
