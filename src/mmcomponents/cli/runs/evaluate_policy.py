"""The run behind `mmcomponents evaluate --metric success_rate`: a policy in an environment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mmcomponents.cli.models.model_options import default_folder, load_model
from mmcomponents.cli.models.sampler_options import Make
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.terminal.tables import print_line, table_console
from mmcomponents.cli.user_error import UserError

if TYPE_CHECKING:
    from mmcomponents.cli.models.model_loading import Loaded
    from mmcomponents.evaluation.rollouts import Rollouts
    from mmcomponents.generation import Sampler

METRIC = "success_rate"
"""Value of `--metric` for policies."""

_STARTS = 200
_TOGETHER = 50
"""Number of episodes that run at the same time, and that an interrupted evaluation repeats at most."""


def run(verb: str, options: argparse.Namespace, folder: str | None, recipe: list[str]) -> int:
    """Evaluates a policy in an environment; returns the exit code."""
    from mmcomponents.evaluation.rollouts import ROWS, check_policy, write_report
    from mmcomponents.synthesis.journal import Journal

    flags = sort_flags(recipe)
    rollouts, name = _rollouts(verb, options)
    out = Path(options.out or default_folder(folder, flags, options.ckpt_path) / name)

    def choose(make: Make) -> Sampler:
        sampler = None if make is None else make()
        check_policy(sampler, f"--metric {METRIC}")
        assert sampler is not None
        return sampler

    loaded = load_model(verb, options, folder, flags, choose=choose)
    try:
        with Journal(out / ROWS, _settings(loaded, rollouts, options)) as journal:
            _episodes(rollouts, loaded, journal, out)
            report = write_report(out, list(journal.done.values()))
    except KeyboardInterrupt:
        print_line(Console(stderr=True), f"stopped; the same command resumes from {out}")
        raise
    console = table_console()
    print_line(
        console,
        f"success in {report['success']:.3f} of {report['episodes']} episodes (95 %: {report['low']:.3f} to"
        f" {report['high']:.3f})",
    )
    print_line(console, "wrote " + ", ".join(str(out / name) for name in ("rollouts.json", ROWS, "rollouts")))
    return 0


def _episodes(rollouts: Rollouts, loaded: Loaded, journal: Any, out: Path) -> None:
    from mmcomponents.cli.models.synthesis_options import bar

    with bar() as progress:
        for first in range(0, rollouts.starts, _TOGETHER):
            progress("episodes", first, rollouts.starts)
            numbers = range(first, min(first + _TOGETHER, rollouts.starts))
            if all(str(number) in journal.done for number in numbers):
                continue
            rows = rollouts.run(loaded.model, loaded.renderer, loaded.sampler, out, numbers)
            for number, row in zip(numbers, rows, strict=True):
                if str(number) not in journal.done:
                    journal.add({"key": str(number), **row})
        progress("episodes", rollouts.starts, rollouts.starts)


def _rollouts(verb: str, options: argparse.Namespace) -> tuple[Rollouts, str]:
    """Returns the episodes that the options ask for, and the name of the environment.

    Raises:
        UserError: The benchmark names no environment.
    """
    from collections.abc import Callable

    from jsonargparse import ArgumentError, ArgumentParser

    import mmcomponents.demos.tabletop  # noqa: F401 (its environment is then known by its short name)
    from mmcomponents.evaluation.control_episodes import Environment
    from mmcomponents.evaluation.rollouts import Rollouts

    if len(options.benchmark) > 1:
        raise UserError(f"{verb}: --metric {METRIC} takes one environment, got {len(options.benchmark)}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--benchmark", type=Callable[[], Environment])
    try:
        given = parser.parse_object({"benchmark": options.benchmark[0]})
        environment = parser.instantiate(given).benchmark
    except (ArgumentError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[-1].partition(" class: ")[2] or str(error).splitlines()[-1].strip()
        raise UserError(
            f"{verb}: --metric {METRIC} runs an environment, a subclass of evaluation.control_episodes.Environment, and"
            f" --benchmark {options.benchmark[0]!r} is none: {reason}"
        ) from None
    starts = _STARTS if options.limit is None else options.limit
    found = Rollouts(environment, starts, executed=options.executed, frames=options.frames, seed=options.seed)
    return found, str(given.benchmark.class_path).rpartition(".")[2]


def _settings(loaded: Loaded, rollouts: Rollouts, options: argparse.Namespace) -> dict[str, Any]:
    from mmcomponents.synthesis.drawing import model_digest, renderer_settings, sampler_settings

    return {
        "weights": model_digest(loaded.model),
        **renderer_settings(loaded.renderer),
        "sampler": sampler_settings(loaded.sampler),
        "environment": options.benchmark[0],
        **{name: getattr(rollouts, name) for name in ("starts", "first_start", "executed", "frames", "seed")},
    }
