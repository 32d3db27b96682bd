"""The ladder: native pre-training, fine-tuning, MPO, critics and best-of-N on handwriting, by command line only.

    python examples/ladder/run_ladder.py --seed 0

prints each command when it starts, so that it can be copied, and writes `runs/ladder/seed-0/report.json` (also as
`runs/ladder/report.json`, which has the latest run). The commands' output is in `runs/ladder/seed-0/logs`. Two commands
run at a time, with one thread each, since the critics' branch needs the policy only for its answers; a stage that
nothing can run in parallel to uses both threads. An interrupted run continues with its unfinished stages: sampling of
answers and evaluations continue where they were, data and training start anew. A stage is repeated if its command, its
recipes, the files that generate the data (here and in `mmcomponents.demos.handwriting`), or a stage before it have
changed; other code of the library is not considered.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import mmcomponents
from mmcomponents.cli.recipes import recipe
from mmcomponents.cli.user_error import UserError

EVALUATED = ("pretrain", "sft", "mpo", "best_of_8_orm", "best_of_8_prm", "oracle_8")
PAIRED = (("sft", "pretrain"), ("mpo", "sft"), ("best_of_8_prm", "mpo"), ("best_of_8_orm", "mpo"),
          ("best_of_8_prm", "self_consistency_8"), ("best_of_8_prm", "best_of_8_orm"))  # fmt: skip
"""Pairs that are compared on the same scenes: the upper and the lower one."""

DATASET = Path(__file__).with_name("ladder_dataset.py")
"""The script that writes the data."""
SCENES = Path(mmcomponents.__path__[0]) / "demos" / "handwriting"
"""The package that draws its scenes; not imported here, which would take seconds."""


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: Name of the stage.
        command: Arguments of the program.
        made: Folder or files that it writes.
        after: Stages whose folders it reads; they precede it in the chain.
        program: Program for Python: `mmcomponents`, or a script.
    """

    name: str
    command: Sequence[str]
    made: tuple[Path, ...]
    after: Sequence[str] = ()
    program: tuple[str, ...] = ("-m", "mmcomponents")


def stages(seed: int) -> list[Stage]:
    """Returns the chain of stages for a seed."""
    data, runs = Path(f"data/ladder/seed-{seed}"), Path(f"runs/ladder/seed-{seed}")
    drawn = ["--seed", f"{seed}"]
    sampled = ["--max_new_tokens", "160", "--temperature", "1", *drawn]
    found = [Stage("data", ["--out", f"{data}", *drawn], (data,), program=(str(DATASET),))]

    def fit(name: str, *after: str) -> None:
        recipe, run = ["--config", f"ladder/{name}", "--seed_everything", f"{seed}"], runs / name
        found.append(Stage(f"train {name}", ["fit", *recipe], (run,), after))
        last = ["--ckpt_path", f"{run}/checkpoints/last.ckpt"]
        where = ["--format", "mmcomponents", "--out", f"{run}/model", "--overwrite"]
        trained = ["--config", f"{run}/recipe.yaml", *last]
        found.append(Stage(f"export {name}", ["export", *trained, *where], (run / "model",), [f"train {name}"]))

    def evaluate(name: str, *more: str) -> Stage:
        out, shards = runs / "evaluate" / name, f"{data}/test-*.tar"
        options = ["--benchmark", shards, "--metric", "final", "--out", f"{out}", *more]
        return Stage(f"evaluate {name}", ["evaluate", f"{runs}/{name}/model", *options], (out,), [f"export {name}"])

    def draw(kind: str, name: str, questions: str, out: Path, *more: str) -> None:
        # from all tokens, not from the likely 95 % as for candidates, since both branches learn from mistakes
        what = [f"{runs}/{name}/model", f"{data}/{questions}-*.tar", "--out", f"{out}", "--top_p", "1"]
        found.append(Stage(f"draw {kind}", ["data", kind, *what, *sampled, *more], (out,), [f"export {name}"]))

    no_system = ["--critic_system", ""]
    one_answer = ["--max_new_tokens", "160", *drawn]
    fit("text", "data")
    fit("digits", "export text")
    fit("statements", "export digits")
    fit("pretrain", "export statements")
    fit("sft", "export pretrain")
    fit("claims", "export pretrain")
    fit("corrections", "export claims")
    fit("judge", "export corrections")
    draw("preferences", "sft", "preferences", runs / "pairs", "--samples", "4", "--max_pairs", "2")
    fit("mpo", "draw preferences", "export sft")
    labels = ["--samples", "4", "--completions", "4", "--mixed_only", "--until_error", *no_system]
    draw("steps", "mpo", "critic", runs / "steps", *labels)
    fit("prm", "draw steps", "export judge")
    fit("orm", "draw steps", "export judge")
    found += [evaluate("pretrain", *one_answer), evaluate("sft", *one_answer)]
    answered = evaluate("mpo", "--samples", "8", "--top_p", "0.95", *sampled)
    critics = ["--process_critic", f"{runs}/prm/model", "--outcome_critic", f"{runs}/orm/model", *no_system]
    scores = tuple(runs / f"evaluate/mpo/scores-{critic}.jsonl" for critic in ("process", "outcome"))
    # The same command with critics reuses the candidates, which are sampled while the critics are still being trained.
    # Accuracy on the validation scenes, seeds 0 and 2: min 81.8 and 69.2 %, mean 79.8 and 68.4 %, max 67.0 and 64.4 %.
    judged = [*answered.command, *critics, "--aggregate", "min"]
    found += [answered, Stage("best of 8", judged, scores, [answered.name, "export prm", "export orm"])]
    return found


