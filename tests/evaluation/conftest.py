"""The tokenizer and the models of the tests of `generation`, and shards with questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.readers.question_files import png
from generation.conftest import parrot, tokenizer, writer
from mmcomponents.data.format.shards import ShardWriter

__all__ = ["parrot", "tokenizer", "writer"]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """A conversation with two questions, and a document."""
    with ShardWriter(tmp_path / "notes", "test") as writer:
        turns = [("<image>\nRead.", "12"), ("Add.", "3")]
        messages = [
            {"role": role, "content": text}
            for pair in turns
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        system = {"role": "system", "content": "Be brief."}
        writer.write("one", {"messages": [system, *messages], "kinds": ["read", "add"]}, [("png", png((9, 9)))])
        writer.write("two", {"text": "A document."})
    return str(tmp_path / "notes" / "test-*.tar")
