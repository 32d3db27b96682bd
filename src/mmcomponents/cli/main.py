"""Entry point of the command `mmcomponents`, which dispatches to the module of a verb.

The module is imported when the verb is called, so that help and listings do not import torch.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable

from mmcomponents import __version__
from mmcomponents.cli.terminal.log_lines import less_noise, plain_logs
from mmcomponents.cli.user_error import UserError
from mmcomponents.plain_text import plain_line
from mmcomponents.registry import near, slots

VERBS: dict[str, tuple[str, str]] = {
    "fit": ("trainer", "train a recipe: --config RECIPE [--model.projector LinearProjector] [--trainer.max_steps 10]"),
    "validate": ("trainer", "evaluate on the validation data: --config RECIPE --ckpt_path FILE"),
    "test": ("trainer", "evaluate on the test data: --config RECIPE --ckpt_path FILE"),
    "predict": ("trainer", "run the model over the prediction data: --config RECIPE --ckpt_path FILE"),
    "plan": ("plan", "count parameters, memory and FLOPs without weights: --config RECIPE [--devices N] [--json]"),
    "generate": ("generate", "answer prompts: MODEL, or --config RECIPE --ckpt_path FILE; --image FILE --prompt TEXT"),
    "words": ("words", "nearest words of visual tokens: MODEL, or --config RECIPE --ckpt_path FILE; --image FILE"),
    "evaluate": ("evaluate", "score a benchmark, also best-of-N: MODEL (or a recipe) --benchmark FILE --metric NAME"),
    "import": ("import_", "convert a released checkpoint to this library's format: SRC --out DIR"),
    "export": ("export", "write another format: SRC (or --config RECIPE --ckpt_path FILE) --format NAME --out DIR"),
    "ablate": (
        "ablation.ablate",
        "compare variants: FILE, or --config RECIPE --over KEY=VALUE,VALUE; --seeds 0,1,2",
    ),
    "components": ("components", "list the parts for a slot: [SLOT] [--json]"),
    "recipes": ("recipe_list", "list the recipes of the library: [PREFIX] [--json]"),
    "data": ("data", "convert, index, inspect, vocabulary, preferences, steps …; `mmcomponents data` lists them"),
    "completion": ("completion", "print a script for bash and zsh that completes verbs, recipes, parts and keys"),
}
"""Verb -> (module in this package, line of the help). Each module has `main(verb, argv) -> exit code`."""

_DRY_RUN = ("--dry_run", "--dry-run")
"""Option of `fit`, which is no key of a recipe."""

_WITH_RECIPE = ("plan", "generate", "words", "evaluate", "export")
"""Verbs that accept a recipe beside options of their own."""

_LOUD_ON_IMPORT = ("torchao", "torch.utils._pytree", "bitsandbytes")
"""Loggers that warn of kernels for other devices on import, which peft does where these packages are installed."""

_HOME = re.compile(r"^(--(?!prompt=|system=|stop=|instruction=)[\w.]+=)~/")
"""A path in the home folder, which a shell leaves as it is after an equals sign; options of texts apart."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Words after `mmcomponents`; default: those of the process.

    Returns:
        Exit code: 0; 2 after a `UserError`, which is printed as one line on standard error; following shells, 130 after
        Ctrl-C, 143 after SIGTERM and 141 if standard output was closed.
    """
    words = [
        _HOME.sub(lambda word: word[1] + os.path.expanduser("~/"), word)
        for word in (sys.argv[1:] if argv is None else argv)
    ]
    try:
        for name in _LOUD_ON_IMPORT:
            logging.getLogger(name).setLevel(logging.ERROR)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is replaced
                stream.reconfigure(errors="replace")
        with plain_logs(logging.getLogger("mmcomponents")), less_noise():
            code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has exited: discard what is still buffered
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        sys.stderr.write(f"mmcomponents: {plain_line(str(error))}\n")
        return 2


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0 if words else 2
    verb, rest = words[0], words[1:]
    if verb in ("-V", "--version"):
        sys.stdout.write(f"mmcomponents {__version__}\n")
        return 0
    if verb not in VERBS:
        raise UserError(f"no verb {verb!r}{near(verb, VERBS)}; the verbs are {', '.join(VERBS)}")
    is_dry = verb == "fit" and any(word in _DRY_RUN for word in rest)
    if is_dry:
        rest = [word for word in rest if word not in _DRY_RUN]
    if slot := _slot_of_help(rest):
        verb, rest = "components", [slot]
    elif VERBS[verb][0] == "trainer" or verb in _WITH_RECIPE:
        from mmcomponents.cli.recipes.early_check import check_command

        check_command(verb, rest)
    module = importlib.import_module(f"mmcomponents.cli.{'runs.dry_run' if is_dry else VERBS[verb][0]}")
    run: Callable[[str, list[str]], int] = module.main
    return run(verb, rest)


def _slot_of_help(words: list[str]) -> str | None:
    """Returns the slot of `--model.SLOT.help`, which lists its parts; with the name of a part it is the parser's."""
    for word, following in zip(words, [*words[1:], "-"], strict=False):
        found = re.fullmatch(r"--model\.(?:heads\.(\w+)|(\w+))\.help", word)
        slot = found and ("head" if found[1] or found[2] == "heads" else found[2])
        if slot in slots() and following.startswith("-"):
            return slot
    return None


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {line}" for verb, (_, line) in VERBS.items()]
    return "\n".join(
        [
            "usage: mmcomponents VERB [options]",
            "",
            "Compose multimodal models from parts by a recipe, train and evaluate them.",
            "",
            *lines,
            "",
            "`mmcomponents fit --config RECIPE --dry_run` shows which first weights are loaded and which are drawn.",
            "A recipe is a file or the name of a shipped recipe (quickstart, internvl3/8b).",
            "`mmcomponents recipes` lists them. `mmcomponents VERB --help` lists the options of a verb.",
            "`mmcomponents fit --model.projector.help` lists the parts of a slot.",
            "`mmcomponents fit --config RECIPE --print_config` prints the resolved recipe with all defaults.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
