"""Evaluation of a model that makes pictures: made pictures, what a reader sees in them, scores, a sheet.

Rows are appended to `pictures.jsonl` and `reads.jsonl` as they are produced, so that an interrupted run can resume.
`pictures/` has the PNG files, with a reasoning text beside each that has one, `results.jsonl` a row with the score of
each picture, `report.json` the figures, and `sheet.png` the first pictures.
"""

from __future__ import annotations

import json
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
from mmcomponents.evaluation.picture_layout import LEAST, overlaps
from mmcomponents.generation import Answer
from mmcomponents.generation.answer_files import PictureFolder
from mmcomponents.synthesis.journal import Journal
from mmcomponents.synthesis.questions import Item, Questions, Target, check_skipped

Drawing = Callable[[Sequence[Item], Sequence[Sequence[Image.Image]], int], Sequence[Answer]]
"""Makes pictures of requests with their images, and a seed of the draws."""

Reading = Callable[[Sequence[Image.Image]], Sequence[str]]
"""Answers a question about each picture."""

Progress = Callable[[int, int], None]
"""Called with (number done, total)."""

_SHOWN = 12
"""Number of pictures on the sheet."""


@dataclass
class PictureEvaluation:
    """Evaluation of the pictures that one model makes of requests.

    Attributes:
        requests: Requests for pictures, with their keys and images.
        folder: Output folder.
        settings: All that the pictures depend on, for the journal.
        seed: Seed of the draws.
        together: Number of requests of a batch. An interrupted run repeats at most one, and draws depend on it.
        max_refused: Largest fraction of the requests that may be skipped since their images cannot be read.
    """

    requests: Questions
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    together: int = 8
    max_refused: float = 0.0

    def draw(self, drawing: Drawing, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Makes the missing pictures.

        Returns:
            A row for each request: `key`, `prompt`, `references`, `picture` (path in the folder), and `reasoning` and
            `problems` of an answer with a reasoning text.

        Raises:
            DataError: The folder has pictures of a run with other settings, or too many requests are skipped.
        """
        items, files = self.requests.items, PictureFolder(self.folder, "pictures")
        settings = {**self.settings, "seed": self.seed, "requests": self.requests.digest(), "together": self.together}
        with Journal(self.folder / "pictures.jsonl", settings) as journal:
            for first in range(0, len(items), self.together):
                _told(progress, first, len(items))
                batch = items[first : first + self.together]
                if all(self._is_there(journal.done.get(item.key)) for item in batch):
                    continue
                batch, images = self._usable(batch)
                answers = drawing(batch, images, self.seed + first) if batch else ()
                for number, (item, answer) in enumerate(zip(batch, answers, strict=True)):
                    assert answer.picture is not None
                    path = files.save(answer.picture, item.key, first, number, answer.reasoning)
                    row = {"key": item.key, "prompt": item.text, "references": list(item.target.references)}
                    journal.add({**row, "picture": path, **answer.notes()})
            _told(progress, len(items), len(items))
            return [journal.done[item.key] for item in items if item.key in journal.done]

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
            The rows with `read`, the reader's answer, and `score`.

        Raises:
            DataError: A request has no reference answer that fits the metric.
        """
        for row in rows:
            if not row["references"] or (reason := metric.check(Target(tuple(row["references"])))):
                reason = reason if row["references"] else "it has no reference answer"
                raise DataError(f"{row['key']} cannot be compared with what the reader sees: {reason}")
        settings = {**settings, "pictures": self.settings, "seed": self.seed}
        with Journal(self.folder / "reads.jsonl", settings) as journal:
            left = [row for row in rows if row["key"] not in journal.done]
            for first in range(0, len(left), self.together):
                _told(progress, len(rows) - len(left) + first, len(rows))
                batch = left[first : first + self.together]
                for row, text in zip(batch, reading([self._picture(row) for row in batch]), strict=True):
                    journal.add({"key": row["key"], "read": text})
            _told(progress, len(rows), len(rows))
            reads = [journal.done[row["key"]]["read"] for row in rows]
        return [
            {**row, "read": text, "score": metric.score(text, Target(tuple(row["references"])))}
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
            found.append({**row, "iou": values, "score": float(min(values, default=0.0) >= LEAST)})
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
        answer_sheet([self._shown(row) for row in rows[:_SHOWN]]).save(self.folder / "sheet.png")
        return report

    def _usable(self, batch: Sequence[Item]) -> tuple[list[Item], list[list[Image.Image]]]:
        """Returns the requests whose images can be read, and these; the others are refused."""
        usable, images = [], []
        for item in batch:
            try:
                read = [] if item.media is None else item.media()[0]
            except SampleError as error:
                self.requests.refused.append(f"{item.key}: {error}")
                skipped = self.requests.refused
                check_skipped(skipped, len(self.requests.items), self.max_refused, "requests", "used")
            else:
                usable.append(item)
                images.append(read)
        return usable, images

    def _shown(self, row: Mapping[str, Any]) -> Row:
        seen = row["read"] if "read" in row else f"IoU {', '.join(f'{value:.2f}' for value in row['iou']) or 'none'}"
        return Row(None, row["prompt"], "", seen, row["score"] == 1.0, self._picture(row), "seen")

    def _is_there(self, row: Mapping[str, Any] | None) -> bool:
        return row is not None and (self.folder / row["picture"]).is_file()

    def _picture(self, row: Mapping[str, Any]) -> Image.Image:
        with Image.open(self.folder / row["picture"]) as image:
            image.load()
        return image


def _told(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
