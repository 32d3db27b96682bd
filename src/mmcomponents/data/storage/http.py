"""Store for HTTP servers on top of fsspec; the headers of each response are checked before its body is read."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import IO, Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import fsspec  # type: ignore[import-untyped]

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import Facts, MissingError, Retry, StorageError, Trouble, redact
from mmcomponents.data.storage.remote import RemoteStore

_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_HINTS = {401: " (user and password required)", 403: " (no permission, or an expired signed address)"}


class HttpStore(RemoteStore):
    """Store for `http://` and `https://`.

    The address may contain user and password. The proxy of an address is read from the environment and also used for
    its redirects.
    """

    def facts(self, url: str, retry: Retry) -> Facts:
        """Requests the first byte: signed addresses often do not allow HEAD. The version is ETag or Last-Modified."""
        return self._probe(url, retry)[0]

    def check_ranges(self, url: str, retry: Retry) -> None:
        """Requests one byte. A server that ignores ranges sends the complete file, which is not read."""
        if not self._probe(url, retry)[1]:
            raise _RangesIgnoredError(url)

    def expand(self, url: str, retry: Retry) -> list[str]:
        """Returns the address itself.

        Raises:
            DataError: The address is a glob or a folder, which an HTTP server cannot list.
        """
        path = re.split(r"[?#]", url.partition("://")[2])[0].partition("/")[2]
        if "*" in path or "[" in path or not path or path.endswith("/"):
            raise DataError(
                f"{redact(url)}: an HTTP server cannot list its files: use braces, as in {{000000..000099}}"
            )
        return [url]

    def _copy(self, url: str, sink: IO[bytes], facts: Facts, retry: Retry) -> None:
        """Uses range requests if supported; otherwise one request, restarted from the beginning after each failure."""

        def copy_whole(fs: Any, path: str) -> None:
            sink.seek(0)
            sink.truncate()
            fs.get_file(path, sink, **self._options(url, facts.size, retry))

        if facts.size is not None:
            with contextlib.suppress(_RangesIgnoredError):
                super()._copy(url, sink, facts, retry)
                return
        self._run(url, copy_whole, retry)

    def _open(self, url: str, retry: Retry) -> tuple[Any, str]:
        try:
            urlsplit(url).port  # noqa: B018 (computing it is the check)
        except ValueError:
            # The address is not shown: the end of the password is unknown.
            raise StorageError("invalid HTTP address: in a password, % / ? # @ are encoded as %25 %2F …") from None
        return _file_system(os.getpid(), retry.connect, retry.timeout), quote(url, safe="%:/?#[]@!$&'()*+,;=~")

    def _options(self, url: str, size: int | None, retry: Retry) -> dict[str, Any]:
        return _Response(url).options(size, retry)

    def _probe(self, url: str, retry: Retry) -> tuple[Facts, bool]:
        """Returns size and version of a file, and whether the server supports ranges."""
        response = _Response(url)
        try:
            self._run(url, lambda fs, path: fs.cat_file(path, start=0, end=1, **response.options(1, retry)), retry)
        except _RangesIgnoredError:
            # A complete file of one byte equals the requested range.
            return response.facts, response.facts.size in (0, 1)
        except _EndError as error:
            if error.size != 0:
                raise
            return Facts(0, None), True  # an empty file has no first byte
        return response.facts, True


@functools.cache
def _file_system(process: int, connect: float, timeout: float) -> Any:
    """Returns the driver, with the connections, of one process.

    In a forked process the cache also keeps the parent's driver. Without that reference fsspec would close the
    parent's connections there, which takes a second.
    """
    return fsspec.filesystem(
        "http",
        encoded=True,  # keeps signatures unchanged
        client_kwargs={
            "timeout": aiohttp.ClientTimeout(connect=connect, sock_read=timeout),
            "requote_redirect_url": False,
        },
        skip_instance_cache=True,
    )


def _proxy(url: str) -> str | None:
    """Returns the proxy set in the environment for an address (`https_proxy`, `all_proxy`, `no_proxy`), or None."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise DataError(f"{redact(proxy)} is not an HTTP proxy: check the variables http_proxy, https_proxy, all_proxy")
    return proxy


