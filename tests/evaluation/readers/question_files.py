"""Question files for tests."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image


def png(size: tuple[int, int] = (8, 6), colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def coded(size: tuple[int, int] = (8, 6)) -> str:
    return base64.b64encode(png(size)).decode()


def tsv(path: Path, rows: list[dict[str, str]]) -> str:
    """Writes a table as pandas does: cells are quoted if necessary; the columns are those of the first row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_lines(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def sizes(item) -> list[tuple[int, int]]:
    images, videos = item.media()
    assert videos == []
    return [image.size for image in images]
