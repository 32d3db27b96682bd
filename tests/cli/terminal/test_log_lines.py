from __future__ import annotations

import logging
import warnings

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from mmcomponents.cli.terminal.log_lines import less_noise, plain_logs
from mmcomponents.registry import PartWarning


def test_log_lines_do_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mmcomponents_alone")
    logger.propagate = False
    below = logger.getChild("data")
    with plain_logs(logger):
        below.warning("%s: skipped %s", "train", "a\x1b]0;title\x07\nb\u202e")
        assert capsys.readouterr().err == "train: skipped a<U+001B>]0;title<U+0007> b<U+202E>\n"
    assert logger.handlers == []


def test_lines_that_say_nothing_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), warnings.catch_warnings(record=True) as caught, less_noise():
        rank_zero_info("GPU available: False, used: False")
        rank_zero_info("`Trainer.fit` stopped")
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use something else", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    rank_zero_info("GPU available: True")
    assert caplog.messages == ["`Trainer.fit` stopped", "GPU available: True"]
    assert [str(warning.message) for warning in caught] == ["something else"]


def test_a_program_keeps_its_handlers(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mmcomponents_inside")
    with plain_logs(logger):
        logger.warning("once")
    assert caplog.messages == ["once"]
    assert capsys.readouterr().err == ""


def test_warnings_of_installed_packages_are_lines_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with less_noise():
            warnings.warn("odd declares\na part", PartWarning, stacklevel=1)
        assert capsys.readouterr().err == "mmcomponents: odd declares a part\n"
        before = warnings.showwarning
        with less_noise():
            pass
        assert warnings.showwarning is before
