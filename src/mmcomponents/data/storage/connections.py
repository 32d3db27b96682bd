"""Open connections to HTTP servers, straight or through a proxy, and redirects."""

from __future__ import annotations

import os
import threading
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import Retry, StorageError, redact

MOST_REDIRECTS = 5
SHORT = 64 * 1024


class _Connections(threading.local):
    """The kept connections of one thread in one process: a forked process makes its own."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.managers: dict[str | None, urllib3.PoolManager] = {}

    def manager(self, url: str) -> urllib3.PoolManager:
        if self.process != os.getpid():
            self.process, self.managers = os.getpid(), {}
        proxy = _proxy(url)
        if proxy not in self.managers:
            self.managers[proxy] = _make_manager(proxy)
        return self.managers[proxy]


# No setting, but open sockets: what is read does not depend on it.
_CONNECTIONS = _Connections()


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address (`https_proxy`, `all_proxy`, `no_proxy`)."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if proxy and not proxy_bypass(parts.hostname or "") else None


def _make_manager(proxy: str | None) -> urllib3.PoolManager:
    if proxy is None:
        return urllib3.PoolManager()
    plain, auth = split_auth(proxy if "://" in proxy else f"http://{proxy}")
    try:
        return urllib3.ProxyManager(
            plain, proxy_headers=urllib3.make_headers(proxy_basic_auth=auth) if auth is not None else None
        )
    except exceptions.HTTPError:
        raise DataError(f"{plain} is no HTTP proxy: look at the variables http_proxy, https_proxy, all_proxy") from None


def split_auth(url: str) -> tuple[str, str | None]:
    """(address without user and password, "user:password" or None)."""
    try:
        parts = urllib3.util.parse_url(url)
    except exceptions.HTTPError:
        # Not shown: where the password ends is the very thing that is not clear.
        raise StorageError("an HTTP address is not valid: in a password, % / ? # @ are written as %25 %2F …") from None
    return parts._replace(auth=None).url, None if parts.auth is None else unquote(parts.auth)


def follow(url: str, headers: dict[str, str], retry: Retry) -> urllib3.BaseHTTPResponse:
    """One request. Redirects are followed here, because urllib3 logs where they lead, signatures and all."""
    timeout = urllib3.Timeout(connect=retry.connect, read=retry.timeout)
    for _ in range(MOST_REDIRECTS + 1):
        manager = _CONNECTIONS.manager(url)
        response = manager.request(
            "GET", url, headers=headers, timeout=timeout, retries=False, redirect=False, preload_content=False
        )
        target = response.get_redirect_location()
        if not target:
            return response
        drain(response)
        before, url = url, urljoin(url, target)
        if urlsplit(url).scheme not in ("http", "https"):
            raise StorageError(f"{redact(before)} leads to {redact(url)}, which is no HTTP address")
        if urlsplit(before)[:2] != urlsplit(url)[:2]:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    raise StorageError(f"{redact(url)} leads on more than {MOST_REDIRECTS} times")


def drain(response: urllib3.BaseHTTPResponse) -> None:
    """Reads a short answer that is of no interest, so that the connection can be used again; a long one is closed."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) <= SHORT:
        response.read(decode_content=False)
    else:
        response.close()
