"""Files on a disk of this machine."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import Facts, MissingError, Retry, StorageError, Store

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def local_path(url: str) -> str:
    """The path that a `file://` address or a plain path names.

    Raises:
        DataError: The address names another machine.
    """
    if url[:7].lower() != "file://":
        return url
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise DataError(f"{url} names the machine {parts.netloc}: a local file is file:///path, with three slashes")
    return url2pathname(parts.path)


class LocalStore(Store):
    """Plain paths and `file://`. Nothing is tried twice."""

    def facts(self, url: str, retry: Retry) -> Facts:
        """See `Store.facts`; the version is the time of the last change, in nanoseconds."""
        path = local_path(url)
        with _errors(path):
            status = os.stat(path)
        if os.path.isdir(path):
            raise MissingError(f"{path} is a folder, not a file")
        return Facts(status.st_size, str(status.st_mtime_ns))

    def read(self, url: str, offset: int, size: int, retry: Retry) -> bytes:
        """See `Store.read`."""
        return self.read_ranges(url, [(offset, size)], retry)[0]

    def read_ranges(self, url: str, ranges: Sequence[tuple[int, int]], retry: Retry) -> list[bytes]:
        """Opens the file once; a seek is cheap, so nothing is read that was not asked for."""
        path = local_path(url)
        contents = []
        with _errors(path), open(path, "rb") as file:
            for offset, size in ranges:
                file.seek(offset)
                contents.append(file.read(size))
                if len(contents[-1]) != size:
                    raise StorageError(f"{path} has {len(contents[-1])} of the {size} bytes at {offset}")
        return contents

    def expand(self, url: str, retry: Retry) -> list[str]:
        """Paths; a folder stands for the `*.tar` in it.

        Raises:
            DataError: There is nothing.
        """
        path = local_path(url)
        if Path(path).is_dir():
            found = sorted(str(file) for file in Path(path).glob("*.tar"))
            if not found:
                packed = compressed_tars(path)
                hint = f", but {len(packed)} that are compressed ({packed[0]}): unpack them first" if packed else ""
                raise DataError(f"the folder {path} has no *.tar{hint}")
        elif Path(path).exists():
            found = [path]
        elif glob.has_magic(path):
            found = sorted(glob.glob(path, recursive=True))
            if not found:
                raise DataError(f"no file matches {path}")
        else:
            raise DataError(f"{path} is not there")
        return found


def compressed_tars(url: str) -> list[str]:
    """Names of the tars in a local folder that are compressed, so that none of their samples can be read by itself."""
    if "://" in url and not url.lower().startswith("file://"):
        return []
    path = local_path(url)
    return sorted(name for name in os.listdir(path) if name.endswith(_PACKED)) if os.path.isdir(path) else []


@contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path} is not there") from None
    except OSError as error:
        raise StorageError(f"{path} could not be read: {error.strerror or error}") from error
