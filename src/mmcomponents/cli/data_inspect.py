"""`mmcomponents data inspect`: shows data before a training run."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.recipes.check import check_flag_only, check_keys, check_parsed_flag_only, known_keys
from mmcomponents.cli.recipes.classes import check_classes
from mmcomponents.cli.recipes.construction import naming_classes
from mmcomponents.cli.recipes.flags import COMMAND_LINE, Flags, apply, given_keys, sort_flags
from mmcomponents.cli.recipes.own_defaults import RecipeParser
from mmcomponents.cli.recipes.parts import resolve_data_parts
from mmcomponents.cli.recipes.recipe import Recipe, load
from mmcomponents.cli.recipes.required_arguments import check_required
from mmcomponents.cli.recipes.sections import Sections
from mmcomponents.cli.recipes.seeds import with_seeds
from mmcomponents.cli.terminal.parser import Parser, natural, positive, recipe_verb_parser
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.cli.terminal.tables import print_line, table_console
from mmcomponents.cli.user_error import UserError, errors_in_one_line, one_line
from mmcomponents.registry import near

if TYPE_CHECKING:
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.data.inspection import Opened, Report, ShownSample

_SECTIONS = ("seed_everything", "trainer", "model", "data")
_SHARDS_ALONE = {"tokens_per_tile": 256}  # of InternVL3's models; a recipe sets its own

_NEEDED = ("open_index", "plan_part")
"""Methods of the data class that open its packs for inspection."""

Told = Callable[[str, int, int], None]
"""Progress callback: called with (stage, done, total)."""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    parser = _parser(verb)
    # Shards come first, since a later word may be the value of a setting.
    shards = list(_leading(argv))
    options, rest = parser.parse_known_args(argv[len(shards) :])
    if options.help:
        parser.print_help()
        return 0
    try:
        flags = sort_flags(_one_value(rest) if shards else rest)
    except UserError as error:
        raise UserError(f"{verb} inspect: {error}{'' if shards else '; SHARDS come first'}") from None
    page = _page_path(options.html)
    with errors_in_one_line(f"{verb} inspect"):
        opened, report, shown = _inspect(shards, flags, options)
        if page is not None:
            _write(page, report, shown, ", ".join(flags.configs or shards))
    if options.json:
        sys.stdout.write(json.dumps(_as_json(report, opened, shown, page), indent=2) + "\n")
        return 0
    from mmcomponents.cli.terminal.data_figures import figures

    console = table_console()
    console.print(figures(report), highlight=False)
    if page is not None:
        broken = sum(bool(sample.problem) for sample in shown)
        more = f", {broken} of them skipped when read" if broken else ""
        size = page.stat().st_size / 1e6
        line = f"wrote {page} with {len(shown)} samples{more}; {size:.1f} MB"
        print_line(console, line)
    return 0


def _inspect(shards: list[str], flags: Flags, options: argparse.Namespace) -> tuple[Opened, Report, list[ShownSample]]:
    from mmcomponents.data.inspection import inspect_data, open_part, show_samples

    module = _from_recipe(flags) if flags.configs else _from_shards(shards, flags, options.part)
    if flags.configs and shards:
        raise UserError(f"data inspect: {shards[0]!r} and --config cannot be combined; set data.{options.part}")
    with _bar() as update:
        opened = open_part(module, options.part)
        shown = options.samples if options.html else 0
        report = inspect_data(opened, options.epoch, shown, options.packs_per_step, options.blocks, update)
        return opened, report, show_samples(opened.packs, report.survey.drawn, options.epoch, update)


def _from_recipe(flags: Flags) -> PackedDataModule:
    """Builds the data of a recipe; its model is built, without weights, only for the number of visual tokens."""
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.data.errors import DataError

    recipe = load(flags.configs, _sections())
    for key, _ in flags.settings:
        top = key.partition(".")[0]
        if top not in _SECTIONS or (key == top and top not in ("seed_everything", "data")):
            raise UserError(f"data inspect: no option --{key}{near(key, [*_own_options(), *_SECTIONS])}")
    recipe = with_seeds(apply(recipe, flags.settings), {"data": PackedDataModule})
    module = _built(recipe, "data.", flags.settings)
    try:
        getattr(module, "tokens_per_tile", None)
    except DataError:
        if "model" not in recipe.resolved():  # such as the recipe.yaml of `data convert`
            return _text_alone(
                _built(recipe.overlay({"data": {"tokens_per_tile": 1}}, "texts"), "data.", flags.settings)
            )
        from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
        from mmcomponents.training import MultimodalTask

        tokens = RecipeCLI("inspect", flags, MultimodalTask, data_class=None).meta_model.tokens_per_tile or 1
        module = _built(recipe.overlay({"data": {"tokens_per_tile": tokens}}, "the model"), "data.", flags.settings)
    return module


def _text_alone(module: PackedDataModule) -> PackedDataModule:
    """Checks that data without a number of visual tokens have no images."""
    from mmcomponents.data.errors import DataError
    from mmcomponents.data.loading.opening import check_text_alone

    for part in ("train", "val"):
        if module.shards[part] and (index := module.open_index(part)) is not None:
            try:
                check_text_alone(index, part)
            except DataError as error:
                raise UserError("data inspect: set data.tokens_per_tile, or add the recipe of the model") from error
    return module


def _from_shards(shards: list[str], flags: Flags, part: str) -> PackedDataModule:
    """Builds data without a recipe: the settings of a `data:` section are flags without the prefix `data.`."""
    from mmcomponents.moved import FORMER_SETTINGS

    names = _settings()
    for key, _ in flags.settings:
        if key.partition(".")[0].removesuffix("+") not in names:
            raise UserError(f"data inspect: no option --{key}{near(key, [*_own_options(), *names], FORMER_SETTINGS)}")
    if not shards:
        raise UserError("data inspect needs SHARDS, which come first, or --config RECIPE (see `mmcomponents recipes`)")
    if not any(key == "tokenizer" for key, _ in flags.settings):
        raise UserError("data inspect: SHARDS need --tokenizer FOLDER, the tokenizer of the run")
    recipe = Recipe(sections=_sections()).overlay({"data": {**_SHARDS_ALONE, part: shards}}, COMMAND_LINE)
    settings = [(f"data.{key}", value) for key, value in flags.settings]
    return _built(apply(recipe, settings), "--", settings)


def _built(recipe: Recipe, prefix: str, settings: list[tuple[str, str]]) -> PackedDataModule:
    """Builds the data of a recipe.

    Args:
        recipe: Recipe with its flags.
        prefix: What stands before the name of a setting in messages: "data." or "--".
        settings: The flags.
    """
    tree = recipe.resolved()
    by_flag = given_keys(settings)
    check_flag_only(tree, recipe, by_flag)
    data = tree.get("data")
    if not isinstance(data, dict):
        remedy = "set data.train, data.tokenizer and data.tokens_per_tile, or use SHARDS instead"
        raise UserError(f"data inspect: the recipe has no data section; {remedy}")
    owner = recipe.data_owner()
    if missing := [name for name in _NEEDED if name not in dir(owner)]:
        raise UserError(f"data inspect shows packs of a PackedDataModule; {owner.__name__} has no {missing[0]}")
    tree, owners = {"data": data}, {"data": owner}
    parser = RecipeParser(exit_on_error=False)
    parser.add_class_arguments(owner, "data")
    check_keys(tree, known_keys(parser.get_defaults()), owners, recipe)
    resolve_data_parts(data, owner, recipe)
    check_classes(tree, owners, recipe)
    try:
        config = parser.parse_object(tree)
        check_parsed_flag_only(config, recipe, by_flag)
        check_classes(vars(config), owners, recipe)
        check_required(config, owners, tree, recipe)
        with naming_classes() as instantiators:
            module: PackedDataModule = parser.instantiate(config, instantiators=instantiators).data
    except argparse.ArgumentError as error:
        text = one_line(str(error))
        where = "" if prefix == "--" else _origin(recipe, text)
        raise UserError(f"data inspect: {text.replace('data.', prefix, 1)}{where}") from None
    return module


def _sections() -> Sections:
    from mmcomponents.data.datamodule import PackedDataModule

    return Sections({"data": PackedDataModule})


def _origin(recipe: Recipe, text: str) -> str:
    key, colon, _ = text.partition(": ")
    where = recipe.origin(key) if colon else ""
    return f" ({where})" if where else ""


def _settings() -> list[str]:
    """Returns the settings of a `data:` section, also by their former names, without those that name shards."""
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.moved import FORMER_SETTINGS

    names = [*inspect.signature(PackedDataModule).parameters, *FORMER_SETTINGS]
    return [name for name in names if name not in ("train", "val", "test", "predict", "former")]


def _own_options() -> list[str]:
    return [action.dest for action in _parser("data")._actions]


def _leading(argv: list[str]) -> Iterator[str]:
    for word in argv:
        if word.startswith("-"):
            return
        yield word


def _one_value(words: list[str]) -> list[str]:
    """Returns the words with the names after `--kinds` and `--allowed_tokens`, up to the next flag, as one list."""
    for flag in ("--kinds", "--allowed_tokens"):
        if flag not in words:
            continue
        place = words.index(flag)
        names = list(_leading(words[place + 1 :]))
        if len(names) == 1 and names[0].lstrip().startswith("["):
            continue
        quoted = [json.dumps(name) if flag != "--kinds" else name for name in names]
        words = [*words[: place + 1], *([f"[{', '.join(quoted)}]"] if names else []), *words[place + 1 + len(names) :]]
    return words


def _page_path(given: str | None) -> Path | None:
    if given is None:
        return None
    page = Path(given)
    if not page.parent.is_dir():
        raise UserError(f"--html {given}: there is no folder {page.parent}")
    if page.is_dir():
        raise UserError(f"--html {given} is a folder, not a file")
    return page


def _write(page: Path, report: Report, shown: list[ShownSample], title: str) -> None:
    from mmcomponents.data.inspection import render_page
    from mmcomponents.data.storage.atomic_write import atomic_path

    with atomic_path(page) as temporary:
        temporary.write_text(render_page(report, shown, title), encoding="utf-8", errors="backslashreplace")


def _as_json(report: Report, opened: Opened, shown: list[ShownSample], page: Path | None) -> dict[str, Any]:
    tree = asdict(report)
    survey = tree["survey"]
    survey["total"] = asdict(report.survey.total)
    survey["text_share"] = report.survey.text_share
    index = opened.packs.index
    survey["drawn"] = [index.name(sample) for sample in report.survey.drawn]
    problems = {sample.name: sample.problem for sample in shown if sample.problem}
    return tree | {"page": None if page is None else str(page), "refused_when_read": problems}


@contextmanager
def _bar() -> Iterator[Told]:
    """Yields the callback of a progress bar whose task is renamed at each stage."""
    with progress_bar() as bar:
        task = bar.add_task("opening", total=None)

        def update(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield update


def _parser(verb: str) -> Parser:
    parser = recipe_verb_parser(
        f"{verb} inspect",
        f"Show data before a run: {KINDS['inspect'][1]}. With a recipe, its flags (--data.…) are accepted too; its "
        "model and trainer are ignored. With shards, the settings of a recipe's data section are flags: "
        "--tokens_per_tile 256 --tile_size 448 --max_tiles 12 --pack_tokens 16384 --pack_tiles 48 and so on, with "
        "these defaults, and "
        "--kinds NAME … for the record kinds. SHARDS come first.",
        "%(prog)s --config RECIPE [--data.packing.tokens 8192 …] [options]\n"
        "       %(prog)s SHARDS … --tokenizer FOLDER [--pack_tokens 8192 …] [options]",
    )
    add = parser.add_argument
    add("--part", choices=("train", "val"), default="train", help="part of the data; default: train")
    add("--html", metavar="PAGE.html", help="write a page with the figures and some samples as the model sees them")
    add("--samples", type=natural, default=24, help="samples on the page, drawn evenly over the sources; default: 24")
    add("--epoch", type=natural, default=0, help="epoch to inspect; default: 0")
    add("--packs_per_step", type=positive, default=8, help="packs that a step computes in parallel; default: 8")
    add("--blocks", type=positive, default=64, help="most blocks of the epoch that are planned; default: 64")
    add("--json", action="store_true", help="print one JSON object with all figures")
    return parser
