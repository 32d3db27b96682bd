"""Calls verbs of the command in one process, and writes what each has returned and printed as JSON.

    python third_party_run.py CALLS.json RESULTS.json

It is also the module of `KillAt`, which a recipe of the test names.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from mmcomponents.cli.main import main


class KillAt(Callback):
    """Kills the process after a step, before the checkpoint of that step is written.

    Args:
        step: Number of the step.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(calls: list[list[str]]) -> list[dict[str, Any]]:
    results = []
    for words in calls:
        out, error = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(error):
            code = main(words)
        results.append({"call": words, "code": code, "out": out.getvalue(), "error": error.getvalue()})
    return results


if __name__ == "__main__":
    wanted, results = map(Path, sys.argv[1:])
    results.write_text(json.dumps(run(json.loads(wanted.read_text()))))
