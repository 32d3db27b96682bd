"""The run behind `mmcomponents evaluate --metric box_ap`: boxes in images of shards, and their average precision."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mmcomponents.cli.models.model_options import default_folder, load_model
from mmcomponents.cli.models.sampler_options import Make
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.terminal.tables import cell, print_line, table_console
from mmcomponents.cli.user_error import UserError

if TYPE_CHECKING:
    from PIL import Image

    from mmcomponents.cli.models.model_loading import Loaded
    from mmcomponents.evaluation.box_evaluation import BoxEvaluation
    from mmcomponents.generation import Sampler
    from mmcomponents.generation.found_boxes import FoundBox

METRIC = "box_ap"
"""Value of `--metric` for detectors."""


def run(verb: str, options: argparse.Namespace, folder: str | None, recipe: list[str]) -> int:
    """Evaluates a detector on shards of images with boxes; returns the exit code."""
    from functools import partial

    from mmcomponents.cli.models.synthesis_options import bar
    from mmcomponents.evaluation.box_ap import check_pycocotools

    try:
        check_pycocotools()
    except ModuleNotFoundError as error:
        raise UserError(f"{verb}: {error}") from error
    runs: list[BoxEvaluation] = []
    flags = sort_flags(recipe)
    out = Path(options.out or default_folder(folder, flags, options.ckpt_path))

    def choose(make: Make) -> Sampler:
        sampler = _detector(verb, make)
        for where in options.benchmark:
            found = _benchmark(verb, where, options, out)
            if any(found.name == other.name for other in runs):
                raise UserError(f"{verb}: two benchmarks are named {found.name}; evaluate them separately")
            runs.append(found)
        return sampler

    loaded = load_model(verb, options, folder, flags, choose=choose)
    settings = _settings(loaded)
    if (classes := getattr(loaded.model.heads[loaded.sampler.head], "num_classes", None)) is not None:
        for one in runs:
            one.limit_classes(classes)
    try:
        with bar() as progress:
            found = []
            for one in runs:
                one.settings = settings
                found.append(one.find(partial(_boxes, loaded), progress=partial(progress, f"boxes in {one.name}")))
    except KeyboardInterrupt:
        print_line(Console(stderr=True), f"stopped; the same command resumes from {out}")
        raise
    for one, rows in zip(runs, found, strict=True):
        _close(one, one.finish(rows), table_console())
    return 0


def _detector(verb: str, make: Make) -> Sampler:
    from mmcomponents.generation import TopBoxes

    sampler = None if make is None else make()
    if not isinstance(sampler, TopBoxes):
        found = "the folder names no sampler" if sampler is None else f"the sampler is {type(sampler).__name__}"
        raise UserError(f"{verb}: --metric {METRIC} needs a model with the sampler TopBoxes, and {found}")
    return sampler


def _benchmark(verb: str, where: str, options: argparse.Namespace, out: Path) -> BoxEvaluation:
    from mmcomponents.data.format.shards import find_shards
    from mmcomponents.evaluation.box_evaluation import BoxEvaluation
    from mmcomponents.evaluation.readers.boxed_images import read_boxed_images, stored_categories

    if not where.endswith(".tar"):
        raise UserError(
            f"{verb}: --metric {METRIC} reads shards, not {where!r}: mmcomponents data convert {where} --kinds"
            " BoxedImage writes them"
        )
    refused: list[str] = []
    shards = find_shards(where)
    images = list(read_boxed_images(shards, refused, options.limit))
    name = Path(where).stem.replace("*", "").strip("-_.") or "shards"
    for line in refused:
        print_line(Console(stderr=True), f"{name}: skipped {line}")
    folder = out if options.out and len(options.benchmark) == 1 else out / name
    categories = stored_categories(shards)
    return BoxEvaluation(name, images, folder, refused=refused, max_refused=options.max_refused, categories=categories)


def _boxes(loaded: Loaded, images: Sequence[Image.Image]) -> list[list[FoundBox]]:
    from mmcomponents.generation import answer_prompts

    answers = answer_prompts(
        loaded.model,
        loaded.tokenizer,
        [""] * len(images),
        [[image] for image in images],
        sampler=loaded.sampler,
        renderer=loaded.renderer,
    )
    return [loaded.sampler.in_pixels(answer.values, image.size) for answer, image in zip(answers, images, strict=True)]


def _settings(loaded: Loaded) -> dict[str, Any]:
    from mmcomponents.synthesis.drawing import model_digest, renderer_settings

    sampler = {name: getattr(loaded.sampler, name) for name in ("num_boxes", "min_score", "head", "names")}
    return {"weights": model_digest(loaded.model), **renderer_settings(loaded.renderer), "sampler": sampler}


def _close(run: BoxEvaluation, report: dict[str, Any], console: Console) -> None:
    from mmcomponents.evaluation.box_ap import FIGURES
    from mmcomponents.evaluation.box_evaluation import COCO

    table = Table(title=cell(f"average precision on {run.name}, {report['images']} images"))
    for name in FIGURES:
        table.add_column(name, justify="right")
    table.add_row(*("none" if report[name] is None else f"{report[name]:.3f}" for name in FIGURES))
    console.print(table)
    if count := len(report["refused"]):
        print_line(console, f"skipped images: {count}, listed in report.json")
    names = [name for name in ("report.json", "boxes.jsonl", COCO, "boxes") if (run.folder / name).exists()]
    print_line(console, "wrote " + ", ".join(str(run.folder / name) for name in names))
