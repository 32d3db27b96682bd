"""Store for local files."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.base import Facts, MissingError, Retry, StorageError, Store, check_complete
from mmcomponents.data.storage.regular_file import open_regular

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def local_path(url: str) -> str:
    """Returns the path of a `file://` address; a plain path is returned unchanged.

    Raises:
        DataError: The address contains another host.
    """
    if url[:7].lower() != "file://":
        return url
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise DataError(f"{url} contains the host {parts.netloc}: a local file is file:///path, with three slashes")
    return url2pathname(parts.path)


class LocalStore(Store):
    """Store for plain paths and `file://`. Errors are not retried."""

    def facts(self, url: str, retry: Retry) -> Facts:
        """See `Store.facts`; the version is the modification time in nanoseconds."""
        path = local_path(url)
        with _errors(path):
            status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise MissingError(f"{path} is {kind}, not a file")
        return Facts(status.st_size, str(status.st_mtime_ns))

    def read(self, url: str, offset: int, size: int, retry: Retry) -> bytes:
        """See `Store.read`."""
        return self.read_ranges(url, [(offset, size)], retry)[0]

    def read_ranges(self, url: str, ranges: Sequence[tuple[int, int]], retry: Retry) -> list[bytes]:
        """Opens the file once. Ranges are not merged, because seeks are cheap."""
        path = local_path(url)
        contents = []
        with _errors(path), open_regular(path) as file:
            for offset, size in ranges:
                file.seek(offset)
                contents.append(file.read(size))
                check_complete(contents[-1], path, offset, size)
        return contents

    def expand(self, url: str, retry: Retry) -> list[str]:
        """Returns paths; a folder is expanded to the `*.tar` in it.

        Raises:
            DataError: No file matches.
        """
        path = local_path(url)
        if Path(path).is_dir():
            found = sorted(str(file) for file in Path(path).glob("*.tar"))
            if not found:
                tars = compressed_tars(path)
                hint = f", only {len(tars)} compressed ({tars[0]}): unpack to .tar first" if tars else ""
                raise DataError(f"the folder {path} has no *.tar{hint}")
        elif Path(path).exists():
            found = [path]
        elif glob.has_magic(path):
            found = sorted(glob.glob(path, recursive=True))
            if not found:
                raise DataError(f"no file matches {path}")
        else:
            raise DataError(f"{path} does not exist")
        return found


def compressed_tars(url: str) -> list[str]:
    """Returns the names of the compressed tars in a local folder, whose samples cannot be read individually."""
    if "://" in url and not url.lower().startswith("file://"):
        return []
    path = local_path(url)
    return sorted(name for name in os.listdir(path) if name.endswith(_COMPRESSED)) if os.path.isdir(path) else []


@contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path} does not exist") from None
    except OSError as error:
        raise StorageError(f"{path} could not be read: {error.strerror or error}") from error
