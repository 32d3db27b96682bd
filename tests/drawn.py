"""Helpers for tests of data from a model's own answers: questions, and answers from a script."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tiny
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.format.shards import json_member, list_shard, read_members
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.evaluation import read_questions
from mmcomponents.synthesis import drawing
from mmcomponents.synthesis.questions import Questions
from mmcomponents.synthesis.rollout import Answers, Question

Script = Callable[[Question, int], str]
"""Returns the answer to (question, sample number)."""

CUT = "~"
"""Suffix of a scripted answer that is truncated."""


class Folder:
    """Stand-in for a checkpoint."""

    def __init__(self, model, tokenizer) -> None:
        self.model, self.words = model, tokenizer

    def load(self, device, dtype, allow_nonfinite):
        return self.model.to(device, dtype)

    def make_sampler(self, trust_remote_code):
        return None

    def tokenizer(self):
        return self.words

    def renderer(self, tokenizer, tokens_per_tile):
        return SampleRenderer(tokenizer, tokens_per_tile or 1, Tiling(tile_size=tiny.TILE, max_tiles=1))


def write_questions(folder: Path, count: int, images: bool = True, answer: str = "7") -> Questions:
    """Writes questions with the same answer, each with its own image if `images`."""
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
    """Replaces rollouts by a script; returns the list to which its questions are appended."""
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
    """Returns the records of the shards with a prefix, with the suffixes of the media as "files"."""
    found = []
    for shard in sorted(folder.glob(f"{prefix}-*.tar")):
        for key, members, problem in list_shard(shard):
            assert problem == ""
            record = json.loads(read_members(str(shard), [json_member(members)])[0])
            found.append({**record, "key": key, "files": [m.suffix for m in members if m.suffix != "json"]})
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of all files except the journal, whose lines may be in another order."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "journal.jsonl"}
