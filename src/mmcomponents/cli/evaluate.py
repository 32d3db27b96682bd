"""`mmcomponents evaluate`: answers benchmarks with several candidates per question, selects, and reports."""

from __future__ import annotations

import argparse
import os

from mmcomponents.cli.models.model_options import add_draw_options, add_model_options, check_model, parse_arguments
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.runs import evaluate_boxes, evaluate_pictures, evaluate_policy
from mmcomponents.cli.runs.evaluate_run import CRITICS, READER, SELECTORS, run
from mmcomponents.cli.terminal.parser import Parser, fraction, recipe_verb_parser
from mmcomponents.cli.user_error import UserError, errors_in_one_line

PROCESS = "process"
"""`mmcomponents evaluate process` compares a critic with labels of steps, see `cli/evaluate_process.py`."""


_OTHERS = {
    evaluate_boxes.METRIC: evaluate_boxes.run,
    evaluate_policy.METRIC: evaluate_policy.run,
    **evaluate_pictures.METRICS,
}
"""Metric -> run of models that answer with values or pictures instead of texts."""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    if argv and argv[0] == PROCESS and not os.path.isdir(PROCESS):
        from mmcomponents.cli.runs.evaluate_process import main as process

        return process(f"{verb} {PROCESS}", argv[1:])
    if (arguments := parse_arguments(make_parser(verb), argv)) is None:
        return 0
    options, folder, recipe = arguments
    check(verb, options, folder, recipe)
    with errors_in_one_line(verb):
        return _OTHERS.get(options.metric, run)(verb, options, folder, recipe)


def make_parser(verb: str) -> Parser:
    """Returns the parser of the verb's own options, without those of a recipe."""
    parser = recipe_verb_parser(
        verb,
        "Answer a benchmark with one or several candidates per question, choose with selectors, and report. An "
        "interrupted run resumes when it is called again.",
        "%(prog)s MODEL --benchmark FILE --metric NAME [options]\n       "
        "%(prog)s --config RECIPE --ckpt_path FILE --benchmark FILE --metric NAME [options]\n       "
        f"%(prog)s {PROCESS} …   (compares a critic with labels of steps; has its own --help)",
    )
    add = parser.add_argument
    add("--benchmark", nargs="+", action="extend", default=[], metavar="FILE", help="VLMEvalKit's .tsv, a .jsonl, or "
        "shards; several are evaluated one after the other; for success_rate an environment, by name or dotted path, "
        "or with arguments as '{class_path: NAME, init_args: {…}}'")  # fmt: skip
    add("--images", metavar="FOLDER", help="root of the image paths in a file; default: the file's folder")
    add("--split", default="", help="use only questions of this split")
    add("--kinds", nargs="+", action="extend", default=[], help="use only questions of these kinds (categories)")
    add(
        "--metric",
        help="exact, final, numeric, boxed, multiple_choice, relaxed, anls, grounding, bleu or rouge; "
        "box_ap for detectors, with shards of images with boxes; success_rate for policies, with an environment; "
        "read_back and things_in_boxes for models that make pictures, with requests as questions or in shards",
    )
    add("--reader", metavar="MODEL", help="read_back: model that answers a question about each picture: a folder, or "
        "RECIPE:CHECKPOINT")  # fmt: skip
    add("--reader_question", metavar="TEXT", help="read_back: the question")
    add("--reader_metric", metavar="NAME", help="read_back: metric of texts that compares the reader's answer with the "
        "answer of the request, in shards with the caption (exact)")  # fmt: skip
    add("--executed", type=int, default=4, help="success_rate: number of actions of a chunk that are executed before "
        "the policy is asked again (4)")  # fmt: skip
    add("--frames", type=int, default=1, help="success_rate: number of images that the policy sees (1)")
    add("--selectors", nargs="+", help=f"{', '.join(SELECTORS)}, or a class; default: all that apply")
    add("--process_critic", metavar="MODEL", help="critic that scores steps: a folder, or RECIPE:CHECKPOINT")
    add("--outcome_critic", metavar="MODEL", help="critic that scores complete answers: a folder, or RECIPE:CHECKPOINT")
    add("--aggregate", nargs="+", choices=("mean", "min", "max"), default=["mean"],
        help="aggregation of a process critic's scores (mean)")  # fmt: skip
    add("--max_steps", type=int, default=12, help="maximum number of steps of an answer; excess steps are joined (12)")
    add("--stop", nargs="+", action="extend", default=[], help="texts at which an answer ends")
    add("--out", metavar="FOLDER", help="folder of the output; default: runs/evaluate/MODEL/BENCHMARK")
    add("--system", help="system text; default: that of the model; '': none")
    add("--critic_system", metavar="TEXT", help="system text that the critics were trained with; '': none")
    add("--max_tiles", type=int, help="maximum number of tiles of an image")
    add("--share_tiles", action="store_true", help="the images of a question share these tiles, as in training")
    add("--delta", type=fraction, help="V2PE: position increment of a visual token, such as 1/4")
    add_draw_options(parser, samples=1, temperature=0.7, top_p=0.95)
    add_model_options(parser)
    return parser


