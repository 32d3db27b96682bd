"""`mmcomponents evaluate`: answers benchmarks with several candidates a question, selects, and reports."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mmcomponents.cli.errors import UserError
from mmcomponents.cli.evaluate_options import CRITICS, PROCESS, check, make_parser, make_sampling, make_selectors
from mmcomponents.cli.evaluate_tables import category_table, figures_table
from mmcomponents.cli.tables import table_console
from mmcomponents.registry import near

if TYPE_CHECKING:
    from mmcomponents.cli.loading import Loaded
    from mmcomponents.inference.critic import Critic
    from mmcomponents.inference.evaluation import Benchmark, Evaluation
    from mmcomponents.inference.evaluation.metrics import Metric
    from mmcomponents.inference.rollouts import Sampling


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    if argv and argv[0] == PROCESS and not os.path.isdir(PROCESS):
        from mmcomponents.cli.evaluate_process import main as process

        return process(f"{verb} {PROCESS}", argv[1:])
    parser = make_parser(verb)
    folder, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    options, recipe_words = parser.parse_known_args(rest)
    if options.help:
        parser.print_help()
        return 0
    check(verb, parser, options, folder, recipe_words)
    from mmcomponents.data.errors import DataError

    try:
        return _run(verb, options, folder, recipe_words)
    except UserError:
        raise
    except (ValueError, OSError, DataError) as error:
        raise UserError(f"{verb}: {' '.join(str(error).split())}") from error


def _run(verb: str, options: argparse.Namespace, folder: str | None, recipe: list[str]) -> int:
    from mmcomponents.inference.evaluation import Evaluation
    from mmcomponents.inference.evaluation.metrics import METRICS

    if options.metric not in METRICS:
        raise UserError(
            f"{verb}: no metric {options.metric!r}{near(options.metric, METRICS)}; there are {', '.join(METRICS)}"
        )
    metric, selectors, sampling = METRICS[options.metric](), make_selectors(verb, options), make_sampling(options)
    benchmarks = _benchmarks(verb, options)
    paths = {name: path for name in CRITICS if (path := getattr(options, f"{name}_critic"))}
    for path in paths.values():
        _check_critic(verb, path)
    runs: list[Evaluation] = []
    loaded = _load(verb, options, folder, recipe)
    known = {"name": _model_name(options, folder, recipe), **_known(loaded, options)}
    out = Path(options.out or "runs/evaluate")
    for benchmark in benchmarks:
        place = out if options.out and len(benchmarks) == 1 else out / benchmark.name
        runs.append(
            Evaluation(
                benchmark,
                metric,
                selectors,
                place,
                sampling,
                options.instruction,
                model=known,
                max_refused=options.max_refused,
            )
        )
    try:
        _draw(runs, loaded, sampling, options)
        del loaded  # one model at a time takes memory
        for name, path in paths.items():
            _score(verb, runs, name, path, options)
    except KeyboardInterrupt:
        Console(stderr=True).print(f"stopped; the same command goes on from what {out} has", markup=False)
        raise
    for run in runs:
        _close(run, metric, table_console())
    return 0


def _draw(runs: list[Evaluation], loaded: Loaded, sampling: Sampling, options: argparse.Namespace) -> None:
    from functools import partial

    from mmcomponents.cli.drawing import bar
    from mmcomponents.inference.rollouts import rollouts

    answering = partial(
        rollouts,
        loaded.model,
        loaded.renderer,
        sampling=sampling,
        max_tokens=options.max_tokens,
        max_segments=options.max_segments,
        max_cache=options.max_cache,
    )
    with bar() as tell:
        for run in runs:
            run.draw(answering, partial(tell, f"answers to {run.benchmark.name}"))


def _score(verb: str, runs: list[Evaluation], name: str, path: str, options: argparse.Namespace) -> None:
    """Loads one critic and lets it judge the candidates of all benchmarks."""
    from functools import partial

    from mmcomponents.cli.drawing import bar

    critic, known = _critic(verb, name, path, options)
    with bar() as tell:
        for run in runs:
            run.score(name, critic.score, known, partial(tell, f"{name} scores of {run.benchmark.name}"))


def _benchmarks(verb: str, options: argparse.Namespace) -> list[Benchmark]:
    from mmcomponents.inference.evaluation import open_benchmark

    found: list[Benchmark] = []
    for where in options.benchmark:
        benchmark = open_benchmark(where, options.images, options.split)
        for line in benchmark.refused:
            Console(stderr=True).print(f"{benchmark.name}: left out {line}", markup=False, soft_wrap=True)
        benchmark.check(options.max_refused)
        if any(benchmark.name == other.name for other in found):
            raise UserError(f"{verb}: two benchmarks are called {benchmark.name}; evaluate them one by one")
        found.append(benchmark.narrow(options.kinds, options.limit))
    return found


def _load(verb: str, options: argparse.Namespace, folder: str | None, recipe: list[str]) -> Loaded:
    """The model that answers."""
    from mmcomponents.cli.flags import sort_flags
    from mmcomponents.cli.generate import _adjusted
    from mmcomponents.cli.loading import from_folder, from_recipe
    from mmcomponents.data import PackedDataModule
    from mmcomponents.training import MultimodalTask

    device, dtype = _device_and_type(options)
    if folder:
        loaded = from_folder(folder, device, dtype, trust_remote_code=options.trust_remote_code)
    else:
        flags, classes = sort_flags(recipe), (MultimodalTask, PackedDataModule)
        loaded = from_recipe(verb, flags, options.ckpt_path, classes, device, dtype)
    return _adjusted(loaded, options)


def _check_critic(verb: str, path: str) -> None:
    """Finds out whether a critic is there and can judge, before answers are drawn for hours."""
    from mmcomponents.checkpoints import read
    from mmcomponents.cli.flags import Flags
    from mmcomponents.cli.run import RecipeCLI
    from mmcomponents.data import PackedDataModule
    from mmcomponents.data.critique import WORDS
    from mmcomponents.data.errors import DataError
    from mmcomponents.data.verdicts import Verdicts
    from mmcomponents.training import MultimodalTask

    try:
        if os.path.isdir(path):
            tokenizer = read(path).tokenizer()
        else:
            recipe, colon, checkpoint = path.rpartition(":")
            if not colon:
                raise UserError(f"there is no critic {path!r}: give a model folder, or RECIPE:CHECKPOINT")
            if not recipe or not os.path.exists(checkpoint):
                raise UserError(f"the critic {path!r} has no checkpoint {checkpoint!r}")
            tokenizer = RecipeCLI(verb, Flags(configs=[recipe]), MultimodalTask, PackedDataModule).datamodule.tokenizer
        Verdicts.of(WORDS, tokenizer)
    except DataError as error:
        reason = str(error).removeprefix("data.verdicts: ")
        raise UserError(f"the critic {path!r} cannot judge: {reason}") from error


def _critic(verb: str, name: str, path: str, options: argparse.Namespace) -> tuple[Critic, dict[str, Any]]:
    """A critic, and what tells it from others."""
    from mmcomponents.cli.flags import Flags
    from mmcomponents.cli.loading import from_folder, from_recipe, limit_tiles
    from mmcomponents.data import PackedDataModule
    from mmcomponents.data.critique import SYSTEM
    from mmcomponents.inference.critic import Critic
    from mmcomponents.inference.drawing import model_digest
    from mmcomponents.inference.steps import ProcessSteps, WholeAnswer
    from mmcomponents.training import MultimodalTask

    device, dtype = _device_and_type(options)
    if os.path.isdir(path):
        loaded = from_folder(path, device, dtype, trust_remote_code=options.trust_remote_code)
    else:
        recipe, _, checkpoint = path.rpartition(":")
        classes = (MultimodalTask, PackedDataModule)
        loaded = from_recipe(verb, Flags(configs=[recipe]), checkpoint, classes, device, dtype)
    split = ProcessSteps(options.max_steps) if name == "process" else WholeAnswer()
    system = SYSTEM if options.critic_system is None else options.critic_system or None
    loaded = limit_tiles(loaded, options.max_tiles)  # it sees the tiles that the answers were made from
    critic = Critic(loaded.model, loaded.renderer, split=split, system=system, max_tokens=options.max_tokens)
    return critic, {"name": path, "weights": model_digest(loaded.model), **critic.settings()}


def _device_and_type(options: argparse.Namespace) -> tuple[Any, Any]:
    from mmcomponents.cli.generate import DTYPES, _device

    if options.dtype is not None and options.dtype not in DTYPES:
        raise UserError(f"evaluate: --dtype must be one of {', '.join(DTYPES)}, got {options.dtype!r}")
    return _device(options.device), DTYPES.get(options.dtype or "")


def _known(loaded: Loaded, options: argparse.Namespace) -> dict[str, Any]:
    """All of a model that its answers depend on."""
    from mmcomponents.inference.drawing import model_digest, renderer_settings

    return {
        "weights": model_digest(loaded.model),
        **renderer_settings(loaded.renderer),
        "delta": options.delta,
        "batching": [options.max_tokens, options.max_segments, options.max_cache],
    }


def _model_name(options: argparse.Namespace, folder: str | None, recipe: list[str]) -> str:
    return folder or " ".join([*recipe, "--ckpt_path", str(options.ckpt_path)])


def _close(run: Evaluation, metric: Metric, console: Console) -> None:
    """Writes the report of a benchmark and prints its tables."""
    report = run.finish()
    console.print(figures_table(report))
    if report["by_category"]:
        console.print(category_table(report))
    if report["cut"]:
        console.print(f"answers cut at max_new_tokens: {report['cut']:.1%}", highlight=False)
    for name, reason in (("refused", "questions that could not be asked"), ("unjudged", "answers without a verdict")):
        if count := len(report[name]):
            console.print(f"{reason}: {count}, named in report.json", highlight=False)
    names = ("report.json", "results.jsonl", "accuracy.png")
    console.print("wrote " + ", ".join(str(run.folder / name) for name in names), markup=False, soft_wrap=True)
