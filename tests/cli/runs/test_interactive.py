from __future__ import annotations

import io
import sys

import pytest

from mmcomponents.cli.runs.interactive import write

ANSWER = "one\x1b[2J\x9b31m\n\ttwo\u202e\r\x07"


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_an_answer_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert write(iter(ANSWER)) == ANSWER
    assert terminal.getvalue() == "one\ufffd[2J\ufffd31m\n\ttwo\ufffd\ufffd\ufffd\n"


def test_an_answer_to_a_pipe_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO(newline=""))
    write(iter(ANSWER))
    assert pipe.getvalue() == ANSWER + "\n"
