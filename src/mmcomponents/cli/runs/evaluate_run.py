"""The run behind `mmcomponents evaluate`: sampling, scores of critics, selection and the report."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mmcomponents.cli.models.model_options import default_folder, load_model, make_sampling
from mmcomponents.cli.models.sampler_options import Make, rollout_sampler
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.runs import evaluate_boxes, evaluate_pictures, evaluate_policy
from mmcomponents.cli.terminal.evaluate_tables import category_table, figures_table
from mmcomponents.cli.terminal.tables import print_line, table_console
from mmcomponents.cli.user_error import UserError
from mmcomponents.registry import near

if TYPE_CHECKING:
    from mmcomponents.cli.models.model_loading import Loaded
    from mmcomponents.evaluation import Benchmark, Evaluation
    from mmcomponents.evaluation.critic import Critic
    from mmcomponents.evaluation.metrics import Metric
    from mmcomponents.evaluation.selectors import Selector
    from mmcomponents.generation import Sampler
    from mmcomponents.synthesis.rollout import Sampling

SELECTORS = ("first", "self_consistency", "best_of_n", "oracle")
READER = ("reader", "reader_question", "reader_metric")
"""Options of the reader of made pictures."""

CRITICS = {"process": "prm", "outcome": "orm"}
"""Critic -> name of its best-of-N selector in a report."""


def run(verb: str, options: argparse.Namespace, folder: str | None, recipe: list[str]) -> int:
    """Evaluates a model on benchmarks, with checked options; returns the exit code."""
    from mmcomponents.cli.models.model_loading import apply_prompt_options
    from mmcomponents.evaluation import Evaluation
    from mmcomponents.evaluation.metrics import METRICS

    if options.metric not in METRICS:
        known = [*METRICS, evaluate_boxes.METRIC, evaluate_policy.METRIC, *evaluate_pictures.METRICS]
        raise UserError(
            f"{verb}: no metric {options.metric!r}{near(options.metric, known)}; there are {', '.join(known)}"
        )
    if unused := next((name for name in READER if getattr(options, name)), None):
        raise UserError(f"{verb}: --metric {options.metric} has no use for --{unused}")
    metric, selectors, sampling = METRICS[options.metric](), make_selectors(verb, options), candidate_sampling(options)
    critics = {name: path for name in CRITICS if (path := getattr(options, f"{name}_critic"))}
    benchmarks: list[Benchmark] = []
    runs: list[Evaluation] = []

    def choose(make: Make) -> Sampler:
        sampler = rollout_sampler(verb)(make)  # a sampler that cannot answer is told before files are read
        benchmarks.extend(_benchmarks(verb, options))
        for critic in critics.values():
            _check_critic(verb, critic)
        return sampler

    flags = sort_flags(recipe)
    loaded = load_model(verb, options, folder, flags, choose=choose)
    loaded = apply_prompt_options(
        loaded,
        max_tiles=options.max_tiles,
        share_tiles=options.share_tiles,
        system=options.system,
        delta=options.delta,
    )
    settings = {"name": folder or " ".join([*recipe, "--ckpt_path", str(options.ckpt_path)])}
    settings |= _settings(loaded, options)
    out = Path(options.out or default_folder(folder, flags, options.ckpt_path))
    for benchmark in benchmarks:
        path = out if options.out and len(benchmarks) == 1 else out / benchmark.name
        runs.append(
            Evaluation(
                benchmark,
                metric,
                selectors,
                path,
                sampling,
                options.instruction,
                model=settings,
                max_refused=options.max_refused,
            )
        )
    try:
        _draw(runs, loaded, sampling, options)
        del loaded  # frees the memory for the critics
        for name, critic in critics.items():
            _score(verb, runs, name, critic, options)
    except KeyboardInterrupt:
        print_line(Console(stderr=True), f"stopped; the same command resumes from {out}")
        raise
    for run in runs:
        _close(run, metric, table_console())
    return 0


def make_selectors(verb: str, options: argparse.Namespace) -> dict[str, Selector]:
    """Returns the selectors by name; best-of-N once per critic and aggregation."""
    from mmcomponents.evaluation.selectors import AGGREGATES, BestOfN, First, Oracle, SelfConsistency

    plain: dict[str, Callable[[], Selector]] = {
        "first": First,
        "self_consistency": SelfConsistency,
        "oracle": Oracle,
    }
    critics = [name for name in CRITICS if getattr(options, f"{name}_critic")]
    chosen = options.selectors
    if chosen is None:
        chosen = [name for name in SELECTORS if options.samples > 1 or name == "first"]
        chosen = [name for name in chosen if name != "best_of_n" or critics]
    selectors: dict[str, Selector] = {}
    for name in chosen:
        if name in plain:
            selectors[name] = plain[name]()
        elif name != "best_of_n":
            selectors[name] = _custom_selector(verb, name)
        for critic in critics if name == "best_of_n" else ():
            # an outcome has one score, so that all aggregations are equal
            kinds = options.aggregate if critic == "process" else options.aggregate[:1]
            for kind in kinds:
                title = f"best_of_n_{CRITICS[critic]}" + (f"_{kind}" if len(kinds) > 1 else "")
                selectors[title] = BestOfN(critic, AGGREGATES[kind]())
    return selectors


def _custom_selector(verb: str, name: str) -> Selector:
    """Builds a selector from its class name or its dotted path."""
    from mmcomponents import registry

    if "." not in name and (hint := near(name, SELECTORS)) and name.islower():
        raise UserError(f"{verb}: no selector {name!r}{hint}; there are {', '.join(SELECTORS)}")
    try:
        selector: Selector = registry.load("selector", name)()
    except (registry.PartError, TypeError) as error:
        raise UserError(f"{verb}: the selector {name!r} cannot be built: {error}") from error
    return selector


def candidate_sampling(options: argparse.Namespace) -> Sampling:
    """Returns the sampling settings of the candidates, of which the first is greedy."""
    from mmcomponents.synthesis.rollout import Sampling

    if options.samples == 1:
        return Sampling(max_new_tokens=options.max_new_tokens, stop=tuple(options.stop), seed=options.seed)
    return make_sampling(options, greedy_first=True)


def _draw(runs: list[Evaluation], loaded: Loaded, sampling: Sampling, options: argparse.Namespace) -> None:
    from functools import partial

    from mmcomponents.cli.models.synthesis_options import bar
    from mmcomponents.synthesis.rollout import rollouts

    answer = partial(
        rollouts,
        loaded.model,
        loaded.renderer,
        sampling=sampling,
        max_tokens=options.max_tokens,
        max_segments=options.max_segments,
        max_cache=options.max_cache,
    )
    with bar() as progress:
        for run in runs:
            run.draw(answer, partial(progress, f"answers to {run.benchmark.name}"))


def _score(verb: str, runs: list[Evaluation], name: str, path: str, options: argparse.Namespace) -> None:
    """Loads one critic and scores the candidates of all benchmarks."""
    from functools import partial

    from mmcomponents.cli.models.synthesis_options import bar

    critic, settings = _critic(verb, name, path, options)
    with bar() as progress:
        for run in runs:
            run.score(name, critic.score, settings, partial(progress, f"{name} scores of {run.benchmark.name}"))


def _benchmarks(verb: str, options: argparse.Namespace) -> list[Benchmark]:
    from mmcomponents.evaluation import open_benchmark

    found: list[Benchmark] = []
    for where in options.benchmark:
        benchmark = open_benchmark(where, options.images, options.split)
        benchmark.check(options.max_refused)
        for line in benchmark.refused:
            print_line(Console(stderr=True), f"{benchmark.name}: skipped {line}")
        if any(benchmark.name == other.name for other in found):
            raise UserError(f"{verb}: two benchmarks are named {benchmark.name}; evaluate them separately")
        found.append(benchmark.narrow(options.kinds, options.limit))
    return found


def _check_critic(verb: str, path: str) -> None:
    """Checks that a critic exists and has its verdict tokens, before answers are sampled for hours."""
    from mmcomponents.cli.models.named_model import named_tokenizer
    from mmcomponents.data.chat.critic_prompt import WORDS
    from mmcomponents.data.chat.verdicts import Verdicts
    from mmcomponents.data.errors import DataError

    try:
        Verdicts.of(WORDS, named_tokenizer(verb, "critic", path))
    except DataError as error:
        reason = str(error).removeprefix("data.verdicts: ")
        raise UserError(f"the critic {path!r} cannot score steps: {reason}") from error


def _critic(verb: str, name: str, path: str, options: argparse.Namespace) -> tuple[Critic, dict[str, Any]]:
    """Returns a critic, and the settings that its scores depend on."""
    from mmcomponents.cli.models.model_loading import limit_tiles
    from mmcomponents.cli.models.named_model import load_named
    from mmcomponents.data.chat.critic_prompt import SYSTEM
    from mmcomponents.evaluation.critic import Critic
    from mmcomponents.synthesis.drawing import model_digest
    from mmcomponents.synthesis.steps import ProcessSteps, WholeAnswer

    loaded = load_named(verb, options, path)
    split = ProcessSteps(options.max_steps) if name == "process" else WholeAnswer()
    system = SYSTEM if options.critic_system is None else options.critic_system or None
    loaded = limit_tiles(loaded, options.max_tiles, options.share_tiles)  # the same tiles as for the answers
    critic = Critic(loaded.model, loaded.renderer, split=split, system=system, max_tokens=options.max_tokens)
    return critic, {"name": path, "weights": model_digest(loaded.model), **critic.settings()}


def _settings(loaded: Loaded, options: argparse.Namespace) -> dict[str, Any]:
    """Returns all settings of a model that its answers depend on."""
    from mmcomponents.synthesis.drawing import model_digest, renderer_settings

    return {
        "weights": model_digest(loaded.model),
        **renderer_settings(loaded.renderer),
        "delta": options.delta,
        "batching": [options.max_tokens, options.max_segments, options.max_cache],
    }


def _close(run: Evaluation, metric: Metric, console: Console) -> None:
    """Writes the report of a benchmark and prints its tables."""
    report = run.finish()
    console.print(figures_table(report))
    if report["by_category"]:
        console.print(category_table(report))
    if report["cut"]:
        print_line(console, f"answers truncated at max_new_tokens: {report['cut']:.1%}")
    for name, reason in (("refused", "skipped questions"), ("unjudged", "answers without a verdict")):
        if count := len(report[name]):
            print_line(console, f"{reason}: {count}, listed in report.json")
    names = ("report.json", "results.jsonl", "accuracy.png")
    print_line(console, "wrote " + ", ".join(str(run.folder / name) for name in names))
