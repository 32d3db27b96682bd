"""Shared parts of `data preferences` and `data steps`: options, model, questions, progress bar and tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, ProgressColumn, Task, TaskID
from rich.table import Table
from rich.text import Text

from mmcomponents.cli.models.model_options import add_draw_options, add_model_options, load_model, make_sampling
from mmcomponents.cli.models.sampler_options import rollout_sampler
from mmcomponents.cli.recipes.flags import check_options, sort_flags
from mmcomponents.cli.terminal.parser import Parser
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.cli.terminal.tables import cell, print_line
from mmcomponents.cli.user_error import UserError, errors_in_one_line

if TYPE_CHECKING:
    from mmcomponents.cli.models.model_loading import Loaded
    from mmcomponents.synthesis.checker import Checker
    from mmcomponents.synthesis.drawing import DrawOptions
    from mmcomponents.synthesis.questions import Questions
    from mmcomponents.synthesis.rollout import Sampling

R = TypeVar("R")

CHECKS = ("exact", "plain", "numeric", "boxed", "final", "choice")
"""Values of `--check`, see `checker`."""


@dataclass
class Call:
    """A parsed command line.

    Attributes:
        name: Name of the command, for messages.
        options: The command's own options.
        folder: Model folder; None: a recipe is given.
        questions: Files of questions.
        recipe: Flags of a recipe.
    """

    name: str
    options: argparse.Namespace
    folder: str | None
    questions: list[str]
    recipe: list[str]


def parser(name: str, line: str, samples: int, temperature: float) -> Parser:
    """Returns a parser with the options of both commands.

    Args:
        name: Name of the command.
        line: Summary of the command.
        samples: Default number of answers per question.
        temperature: Default temperature.
    """
    made = Parser(
        prog=f"mmcomponents {name}",
        usage="%(prog)s MODEL QUESTIONS [QUESTIONS ...] --out FOLDER [options]\n       "
        "%(prog)s QUESTIONS [QUESTIONS ...] --config RECIPE --ckpt_path FILE --out FOLDER [options]",
        description=f"{line[:1].upper()}{line[1:]}.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("words", nargs="*", metavar="MODEL QUESTIONS", help="model folder; shards of conversations, of which each "
        "question is asked separately, or .jsonl and .tsv files with question, answer, image")  # fmt: skip
    add("--out", required=True, metavar="FOLDER", help="folder of the shards, their indices and the journal")
    add("--image_root", metavar="FOLDER", help="root of the image paths in files; default: the file's folder")
    add("--kinds", nargs="+", default=[], metavar="KIND", help="use only questions of these kinds (categories)")
    add("--check", choices=CHECKS, default="final", help="how an answer is extracted and compared (final: after "
        "\"Final answer:\" or \"Answer:\" on the last line)")  # fmt: skip
    add("--tolerance", type=float, default=0.0, help="relative tolerance of numbers (0)")
    add("--stop", action="append", default=[], metavar="TEXT", help="text at which an answer ends; may be repeated")
    add("--samples_per_shard", type=int, default=10_000, help="maximum number of samples of a shard (10000)")
    add_draw_options(made, samples, temperature, top_p=1.0)
    add_model_options(made)
    return made


def take_apart(made: Parser, argv: list[str]) -> Call:
    """Parses a command line.

    Raises:
        UserError: An argument is missing or invalid.
    """
    name = made.prog.removeprefix("mmcomponents ")
    own, rest = _split(argv, made)
    options = made.parse_intermixed_args(own)
    flags = sort_flags(rest)
    check_options(name, flags, vars(options))
    words = list(options.words)
    if flags.configs and not options.ckpt_path:
        raise UserError(f"{name}: --ckpt_path is missing; without a checkpoint the weights would be random")
    if not flags.configs and (options.ckpt_path or flags.settings):
        raise UserError(f"{name}: --ckpt_path and settings of a recipe require --config RECIPE")
    folder = None if flags.configs or not words else words.pop(0)
    if not words:
        raise UserError(f"{name}: needs MODEL and QUESTIONS, or QUESTIONS with --config RECIPE --ckpt_path FILE")
    return Call(name, options, folder, words, rest)


def _split(argv: list[str], made: Parser) -> tuple[list[str], list[str]]:
    """Splits words into those of a parser and the flags of a recipe with their values."""
    own, rest, words = list[str](), list[str](), iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        if not name.startswith("-") or name in made._option_string_actions or len(word) == 1:
            own.append(word)
            continue
        rest.append(word)
        if not equals:
            rest += [value for value in [next(words, None)] if value is not None]
    return own, rest


def load(call: Call) -> Loaded:
    """Loads the model of a call, in evaluation mode.

    Raises:
        UserError: The model cannot be loaded.
    """
    choose = rollout_sampler(call.name)
    return load_model(call.name, call.options, call.folder, sort_flags(call.recipe), choose=choose)


def questions(call: Call, answers: bool = True) -> Questions:
    """Reads the questions of a call."""
    from mmcomponents.evaluation import read_questions

    options = call.options
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    return read_questions(
        call.questions,
        image_root=options.image_root,
        answers=answers,
        limit=options.limit,
        kinds=options.kinds,
        instruction=options.instruction,
    )


def checker(options: argparse.Namespace) -> Checker:
    """Returns the checker of `--check`."""
    from mmcomponents.evaluation import checkers as checking

    plain = checking.PlainAnswer(options.tolerance)
    makers: dict[str, Callable[[], Checker]] = {
        "exact": checking.ExactAnswer,
        "plain": lambda: plain,
        "numeric": lambda: checking.NumericAnswer(options.tolerance),
        "boxed": lambda: checking.BoxedAnswer(plain),
        "final": lambda: checking.FinalAnswer(plain),
        "choice": checking.MultipleChoice,
    }
    if options.tolerance and options.check in ("exact", "choice"):
        raise ValueError(f"--tolerance does not apply to --check {options.check}")
    return makers[options.check]()


def sampling(options: argparse.Namespace) -> Sampling:
    """Returns the sampling settings of a call."""
    if not options.temperature:
        raise ValueError("--temperature 0 gives the same answer each time: use a higher one")
    return make_sampling(options)


def draw_options(options: argparse.Namespace, progress: Callable[[str, int, int], None]) -> DrawOptions:
    """Returns the limits of a call."""
    from mmcomponents.synthesis.drawing import DrawOptions

    return DrawOptions(
        max_refused=options.max_refused,
        samples_per_shard=options.samples_per_shard,
        max_tokens=options.max_tokens,
        max_segments=options.max_segments,
        max_cache=options.max_cache,
        progress=progress,
    )


def draw(call: Call, make: Callable[..., R], answers: bool = True) -> R:
    """Loads the model and the questions of a call, and makes data with a progress bar.

    Args:
        call: The parsed command line.
        make: Called with model, renderer, questions, output folder, sampling settings, checker and `options`.
        answers: Whether the questions have reference answers; otherwise there is no checker.

    Returns:
        The result of `make`.
    """
    options = call.options
    with telling(call):
        judge = checker(options) if answers else None
        drawn = sampling(options)
        asked = questions(call, answers)
        loaded = load(call)
        with bar() as progress:
            limits = draw_options(options, progress)
            return make(loaded.model, loaded.renderer, asked, options.out, drawn, judge, options=limits)


@contextmanager
def telling(call: Call) -> Iterator[None]:
    """Reports user errors in one line, and after an interruption how to resume."""
    try:
        with errors_in_one_line(call.name):
            yield
    except KeyboardInterrupt:
        where = Path(call.options.out)
        print_line(Console(stderr=True), f"stopped; the same command resumes from {where / 'journal.jsonl'}")
        raise


def counts_table(title: str, rows: Iterable[tuple[str, int, int]]) -> Table:
    """Returns a table of counts.

    Args:
        title: Header of the first column.
        rows: (name, count, total of which the count is a share; 0: no share).
    """
    table = Table(title)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for name, count, of in rows:
        table.add_row(cell(name), f"{count:,}", f"{count / of:.1%}" if of else "")
    return table


def print_lines(console: Console, *lines: str) -> None:
    """Prints lines without markup, highlighting or wrapping."""
    for line in lines:
        print_line(console, line)


class _Rate(ProgressColumn):
    """Questions per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s", style="progress.data.speed")


@contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """Shows a progress bar with a task per phase; yields its callback (phase, done, total)."""
    with progress_bar(MofNCompleteColumn(), _Rate()) as shown:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total)
            shown.update(tasks[what], completed=done, total=total)

        yield update