class LadderRun:
    """Runs the stages that are not complete, and records their state in `stages.json`.

    Args:
        seed: Seed of the chain.
        console: Console for messages about stages.
        jobs: Number of stages that run at a time.
    """

    def __init__(self, seed: int, console: Console, jobs: int = 2) -> None:
        self.chain = stages(seed)
        self.alone = _alone(self.chain)
        self.folder = Path(f"runs/ladder/seed-{seed}")
        self.console, self.jobs = console, jobs
        self.known: dict[str, Any] = {"seconds": 0.0, "of": {}}
        self.before, self.started = 0.0, time.perf_counter()
        self.lock, self.held = threading.Lock(), -1
        self.stopping = False
        self.children: set[subprocess.Popen[bytes]] = set()

    def run(self) -> dict[str, Any]:
        """Runs the chain; returns the wall-clock "seconds" of the run, and those "of" each stage.

        A resumed run continues to count, including repeated work; the last seconds of a killed run are lost.

        Raises:
            SystemExit: A stage failed (raised after parallel stages have ended); another run is in progress; or a
                stage's output exists and is of other origin.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SystemExit(f"ladder: another run is in progress in {self.folder}") from error
            self.held = lock.fileno()
            self._load()
            stamps, waiting = self._plan()
            self.before, self.started = self.known["seconds"], time.perf_counter()
            try:
                failed = self._run_stages(stamps, waiting)
            finally:
                self._save()
        if failed:
            raise SystemExit("ladder: " + "; ".join(failed))
        of = {stage.name: self.known["of"][stage.name]["seconds"] for stage in self.chain}
        return {"seconds": self.known["seconds"], "of": of}

    def _load(self) -> None:
        """Reads the notes of an earlier run."""
        notes = self.folder / "stages.json"
        if not notes.is_file():
            return
        try:
            known = json.loads(notes.read_text())
            of = {name: {"stamp": note["stamp"], "whole": note["whole"], "seconds": note["seconds"]}
                  for name, note in known["of"].items()}  # fmt: skip
            self.known = {"seconds": float(known["seconds"]), "of": of}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SystemExit(f"ladder: {notes} has an unknown format: move {self.folder} away") from error

    def _plan(self) -> tuple[dict[str, str], dict[str, Stage]]:
        """Returns the stamps of all stages, and the stages to run."""
        stamps, waiting = dict[str, str](), dict[str, Stage]()
        for stage in self.chain:
            stamps[stage.name] = _stamp(stage, [stamps[name] for name in stage.after])
            note = self._note(stage, stamps[stage.name])
            complete = note.get("whole", False) and all(_has_files(path) for path in stage.made)
            stale = any(name in waiting for name in stage.after)
            if stale:
                self.known["of"].get(stage.name, {})["stamp"] = None
            if stale or not complete:
                waiting[stage.name] = stage
            if stage.name not in self.known["of"] and (other := [path for path in stage.made if _has_files(path)]):
                raise SystemExit(f"ladder: {other[0]} exists and is not from a stage of this run: move it away")
        if not any(self._note(stage, stamps[stage.name]) for stage in self.chain):
            self.known["seconds"] = 0.0  # no stage of the earlier run is used; its notes show that its folders are ours
        return stamps, waiting

    def _run_stages(self, stamps: Mapping[str, str], waiting: dict[str, Stage]) -> list[str]:
        """Runs the waiting stages, each as soon as those before it are complete; returns descriptions of failures."""
        running: dict[Future[int], Stage] = {}
        failed: list[str] = []
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while running or (waiting and not failed):
                    going = {stage.name for stage in running.values()}
                    for stage in list(waiting.values()):
                        free = len(running) < self.jobs and not failed
                        if free and not any(name in waiting or name in going for name in stage.after):
                            running[pool.submit(self._run, stage, stamps[stage.name])] = waiting.pop(stage.name)
                            going.add(stage.name)
                    done, _ = wait(running, timeout=10, return_when=FIRST_COMPLETED)
                    self._save()  # the seconds, in case the run is killed
                    for future in done:
                        stage = running.pop(future)
                        if code := future.result():
                            log = self._log(stage)
                            last = (log.read_text(errors="replace").split("\n") if log.is_file() else [])[-2:-1]
                            message = f": {last[0]}" if last else ""
                            failed.append(f"the stage {stage.name!r} ended with exit code {code}; see {log}{message}")
            except BaseException:
                with self.lock:
                    self.stopping = True
                    for child in self.children:
                        child.terminate()  # otherwise they would continue to run
                raise
        return failed

    def _note(self, stage: Stage, stamp: str) -> dict[str, Any]:
        """Returns the note of a stage if it has the same stamp, else an empty one."""
        note: dict[str, Any] = self.known["of"].get(stage.name, {})
        return note if note.get("stamp") == stamp else {}

    def _run(self, stage: Stage, stamp: str) -> int:
        """Runs a stage; returns its exit code."""
        note = self._note(stage, stamp)
        if note.get("whole", True):
            for made in stage.made:  # output of another command or from other files cannot be continued
                _remove(made)
            note = {"stamp": stamp, "seconds": 0.0}
        note["whole"] = False  # before any output is written, since the run may be killed at any moment
        self._save(stage.name, note)
        program = ["mmcomponents"] if stage.program[0] == "-m" else ["python", *stage.program]
        command = f"[bold]{stage.name}[/]\n  {escape(shlex.join([*program, *stage.command]))}"
        self.console.print(command, highlight=False, soft_wrap=True)
        self._log(stage).parent.mkdir(parents=True, exist_ok=True)
        threads = {"OMP_NUM_THREADS": str(self.jobs if stage.name in self.alone else 1)} if self.jobs > 1 else {}
        words = [sys.executable, *stage.program, *stage.command, *_goes_on(stage)]
        started = time.perf_counter()
        with self._log(stage).open("w") as log:
            with self.lock:
                if self.stopping:
                    return 1
                # children inherit the lock: no other run starts while one of them is alive
                child = subprocess.Popen(
                    words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **threads}, pass_fds=[self.held]
                )
                self.children.add(child)
            code = child.wait()
        with self.lock:
            self.children.discard(child)
        note["seconds"] += time.perf_counter() - started
        note["whole"] = code == 0 and not self.stopping
        self._save(stage.name, note)
        ended = "done" if note["whole"] else "stopped" if self.stopping else "failed"
        self.console.print(f"{stage.name}: {ended}, {note['seconds']:.0f} s")
        return code

    def _log(self, stage: Stage) -> Path:
        return self.folder / "logs" / f"{stage.name.replace(' ', '-')}.txt"

    def _save(self, name: str = "", note: Mapping[str, Any] | None = None) -> None:
        with self.lock:
            if note is not None:
                self.known["of"][name] = dict(note)
            self.known["seconds"] = self.before + time.perf_counter() - self.started
            _write(self.folder / "stages.json", self.known)


def _goes_on(stage: Stage) -> list[str]:
    """Returns the words by which a training that was interrupted goes on; what has no checkpoint begins again."""
    if stage.command[0] != "fit":
        return []
    last = stage.made[0] / "checkpoints" / "last.ckpt"
    if last.exists():
        return ["--ckpt_path", last.as_posix()]
    _remove(stage.made[0])  # a new run would not write beside a checkpoint that is not complete
    return []


def _alone(chain: Sequence[Stage]) -> set[str]:
    """Returns the stages that cannot run in parallel to any other: all others precede or follow them."""
    before: dict[str, set[str]] = {}
    for stage in chain:
        before[stage.name] = set(stage.after).union(*(before[name] for name in stage.after))
    names = before.keys()
    return {name for name in names if all(name in before[o] or o in before[name] or o == name for o in names)}


def _stamp(stage: Stage, before: Sequence[str]) -> str:
    """Returns a hash of a stage's command, its resolved recipe, the code of the data, and the stages before it."""
    read = [json.dumps(recipe.load([word]).tree, default=str) for word in stage.command if word.startswith("ladder/")]
    if stage.program == (str(DATASET),):  # the sizes of the data are defaults in its code
        sources = [*DATASET.parent.glob("ladder_*.py"), *SCENES.glob("*.py")]
        read += [path.read_text() for path in sorted(sources)]
    return hashlib.sha256(json.dumps([*before, *stage.command, *read]).encode()).hexdigest()[:16]