def check(verb: str, options: argparse.Namespace, folder: str | None, recipe: list[str]) -> None:
    """Checks the arguments that need no files.

    Args:
        verb: Name of the command, for messages.
        options: Options of the command.
        folder: Model folder, or None.
        recipe: Flags of a recipe.

    Raises:
        UserError: An argument is missing or invalid, or arguments contradict each other.
    """
    if stray := next((word for word in recipe if not word.startswith("-")), None):
        if os.path.isfile(os.path.join(stray, "config.json")):
            raise UserError(f"{verb}: MODEL comes first: mmcomponents {verb} {stray} --benchmark …")
        if recipe.index(stray) == 0:
            raise UserError(f"{verb}: {stray!r} belongs to no option")
    check_model(verb, options, folder, sort_flags(recipe))
    if not options.benchmark:
        raise UserError(f"{verb}: --benchmark is missing: a .tsv, a .jsonl, or shards")
    if options.metric is None:
        raise UserError(f"{verb}: --metric is missing")
    if options.seed < 0:
        raise UserError(f"{verb}: --seed must be at least 0, got {options.seed}")
    if unused := _unused(verb, options):
        raise UserError(f"{verb}: --metric {options.metric} has no use for --{unused}")
    for name in ("limit", "samples", "max_new_tokens", "max_steps", "max_tiles", "executed", "frames"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{verb}: --{name} must be at least 1, got {value}")
    if not 0 <= options.max_refused <= 1:
        raise UserError(f"{verb}: --max_refused must be from 0 to 1, got {options.max_refused:g}")
    if options.samples > 1 and not options.temperature:
        raise UserError(f"{verb}: --temperature 0 gives {options.samples} equal answers; raise it, or use --samples 1")
    critics = [name for name in CRITICS if getattr(options, f"{name}_critic")]
    if critics and options.samples == 1:
        raise UserError(f"{verb}: a {critics[0]} critic needs several samples, such as --samples 8")
    if options.selectors is not None and critics and "best_of_n" not in options.selectors:
        raise UserError(f"{verb}: no selector uses the --{critics[0]}_critic; add best_of_n to --selectors")
    if options.selectors is not None and not critics and "best_of_n" in options.selectors:
        raise UserError(f"{verb}: best_of_n needs a --process_critic or an --outcome_critic")


def _unused(verb: str, options: argparse.Namespace) -> str | None:
    """Returns the first given option that the metric has no use for, among those that only some have."""
    names: tuple[str, ...] = ()
    if options.metric in _OTHERS:
        names += ("selectors", "process_critic", "outcome_critic", "stop", "system", "instruction")
        names += ("max_tiles", "share_tiles", "delta")
        names += ("samples", "temperature", "top_p", "top_k", "max_tokens", "max_segments", "max_cache")
        names += () if options.metric in evaluate_pictures.METRICS else ("images", "split", "kinds")
        names += () if options.metric == evaluate_pictures.READ_BACK else (*READER, "max_new_tokens")
    parser = make_parser(verb)
    return next((name for name in names if getattr(options, name) != parser.get_default(name)), None)
