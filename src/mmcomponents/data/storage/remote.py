"""Store for all schemes with an fsspec driver, such as `s3://`, `gs://`, `hf://` and `memory://`."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

import aiohttp
import fsspec  # type: ignore[import-untyped]
from fsspec.exceptions import FSTimeoutError  # type: ignore[import-untyped]

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import (
    Facts,
    MissingError,
    Retry,
    StorageError,
    Store,
    Trouble,
    check_complete,
    redact,
)

T = TypeVar("T")

# Package with the driver of a scheme. For other schemes, the message of fsspec is used.
DRIVERS = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface_hub",
    "oss": "ossfs",
    "smb": "smbprotocol",
}
# Keys of the version of a file in `info` of the drivers, in order of preference.
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")

# Transient errors. Timeouts are OSErrors.
_TRANSIENT = (OSError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.ClientHttpProxyError)


class RemoteStore(Store):
    """Store on top of fsspec. The driver reads time limits and credentials from its own environment or files."""

    def facts(self, url: str, retry: Retry) -> Facts:
        """See `Store.facts`."""

        def info(fs: Any, path: str) -> dict[str, Any]:
            # A cached listing may lack files written since.
            fs.invalidate_cache()
            found: dict[str, Any] = fs.info(path)
            return found

        found = self._run(url, info, retry)
        if found.get("type") == "directory":
            raise MissingError(f"{redact(url)} is a folder, not a file")
        version = next((str(found[key]) for key in _VERSION_KEYS if found.get(key) is not None), None)
        return Facts(found.get("size"), version)

    def read(self, url: str, offset: int, size: int, retry: Retry) -> bytes:
        """See `Store.read`."""

        def read(fs: Any, path: str) -> bytes:
            content = bytearray()
            while len(content) < size:  # a server may send less than the requested range
                start = offset + len(content)
                part = fs.cat_file(path, start=start, end=offset + size, **self._options(url, size, retry))
                if not part:
                    break
                content += part
            check_complete(bytes(content), redact(url), offset, size)
            return bytes(content)

        return self._run(url, read, retry)

    def expand(self, url: str, retry: Retry) -> list[str]:
        """Returns addresses of the same scheme. A folder is an address that ends in `/` or whose last part has no dot.

        Raises:
            DataError: A glob or a folder matches no file.
        """

        def listed(fs: Any, path: str) -> list[str] | None:
            fs.invalidate_cache()
            if "*" in path or "[" in path or "?" in path:
                names = fs.glob(path)
            elif (url.endswith("/") or "." not in path.rpartition("/")[2]) and fs.isdir(path):
                names = fs.glob(f"{path.rstrip('/')}/*.tar")
            else:
                return None
            # Restores the prefix that the driver removed, for instance a host.
            tail, address = path.strip("/"), url.rstrip("/")
            if tail and address.endswith(tail):
                return sorted(address.removesuffix(tail) + name.lstrip("/") for name in names)
            return sorted(fs.unstrip_protocol(name) for name in names)

        found = self._run(url, listed, retry)
        if found is None:
            return [url]
        if not found:
            raise DataError(f"no file matches {redact(url)}")
        return found

    def _open(self, url: str, retry: Retry) -> tuple[Any, str]:
        """Returns file system and path. fsspec caches file systems, and clears the cache in a forked process."""
        scheme = url.partition("://")[0].rpartition("::")[2]
        try:
            fs, path = fsspec.url_to_fs(url)
        except ImportError as error:
            hint = f"pip install {DRIVERS[scheme]}" if scheme in DRIVERS else redact(str(error))
            raise DataError(
                f"{redact(url)}: reading {scheme}:// needs a driver that is not installed: {hint}"
            ) from error
        except ValueError as error:
            raise DataError(f"{redact(url)} cannot be opened: {redact(str(error))}") from None
        return fs, str(path)

    def _options(self, url: str, size: int | None, retry: Retry) -> dict[str, Any]:
        """Returns driver options for a request of `size` bytes; None is a complete file of unknown size."""
        return {}

    def _run(self, url: str, action: Callable[[Any, str], T], retry: Retry) -> T:
        def attempt() -> T:
            # Errors of drivers contain addresses with signatures: none is raised unchanged.
            try:
                return action(*self._open(url, retry))
            except (Trouble, StorageError, DataError):
                raise
            except FileNotFoundError:
                raise MissingError(f"{redact(url)} does not exist") from None
            except (
                PermissionError,
                ssl.CertificateError,
                IsADirectoryError,
                NotADirectoryError,
                NotImplementedError,
            ) as error:
                raise StorageError(f"{redact(url)} could not be read: {_reason(error)}") from None
            except _TRANSIENT as error:
                raise Trouble(_reason(error)) from None
            except Exception as error:
                raise StorageError(f"{redact(url)} could not be read: {_reason(error)}") from None

        return retry.run(attempt, redact(url))


def _reason(error: BaseException) -> str:
    """Returns type and text of an error in one line."""
    if isinstance(error, FSTimeoutError) and error.__cause__ is not None:
        error = error.__cause__  # the outer error has no text
    text = " ".join(redact(str(error)).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
