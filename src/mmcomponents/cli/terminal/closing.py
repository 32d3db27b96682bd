"""Closing output of a run: scores, files written, and suggested next commands."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmcomponents.cli.recipes.flags import Flags
from mmcomponents.cli.terminal.tables import cell, print_line
from mmcomponents.training.predictions import Predictions
from mmcomponents.training.reference_logps import ReferenceLogps, WrittenLogps

_OF_PREDICT = ("data.predict", "trainer.callbacks", "model.objective.init_args.reference", "data.reference_logps")
"""Prefixes of settings of `predict` that the subsequent training does not repeat."""

_NOT_COMPARED = {
    "text": "texts in answers.jsonl",
    "values": "values in answers.jsonl",
    "picture": "pictures in the folder answers",
}
"""Kind of answers without scores -> where they are."""


def close(
    verb: str,
    folder: Path,
    flags: Flags,
    checkpoint: str | None,
    console: Console,
    callbacks: Sequence[object] = (),
    answers: str = "text",
    has_test_data: bool = True,
    longer: Sequence[str] | None = (),
) -> None:
    """Prints the closing output of a verb.

    Args:
        verb: fit, validate, test or predict.
        folder: Folder of the run.
        flags: Command line, whose recipes the next commands repeat.
        checkpoint: Checkpoint that was used or written, if any.
        console: Console to print to.
        callbacks: Callbacks of the run. The lines of those with `summary` are printed after `test`.
        answers: Kind of the sampler's answers.
        has_test_data: Whether the recipe has data for `test`.
        longer: Flags under which a run goes on that has reached its end; none if it has not. None: it cannot go on.
    """
    config = config_words(folder, flags)
    written = [callback.written for callback in callbacks if isinstance(callback, ReferenceLogps) and callback.written]
    if verb == "predict" and written:
        for logps in written:
            _print_logps(logps, flags, console)
    elif verb == "predict":
        for path in (callback.written for callback in callbacks if isinstance(callback, Predictions)):
            print_line(console, f"wrote {path}")
    elif verb == "test" and (folder / "report.json").is_file():
        report = json.loads((folder / "report.json").read_text())
        answers = report.get("answers", answers)
        _print_report(report, console)
        files = [
            name for name in ("report.json", "answers.jsonl", "answers.png", "example.png") if (folder / name).is_file()
        ]
        print_line(console, "wrote " + ", ".join(str(folder / name) for name in files))
    if verb == "test":
        for line in (line for callback in callbacks for line in getattr(callback, "summary", ())):
            print_line(console, line)
    if verb in ("fit", "test") and checkpoint:
        if verb == "test":  # the saved recipe is that of the training
            own = [(f"--{key}", value) for key, value in flags.settings if key.startswith("model.")]
            config += [word for pair in own for word in pair]
        rest = [*config, "--ckpt_path", checkpoint]
        if verb == "fit":
            commands = [_command("test" if answers == "text" else "predict", *rest)] * has_test_data
            if longer is not None:
                commands.append(_command("fit", *rest, *longer) + ("   # train longer" if longer else "   # resume"))
        elif answers == "text":
            image = folder / "example.png"
            shown = ["--image", str(image) if image.is_file() else "FILE"]
            other = ["--model.projector", "LinearProjector", "--trainer.default_root_dir", "runs/linear"]
            commands = [
                _command("generate", *rest, *shown, "--prompt", "Describe the image."),
                _command("fit", *config, *other),
                _command("components") + "   # list other parts",
            ]
        else:  # a sampler of other answers may need more than a text as its prompt
            commands = [_command("predict", *rest), _command("components") + "   # list other parts"]
        print_line(console, "next:" if commands else f"the last checkpoint is {checkpoint}")
        for command in commands:
            print_line(console, f"  {command}")


def config_words(folder: Path, flags: Flags) -> list[str]:
    """Returns the words that name the recipe of a run: the saved one, which includes all flags, if there is one."""
    saved = folder / "recipe.yaml"
    names = [str(saved)] if saved.is_file() else flags.configs
    return [word for name in names for word in ("--config", name)]


def _print_logps(logps: WrittenLogps, flags: Flags, console: Console) -> None:
    left = [
        f"{count} {what}"
        for count, what in ((logps.unreadable, "skipped"), (logps.others, "samples that are not pairs"))
        if count
    ]
    files = "1 file" if logps.files == 1 else f"{logps.files} files"
    print_line(
        console,
        f"wrote log-probabilities of {logps.pairs} pairs to {logps.folder} ({', '.join([files, *left])}):"
        f" mean {logps.chosen:.4g} for chosen, {logps.rejected:.4g} for rejected answers",
    )
    repeated = [(key, value) for key, value in flags.settings if not key.startswith(_OF_PREDICT)]
    words = ["fit", *(word for config in flags.configs for word in ("--config", config))]
    words += [word for key, value in repeated for word in (f"--{key}", value)]
    words += ["--data.reference_logps", str(logps.folder)]
    words += ["--model.objective.init_args.reference", "mmcomponents.objectives.StoredReference"]
    print_line(console, "next:")
    print_line(console, f"  {_command(*words)}")


def _print_report(report: dict[str, Any], console: Console) -> None:
    if "exact_match" in report:
        console.print(score_table(report))
        return
    count, what = sum(report["questions"].values()), report["answers"]
    print_line(console, f"{count} answers on test data: {_NOT_COMPARED[what]}, which have no score")


def score_table(report: dict[str, Any]) -> Table:
    """Returns the table of exact match by kind of question, compared with always giving the most frequent answer."""
    seconds = report.get("train_seconds")
    title = "exact answers on test data" + (f" after {seconds:.0f} s of training" if seconds else "")
    table = Table("kind", title=title)
    for head in ("exact match", "majority answer", "gain", "questions"):
        table.add_column(head, justify="right")
    for kind, share in report["exact_match"].items():
        baseline = report["baseline"][kind]
        gain = f"{100 * (share - baseline):+.1f}"
        table.add_row(cell(kind), f"{share:.1%}", f"{baseline:.1%}", gain, str(report["questions"][kind]))
    return table


def _command(*words: str) -> str:
    return shlex.join([_program(), *words])


def _program() -> str:
    """Returns the command as it was called: with its relative path if its environment is not on the PATH."""
    return sys.argv[0] if not Path(sys.argv[0]).is_absolute() else "mmcomponents"
