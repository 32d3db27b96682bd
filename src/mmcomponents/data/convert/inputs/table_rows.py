"""Rows of Parquet files and of folders that the library `datasets` has saved, as annotations (needs pyarrow)."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcomponents.data.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = ".parquet"
_BATCH = 64
_SPLITS, _STATE = "dataset_dict.json", "state.json"


def saved_splits(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Returns the Arrow files of a folder that `datasets` has saved, by the name of the split; "" without splits.

    Raises:
        DataError: A file of the folder is missing or damaged.
    """
    try:
        if (folder / _SPLITS).is_file():
            names = json.loads((folder / _SPLITS).read_text(encoding="utf-8"))["splits"]
            return {str(name): _arrow_files(folder / str(name)) for name in names}
        return {"": _arrow_files(folder)} if (folder / _STATE).is_file() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is not a complete folder of the library datasets: {error}") from error


def _arrow_files(folder: Path) -> tuple[Path, ...]:
    files = json.loads((folder / _STATE).read_text(encoding="utf-8"))["_data_files"]
    return tuple(folder / file["filename"] for file in files)


def count_rows(path: Path) -> int:
    """Returns the number of rows of a table.

    Raises:
        DataError: pyarrow is not installed, or the file is not a table.
    """
    _check_installed(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == PARQUET:
            return int(pq.read_metadata(path).num_rows)
        return sum(batch.num_rows for batch in _arrow_batches(path))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a table: {error}") from error


def read_rows(files: Sequence[Path], counts: Sequence[int], begin: int, end: int) -> Iterator[dict[str, Any]]:
    """Yields rows as annotations: without empty columns, with bytes of media as data: URLs.

    Args:
        files: The tables.
        counts: Number of rows of each.
        begin: First row, counted over all tables.
        end: End (exclusive) of the rows.

    Raises:
        DataError: A file cannot be read.
    """
    import pyarrow as pa

    first = 0
    for path, count in zip(files, counts, strict=True):
        if first < end and begin < first + count:
            try:
                for batch in _batches(path, max(0, begin - first), min(count, end - first)):
                    yield from (_annotation(row) for row in batch.to_pylist())
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{path} cannot be read: {error}") from error
        first += count


def _batches(path: Path, begin: int, end: int) -> Iterator[pa.RecordBatch]:
    """Yields the rows from `begin` to `end` of a table in small batches."""
    import pyarrow.parquet as pq

    if path.suffix.lower() != PARQUET:
        yield from _cut(_arrow_batches(path), 0, begin, end)
        return
    with pq.ParquetFile(path) as table:
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if first < end and begin < first + rows:
                yield from _cut(table.iter_batches(_BATCH, [group]), first, begin, end)
            first += rows


def _cut(batches: Iterator[pa.RecordBatch], first: int, begin: int, end: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for at in range(0, batch.num_rows, _BATCH):
            low, high = max(begin - first, at), min(end - first, at + _BATCH, batch.num_rows)
            if low < high:
                yield batch.slice(low, high - low)
        first += batch.num_rows
        if first >= end:
            return


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yields the batches of an Arrow stream, as `datasets` saves it."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        yield from stream


def _annotation(row: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in row.items() if value is not None}


def _plain(value: Any) -> Any:
    """Converts a value to those of JSON."""
    if isinstance(value, dict):
        if value and value.keys() <= {"bytes", "path"}:  # an image, audio or video of `datasets`
            return _plain(value["bytes"]) if value.get("bytes") is not None else value.get("path")
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        return f"data:;base64,{base64.b64encode(value).decode()}"
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if isinstance(value, str | int | float | None) else str(value)  # a Decimal, a duration


def _check_installed(path: Path) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise DataError(f"{path} is a table, which needs pyarrow: pip install 'mmcomponents[tables]'") from None