def marks(folder: Path, selector: str) -> dict[str, bool]:
    """Reads whether a selector's choice is correct, by the key of the question."""
    return {line["key"]: line["right"][selector] > 0.5 for line in _results(folder)}


def in_order(folder: Path, critic: str) -> float:
    """Computes how often a critic scores a correct candidate higher than a wrong one of the same question.

    A solution's score is the minimum over its steps. Equal scores count half.
    """
    won, pairs = 0.0, 0
    for line in _results(folder):
        scored = list(zip(map(min, line["scores"][critic]), line["marks"], strict=True))
        right = [score for score, mark in scored if mark > 0.5]
        wrong = [score for score, mark in scored if mark <= 0.5]
        won += sum((good > bad) + 0.5 * (good == bad) for good in right for bad in wrong)
        pairs += len(right) * len(wrong)
    return won / pairs if pairs else 0.5


def _results(folder: Path) -> list[dict[str, Any]]:
    results = folder / "results.jsonl"
    if not results.is_file():
        raise SystemExit(f"ladder: {results} is missing: remove {folder}, and run the ladder again")
    return [json.loads(line) for line in results.read_text().splitlines()]


def paired_test(upper: Mapping[str, bool], lower: Mapping[str, bool]) -> dict[str, float]:
    """Computes McNemar's exact two-sided test on the wins and losses on the same questions.

    p applies to these two models and these scans only, not to other handwriting or other seeds.

    Raises:
        ValueError: A question is in only one of the two evaluations.
    """
    if unmatched := upper.keys() ^ lower.keys():
        raise ValueError(f"{len(unmatched)} questions are in only one of the two evaluations, such as {min(unmatched)}")
    wins = sum(upper[key] and not lower[key] for key in upper)
    losses = sum(lower[key] and not upper[key] for key in upper)
    several = wins + losses
    tail = sum(comb(several, count) for count in range(min(wins, losses) + 1)) / 2**several
    return {"wins": wins, "losses": losses, "p": min(1.0, 2 * tail)}


