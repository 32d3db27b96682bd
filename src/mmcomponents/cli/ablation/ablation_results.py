"""Results of the runs of an ablation: figures of each run, and their comparison with the base.

Figures of a run have names: `exact_match` and `exact_match.KIND` of `answers.jsonl`; `FILE.KEY` of the numbers in other
JSON files that `test` has written, such as `boxes.ap50`; and the last values that training has logged, such as
`val/loss`.
"""

from __future__ import annotations

import csv
import json
import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmcomponents.cli.ablation.ablation_runs import STATE, Run, State, read_state
from mmcomponents.registry import near

log = logging.getLogger(__name__)

EXACT = "exact_match"
_DEFAULT = (EXACT, "boxes.ap", "val/loss", "train/loss")
"""The first of these that there is is shown by default."""

_SPEED = "perf/tokens_per_second"


@dataclass
class Outcome:
    """A run with one of its tests.

    Attributes:
        seed: Seed of the run.
        figures: Figures by name.
        right: Whether each question was answered correctly, by sample, kind and question.
        state: State of the run.
    """

    seed: int
    figures: dict[str, float]
    right: dict[tuple[str, str, str], bool]
    state: State


@dataclass
class Line:
    """A line of the table: a variant with one of the tests.

    Attributes:
        name: Name of the variant, and of the test if there are several.
        variant: Name of the variant.
        labels: What the variant is on each axis, and the name of the test.
        outcomes: Its runs that have ended.
        failed: Errors of those that have failed, by seed.
        missing: Seeds of runs that have not ended.
        cost: Values of `plan` by name, where the variant can be built.
    """

    name: str
    variant: str
    labels: dict[str, str]
    outcomes: list[Outcome] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)

    def values(self, metric: str) -> list[float]:
        """Returns a figure of each run."""
        return [outcome.figures[metric] for outcome in self.outcomes if metric in outcome.figures]

    def mean(self, metric: str) -> float | None:
        """Returns the mean over the runs; None without any."""
        return statistics.fmean(values) if (values := self.values(metric)) else None

    def spread(self, metric: str) -> float | None:
        """Returns the standard deviation over the runs; None with less than two."""
        return float(np.std(values, ddof=1)) if len(values := self.values(metric)) > 1 else None


@dataclass(frozen=True)
class Compared:
    """A line compared with the base.

    Attributes:
        difference: Mean of the metric minus that of the base.
        p_questions: p-value of McNemar's exact test over the questions of all seeds: whether these checkpoints differ.
            None: the metric is not one of questions, or others were asked.
        p_seeds: p-value of the paired t-test over seeds: whether the variants differ. None: there are fewer than three
            seeds, or all differences are equal.
        questions: Number of pairs of answers.
        seeds: Number of seeds that both have.
    """

    difference: float
    p_questions: float | None
    p_seeds: float | None
    questions: int
    seeds: int


def collect(runs: Sequence[Run]) -> list[Line]:
    """Returns the lines of the table, with what there is of their runs."""
    lines: dict[tuple[str, str], Line] = {}
    for run in runs:
        several = len(run.tests) > 1
        for test in run.tests:
            name = f"{run.variant.name}, {test}" if several else run.variant.name
            labels = {**run.variant.labels, **({"test": test} if several else {})}
            line = lines.setdefault((run.variant.name, test), Line(name, run.variant.name, labels))
            state = read_state(run)
            line.cost = line.cost or state.cost
            if error := state.error or state.test_errors.get(test):
                line.failed[run.seed] = error
            elif not state.fitted or not state.has_tested(run, test):
                line.missing.append(run.seed)
            else:
                folder = run.test_folder(test)
                right = _right(folder / "answers.jsonl")
                figures = {**_logged(run.folder), **_reported(folder), **_shares(right)}
                line.outcomes.append(Outcome(run.seed, figures, right, state))
    return list(lines.values())


def metrics_of(lines: Sequence[Line], wanted: Sequence[str]) -> list[str]:
    """Returns the metrics of the table.

    Args:
        lines: Lines of the table.
        wanted: Names that were asked for. Those that no run has are left out, with a warning. If none is left, the
            first of the defaults that a run has is taken.
    """
    known = sorted({name for line in lines for outcome in line.outcomes for name in outcome.figures})
    if not known:
        return []
    for name in wanted:
        if name not in known:
            log.warning("no run has the metric %r%s; there are %s", name, near(name, known), ", ".join(known))
    return [name for name in wanted if name in known] or [name for name in _DEFAULT if name in known][:1]


