"""The ladder: native pre-training, fine-tuning, MPO, critics and best-of-N on handwriting, by the command line alone.

    python examples/ladder.py --seed 0

names each command when it begins, so that any of them can be copied, and writes `runs/ladder/seed-0/report.json` (the
last one also as `runs/ladder/report.json`). What the commands say is in `runs/ladder/seed-0/logs`. Two run at a time,
with one thread each, as the critics' branch waits for the policy only where it needs its answers; where nothing can run
beside a stage, it has both threads. A run that was stopped goes on with the stages it was in: the model's own answers
and evaluations where they were, data and a training from their start. A stage is done again where its command, its
recipes, the files `handwriting_*.py` that draw the data, or a stage before it have changed; other code of the library
does not count.
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

import mmcomponents.data
from mmcomponents.cli import recipe
from mmcomponents.cli.errors import UserError

RUNGS = ("pretrain", "sft", "mpo", "best_of_8_orm", "best_of_8_prm", "oracle_8")
PAIRED = (("sft", "pretrain"), ("mpo", "sft"), ("best_of_8_prm", "mpo"), ("best_of_8_orm", "mpo"),
          ("best_of_8_prm", "self_consistency_8"), ("best_of_8_prm", "best_of_8_orm"))  # fmt: skip
"""Rungs that are compared on the same scenes: the upper one and the lower one."""


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: Of the stage.
        command: Words behind `mmcomponents`.
        made: Folder or files that it makes.
        after: Stages whose folders it reads; they come before it in the chain.
    """

    name: str
    command: Sequence[str]
    made: tuple[Path, ...]
    after: Sequence[str] = ()


def stages(seed: int) -> list[Stage]:
    """The chain for a seed."""
    data, runs = Path(f"data/ladder/seed-{seed}"), Path(f"runs/ladder/seed-{seed}")
    drawn = ["--seed", f"{seed}"]
    sampled = ["--max_new_tokens", "160", "--temperature", "1", *drawn]
    found = [Stage("data", ["data", "ladder", "--out", f"{data}", *drawn], (data,))]

    def fit(rung: str, *after: str) -> None:
        recipe, run = ["--config", f"ladder/{rung}", "--seed_everything", f"{seed}"], runs / rung
        found.append(Stage(f"train {rung}", ["fit", *recipe], (run,), after))
        last = ["--ckpt_path", f"{run}/checkpoints/last.ckpt"]
        where = ["--format", "mmcomponents", "--out", f"{run}/model", "--overwrite"]
        trained = ["--config", f"{run}/recipe.yaml", *last]
        found.append(Stage(f"export {rung}", ["export", *trained, *where], (run / "model",), [f"train {rung}"]))

    def evaluate(rung: str, *more: str) -> Stage:
        out, shards = runs / "evaluate" / rung, f"{data}/test-*.tar"
        how = ["--benchmark", shards, "--metric", "final", "--out", f"{out}", *more]
        return Stage(f"evaluate {rung}", ["evaluate", f"{runs}/{rung}/model", *how], (out,), [f"export {rung}"])

    def draw(kind: str, rung: str, questions: str, out: Path, *more: str) -> None:
        # from all tokens, not from the likely 95 % that are chosen among: mistakes are what both branches learn from
        what = [f"{runs}/{rung}/model", f"{data}/{questions}-*.tar", "--out", f"{out}", "--top_p", "1"]
        found.append(Stage(f"draw {kind}", ["data", kind, *what, *sampled, *more], (out,), [f"export {rung}"]))

    untold = ["--critic_system", ""]
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
    labels = ["--samples", "4", "--completions", "4", "--mixed_only", "--until_error", *untold]
    draw("steps", "mpo", "critic", runs / "steps", *labels)
    fit("prm", "draw steps", "export judge")
    fit("orm", "draw steps", "export judge")
    found += [evaluate("pretrain", *one_answer), evaluate("sft", *one_answer)]
    answered = evaluate("mpo", "--samples", "8", "--top_p", "0.95", *sampled)
    critics = ["--process_critic", f"{runs}/prm/model", "--outcome_critic", f"{runs}/orm/model", *untold]
    scores = tuple(runs / f"evaluate/mpo/scores-{critic}.jsonl" for critic in ("process", "outcome"))
    # the same again with critics: the candidates are there, and were drawn while the critics were still trained
    # on the validation scenes, seeds 0 and 2: min 81.8 and 69.2 % right, mean 79.8 and 68.4 %, max 67.0 and 64.4 %
    judged = [*answered.command, *critics, "--aggregate", "min"]
    found += [answered, Stage("best of 8", judged, scores, [answered.name, "export prm", "export orm"])]
    return found


