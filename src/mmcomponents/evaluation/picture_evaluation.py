"""Evaluation of a model that makes pictures: made pictures, answers of a reader about them, scores, a sheet.

Rows are appended to `pictures.jsonl` and `reads.jsonl` as they are produced, so that an interrupted run can resume. A
row is used again only for the request, and the picture, that it was made for. `pictures/` has the PNG files, with a
reasoning text beside each that has one, `results.jsonl` a row with the score of each picture, `report.json` the
figures, and `sheet.png` the first pictures.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.storage.atomic_write import write_text
from mmcomponents.evaluation.answer_sheet import Row, answer_sheet
from mmcomponents.evaluation.intervals import interval
from mmcomponents.evaluation.metrics import Metric
from mmcomponents.evaluation.picture_layout import MIN_IOU, overlaps
from mmcomponents.generation import Answer
from mmcomponents.generation.answer_files import save_picture
from mmcomponents.synthesis.journal import Journal
from mmcomponents.synthesis.questions import Item, Questions, check_skipped

Drawing = Callable[[Sequence[Item], Sequence[Sequence[Image.Image]]], Sequence[Answer]]
"""Makes pictures of requests with their images. The picture of a request does not depend on the others."""

Reading = Callable[[Sequence[Image.Image]], Sequence[str]]
"""Answers a question about each picture."""

Progress = Callable[[int, int], None]
"""Called with (number done, total)."""

_SHEET_ROWS = 12
_LONGEST = 80
"""Maximum number of characters of a key in a file name."""


@dataclass
class PictureEvaluation:
    """Evaluation of the pictures that one model makes of requests.

    Attributes:
        requests: The requests, each with a key of its own.
        folder: Output folder.
        settings: All that the pictures depend on besides the requests, for the journal.
        batch_size: Number of requests of a batch. An interrupted run repeats at most one.
        max_refused: Largest fraction of the requests that may be skipped since their images cannot be read.
    """

    requests: Questions
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    max_refused: float = 0.0

    def check_references(self, metric: Metric) -> None:
        """Checks that each request has a reference answer that fits a metric.

        Raises:
            DataError: One has not.
        """
        for item in self.requests.items:
            reason = metric.check(item.target) if item.target.references else "it has no reference answer"
            if reason:
                raise DataError(f"{item.key} cannot be compared with the answer of the reader: {reason}")

    def draw(self, drawing: Drawing, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Makes the missing pictures.

        Returns:
            A row for each request: `key`, `prompt`, `picture` (path in the folder), and `reasoning` and `problems` of
            an answer with a reasoning text.

        Raises:
            DataError: The folder has pictures of a run with other settings, too many requests are skipped, or none is
                left.
        """
        items = self.requests.items
        with Journal(self.folder / "pictures.jsonl", self.settings) as journal:
            missing = [item for item in items if not self._is_made(item, journal.done.get(item.key))]
            (self.folder / "pictures").mkdir(exist_ok=True)
            for first in range(0, len(missing), self.batch_size):
                _report(progress, len(items) - len(missing) + first, len(items))
                batch, images = self._readable(missing[first : first + self.batch_size])
                for item, answer in zip(batch, drawing(batch, images) if batch else (), strict=True):
                    assert answer.picture is not None
                    path = f"pictures/{_file_name(item.key)}.png"
                    save_picture(self.folder / path, answer.picture, answer.reasoning)
                    row = {"key": item.key, "request": _digest(item), "prompt": item.text, "picture": path}
                    journal.add({**row, **answer.notes()})
            _report(progress, len(items), len(items))
            found = [journal.done[item.key] for item in items if self._is_made(item, journal.done.get(item.key))]
        if not found:
            raise DataError(f"{self.requests.name}: 0 of {len(items)} requests have a picture")
        return [{name: value for name, value in row.items() if name != "request"} for row in found]

    def read_back(
        self,
        rows: Sequence[Mapping[str, Any]],
        reading: Reading,
        metric: Metric,
        settings: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Asks a reader about all pictures, and compares its answers with the reference answers of the requests.

        Args:
            rows: Rows of `draw`.
            reading: Answers a question about each picture.
            metric: Compares the answers.
            settings: All that the answers depend on besides the pictures, for the journal.
            progress: Called before each batch and at the end.

        Returns:
            The rows with `references`, `read` (the reader's answer) and `score`.

        Raises:
            DataError: A request has no reference answer that fits the metric.
        """
        self.check_references(metric)
        with Journal(self.folder / "reads.jsonl", settings) as journal:
            files = {row["key"]: _file_digest(self.folder / row["picture"]) for row in rows}
            left = [row for row in rows if journal.done.get(row["key"], {}).get("picture") != files[row["key"]]]
            for first in range(0, len(left), self.batch_size):
                _report(progress, len(rows) - len(left) + first, len(rows))
                batch = left[first : first + self.batch_size]
                for row, text in zip(batch, reading([self._picture(row) for row in batch]), strict=True):
                    journal.add({"key": row["key"], "picture": files[row["key"]], "read": text})
            _report(progress, len(rows), len(rows))
            reads = [journal.done[row["key"]]["read"] for row in rows]
        targets = {item.key: item.target for item in self.requests.items}
        return [
            {
                **row,
                "references": list(targets[row["key"]].references),
                "read": text,
                "score": metric.score(text, targets[row["key"]]),
            }
            for row, text in zip(rows, reads, strict=True)
        ]

    def in_boxes(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Checks whether all things of each picture are in the boxes of its reasoning text.

        Args:
            rows: Rows of `draw`.

        Returns:
            The rows with `iou` of each box and `score`: 1 if each is at least 0.7, and 0 without boxes.

        Raises:
            DataError: A picture has no reasoning text.
        """
        found = []
        for row in rows:
            if "reasoning" not in row:
                raise DataError(f"{row['key']} was made without a reasoning text, so that there are no boxes")
            values = [round(value, 4) for value in overlaps(self._picture(row), row["reasoning"])]
            found.append({**row, "iou": values, "score": float(min(values, default=0.0) >= MIN_IOU)})
        return found

    def finish(self, rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
        """Writes the rows, the report and the sheet.

        Args:
            rows: Rows with `score`.
            metric: Name of the figure.

        Returns:
            Contents of `report.json`.
        """
        scores = [float(row["score"]) for row in rows]
        low, high = interval(scores)
        report = {"benchmark": self.requests.name, "metric": metric, "pictures": len(rows)}
        report |= {"score": sum(scores) / len(scores), "low": low, "high": high}
        if any("reasoning" in row for row in rows):
            report["unread_reasoning"] = sum(bool(row.get("problems")) for row in rows)
        report["refused"] = self.requests.refused
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        write_text(self.folder / "results.jsonl", lines)
        write_text(self.folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        answer_sheet([self._sheet_row(row) for row in rows[:_SHEET_ROWS]]).save(self.folder / "sheet.png")
        return report

    def _readable(self, batch: Sequence[Item]) -> tuple[list[Item], list[list[Image.Image]]]:
        """Returns the requests whose images can be read, and these; the others are refused."""
        readable, images = [], []
        for item in batch:
            try:
                pictures, videos = ([], []) if item.media is None else item.media()
                if videos:
                    raise SampleError(
                        f"a picture is made of a text and images, and the request has {len(videos)} videos"
                    )
            except SampleError as error:
                self.requests.refused.append(f"{item.key}: {error}")
                skipped, total = self.requests.refused, len(self.requests.items)
                check_skipped(skipped, total, self.max_refused, "requests", "used", f"{self.requests.name}: ")
            else:
                readable.append(item)
                images.append(pictures)
        return readable, images

    def _sheet_row(self, row: Mapping[str, Any]) -> Row:
        text = row["read"] if "read" in row else f"IoU {', '.join(f'{value:.2f}' for value in row['iou']) or 'none'}"
        shown = text if row["score"] in (0.0, 1.0) else f"{text} ({row['score']:.2f})"
        return Row(None, row["prompt"], "", shown, row["score"] == 1.0, self._picture(row), "answer")

    def _is_made(self, item: Item, row: Mapping[str, Any] | None) -> bool:
        return row is not None and row["request"] == _digest(item) and (self.folder / row["picture"]).is_file()

    def _picture(self, row: Mapping[str, Any]) -> Image.Image:
        with Image.open(self.folder / row["picture"]) as image:
            image.load()
        return image


def _digest(item: Item) -> str:
    """Returns a hash of the prompt of a request and the names of its images."""
    facts = [[dict(message) for message in item.messages], list(item.names)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _file_name(key: str) -> str:
    """Returns a file name for a key, which differs for other keys."""
    harmless = re.sub(r"[^A-Za-z0-9_-]+", "_", key)[:_LONGEST].strip("_") or "picture"
    return f"{harmless}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