def report(seed: int, seconds: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the report from the files of the evaluations and the result of `LadderRun.run`."""
    folder = Path(f"runs/ladder/seed-{seed}/evaluate")
    right = {
        "pretrain": marks(folder / "pretrain", "first"),
        "sft": marks(folder / "sft", "first"),
        "mpo": marks(folder / "mpo", "first"),
        "best_of_8_prm": marks(folder / "mpo", "best_of_n_prm"),
        "best_of_8_orm": marks(folder / "mpo", "best_of_n_orm"),
        "oracle_8": marks(folder / "mpo", "oracle"),
    }
    voted = {"self_consistency_8": marks(folder / "mpo", "self_consistency")}
    together = {**right, **voted}
    return {
        "add": {name: _share(of) for name, of in right.items()},
        "seconds": round(seconds["seconds"], 1),
        "seed": seed,
        "scenes": len(right["mpo"]),
        "paired": {f"{upper} over {lower}": paired_test(together[upper], together[lower]) for upper, lower in PAIRED},
        **{name: _share(of) for name, of in voted.items()},
        "pairs_in_order": {critic: in_order(folder / "mpo", critic) for critic in ("process", "outcome")},
        "stages": {name: round(value, 1) for name, value in seconds["of"].items()},
    }


def _share(of: Mapping[str, bool]) -> float:
    return sum(of.values()) / len(of)


def show(found: Mapping[str, Any], console: Console) -> None:
    """Prints the report."""
    title = f"add, {found['scenes']} held-out scenes, seed {found['seed']}, {found['seconds']:.0f} s"
    table = Table("stage", title=title)
    table.add_column("right", justify="right")
    for name in EVALUATED:
        table.add_row(name, f"{found['add'][name]:.1%}")
    table.add_row("self_consistency_8", f"{found['self_consistency_8']:.1%}")
    console.print(table)
    table = Table("critic", title="a right and a wrong candidate")
    table.add_column("in order", justify="right")
    for critic, share in found["pairs_in_order"].items():
        table.add_row(critic, f"{share:.1%}")
    console.print(table)
    table = Table("paired")
    for name in ("wins", "losses", "p"):
        table.add_column(name, justify="right")
    for name, test in found["paired"].items():
        table.add_row(name, f"{test['wins']}", f"{test['losses']}", f"{test['p']:.2g}")
    console.print(table)


def _has_files(path: Path) -> bool:
    """Whether a stage's output exists; an empty folder, or a link to one, does not count."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _remove(path: Path) -> None:
    if path.is_symlink() and path.is_dir():  # a link to a larger disk: the link and its folder are kept
        for inside in path.iterdir():
            shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, content: Any) -> None:
    # The library has a writer like this; importing it would take the driver seconds.
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)


def _seed(text: str) -> int:
    seed = int(text) if text.isdecimal() else -1
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"a seed must be from 0 to {2**32 - 1}, got {text!r}")
    return seed


def _stop_at_signals() -> None:
    for stop in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stop) is not signal.SIG_IGN:  # as under nohup
            signal.signal(stop, _terminated)


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Runs the script; returns the exit code."""
    where = "Data go to data/ladder, runs to runs/ladder of the current folder; an interrupted run continues."
    parser = argparse.ArgumentParser(description=f"Run the ladder on handwriting. {where}")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of data, weights and sampling (0)")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=2, help="number of stages that run at a time (2)")
    arguments = parser.parse_args()
    seed, console = arguments.seed, Console()
    _stop_at_signals()
    try:
        found = report(seed, LadderRun(seed, console, arguments.jobs).run())
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be closed
            console.print("ladder: stopped; the same command continues")
        return 130
    except UserError as error:  # from a recipe
        raise SystemExit(f"ladder: {error}") from error
    for folder in (Path(f"runs/ladder/seed-{seed}"), Path("runs/ladder")):
        _write(folder / "report.json", found)
    show(found, console)
    console.print(f"runs/ladder/seed-{seed}/report.json", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
