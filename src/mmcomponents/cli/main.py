"""The command `mmcomponents`: finds the verb and hands over.

A verb's module is imported when the verb is called, so that help and listings do not wait for torch.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable

from mmcomponents import __version__
from mmcomponents.cli.errors import UserError
from mmcomponents.registry import near

VERBS: dict[str, tuple[str, str]] = {
    "fit": ("run", "train a recipe: --config RECIPE [--model.projector LinearProjector] [--trainer.max_steps 10]"),
    "validate": ("run", "evaluate on the validation data: --config RECIPE --ckpt_path FILE"),
    "test": ("run", "evaluate on the test data: --config RECIPE --ckpt_path FILE"),
    "predict": ("run", "run the model over the prediction data: --config RECIPE --ckpt_path FILE"),
    "plan": ("plan", "parameters, memory and FLOPs, built without weights: --config RECIPE [--devices N] [--json]"),
    "generate": ("generate", "answer prompts: MODEL, or --config RECIPE --ckpt_path FILE; --image FILE --prompt TEXT"),
    "evaluate": ("evaluate", "score a benchmark, also best-of-N: MODEL (or a recipe) --benchmark FILE --metric NAME"),
    "import": ("import_", "a released checkpoint becomes one of this library's: SRC --out DIR"),
    "export": ("export", "write another format: SRC (or --config RECIPE --ckpt_path FILE) --format NAME --out DIR"),
    "components": ("components", "list what can be put into a slot: [SLOT] [--json]"),
    "data": ("data", "pack INPUT, index or inspect SHARDS, handwriting; `mmcomponents data` lists them"),
}
"""Verb -> (module in this package, its line of the help). Each module has `main(verb, argv) -> exit code`."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: What stands after `mmcomponents`; default: the process's own.

    Returns:
        Exit code: 0; 2 after a mistake of the user's, which is told in one line on standard error; as a shell says it,
        130 after Ctrl-C, 143 after SIGTERM and 141 where standard output was closed.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has gone, as `head` does; what is still buffered goes nowhere
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        sys.stderr.write(f"mmcomponents: {error}\n")
        return 2


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0 if words else 2
    verb, rest = words[0], words[1:]
    if verb == "--version":
        sys.stdout.write(f"mmcomponents {__version__}\n")
        return 0
    if verb not in VERBS:
        raise UserError(f"no verb {verb!r}{near(verb, VERBS)}; the verbs are {', '.join(VERBS)}")
    module = importlib.import_module(f"mmcomponents.cli.{VERBS[verb][0]}")
    run: Callable[[str, list[str]], int] = module.main
    return run(verb, rest)


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {line}" for verb, (_, line) in VERBS.items()]
    return "\n".join(
        [
            "usage: mmcomponents VERB [options]",
            "",
            "Multimodal model parts, composed by a recipe.",
            "",
            *lines,
            "",
            "A recipe is a file or a shipped name (quickstart, internvl3/8b).",
            "`mmcomponents VERB --help` lists the options of a verb,",
            "`mmcomponents fit --config RECIPE --print_config` prints the whole recipe with all defaults.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
