"""Results of contract tests."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import lightning
import torch
from torch import Tensor

Status = Literal["passed", "failed", "not applicable"]
STATUSES: tuple[Status, ...] = get_args(Status)

_FRAMEWORKS = tuple(str(Path(module.__file__ or "").parent) for module in (torch, lightning))
"""Folders whose code is not named as the place of an error."""

_MAX_LINES = 8
"""Maximum number of failures of a test in a report."""


class ContractError(AssertionError):
    """A part fails contract tests; the message is the report.

    Attributes:
        report: Results of all contract tests of the part.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


class NotApplicable(Exception):
    """Raised inside a contract test that has no meaning for a part; the message is the reason."""


def described(error: BaseException) -> str:
    """Returns the type, message and place of an error: the last line outside of torch and Lightning."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_FRAMEWORKS)] or frames
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


@dataclass
class Findings:
    """Comparisons of one contract test.

    Attributes:
        failures: One line for each comparison that failed.
        largest: Largest difference of the comparisons that allow one.
        compared: Number of comparisons.
    """

    failures: list[str] = field(default_factory=list)
    largest: float = 0.0
    compared: int = 0

    def close(self, what: str, found: Tensor, expected: Tensor, allowed: float = 1e-5, scale: float = 1.0) -> None:
        """Compares two tensors by the largest |found - expected| / (scale + |expected|).

        With a scale of 1 that is the criterion of `torch.testing.assert_close` with rtol = atol = `allowed`.

        Args:
            what: Name of the tensor, for the message.
            found: Tensor of any shape.
            expected: Tensor to compare with, of any shape; one that differs from that of `found` is a failure.
            allowed: Largest difference that passes.
            scale: Size below which differences are absolute.
        """
        self.compared += 1
        if found.shape != expected.shape:
            self.failures.append(f"{what} has the shape {list(found.shape)}, expected {list(expected.shape)}")
            return
        if not found.numel():
            return
        found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
        relative = ((found - expected).abs() / (scale + expected.abs())).nan_to_num(math.inf, math.inf)
        relative = relative.where(found != expected, 0.0)  # inf equals inf; NaN equals nothing
        by, place = float(relative.max()), int(relative.argmax())
        self.largest = max(self.largest, by)
        if by > allowed:
            where = [int(i) for i in torch.unravel_index(torch.tensor(place), found.shape)]
            values = f"{found.flatten()[place]:.6g}, expected {expected.flatten()[place]:.6g}"
            at = f" at {where}" if where else ""
            self.failures.append(f"{what} differs by {by:.2g} (allowed {allowed:g}){at}: {values}")

    def near(self, what: str, found: Tensor, expected: Tensor, allowed: float) -> None:
        """Compares two tensors by the norm of their difference, divided by the norm of `expected`.

        Args:
            what: Name of the tensor, for the message.
            found: Tensor of any shape.
            expected: Tensor of the same shape.
            allowed: Largest quotient that passes.
        """
        self.compared += 1
        difference = float((found.detach().double() - expected.detach().double()).norm())
        by = difference / max(float(expected.detach().double().norm()), 1e-12)
        by = math.inf if math.isnan(by) else by
        self.largest = max(self.largest, by)
        if by > allowed:
            self.failures.append(f"{what} differs by {by:.2g} of its norm (allowed {allowed:g})")

    def equal(self, what: str, found: Tensor, expected: Tensor) -> None:
        """Compares two tensors bit for bit.

        Args:
            what: Name of the tensor, for the message.
            found: Tensor of any shape.
            expected: Tensor to compare with, of any shape.
        """
        self.close(what, found, expected, allowed=0.0)

    def tensors(self, what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], allowed: float) -> None:
        """Compares the names of tensors, and those of one name.

        Args:
            what: Name of both, for the message.
            found: Tensors of any shape, by name.
            expected: Tensors to compare with, of any shape, by name.
            allowed: See `close`.
        """
        names = sorted(found.keys() ^ expected.keys())
        self.true(not names, f"{what}: only one of two has {', '.join(names[:3])}")
        for name in [name for name in found if name in expected]:
            self.close(f"{what}: {name}", found[name], expected[name], allowed)

    def differ(self, what: str, one: Tensor, other: Tensor, least: float) -> None:
        """Requires that two tensors differ by at least `least` somewhere.

        Args:
            what: Name of both, for the message.
            one: Tensor of any shape.
            other: Tensor of any shape; two different ones count as a difference without bound.
            least: Smallest difference that passes.
        """
        self.compared += 1
        by = float((one.detach() - other.detach()).abs().max()) if one.shape == other.shape else math.inf
        if not by >= least:
            self.failures.append(f"{what} differ by {by:.2g} only, at least {least:g} is expected")

    def true(self, condition: bool, otherwise: str) -> None:
        """Requires a condition; `otherwise` says what is wrong if it does not hold."""
        self.compared += 1
        if not condition:
            self.failures.append(otherwise)


@dataclass(frozen=True)
class Result:
    """Result of one contract test.

    Attributes:
        test: Name of the test.
        status: Whether it passed, failed or does not apply.
        detail: What failed and by how much, one line each; or why the test does not apply.
        difference: Largest difference that the test found.
    """

    test: str
    status: Status
    detail: str = ""
    difference: float = 0.0

    @classmethod
    def of(cls, test: str, findings: Findings) -> Result:
        """Returns the result of a test from its findings."""
        if not findings.failures:
            return cls(test, "passed", "", findings.largest)
        lines = findings.failures[:_MAX_LINES]
        if more := len(findings.failures) - len(lines):
            lines.append(f"and {more} more of {findings.compared} comparisons")
        return cls(test, "failed", "\n".join(lines), findings.largest)


@dataclass(frozen=True)
class Report:
    """Results of the contract tests of a part; `str` gives a table.

    Attributes:
        part: Slot and class of the part.
        results: Results in the order of the tests.
    """

    part: str
    results: list[Result]

    def with_status(self, status: Status) -> list[Result]:
        """Returns the results of a status."""
        return [result for result in self.results if result.status == status]

    def raise_for_failures(self) -> None:
        """Raises an error if a test failed.

        Raises:
            ContractError: A test failed; the message is the table.
        """
        if self.with_status("failed"):
            raise ContractError(self)

    def __str__(self) -> str:
        counts = [(len(self.with_status(s)), s) for s in STATUSES]
        lines = [f"{self.part}: {', '.join(f'{n} {status}' for n, status in counts if n)}"]
        for result in self.results:
            detail = result.detail or (f"largest difference {result.difference:.2g}" if result.difference else "")
            first, *others = detail.split("\n")
            lines.append(f"  {result.status:<14}  {result.test:<27}  {first}".rstrip())
            lines += [f"{'':<47}{line}" for line in others]
        return "\n".join(lines)
