"""What a call of `mmcomponents ablate` does: shows the variants, writes commands, runs, reports."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmcomponents.cli.ablation.ablation_costs import cost_of, errors_of_tests
from mmcomponents.cli.ablation.ablation_differences import differences_of
from mmcomponents.cli.ablation.ablation_report import (
    bases_of,
    notes_of,
    rows_of,
    table_of,
    write_hparams,
    write_tables,
)
from mmcomponents.cli.ablation.ablation_results import collect, metrics_of
from mmcomponents.cli.ablation.ablation_runs import Run, Runner, State, read_state, runs_of, visible_gpus, write_state
from mmcomponents.cli.ablation.ablation_spec import Ablation
from mmcomponents.cli.terminal.plan_tables import short_number
from mmcomponents.cli.terminal.tables import cell, print_line, table_console
from mmcomponents.cli.user_error import UserError
from mmcomponents.evaluation.plot import draw_variants
from mmcomponents.plain_text import plain_line
from mmcomponents.registry import near

_LOG, _COMMANDS, _TENSORBOARD = "ablation.log", "commands.txt", "tensorboard"


@dataclass
class Call:
    """A call of the command.

    Attributes:
        verb: Name of the verb.
        ablation: What is run.
        out: Folder of the runs.
        title: Name of the ablation.
    """

    verb: str
    ablation: Ablation
    out: Path
    title: str

    def show_variants(self) -> int:
        """Prints what differs between the variants, with parameters and FLOPs; returns the exit code."""
        axes, variants = self.ablation.axes, self.ablation.variants
        count = len(variants) * len(self.ablation.seeds)
        seeds = ", ".join(map(str, self.ablation.seeds))
        table = Table(title=f"{count} runs: {len(variants)} variants, seeds {seeds}")
        for axis in axes:
            table.add_column(cell(axis))
        for column in ("parameters", "trainable", "FLOPs per step"):
            table.add_column(column, justify="right")
        errors, console = [], table_console()
        with Console(stderr=True).status("building the variants without weights"):
            for variant in variants:
                cost = cost_of(variant)
                figures = ["cannot be built", "", ""]
                if cost.error:
                    errors.append(f"{variant.name}: {cost.error}")
                else:
                    figures = [f"{cost.parameters:,}", f"{cost.trainable:,}", short_number(cost.flops or 0)]
                    wrong = errors_of_tests(variant, self.ablation.tests)
                    errors += [f"{variant.name}{test and f', {test}'}: {error}" for test, error in wrong.items()]
                table.add_row(*(cell(variant.labels[axis]) for axis in axes), *figures)
        console.print(table)
        for line in (f"base: {variants[0].name}", *differences_of(variants, most=None), *errors):
            print_line(console, line)
        return 2 if errors else 0

    def write_commands(self, argv: Sequence[str]) -> int:
        """Writes a command for each run; returns the exit code.

        Args:
            argv: Words of this command after the verb.
        """
        words = [word for word in argv if word != "--commands"]
        if not any(word.partition("=")[0] == "--out" for word in words):
            words += ["--out", self.out.as_posix()]
        runs = runs_of(self.ablation, self.out)
        self._make_folder()
        lines = [shlex.join(["mmcomponents", self.verb, *words, "--only", run.name]) + "\n" for run in runs]
        (self.out / _COMMANDS).write_text("".join(lines), encoding="utf-8")
        console = table_console()
        print_line(console, f"wrote {len(runs)} commands to {self.out / _COMMANDS}; after they have run:")
        print_line(console, shlex.join(["mmcomponents", self.verb, *words, "--report"]))
        return 0

    def run(self, jobs: int, only: str | None) -> int | None:
        """Runs what is not done yet.

        Args:
            jobs: Number of runs at a time.
            only: Name of the only run. None: all.

        Returns:
            The exit code if there was only one run, else None.

        Raises:
            UserError: There is no such run, a folder has a run with other settings or the results of another ablation,
                or it cannot be made.
        """
        self._check_results()
        runs = runs_of(self.ablation, self.out)
        if only is not None:
            names = [run.name for run in runs]
            if only not in names:
                raise UserError(f"{self.verb}: no run {only!r}{near(only, names)}; the runs are {', '.join(names[:8])}")
            runs = [run for run in runs if run.name == only]
        left = [run for run in runs if not read_state(run).is_done(run)]
        self._make_folder()
        tell = _teller(self.out / _LOG)
        tell(f"{len(runs)} runs in {self.out}, {len(runs) - len(left)} done before, {jobs} at a time")
        for name, error in _count_costs(left).items():
            tell(f"{name} will fail: {error}")
        ended: list[Run] = []

        def end(run: Run, state: State) -> None:
            ended.append(run)
            errors = "; ".join(state.errors())
            how = f"failed: {errors}" if errors else f"ended after {state.seconds:.0f} s of training"
            tell(f"{len(ended)}/{len(left)} {run.name}: {how}")

        try:
            Runner(jobs, tell, gpus=visible_gpus() if jobs > 1 else ()).run_all(left, end)
        except KeyboardInterrupt:
            tell("stopped; the same command goes on")
            raise
        return None if only is None else int(bool(read_state(runs[0]).errors()))

    def report(self) -> int:
        """Writes and prints the table, and draws the plot; returns 1 if a run has failed.

        Raises:
            UserError: No run has ended, or the folder has the results of another ablation.
        """
        self._check_results()
        runs = runs_of(self.ablation, self.out)
        lines = collect(runs)
        metrics = metrics_of(lines, self.ablation.metrics)
        if not any(line.outcomes or line.failed for line in lines):
            raise UserError(f"{self.verb}: no run in {self.out} has ended")
        rows, console = rows_of(lines, metrics), table_console()
        notes = [*differences_of(self.ablation.variants), *notes_of(lines, metrics)]
        console.print(table_of(rows, lines, self.title))
        for note in notes:
            print_line(console, note)
        write_tables(rows, notes, lines, metrics, self.out)
        written = ["table.md", "table.csv"]
        if metrics:
            names = {line.name: plain_line(line.name) for line in lines}
            values = {names[line.name]: line.values(metrics[0]) for line in lines}
            bases = {names[line.name]: names[base.name] for line, base in zip(lines, bases_of(lines), strict=True)}
            for suffix in ("png", "svg"):
                draw_variants(values, self.out / f"plot.{suffix}", self.title, metrics[0], bases)
            write_hparams(lines, metrics, self.out / _TENSORBOARD)
            written += ["runs.csv", "plot.png", "plot.svg", _TENSORBOARD]
        print_line(console, "wrote " + ", ".join((self.out / name).as_posix() for name in written))
        return int(any(line.failed for line in lines))

    def _check_results(self) -> None:
        """Checks that table and plot of another ablation, one without a variant of this one, are not replaced."""
        try:
            rows = list(csv.DictReader((self.out / "runs.csv").read_text(encoding="utf-8").splitlines()))
        except OSError:  # no run has ended yet
            return
        columns = list(rows[0]) if rows else []
        axes = columns[: columns.index("seed")] if "seed" in columns else []
        before = {tuple(row[axis] for axis in axes) for row in rows}
        ours = {tuple(variant.labels.get(axis, "") for axis in axes) for variant in self.ablation.variants}
        if set(axes) != set(self.ablation.axes) or not before & ours:
            raise UserError(
                f"{self.verb}: {self.out} has the results of another ablation, over {', '.join(axes) or 'nothing'}: use"
                " another --out"
            )

    def _make_folder(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.verb}: --out {self.out} cannot be made: {error.strerror or error}") from error


def _count_costs(runs: Sequence[Run]) -> dict[str, str]:
    """Writes parameters and FLOPs into the states of runs that lack them; returns why variants cannot be built."""
    found: dict[str, dict[str, object]] = {}
    with Console(stderr=True).status("building the variants without weights"):
        for run in runs:
            known = read_state(run).cost
            if known and not known.get("error"):
                continue
            if run.variant.name not in found:
                found[run.variant.name] = cost_of(run.variant).row()
            state = read_state(run)  # again: counting takes seconds, in which another call may have gone on
            state.cost = found[run.variant.name]
            write_state(run, state)
    return {name: str(cost["error"]) for name, cost in found.items() if cost["error"]}


def _teller(log: Path) -> Callable[[str], None]:
    """Returns a function that prints a line on standard error and appends it to a file, with the time."""
    console = Console(stderr=True)

    def tell(text: str) -> None:
        print_line(console, text)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')} {text}\n")

    return tell
