"""Object stores and everything else that fsspec has a driver for: `s3://`, `gs://`, `hf://`, `memory://`, …."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import fsspec  # type: ignore[import-untyped]

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import Facts, MissingError, Retry, StorageError, Store, Trouble, redact

T = TypeVar("T")

# Scheme -> the package with its driver. Where it is not here, fsspec's own words are passed on.
DRIVERS = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface_hub",
    "oss": "ossfs",
    "smb": "smbprotocol",
}
# Under these names drivers tell that a file has changed, in the order of preference.
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


class CloudStore(Store):
    """A store behind fsspec. Time limits and credentials are the driver's own, from its environment or files."""

    def facts(self, url: str, retry: Retry) -> Facts:
        """See `Store.facts`."""

        def info(fs: Any, path: str) -> dict[str, Any]:
            # A listing from before may miss what was written since.
            fs.invalidate_cache()
            found: dict[str, Any] = fs.info(path)
            return found

        found = _run(url, info, retry)
        if found.get("type") == "directory":
            raise MissingError(f"{redact(url)} is a folder, not a file")
        version = next((str(found[key]) for key in _VERSION_KEYS if found.get(key) is not None), None)
        return Facts(found.get("size"), version)

    def read(self, url: str, offset: int, size: int, retry: Retry) -> bytes:
        """See `Store.read`."""

        def read(fs: Any, path: str) -> bytes:
            content = bytes(fs.cat_file(path, start=offset, end=offset + size))
            if len(content) != size:
                raise StorageError(f"{redact(url)} has {len(content)} of the {size} bytes at {offset}")
            return content

        return _run(url, read, retry)

    def expand(self, url: str, retry: Retry) -> list[str]:
        """Addresses of the same kind. A folder is an address that ends in `/`, or whose last part has no dot.

        Raises:
            DataError: A glob or a folder holds nothing.
        """

        def listed(fs: Any, path: str) -> list[str] | None:
            fs.invalidate_cache()
            if "*" in path or "[" in path or "?" in path:
                names = fs.glob(path)
            elif (url.endswith("/") or "." not in path.rpartition("/")[2]) and fs.isdir(path):
                names = fs.glob(f"{path.rstrip('/')}/*.tar")
            else:
                return None
            # What the driver cut off, a host for instance, goes back to the front.
            tail, whole = path.strip("/"), url.rstrip("/")
            if tail and whole.endswith(tail):
                return sorted(whole.removesuffix(tail) + name.lstrip("/") for name in names)
            return sorted(fs.unstrip_protocol(name) for name in names)

        found = _run(url, listed, retry)
        if found is None:
            return [url]
        if not found:
            raise DataError(f"no file matches {redact(url)}")
        return found


def _open(url: str) -> tuple[Any, str]:
    """File system and path. fsspec keeps the systems it has made, and forgets them in a forked process."""
    scheme = url.partition("://")[0].rpartition("::")[2]
    try:
        fs, path = fsspec.url_to_fs(url)
    except ImportError as error:
        hint = f"pip install {DRIVERS[scheme]}" if scheme in DRIVERS else redact(str(error))
        raise DataError(f"{redact(url)}: reading {scheme}:// needs a driver that is not installed: {hint}") from error
    except ValueError as error:
        raise DataError(f"{redact(url)} cannot be opened: {redact(str(error))}") from None
    return fs, str(path)


def _run(url: str, action: Callable[[Any, str], T], retry: Retry) -> T:
    def attempt() -> T:
        # Drivers put addresses with signatures into their errors: none of them is passed on as it is.
        try:
            return action(*_open(url))
        except (StorageError, DataError):
            raise
        except FileNotFoundError:
            raise MissingError(f"{redact(url)} is not there") from None
        except (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError) as error:
            raise StorageError(f"{redact(url)} could not be read: {_reason(error)}") from None
        except OSError as error:  # time limits are among them
            raise Trouble(_reason(error)) from None
        except Exception as error:
            raise StorageError(f"{redact(url)} could not be read: {_reason(error)}") from None

    return retry.run(attempt, redact(url))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {redact(str(error))}" if str(error) else type(error).__name__
