from __future__ import annotations

import logging

import pytest

from mmcomponents.cli.terminal.log_lines import plain_logs


def test_log_lines_do_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mmcomponents_alone")
    logger.propagate = False
    below = logger.getChild("data")
    with plain_logs(logger):
        below.warning("%s: skipped %s", "train", "a\x1b]0;title\x07\nb\u202e")
        assert capsys.readouterr().err == "train: skipped a<U+001B>]0;title<U+0007> b<U+202E>\n"
    assert logger.handlers == []


def test_a_program_keeps_its_handlers(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mmcomponents_inside")
    with plain_logs(logger):
        logger.warning("once")
    assert caplog.messages == ["once"]
    assert capsys.readouterr().err == ""
