"""Checks that the tests notice faults.

Each fault of the lists in this folder is put into a copy of the project, one at a time, and its test must fail. A test
that cannot be collected or set up says nothing, and a test that noticed a fault must pass without it.
"""

from __future__ import annotations

import argparse
import compileall
import multiprocessing
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

import pytest
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from fault_list import Fault, out_of_date, read

ROOT = Path(__file__).parents[2]
WORKERS = min(4, os.cpu_count() or 1)
SECONDS = 120
"""A test that takes longer under a fault has not noticed it."""
_SECONDS_TO_END = 10
LIBRARIES = ("torch", "lightning.pytorch", "transformers", "jsonargparse", "torchmetrics", "peft")
"""What all checks share in memory: imports that take long, and nothing of the project, whose files change."""


@dataclass(frozen=True)
class Answer:
    """What tests said: those that failed while they ran, or why they said nothing."""

    failed: tuple[str, ...] = ()
    problem: str = ""
    seconds: float = 0.0


class Failures:
    """A plugin of pytest that notes the tests that fail, and not those that cannot be set up."""

    def __init__(self) -> None:
        self.tests: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes one test."""
        if report.failed and report.when == "call":
            self.tests.append(report.nodeid)


def run(root: Path, lists: Iterable[Path], console: Console, libraries: Sequence[str] = LIBRARIES) -> int:
    """Checks all faults of some lists, and prints a table.

    Returns:
        0 if each is noticed, 1 if one is not, 2 if the lists do not fit the project.
    """
    faults = read(lists)
    if complaints := out_of_date(root, faults):
        console.print("The list is out of date:", *complaints, sep="\n", markup=False)
        return 2
    multiprocessing.get_context("forkserver").set_forkserver_preload(["pytest", *libraries])
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(WORKERS):
            copies.put(_copied(root, Path(folder) / str(number) / root.name))

        def answer(fault: Fault) -> Answer:
            copy = copies.get()
            try:
                with fault.put_into(copy):
                    return ask(copy, ["-x", *fault.tests], SECONDS)
            finally:
                copies.put(copy)

        answers = list(track(pool.map(answer, faults), "Faults", len(faults), console=console))
        noticed_by = sorted({test for answer in answers for test in answer.failed})
        unchanged = ask(copies.get(), noticed_by, None) if noticed_by else Answer()
    return _report(faults, answers, unchanged, console)


def ask(root: Path, arguments: Sequence[str], seconds: float | None) -> Answer:
    """Runs pytest in a new process, which has the libraries already."""
    begin, context = time.monotonic(), multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_pytest, args=(root, arguments, theirs))
    process.start()
    assert process.pid is not None  # since it was started
    theirs.close()
    try:
        answer = ours.recv() if ours.poll(seconds) else Answer(problem=f"no answer in {seconds} s")
        process.join(_SECONDS_TO_END)
        return replace(answer, seconds=time.monotonic() - begin)
    except EOFError:
        return Answer(problem="the process of the tests ended")
    finally:  # processes that the tests left, too
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
        process.join()


def _pytest(root: Path, arguments: Sequence[str], answer: Connection) -> None:
    os.setsid()
    os.chdir(root)
    source = str(root / "src")
    sys.path[:0] = [source, str(root)]
    sys.dont_write_bytecode = True
    multiprocessing.set_start_method(None, force=True)  # otherwise processes of tests start as this one did, slowly
    os.environ |= {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    failures = Failures()
    code = pytest.main(["-p", "no:cacheprovider", *arguments], plugins=[failures])
    if failures.tests or code == pytest.ExitCode.OK:
        answer.send(Answer(tuple(failures.tests)))
    else:
        answer.send(Answer(problem=f"pytest ended with {pytest.ExitCode(code).name}"))


def _copied(root: Path, copy: Path) -> Path:
    def left_out(folder: str, names: list[str]) -> set[str]:
        own = {"runs", "data", "build", "dist"} if Path(folder) == root else set()
        return {name for name in names if name.startswith(".") or name in own | {"__pycache__"}}

    shutil.copytree(root, copy, ignore=left_out)
    # A hash and not a time says whether a file was changed: two faults may be written within one tick of the clock.
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(copy / "src", quiet=2, invalidation_mode=mode)
    return copy


def _report(faults: Sequence[Fault], answers: Sequence[Answer], unchanged: Answer, console: Console) -> int:
    table = Table("file", "fault", "noticed by", "s")
    for column in table.columns:
        column.overflow = "fold"
    survivors = 0
    for fault, answer in zip(faults, answers, strict=True):
        seen = sorted(set(answer.failed) - set(unchanged.failed))
        survivors += not seen
        file = fault.file.removeprefix("src/mmcomponents/")
        noticed_by = escape(seen[0]) if seen else f"[red]nothing[/] {answer.problem}"
        table.add_row(file, escape(fault.why), noticed_by, f"{answer.seconds:.0f}")
    console.print(table)
    for test in unchanged.failed:
        console.print(f"{test} fails without a fault too", markup=False)
    console.print(f"{len(faults) - survivors} of {len(faults)} faults noticed. {unchanged.problem}", markup=False)
    return int(bool(survivors or unchanged.failed or unchanged.problem))


def main() -> int:
    """Checks the lists that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="*", type=Path, help="all of this folder if none is named")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return run(ROOT, parser.parse_args().lists or sorted(Path(__file__).parent.glob("*.yaml")), Console())


if __name__ == "__main__":
    sys.exit(main())
