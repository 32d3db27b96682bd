"""Plugin for pytest: two ranks for the session, and a list of the contract tests that do not apply.

A `conftest.py` in the top folder of the tests loads it with `pytest_plugins = ["mmcomponents.testing.pytest_plugin"]`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from mmcomponents.testing.report import STATUSES, Report

_LOGGER = "mmcomponents.testing.component_check"
_PROPERTY = "contract tests"


class _Reports(logging.Handler):
    """Collects the reports that `check_component` logs."""

    def __init__(self, former_level: int) -> None:
        super().__init__(logging.INFO)
        self.former_level = former_level
        self.found: list[Report] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and record.args and isinstance(record.args[0], Report):
            self.found.append(record.args[0])


_REPORTS = pytest.StashKey[_Reports]()


def pytest_configure(config: pytest.Config) -> None:
    """Starts to collect reports."""
    logger = logging.getLogger(_LOGGER)
    config.stash[_REPORTS] = handler = _Reports(logger.level)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops collecting reports."""
    logger, handler = logging.getLogger(_LOGGER), config.stash[_REPORTS]
    logger.removeHandler(handler)
    logger.setLevel(handler.former_level)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Adds the reports of a test to its properties, which pytest-xdist hands from its workers to the main process."""
    if call.when == "call":
        handler = item.config.stash[_REPORTS]
        for report in handler.found:
            results = [[result.test, result.status, result.detail] for result in report.results]
            item.user_properties.append((_PROPERTY, [report.part, results]))
        handler.found.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints which contract tests do not apply to which parts, and why."""
    checks = 0
    counts: Counter[str] = Counter()
    reasons: dict[tuple[str, str], list[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if not isinstance(report, pytest.TestReport) or report.when != "call":
                continue
            values: list[Any] = [value for name, value in report.user_properties if name == _PROPERTY]
            for part, results in values:
                if report.passed and any(status == "failed" for _, status, _ in results):
                    continue  # the test expects the failure
                checks += 1
                for test, status, detail in results:
                    counts[status] += 1
                    if status == "not applicable":
                        reasons.setdefault((test, detail), []).append(part)
    if not checks:
        return
    numbers = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    terminalreporter.section(f"contract tests of {checks} checked parts: {numbers}")
    for (test, reason), parts in sorted(reasons.items()):
        terminalreporter.line(f"not applicable: {test}: {reason} ({', '.join(dict.fromkeys(parts))})")


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[object]:
    """Two processes for `check_component(ranks=…)`, started once for all tests (by pytest-xdist: of a worker)."""
    from mmcomponents.testing.ranks import Ranks

    with Ranks() as ranks:
        yield ranks