class Climb:
    """Runs what is not whole yet, and keeps note of it in `stages.json`.

    Args:
        seed: Of the chain.
        console: Is told of each stage.
        jobs: Stages that run at a time.
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
        """Runs the chain; returns "seconds" on the clock, and those "of" each stage.

        Where a climb goes on, the clock does too, and counts what is done again; where one is killed, its last seconds
        are lost.

        Raises:
            SystemExit: A stage has failed, and those beside it have come to their end; another climb is under way; or
                files of other origin are where a stage makes its own.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SystemExit(f"ladder: another climb is under way in {self.folder}") from error
            self.held = lock.fileno()
            self._recall()
            stamps, waiting = self._plan()
            self.before, self.started = self.known["seconds"], time.perf_counter()
            try:
                failed = self._climb(stamps, waiting)
            finally:
                self._keep()
        if failed:
            raise SystemExit("ladder: " + "; ".join(failed))
        of = {stage.name: self.known["of"][stage.name]["seconds"] for stage in self.chain}
        return {"seconds": self.known["seconds"], "of": of}

    def _recall(self) -> None:
        """Reads the notes of an earlier climb."""
        notes = self.folder / "stages.json"
        if not notes.is_file():
            return
        try:
            known = json.loads(notes.read_text())
            whole = {name: {"stamp": note["stamp"], "whole": note["whole"], "seconds": note["seconds"]}
                     for name, note in known["of"].items()}  # fmt: skip
            self.known = {"seconds": float(known["seconds"]), "of": whole}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SystemExit(f"ladder: {notes} is not what a climb writes: move {self.folder} away") from error

    def _plan(self) -> tuple[dict[str, str], dict[str, Stage]]:
        """The stamps of all stages, and the stages that are to run."""
        stamps, waiting = dict[str, str](), dict[str, Stage]()
        for stage in self.chain:
            stamps[stage.name] = _stamp(stage, [stamps[name] for name in stage.after])
            note = self._begun(stage, stamps[stage.name])
            whole = note.get("whole", False) and all(_holds(path) for path in stage.made)
            stale = any(name in waiting for name in stage.after)
            if stale:
                self.known["of"].get(stage.name, {})["stamp"] = None
            if stale or not whole:
                waiting[stage.name] = stage
            if stage.name not in self.known["of"] and (other := [path for path in stage.made if _holds(path)]):
                raise SystemExit(f"ladder: {other[0]} is there, and no stage of this climb has made it: move it away")
        if not any(self._begun(stage, stamps[stage.name]) for stage in self.chain):
            self.known["seconds"] = 0.0  # nothing of the earlier climb is used; whose its folders are is still known
        return stamps, waiting

    def _climb(self, stamps: Mapping[str, str], waiting: dict[str, Stage]) -> list[str]:
        """Runs the stages that wait, as soon as those before them are whole; returns what failed."""
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
                    self._keep()  # the clock, for a climb that is killed
                    for future in done:
                        stage = running.pop(future)
                        if code := future.result():
                            log = self._log(stage)
                            last = (log.read_text(errors="replace").split("\n") if log.is_file() else [])[-2:-1]
                            said = f": {last[0]}" if last else ""
                            failed.append(f"the stage {stage.name!r} ended with exit code {code}; see {log}{said}")
            except BaseException:
                with self.lock:
                    self.stopping = True
                    for child in self.children:
                        child.terminate()  # else they would go on alone
                raise
        return failed

    def _begun(self, stage: Stage, stamp: str) -> dict[str, Any]:
        """The note on a stage, if it is about this very command."""
        note: dict[str, Any] = self.known["of"].get(stage.name, {})
        return note if note.get("stamp") == stamp else {}

    def _run(self, stage: Stage, stamp: str) -> int:
        """Runs a stage; returns its exit code."""
        note = self._begun(stage, stamp)
        if note.get("whole", True):
            for made in stage.made:  # what another command made, or from other files, is no beginning
                _remove(made)
            note = {"stamp": stamp, "seconds": 0.0}
        note["whole"] = False  # before anything is made: a climb may be killed at any moment
        self._keep(stage.name, note)
        command = f"[bold]{stage.name}[/]\n  mmcomponents {escape(shlex.join(stage.command))}"
        self.console.print(command, highlight=False, soft_wrap=True)
        self._log(stage).parent.mkdir(parents=True, exist_ok=True)
        threads = {"OMP_NUM_THREADS": str(self.jobs if stage.name in self.alone else 1)} if self.jobs > 1 else {}
        words = [sys.executable, "-m", "mmcomponents.cli.main", *stage.command]
        started = time.perf_counter()
        with self._log(stage).open("w") as log:
            with self.lock:
                if self.stopping:
                    return 1
                # the lock is theirs too: no other climb begins while one of them lives
                child = subprocess.Popen(
                    words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **threads}, pass_fds=[self.held]
                )
                self.children.add(child)
            code = child.wait()
        with self.lock:
            self.children.discard(child)
        note["seconds"] += time.perf_counter() - started
        note["whole"] = code == 0 and not self.stopping
        self._keep(stage.name, note)
        ended = "done" if note["whole"] else "stopped" if self.stopping else "failed"
        self.console.print(f"{stage.name}: {ended}, {note['seconds']:.0f} s")
        return code

    def _log(self, stage: Stage) -> Path:
        return self.folder / "logs" / f"{stage.name.replace(' ', '-')}.txt"

    def _keep(self, name: str = "", note: Mapping[str, Any] | None = None) -> None:
        with self.lock:
            if note is not None:
                self.known["of"][name] = dict(note)
            self.known["seconds"] = self.before + time.perf_counter() - self.started
            _write(self.folder / "stages.json", self.known)