class _Response:
    """Checks of the headers of a response, and size and version of the file read from them."""

    def __init__(self, url: str) -> None:
        self.url, self.facts = url, Facts(None, None)

    def options(self, size: int | None, retry: Retry) -> dict[str, Any]:
        """Returns keyword arguments for the driver call that sends the request."""
        return {
            "headers": {"Accept-Encoding": "identity"},  # ranges of a compressed body are unusable
            "raise_for_status": self.check,
            "proxy": _proxy(self.url),
            "timeout": None if size is None else retry.timeout + size / retry.slowest,
        }

    async def check(self, response: aiohttp.ClientResponse) -> None:
        """Raises an error unless the body of `response` is the requested range or file."""
        try:
            self._check_status(response)
            self._check_body(response)
        except Exception:
            response.release()
            raise

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            return
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
            raise _EndError(self.url, int(total[1]) if total else None)
        shown = f"{status} {response.reason or ''}".strip()[:80]
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            raise MissingError(f"{redact(self.url)} does not exist ({shown})")
        if status in _PASSING_STATUS:
            raise Trouble(f"the server returned {shown}", wait=_seconds(response.headers.get("Retry-After", "")))
        raise StorageError(f"{redact(self.url)} could not be read: the server returned {shown}{_HINTS.get(status, '')}")

    def _check_body(self, response: aiohttp.ClientResponse) -> None:
        fields = response.headers
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", response.request_info.headers.get("Range", ""))
        version = fields.get("ETag") or fields.get("Last-Modified")
        if fields.get("Content-Encoding", "identity").lower() != "identity":
            raise StorageError(f"{redact(self.url)}: the server sent compressed data despite Accept-Encoding: identity")
        if response.status == HTTPStatus.OK:
            self.facts = Facts(response.content_length, version)
            if wanted is not None:
                raise _RangesIgnoredError(self.url)
            if response.content_length is None and fields.get("Transfer-Encoding", "").lower() != "chunked":
                raise StorageError(f"{redact(self.url)}: the server sent no length, so truncation cannot be detected")
            return
        text = fields.get("Content-Range", "")
        sent = re.fullmatch(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", text, re.IGNORECASE)
        if sent is None:
            raise StorageError(f"{redact(self.url)}: the server sent no valid Content-Range ({text[:80]!r})")
        if wanted is None or sent[1] != wanted[1] or int(sent[2]) > int(wanted[2]):
            requested = f"bytes {wanted[1]}-{wanted[2]} were" if wanted else "the complete file was"
            raise StorageError(f"{redact(self.url)}: {requested} requested, the server sent {sent[1]}-{sent[2]}")
        if response.content_length not in (None, int(sent[2]) - int(sent[1]) + 1):
            raise StorageError(
                f"{redact(self.url)}: the server sent the range {sent[1]}-{sent[2]} with a Content-Length of"
                f" {response.content_length}"
            )
        self.facts = Facts(None if sent[3] == "*" else int(sent[3]), version)


class _RangesIgnoredError(StorageError):
    def __init__(self, url: str) -> None:
        super().__init__(
            f"the server of {redact(url)} ignores ranges and sends complete files, so samples cannot be read"
            " individually: copy its shards to a local disk, or use a server that supports Range requests"
        )


class _EndError(StorageError):
    def __init__(self, url: str, size: int | None) -> None:
        has = "" if size is None else f": it has {size} bytes"
        super().__init__(f"{redact(url)} ends before the requested bytes{has}")
        self.size = size


def _seconds(text: str) -> float | None:
    """Returns the seconds of a `Retry-After` header, which is a number or a date; None if it is neither."""
    if text.isdecimal():
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return None
