"""What the tests of data from a model's own answers share: questions, and a model that says what a script has."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmcomponents.data.shards import json_member, list_shard, read_members
from mmcomponents.inference import drawing
from mmcomponents.inference.questions import Questions, read_questions
from mmcomponents.inference.rollouts import Answers, Question

Script = Callable[[Question, int], str]
"""What is said to a question as its sample with this number."""

CUT = "~"
"""What ends with it was cut there."""


def write_questions(folder: Path, count: int, images: bool = True, answer: str = "7") -> Questions:
    """Some questions, all with one answer, most with an image of their own."""
    lines = []
    for number in range(count):
        record: dict[str, Any] = {"question": f"What is {number}?", "answer": answer}
        if images:
            file = io.BytesIO()
            Image.new("RGB", (20, 20 + number), (number * 20, 0, 0)).save(file, "PNG")
            (folder / f"{number}.png").write_bytes(file.getvalue())
            record["image"] = f"{number}.png"
        lines.append(json.dumps(record) + "\n")
    (folder / "q.jsonl").write_text("".join(lines))
    return read_questions([str(folder / "q.jsonl")])


def scripted(monkeypatch: pytest.MonkeyPatch, script: Script) -> list[Question]:
    """Answers come from a script; returns the questions that are asked of it, as they are."""
    asked: list[Question] = []

    def rollouts(model, renderer, questions, sampling, **rest: Any) -> Iterator[tuple[Question, Answers]]:
        for question in questions:
            if question.key not in rest["done"]:
                asked.append(question)
                texts = [script(question, number) for number in range(sampling.samples)]
                cut = [number for number, text in enumerate(texts) if text.endswith(CUT)]
                yield question, Answers([text.removesuffix(CUT) for text in texts], cut)

    monkeypatch.setattr(drawing, "rollouts", rollouts)
    return asked


def records(folder: Path, prefix: str) -> list[dict[str, Any]]:
    """What the shards of a prefix hold, with the suffixes of the media as "files"."""
    found = []
    for shard in sorted(folder.glob(f"{prefix}-*.tar")):
        for key, members, problem in list_shard(shard):
            assert problem == ""
            record = json.loads(read_members(str(shard), [json_member(members)])[0])
            found.append({**record, "key": key, "files": [m.suffix for m in members if m.suffix != "json"]})
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files, but for the journal, whose lines may stand in another order."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "journal.jsonl"}
