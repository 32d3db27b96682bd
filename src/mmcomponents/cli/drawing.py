"""What `data preferences` and `data steps` have in common: options, the model, the questions, a bar."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mmcomponents.cli.errors import UserError
from mmcomponents.cli.flags import sort_flags
from mmcomponents.registry import near

if TYPE_CHECKING:
    from mmcomponents.cli.loading import Loaded
    from mmcomponents.inference.checking import Checker
    from mmcomponents.inference.questions import Questions
    from mmcomponents.inference.rollouts import Sampling

CHECKS = ("exact", "plain", "numeric", "boxed", "final", "choice")
"""Names of the checkers, see `checker`."""


@dataclass(frozen=True)
class Usual:
    """Values that a kind takes where none is given."""

    samples: int
    temperature: float


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('mmcomponents ')}: {message}")


@dataclass
class Call:
    """A command line, taken apart.

    Attributes:
        name: Of the command, for messages.
        options: Its own options.
        folder: The model's folder; None: a recipe is given.
        questions: Files of questions.
        recipe: Words for a recipe.
    """

    name: str
    options: argparse.Namespace
    folder: str | None
    questions: list[str]
    recipe: list[str]


def parser(name: str, description: str, usual: Usual) -> _Parser:
    """The options that both kinds have."""
    made = _Parser(
        prog=f"mmcomponents {name}",
        usage="%(prog)s MODEL QUESTIONS [QUESTIONS ...] --out FOLDER [options]\n       "
        "%(prog)s QUESTIONS [QUESTIONS ...] --config RECIPE --ckpt_path FILE --out FOLDER [options]",
        description=description,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("words", nargs="*", metavar="MODEL QUESTIONS", help="the model's folder; shards of conversations, whose "
        "questions are asked one by one, or JSONL files with question, answer, image or images")  # fmt: skip
    add("--out", required=True, metavar="FOLDER", help="where shards, indices and the journal go")
    add("--ckpt_path", help="checkpoint of a recipe's run")
    add("--image_root", metavar="FOLDER", help="where the images of JSONL files are; default: beside the file")
    add("--limit", type=int, help="questions at most")
    add("--kinds", nargs="+", default=[], metavar="KIND", help="questions of these kinds alone")
    add("--instruction", default="", metavar="TEXT", help="put behind each question, in what is written too: how an "
        "answer ends, say")  # fmt: skip
    add("--check", choices=CHECKS, default="final", help="how an answer is found and compared (final: behind \"Final "
        "answer:\" or \"Answer:\" on the last line)")  # fmt: skip
    add("--tolerance", type=float, default=0.0, help="by which share a number may be off (0)")
    add("--samples", type=int, default=usual.samples, help=f"answers of each question ({usual.samples})")
    add("--temperature", type=float, default=usual.temperature, help=f"of the draws ({usual.temperature:g})")
    add("--top_p", type=float, default=1.0)
    add("--top_k", type=int, default=0, help="0: all")
    add("--max_new_tokens", type=int, default=256, help="tokens of an answer at most (256)")
    add("--stop", action="append", default=[], metavar="TEXT", help="an answer ends there; may be given several times")
    add("--seed", type=int, default=0, help="of all draws (0)")
    add("--max_refused", type=float, default=0.01, help="largest share of questions that may be unusable (0.01)")
    add("--samples_per_shard", type=int, default=10_000)
    add("--max_tokens", type=int, default=16384, help="tokens of a batch: prompts, each with one answer (16384)")
    add("--max_segments", type=int, default=256, help="answers of a batch at most (256)")
    add(
        "--max_cache", type=int, default=262_144, help="tokens of a batch at most, each answer with its prompt (262144)"
    )
    add("--device", help="default: cuda where there is one, else cpu")
    add("--dtype", help="of the weights: float32, bfloat16 or float16; default: as they are stored")
    return made


def take_apart(made: _Parser, argv: list[str]) -> Call:
    """Parses a command line.

    Raises:
        UserError: It is wrong.
    """
    name = made.prog.removeprefix("mmcomponents ")
    own, rest = _split(argv, made)
    options = made.parse_intermixed_args(own)
    flags = sort_flags(rest)
    for key, _ in flags.settings:
        if "." not in key and key != "seed_everything":
            raise UserError(f"{name}: no option --{key}{near(key, vars(options))}")
    words = list(options.words)
    if flags.configs and not options.ckpt_path:
        raise UserError(f"{name}: --ckpt_path is missing; without a checkpoint the weights would be random")
    if not flags.configs and (options.ckpt_path or flags.settings):
        raise UserError(f"{name}: --ckpt_path and settings of a recipe go with --config RECIPE")
    folder = None if flags.configs or not words else words.pop(0)
    if not words:
        raise UserError(f"{name}: needs MODEL and QUESTIONS, or QUESTIONS with --config RECIPE --ckpt_path FILE")
    return Call(name, options, folder, words, rest)


def _split(argv: list[str], made: _Parser) -> tuple[list[str], list[str]]:
    """The words for a parser, and flags of a recipe, each with its value."""
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
    """The model of a call, in evaluation mode.

    Raises:
        UserError: It cannot be read.
    """
    from mmcomponents.cli.generate import DTYPES, _device
    from mmcomponents.cli.loading import from_folder, from_recipe
    from mmcomponents.data import PackedDataModule
    from mmcomponents.training import MultimodalTask

    options = call.options
    if options.dtype is not None and options.dtype not in DTYPES:
        raise UserError(f"{call.name}: --dtype must be one of {', '.join(DTYPES)}, got {options.dtype!r}")
    device, dtype = _device(options.device), DTYPES.get(options.dtype or "")
    if call.folder is not None:
        return from_folder(call.folder, device, dtype)
    classes = (MultimodalTask, PackedDataModule)
    return from_recipe(call.name, sort_flags(call.recipe), options.ckpt_path, classes, device, dtype)


def questions(call: Call, answers: bool = True) -> Questions:
    """The questions of a call."""
    from mmcomponents.inference.questions import read_questions

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
    """The checker that is named."""
    from mmcomponents.inference import checking

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
        raise ValueError(f"--tolerance says nothing to --check {options.check}")
    return makers[options.check]()


def sampling(options: argparse.Namespace) -> Sampling:
    """How answers are drawn."""
    from mmcomponents.inference.rollouts import Sampling

    if not options.temperature:
        raise ValueError("--temperature 0 gives the same answer each time: take more")
    return Sampling(
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        stop=tuple(options.stop),
        seed=options.seed,
    )


@contextmanager
def telling(call: Call) -> Iterator[None]:
    """Turns what the user can mend into one line."""
    from mmcomponents.data.errors import DataError

    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError, DataError) as error:
        raise UserError(f"{call.name}: {' '.join(str(error).split())}") from error
    except KeyboardInterrupt:
        where = Path(call.options.out)
        Console(stderr=True).print(f"stopped; the same command goes on from {where / 'journal.jsonl'}", markup=False)
        raise


class _Rate(ProgressColumn):
    """Questions a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s", style="progress.data.speed")


@contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each phase on standard error; none where that is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal) as shown:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total)
            shown.update(tasks[what], completed=done, total=total)

        yield tell