def _alone(chain: Sequence[Stage]) -> set[str]:
    """Stages that nothing can run beside: all others come before them or wait for them."""
    before: dict[str, set[str]] = {}
    for stage in chain:
        before[stage.name] = set(stage.after).union(*(before[name] for name in stage.after))
    names = before.keys()
    return {name for name in names if all(name in before[o] or o in before[name] or o == name for o in names)}


def _stamp(stage: Stage, before: Sequence[str]) -> str:
    """Changes with a stage's command, its recipe and what that extends, what draws the data, or a stage before it."""
    read = [json.dumps(recipe.load([word]).tree, default=str) for word in stage.command if word.startswith("ladder/")]
    if stage.command[:2] == ["data", "ladder"]:  # its sizes are defaults
        read += [path.read_text() for path in sorted(Path(mmcomponents.data.__path__[0]).glob("handwriting_*.py"))]
    return hashlib.sha256(json.dumps([*before, *stage.command, *read]).encode()).hexdigest()[:16]


def marks(folder: Path, selector: str) -> dict[str, bool]:
    """Whether what a selector chose is right, by the key of the question."""
    return {line["key"]: line["right"][selector] > 0.5 for line in _results(folder)}


def in_order(folder: Path, critic: str) -> float:
    """Of two candidates to a question, one right and one wrong: how often a critic's score of the right one is higher.

    A solution's score is that of its least step. Equal scores count half.
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
        raise SystemExit(f"ladder: {results} is missing: remove {folder}, and climb again")
    return [json.loads(line) for line in results.read_text().splitlines()]


def paired_test(upper: Mapping[str, bool], lower: Mapping[str, bool]) -> dict[str, float]:
    """McNemar's exact test, two-sided: are wins and losses on the same questions a matter of chance?

    p is about these two models and these scans: it says nothing of other handwriting or other seeds.

    Raises:
        ValueError: A question is in one of the two alone.
    """
    if alone := upper.keys() ^ lower.keys():
        raise ValueError(f"{len(alone)} questions are in one of the two evaluations alone, such as {min(alone)}")
    wins = sum(upper[key] and not lower[key] for key in upper)
    losses = sum(lower[key] and not upper[key] for key in upper)
    several = wins + losses
    tail = sum(comb(several, count) for count in range(min(wins, losses) + 1)) / 2**several
    return {"wins": wins, "losses": losses, "p": min(1.0, 2 * tail)}


def report(seed: int, seconds: Mapping[str, Any]) -> dict[str, Any]:
    """What came of it, from the files of the evaluations and what `Climb.run` returned."""
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
        "add": {rung: _share(of) for rung, of in right.items()},
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
    """Prints the ladder, and which rungs helped."""
    title = f"add, {found['scenes']} held-out scenes, seed {found['seed']}, {found['seconds']:.0f} s"
    table = Table("rung", title=title)
    table.add_column("right", justify="right")
    for rung in RUNGS:
        table.add_row(rung, f"{found['add'][rung]:.1%}")
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


def _holds(path: Path) -> bool:
    """Whether a stage's files are there; an empty folder, or a link to one, is none."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _remove(path: Path) -> None:
    if path.is_symlink() and path.is_dir():  # to a larger disk: the link stays, and the folder itself
        for inside in path.iterdir():
            shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)


def _seed(text: str) -> int:
    seed = int(text) if text.isdecimal() else -1
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"a seed is from 0 to {2**32 - 1}, got {text!r}")
    return seed


def _stop_at_signals() -> None:
    for stop in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stop) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(stop, _terminated)


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Entry; returns the exit code."""
    where = "Data go to data/ladder, runs to runs/ladder of the current folder; a climb that was stopped goes on."
    parser = argparse.ArgumentParser(description=f"Climb the ladder on handwriting. {where}")
    parser.add_argument("--seed", type=_seed, default=0, help="of data, weights and draws (0)")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=2, help="stages that run at a time (2)")
    arguments = parser.parse_args()
    seed, console = arguments.seed, Console()
    _stop_at_signals()
    try:
        found = report(seed, Climb(seed, console, arguments.jobs).run())
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # of a terminal that was closed
            console.print("ladder: stopped; the same command goes on")
        return 130
    except UserError as error:  # of a recipe
        raise SystemExit(f"ladder: {error}") from error
    for folder in (Path(f"runs/ladder/seed-{seed}"), Path("runs/ladder")):
        _write(folder / "report.json", found)
    show(found, console)
    console.print(f"runs/ladder/seed-{seed}/report.json", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
