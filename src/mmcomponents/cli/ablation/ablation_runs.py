"""The runs of an ablation: each is a `fit` and one or several `test` in processes of their own.

A run's folder holds what `fit` and `test` write, `log.txt` with their output, and `state.json` with what is done, by
which a later call goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mmcomponents.checkpoints import CheckpointError
from mmcomponents.checkpoints.runs.replacement import recover
from mmcomponents.checkpoints.runs.run_lock import run_lock
from mmcomponents.cli.ablation.ablation_spec import Ablation, Variant, file_name, flags_of
from mmcomponents.cli.recipes.early_check import merged_tree
from mmcomponents.cli.user_error import UserError
from mmcomponents.data.storage.atomic_write import write_text

LOG, STATE, _LOCK = "log.txt", "state.json", ".ablation.lock"
PROGRAM = (sys.executable, "-m", "mmcomponents")
_ROOT = "--trainer.default_root_dir"
_INTERRUPTED = 130
_GRACE = 120.0
"""Seconds that a run has to end after an interrupt, in which it may write a checkpoint."""


@dataclass(frozen=True)
class Run:
    """A variant with a seed.

    Attributes:
        variant: Variant of the recipe that is trained.
        seed: `seed_everything` of the run.
        folder: Folder of the run.
        tests: Settings of each test, by name.
        recipe: Digest of the variant's recipes.
        has_test_data: Whether the recipe names data for tests; without any, a run is only trained.
    """

    variant: Variant
    seed: int
    folder: Path
    tests: dict[str, dict[str, str]]
    recipe: str = ""
    has_test_data: bool = True

    @property
    def name(self) -> str:
        """Name of the run within its ablation."""
        return f"{self.variant.name}/{self.folder.name}"

    def fit_words(self) -> list[str]:
        """Returns the command that trains."""
        return [*self.settings(), _ROOT, self.folder.as_posix()]

    def settings(self) -> list[str]:
        """Returns the command that trains, without the folder, which may be written in several ways."""
        return ["fit", *self.variant.flags(), "--seed_everything", str(self.seed)]

    def test_words(self, test: str, checkpoint: str) -> list[str]:
        """Returns the command of a test."""
        words = ["test", "--config", (self.folder / "recipe.yaml").as_posix(), "--ckpt_path", checkpoint]
        return [*words, *flags_of(self.tests[test].items()), _ROOT, self.test_folder(test).as_posix()]

    def test_folder(self, test: str) -> Path:
        """Returns the folder of a test's results: the run's own, or one of its name within."""
        return self.folder / f"test-{file_name(test)}" if test else self.folder


@dataclass
class State:
    """What is done of a run, `state.json`.

    Attributes:
        command: What trains it, without its folder; another one is another run.
        recipe: Digest of its recipes, with the files that they extend; others are another run.
        fitted: Whether training has ended.
        tested: Settings of the tests that have ended, by name.
        seconds: Duration of training with its start, over all calls, without what was trained again after a stop.
        began: Time of the start of training in the last call; 0 if that has been counted.
        error: Last line of the error if training failed.
        test_errors: The same of tests that failed, by name.
        cost: See `Cost`.
    """

    command: list[str]
    recipe: str = ""
    fitted: bool = False
    tested: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: float = 0.0
    began: float = 0.0
    error: str = ""
    test_errors: dict[str, str] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)

    def is_done(self, run: Run) -> bool:
        """Returns whether training and all tests have ended."""
        return self.fitted and all(self.has_tested(run, test) for test in run.tests)

    def has_tested(self, run: Run, test: str) -> bool:
        """Returns whether a test has ended, with the present settings, or the run has no data for it."""
        return not run.has_test_data or self.tested.get(test) == run.tests[test]

    def errors(self) -> list[str]:
        """Returns the errors of training and tests."""
        return [error for error in (self.error, *self.test_errors.values()) if error]


def runs_of(ablation: Ablation, out: Path) -> list[Run]:
    """Returns the runs of an ablation, all variants with the first seed first."""
    facts = {variant.name: _facts(variant, ablation) for variant in ablation.variants}
    return [
        Run(variant, seed, out / variant.name / f"seed-{seed}", dict(ablation.tests), *facts[variant.name])
        for seed in ablation.seeds
        for variant in ablation.variants
    ]


def _facts(variant: Variant, ablation: Ablation) -> tuple[str, bool]:
    """Returns the digest of a variant's recipes, and whether there is data for tests; broken ones fail later."""
    try:
        tree = merged_tree(list(variant.configs))
    except UserError:
        return "", True
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:16]
    data = tree.get("data")
    is_named = isinstance(data, dict) and ("class_path" in data or data.get("test") is not None)
    settings = {*(key for key, _ in variant.settings), *(key for own in ablation.tests.values() for key in own)}
    return digest, is_named or any(key in settings for key in ("data", "data.class_path", "data.test"))