def compare(line: Line, base: Line, metric: str) -> Compared | None:
    """Compares a line with the base by runs of the same seed.

    Questions that both have answered are pairs of McNemar's exact test, over all seeds. The figures of the seeds are
    pairs of a t-test, from three on.

    Args:
        line: Line of a variant.
        base: The line of the base, with the same test.
        metric: Name of the metric.

    Returns:
        The comparison; None if no seed has both.
    """
    pairs = [(o, b) for o in line.outcomes for b in base.outcomes if o.seed == b.seed]
    pairs = [(o, b) for o, b in pairs if metric in o.figures and metric in b.figures]
    if line is base or not pairs:
        return None
    own, other = [o.figures[metric] for o, _ in pairs], [b.figures[metric] for _, b in pairs]
    difference, kind, answered = (
        statistics.fmean(own) - statistics.fmean(other),
        _kind(metric),
        list[tuple[bool, bool]](),
    )
    if kind is not None and all(o.right.keys() == b.right.keys() and o.right for o, b in pairs):
        answered = [(o.right[key], b.right[key]) for o, b in pairs for key in o.right if kind in ("", key[1])]
    gained = sum(mine and not its for mine, its in answered)
    lost = sum(its and not mine for mine, its in answered)
    by_questions = _mcnemar(gained, lost) if answered else None
    return Compared(difference, by_questions, _by_seeds(own, other), len(answered), len(pairs))


def _by_seeds(own: list[float], other: list[float]) -> float | None:
    """Returns the p-value of the paired t-test over seeds; None if there is none."""
    differences = np.subtract(own, other)
    if len(own) < 3 or not np.isfinite(differences).all() or np.ptp(differences) == 0:
        return None
    from scipy.stats import ttest_rel

    return float(ttest_rel(own, other).pvalue)


def _mcnemar(gained: int, lost: int) -> float:
    """Returns the two-sided p-value of McNemar's exact test (1947): the binomial test of the discordant pairs."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _kind(metric: str) -> str | None:
    """Returns the kind of questions that a metric of answers is about, "" for all of them; None for other metrics."""
    name, _, kind = metric.partition(".")
    return kind if name == EXACT else None


def _shares(right: Mapping[tuple[str, str, str], bool]) -> dict[str, float]:
    by_kind: dict[str, list[bool]] = {}
    for (_, kind, _), is_right in right.items():
        by_kind.setdefault(EXACT, []).append(is_right)
        if kind:
            by_kind.setdefault(f"{EXACT}.{kind}", []).append(is_right)
    return {name: statistics.fmean(values) for name, values in by_kind.items()}


def _right(path: Path) -> dict[tuple[str, str, str], bool]:
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {(r["key"], r["kind"], r["question"]): r["is_right"] for r in rows if "is_right" in r}
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is left out, since it cannot be read: %s", path, error)
        return {}


def _reported(folder: Path) -> dict[str, float]:
    """Returns the numbers in the JSON files of a folder, by the name of the file and the keys."""
    found: dict[str, float] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != STATE:
            try:
                found.update(_numbers(json.loads(path.read_text(encoding="utf-8")), path.stem))
            except ValueError as error:
                log.warning("%s is left out, since it cannot be read: %s", path, error)
    return found


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}".removesuffix("."))  # the kind of questions may be empty
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def _logged(folder: Path) -> dict[str, float]:
    """Returns the last logged value of each metric, of speeds the median, over all calls of `fit`."""
    values: dict[str, list[float]] = {}
    paths = [path for path in folder.rglob("metrics.csv") if not path.relative_to(folder).parts[0].startswith("test-")]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if name and text and name not in ("step", "epoch"):
                        values.setdefault(name, []).append(float(text))
    return {name: statistics.median(v) if name.startswith("perf/") else v[-1] for name, v in values.items()}


def speed(line: Line) -> float | None:
    """Returns the median of tokens a second over the runs of a line."""
    found = line.values(_SPEED)
    return statistics.median(found) if found else None


def seconds(line: Line) -> float | None:
    """Returns the mean duration of training."""
    return statistics.fmean(o.state.seconds for o in line.outcomes) if line.outcomes else None
