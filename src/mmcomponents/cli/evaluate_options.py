"""The options of `mmcomponents evaluate`, and what is made of them: selectors and settings of the draws."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from mmcomponents.cli.errors import UserError
from mmcomponents.registry import near

if TYPE_CHECKING:
    from mmcomponents.inference.rollouts import Sampling
    from mmcomponents.inference.selectors import Selector

PROCESS = "process"
"""`mmcomponents evaluate process` measures a critic by the labels of steps, see `cli/evaluate_process.py`."""

SELECTORS = ("first", "self_consistency", "best_of_n", "oracle")
CRITICS = {"process": "prm", "outcome": "orm"}
"""Critics, with what best-of-N by them is called in a report."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"evaluate: {message}")


def _fraction(text: str) -> float:
    """A number, also one like 1/4."""
    over, slash, under = text.partition("/")
    try:
        return float(over) / float(under) if slash else float(text)
    except ZeroDivisionError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def make_parser(verb: str) -> argparse.ArgumentParser:
    """The verb's own options; those of a recipe are left over."""
    parser = _Parser(
        prog=f"mmcomponents {verb}",
        usage="%(prog)s MODEL --benchmark FILE --metric NAME [options]\n       "
        "%(prog)s --config RECIPE --ckpt_path FILE --benchmark FILE --metric NAME [options]\n       "
        f"%(prog)s {PROCESS} …   (a critic against labels of steps; it has its own --help)",
        description="Answer a benchmark with one or several candidates a question, let selectors choose, and report. "
        "A run that was stopped goes on when it is called again.",
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this")
    add("--ckpt_path", help="checkpoint of a recipe's run: a file, or a folder of shards")
    add("--benchmark", nargs="+", action="extend", default=[], metavar="FILE", help="VLMEvalKit's .tsv, a .jsonl, or "
        "shards; several are done one after another")  # fmt: skip
    add("--images", metavar="FOLDER", help="where the images of a file are; default: beside it")
    add("--split", default="", help="rows of this split alone")
    add("--kinds", nargs="+", action="extend", default=[], help="questions of these kinds (categories) alone")
    add("--limit", type=int, help="questions at most")
    add("--metric", help="exact, final, numeric, boxed, multiple_choice, relaxed, anls, grounding, bleu or rouge")
    add("--instruction", default="", metavar="TEXT", help="put behind each question; the critics see it too")
    add("--samples", type=int, default=1, help="candidates of each question: the first greedy, the others drawn (1)")
    add("--selectors", nargs="+", help=f"{', '.join(SELECTORS)}, or a class; default: all that can be")
    add("--process_critic", metavar="MODEL", help="judges steps: a folder, or RECIPE:CHECKPOINT")
    add("--outcome_critic", metavar="MODEL", help="judges whole answers: a folder, or RECIPE:CHECKPOINT")
    add("--aggregate", nargs="+", choices=("mean", "min", "max"), default=["mean"], help="of a process critic's scores")
    add("--max_steps", type=int, default=12, help="steps of an answer at most; neighbours are joined (12)")
    add("--max_new_tokens", type=int, default=256, help="tokens of an answer at most (256)")
    add("--temperature", type=float, default=0.7, help="of the candidates that are drawn (0.7)")
    add("--top_p", type=float, default=0.95, help="of the candidates that are drawn (0.95)")
    add("--top_k", type=int, default=0, help="0: all")
    add("--stop", nargs="+", action="extend", default=[], help="texts at which an answer ends")
    add("--seed", type=int, default=0, help="of the draws (0)")
    add("--out", metavar="FOLDER", help="where the files go; default: runs/evaluate/BENCHMARK")
    add("--max_refused", type=float, default=0.01, help="largest share of questions that may be unusable (0.01)")
    add("--system", help="system text instead of the model's own; '': none")
    add("--critic_system", metavar="TEXT", help="system text that critics were trained with; '': none")
    add("--max_tiles", type=int, help="tiles of all images of a question at most")
    add("--delta", type=_fraction, help="V2PE: step of a visual token, such as 1/4")
    add("--max_tokens", type=int, default=16384, help="tokens of a batch: prompts, each with one answer (16384)")
    add("--max_segments", type=int, default=256, help="answers of a batch at most (256)")
    add(
        "--max_cache", type=int, default=262_144, help="tokens of a batch at most, each answer with its prompt (262144)"
    )
    add("--device", help="default: cuda where there is one, else cpu")
    add("--dtype", help="of the weights: float32, bfloat16 or float16; default: as they are stored")
    add(
        "--trust_remote_code",
        action="store_true",
        help="import parts of other packages that a folder of ours names by dotted path; only if you trust it",
    )
    parser.set_defaults(frame_prompt=None, control_text="encode")
    return parser


def check(
    verb: str, parser: argparse.ArgumentParser, options: argparse.Namespace, folder: str | None, recipe: list[str]
) -> None:
    """Refuses what is wrong with the words themselves."""
    names = [text.removeprefix("--") for action in parser._actions for text in action.option_strings]
    if stray := next((word for word in recipe if not word.startswith("-")), None):
        if os.path.isfile(os.path.join(stray, "config.json")):
            raise UserError(f"{verb}: MODEL comes first: mmcomponents {verb} {stray} --benchmark …")
        if recipe.index(stray) == 0:
            raise UserError(f"{verb}: {stray!r} belongs to no option")
    for word in recipe:
        name = word.partition("=")[0].removeprefix("--")
        known = name in ("config", "seed_everything", "print_config") or "." in name or name == "c"
        if word.startswith("--") and not known:
            raise UserError(f"{verb}: no option --{name}{near(name, names)}")
    if not options.benchmark:
        raise UserError(f"{verb}: --benchmark is missing: a .tsv, a .jsonl, or shards")
    if options.metric is None:
        raise UserError(f"{verb}: --metric is missing")
    if not folder and not recipe:
        raise UserError(f"{verb}: needs MODEL, a folder, or --config RECIPE --ckpt_path FILE")
    if folder and (recipe or options.ckpt_path):
        raise UserError(f"{verb}: a model folder goes without a recipe, its settings and --ckpt_path")
    for name in ("limit", "samples", "max_steps", "max_tiles"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{verb}: --{name} must be at least 1, got {value}")
    if not 0 <= options.max_refused <= 1:
        raise UserError(f"{verb}: --max_refused is a share from 0 to 1, got {options.max_refused:g}")
    if options.samples > 1 and not options.temperature:
        raise UserError(f"{verb}: --temperature 0 gives {options.samples} equal answers; take more, or --samples 1")
    critics = [name for name in CRITICS if getattr(options, f"{name}_critic")]
    if critics and options.samples == 1:
        raise UserError(f"{verb}: a {critics[0]} critic has nothing to choose from: --samples 8, say")
    if options.selectors is not None and critics and "best_of_n" not in options.selectors:
        raise UserError(f"{verb}: no selector uses the --{critics[0]}_critic; add best_of_n to --selectors")
    if options.selectors is not None and not critics and "best_of_n" in options.selectors:
        raise UserError(f"{verb}: best_of_n needs a --process_critic or an --outcome_critic")


def make_selectors(verb: str, options: argparse.Namespace) -> dict[str, Selector]:
    """Selectors by their names in the report; best-of-N once for each critic and aggregate."""
    from mmcomponents.inference.selectors import AGGREGATES, BestOfN, First, Oracle, SelfConsistency

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
    made: dict[str, Selector] = {}
    for name in chosen:
        if name in plain:
            made[name] = plain[name]()
        elif name != "best_of_n":
            made[name] = _foreign_selector(verb, name)
        for critic in critics if name == "best_of_n" else ():
            # an outcome has one score, and every aggregate of it is this score
            kinds = options.aggregate if critic == "process" else options.aggregate[:1]
            for kind in kinds:
                title = f"best_of_n_{CRITICS[critic]}" + (f"_{kind}" if len(kinds) > 1 else "")
                made[title] = BestOfN(critic, AGGREGATES[kind]())
    return made


def _foreign_selector(verb: str, name: str) -> Selector:
    """A selector by its class name, or by its dotted path."""
    import importlib

    from mmcomponents import registry
    from mmcomponents.inference.selectors import Selector

    if "." not in name and (hint := near(name, SELECTORS)) and name.islower():
        raise UserError(f"{verb}: no selector {name!r}{hint}; there are {', '.join(SELECTORS)}")
    try:
        module, _, attribute = registry.resolve("selector", name).rpartition(".")
        made = getattr(importlib.import_module(module), attribute)()
    except (registry.PartError, ImportError, AttributeError, TypeError) as error:
        raise UserError(f"{verb}: the selector {name!r} cannot be made: {error}") from error
    if not isinstance(made, Selector):
        raise UserError(f"{verb}: {name} is no selector")
    return made


def make_sampling(options: argparse.Namespace) -> Sampling:
    """One answer is the greedy one; of several the first is, and the others are drawn."""
    from mmcomponents.inference.rollouts import Sampling

    stop = tuple(options.stop)
    if options.samples == 1:
        return Sampling(max_new_tokens=options.max_new_tokens, stop=stop, seed=options.seed)
    return Sampling(
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        stop=stop,
        seed=options.seed,
        greedy_first=True,
    )