def read_state(run: Run) -> State:
    """Returns the state of a run, a new one if it has not begun.

    Raises:
        UserError: The folder has a run with other settings, or its state cannot be read.
    """
    path, command = run.folder / STATE, run.settings()
    if not path.is_file():
        return State(command, run.recipe)
    try:
        state = State(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete the folder to start the run over") from None
    if state.command != command:
        before, now = ({*zip(words[1::2], words[2::2], strict=False)} for words in (state.command, command))
        changed = sorted(" ".join(setting) for setting in before ^ now)
        raise UserError(
            f"{run.folder} has a run with other settings ({', '.join(changed[:6])}): use another --out, or"
            " delete the folder"
        )
    if state.recipe != run.recipe:
        raise UserError(
            f"{run.folder} has a run of {', '.join(run.variant.configs)} before the file was changed: use another"
            " --out, or delete the folder"
        )
    return state


def write_state(run: Run, state: State) -> None:
    """Writes the state of a run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.folder / STATE, json.dumps(vars(state), indent=2) + "\n")


def visible_gpus() -> list[str]:
    """Returns the GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch  # `--help` has no use for it

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [str(index) for index in range(count)] if named is None else named.split(",")[:count]


def gpus_of_jobs(jobs: int, gpus: Sequence[str]) -> list[list[str]]:
    """Divides GPUs among runs at a time: each has as many of its own, or one that it shares if there are too few."""
    each = max(1, len(gpus) // jobs)
    starts = [job * each % max(1, len(gpus)) for job in range(jobs)]
    return [list(gpus[start : start + each]) for start in starts]


class Runner:
    """Runs runs side by side; an interrupt ends them all.

    Args:
        jobs: Number of runs at a time.
        tell: Called with a line when a run begins or ends.
        program: Words before the verb.
        gpus: GPUs that runs at a time divide among them, see `visible_gpus`. One run at a time has all.
    """

    def __init__(
        self, jobs: int, tell: Callable[[str], None], program: Sequence[str] = PROGRAM, gpus: Sequence[str] = ()
    ) -> None:
        self.jobs, self.tell, self.program = jobs, tell, program
        self._gpus: SimpleQueue[list[str]] = SimpleQueue()
        for own in gpus_of_jobs(jobs, gpus):
            self._gpus.put(own)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopped, self._lock = threading.Event(), threading.Lock()

    def run_all(self, runs: Sequence[Run], ended: Callable[[Run, State], None]) -> None:
        """Runs what is not done yet.

        Args:
            runs: Runs in their order; those that are done are skipped.
            ended: Called when one has ended, in the main thread.
        """
        with self._ending(), ThreadPoolExecutor(self.jobs) as pool:
            futures = {pool.submit(self._run, run): run for run in runs}
            try:
                for future in as_completed(futures):
                    ended(futures[future], future.result())
            except BaseException:
                for future in futures:
                    future.cancel()
                self._interrupt()
                raise

    def _run(self, run: Run) -> State:
        if self._stopped.is_set():
            return read_state(run)
        with _held(run.folder / _LOCK) as is_ours:
            if is_ours:
                with self._environment() as environment:
                    return self._run_alone(run, environment)
        self.tell(f"{run.name}: another call runs it")
        return read_state(run)

    def _run_alone(self, run: Run, environment: Mapping[str, str] | None) -> State:
        state = read_state(run)
        if state.is_done(run):
            return state
        state.error, state.test_errors = "", {}
        self.tell(f"{run.name}: begins, log in {run.folder / LOG}")
        if not state.fitted:
            checkpoint = _checkpoint(run.folder)
            state.seconds = _seconds_before(state, checkpoint)
            state.began = time.time()
            write_state(run, state)  # what ends this process, too, does not end the count
            words = run.fit_words()
            code = self._call(run, [*words, "--ckpt_path", checkpoint] if checkpoint else words, environment)
            state.fitted = code == 0
            if state.fitted:
                state.seconds, state.began = state.seconds + time.time() - state.began, 0.0
            state.error = self._error(run, code)
            write_state(run, state)
        for test, settings in run.tests.items() if state.fitted and run.has_test_data else ():
            if state.has_tested(run, test) or self._stopped.is_set():
                continue
            checkpoint = _checkpoint(run.folder)
            if checkpoint is None:
                state.test_errors[test] = f"there is no checkpoint in {run.folder}"
            else:
                code = self._call(run, run.test_words(test, checkpoint), environment)
                if code == 0:
                    state.tested[test] = settings
                elif error := self._error(run, code):
                    state.test_errors[test] = error
            write_state(run, state)
        return state

    def _call(self, run: Run, words: list[str], environment: Mapping[str, str] | None) -> int:
        """Runs a command, and returns its exit code; an interrupt in between is that of Ctrl-C."""
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / LOG).open("ab") as log:
            log.write(f"$ {shlex.join(['mmcomponents', *words])}\n".encode())
            log.flush()
            with self._lock:
                if self._stopped.is_set():
                    return _INTERRUPTED
                # A group of its own, so that Ctrl-C reaches it once, and through this process.
                process = subprocess.Popen(
                    [*self.program, *words], stdout=log, stderr=log, start_new_session=True, env=environment
                )
                self._processes.add(process)
            try:
                return process.wait()
            finally:
                self._processes.discard(process)

    @contextmanager
    def _environment(self) -> Iterator[dict[str, str] | None]:
        """Yields the environment of a run, with GPUs of its own if there are several runs at a time; None: the same."""
        gpus = self._gpus.get()
        try:
            yield {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus and self.jobs > 1 else None
        finally:
            self._gpus.put(gpus)

    def _error(self, run: Run, code: int) -> str:
        """Returns the error of a command; none if it was interrupted with all others."""
        return "" if code == 0 or self._stopped.is_set() else _error_of(run.folder / LOG, code)

    def _interrupt(self) -> None:
        with self._lock:
            self._stopped.set()
        for process in list(self._processes):
            _signal(process, signal.SIGINT)
        end = time.monotonic() + _GRACE
        for process in list(self._processes):
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """SIGTERM, which a scheduler sends, and SIGHUP of a closed terminal end the runs as Ctrl-C does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # A shell has started this in the background. Runs would inherit that SIGINT is ignored, and could not be
            # ended; a handler that does nothing is not inherited.
            before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _seconds_before(state: State, checkpoint: str | None) -> float:
    """Returns the duration of training up to a checkpoint; None: training begins again."""
    if checkpoint is None:
        return 0.0
    written = Path(checkpoint).stat().st_mtime
    return state.seconds + (max(0.0, written - state.began) if state.began else 0.0)


def _checkpoint(folder: Path) -> str | None:
    """Returns the last checkpoint of a run, wherever its callback writes it; None if there is none.

    What a killed run left is finished first: a new run would take another folder than one with parts of checkpoints.
    """
    if kept := {path.parent for path in folder.rglob("*.ckpt*")}:
        with suppress(CheckpointError), run_lock(folder):  # a run whose `ablate` was killed may still write
            for place in kept:
                recover(place)
    last = folder / "checkpoints" / "last.ckpt"
    found = [last] if last.exists() else list(folder.rglob("*.ckpt"))
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else newest.as_posix()


@contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Locks a file while the context lasts; yields False if another process has locked it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _error_of(log: Path, code: int) -> str:
    """Returns the line of the error that ended a command, or the signal.

    That is the line below the last traceback, with the next one if it ends with a colon; without a traceback, the last
    line that is not empty.
    """
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", as by a lack of memory" if name == "SIGKILL" else "")
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    begin = max((number for number, line in enumerate(lines) if line.startswith("$ ")), default=-1) + 1
    lines = lines[begin:]
    traces = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    below = [n for n in range(traces[-1] + 1, len(lines)) if not lines[n][0].isspace()] if traces else []
    if not below:
        return lines[-1].strip() if lines else f"exit code {code}"
    error = lines[below[0]].strip()
    return " ".join([error, *(line.strip() for line in lines[below[0] + 1 : below[0] + 2] if error.endswith(":"))])
