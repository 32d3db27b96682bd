"""The run behind `mmcomponents evaluate --metric read_back` and `things_in_boxes`: pictures of requests."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mmcomponents.cli.models.model_options import default_folder, load_model
from mmcomponents.cli.models.sampler_options import Make
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.terminal.tables import print_line, table_console
from mmcomponents.cli.user_error import UserError
from mmcomponents.registry import near

if TYPE_CHECKING:
    from PIL import Image

    from mmcomponents.cli.models.model_loading import Loaded
    from mmcomponents.evaluation.metrics import Metric
    from mmcomponents.evaluation.picture_evaluation import PictureEvaluation
    from mmcomponents.generation import Answer, Sampler
    from mmcomponents.synthesis.questions import Item

    Rows = list[dict[str, Any]]

READ_BACK, IN_BOXES = "read_back", "things_in_boxes"
"""Values of `--metric` for models that make pictures."""


def run(verb: str, options: argparse.Namespace, folder: str | None, recipe: list[str]) -> int:
    """Evaluates the pictures of a model; returns the exit code."""
    from functools import partial

    from mmcomponents.cli.models.synthesis_options import bar

    metric = _reader_metric(verb, options)
    flags = sort_flags(recipe)
    runs: list[PictureEvaluation] = []
    out = Path(options.out or default_folder(folder, flags, options.ckpt_path))

    def choose(make: Make) -> Sampler:
        sampler = _drawing_sampler(verb, options, make)
        runs.extend(_evaluations(verb, options, out))
        if metric is not None:
            from mmcomponents.cli.models.named_model import named_tokenizer

            named_tokenizer(verb, "reader", options.reader, writes=True)
            for one in runs:
                one.check_references(metric)
        return sampler

    loaded = load_model(verb, options, folder, flags, choose=choose)
    settings = _settings(loaded, options.seed)
    try:
        with bar() as progress:
            made = []
            for one in runs:
                one.settings = settings
                told = partial(progress, f"pictures of {one.requests.name}")
                made.append(one.draw(partial(_answers, loaded, options.seed), told))
        del loaded  # frees the memory for the reader
        scored = _scored(verb, runs, made, metric, options)
    except KeyboardInterrupt:
        print_line(Console(stderr=True), f"stopped; the same command resumes from {out}")
        raise
    for one, rows in zip(runs, scored, strict=True):
        _close(one, rows, options.metric)
    return 0


def _reader_metric(verb: str, options: argparse.Namespace) -> Metric | None:
    """Returns what compares the reader's answers; None for a metric without a reader.

    Raises:
        UserError: An option of the reader is missing or wrong.
    """
    from mmcomponents.evaluation.metrics import METRICS

    if options.metric != READ_BACK:
        return None
    if missing := next((name for name in ("reader", "reader_question") if not getattr(options, name)), None):
        raise UserError(
            f"{verb}: --metric {READ_BACK} asks a reader about each picture, and --{missing} is missing: --reader"
            " MODEL --reader_question TEXT"
        )
    name = options.reader_metric or "exact"
    if name not in METRICS:
        raise UserError(
            f"{verb}: no metric {name!r} for --reader_metric{near(name, METRICS)}; there are {', '.join(METRICS)}"
        )
    metric = METRICS[name]()
    if not metric.is_mean:
        raise UserError(f"{verb}: --reader_metric {name} has no score for a single picture")
    return metric


def _drawing_sampler(verb: str, options: argparse.Namespace, make: Make) -> Sampler:
    sampler = None if make is None else make()
    if sampler is None or sampler.answers != "picture":
        found = "the folder names no sampler"
        if sampler is not None:
            found = f"the sampler {type(sampler).__name__} answers with {sampler.answers}"
        raise UserError(f"{verb}: --metric {options.metric} needs a model that makes pictures, and {found}")
    if options.metric == IN_BOXES and not hasattr(sampler, "draw"):
        name = type(sampler).__name__
        raise UserError(f"{verb}: --metric {IN_BOXES} needs pictures with a reasoning text, and {name} writes none")
    return sampler


def _evaluations(verb: str, options: argparse.Namespace, out: Path) -> list[PictureEvaluation]:
    from mmcomponents.evaluation.picture_evaluation import PictureEvaluation
    from mmcomponents.evaluation.readers.picture_requests import open_requests

    found: list[PictureEvaluation] = []
    for where in options.benchmark:
        requests = open_requests(where, options.images, options.split, answers=options.metric == READ_BACK)
        requests.check(options.max_refused)
        for line in requests.refused:
            print_line(Console(stderr=True), f"{requests.name}: skipped {line}")
        if any(requests.name == other.requests.name for other in found):
            raise UserError(f"{verb}: two benchmarks are named {requests.name}; evaluate them separately")
        requests = requests.narrow(options.kinds, options.limit)
        folder = out if options.out and len(options.benchmark) == 1 else out / requests.name
        found.append(PictureEvaluation(requests, folder, max_refused=options.max_refused))
    return found


def _answers(
    loaded: Loaded, seed: int, items: Sequence[Item], images: Sequence[Sequence[Image.Image]]
) -> Sequence[Answer]:
    from mmcomponents.generation import answer_prompts

    return answer_prompts(
        loaded.model,
        loaded.tokenizer,
        [item.messages for item in items],
        [list(one) for one in images] if any(images) else None,
        sampler=loaded.sampler,
        seed=seed,
        renderer=loaded.renderer,
        keys=[item.key for item in items],
    )


def _scored(
    verb: str, runs: Sequence[PictureEvaluation], made: list[Rows], metric: Metric | None, options: argparse.Namespace
) -> list[Rows]:
    """Returns the rows of all benchmarks with their scores."""
    from functools import partial

    from mmcomponents.cli.models.named_model import load_named
    from mmcomponents.cli.models.synthesis_options import bar
    from mmcomponents.synthesis.drawing import model_digest, renderer_settings

    if metric is None:
        return [one.in_boxes(rows) for one, rows in zip(runs, made, strict=True)]
    loaded = load_named(verb, options, options.reader)
    reading = partial(_reads, loaded, options)
    settings = {"reader": model_digest(loaded.model), **renderer_settings(loaded.renderer)}
    settings |= {"question": options.reader_question, "max_new_tokens": options.max_new_tokens}
    with bar() as progress:
        return [
            one.read_back(rows, reading, metric, settings, partial(progress, f"reads of {one.requests.name}"))
            for one, rows in zip(runs, made, strict=True)
        ]


def _reads(loaded: Loaded, options: argparse.Namespace, pictures: Sequence[Image.Image]) -> list[str]:
    from mmcomponents.generation import generate

    questions = [options.reader_question] * len(pictures)
    return generate(
        loaded.model,
        loaded.tokenizer,
        questions,
        [[picture] for picture in pictures],
        max_new_tokens=options.max_new_tokens,
        renderer=loaded.renderer,
    )


def _settings(loaded: Loaded, seed: int) -> dict[str, Any]:
    from mmcomponents.synthesis.drawing import model_digest, renderer_settings, sampler_settings

    return {
        "weights": model_digest(loaded.model),
        **renderer_settings(loaded.renderer),
        "sampler": sampler_settings(loaded.sampler),
        "seed": seed,
    }


def _close(run: PictureEvaluation, rows: Rows, metric: str) -> None:
    report, console = run.finish(rows, metric), table_console()
    print_line(
        console,
        f"{run.requests.name}: {metric} {report['score']:.3f} of {report['pictures']} pictures (95 %:"
        f" {report['low']:.3f} to {report['high']:.3f})",
    )
    if count := report.get("unread_reasoning"):
        print_line(console, f"reasoning texts with boxes that cannot be read: {count}, listed in results.jsonl")
    if count := len(report["refused"]):
        print_line(console, f"skipped requests: {count}, listed in report.json")
    names = ("report.json", "results.jsonl", "sheet.png", "pictures")
    print_line(console, "wrote " + ", ".join(str(run.folder / name) for name in names))


METRICS: dict[str, Callable[..., int]] = {READ_BACK: run, IN_BOXES: run}
"""Metric -> run."""
