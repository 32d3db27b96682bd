"""The ladder: native pre-training, fine-tuning, MPO, critics and best-of-N on handwriting, by the command line alone.

    python examples/ladder.py --seed 0

prints each command before it runs it, so that any of them can be copied, and writes `runs/ladder/seed-0/report.json`
(the last one also as `runs/ladder/report.json`). A run that was stopped goes on with the stage it was in; a stage is
done again where its command, its recipes or a stage before it have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmcomponents.inference.critic import SYSTEM

RECIPES = Path(__file__).parents[1] / "recipes" / "ladder"
RUNGS = ("pretrain", "sft", "mpo", "best_of_8_orm", "best_of_8_prm", "oracle_8")
PAIRED = (("sft", "pretrain"), ("mpo", "sft"), ("best_of_8_prm", "mpo"), ("best_of_8_orm", "mpo"),
          ("best_of_8_prm", "best_of_8_orm"))  # fmt: skip
"""Rungs that are compared on the same scenes: the upper one and the lower one."""


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: Of the stage.
        command: Words behind `mmcomponents`.
        made: Folder that it makes.
    """

    name: str
    command: Sequence[str]
    made: Path


def stages(seed: int) -> list[Stage]:
    """The chain for a seed."""
    data, runs = Path(f"data/ladder/seed-{seed}"), Path(f"runs/ladder/seed-{seed}")
    drawn = ["--seed", f"{seed}"]
    told = ["--words", SYSTEM]  # critics read it with every solution
    found = [Stage("data", ["data", "ladder", "--out", f"{data}", *drawn, *told], data)]

    def fit(rung: str) -> None:
        recipe, run = ["--config", f"ladder/{rung}", "--seed_everything", f"{seed}"], runs / rung
        found.append(Stage(f"train {rung}", ["fit", *recipe], run))
        last = ["--ckpt_path", f"{run}/checkpoints/last.ckpt"]
        where = ["--format", "mmcomponents", "--out", f"{run}/model", "--overwrite"]
        trained = ["--config", f"{run}/recipe.yaml", *last]
        found.append(Stage(f"export {rung}", ["export", *trained, *where], run / "model"))

    def evaluate(rung: str, *more: str) -> None:
        out, shards = runs / "evaluate" / rung, f"{data}/test-*.tar"
        how = ["--benchmark", shards, "--metric", "final", "--max_new_tokens", "110", *drawn, "--out", f"{out}"]
        found.append(Stage(f"evaluate {rung}", ["evaluate", f"{runs}/{rung}/model", *how, *more], out))

    def draw(kind: str, rung: str, questions: str, out: Path, *more: str) -> None:
        what = [f"{runs}/{rung}/model", f"{data}/{questions}-000000.tar", "--out", f"{out}"]
        how = ["--max_new_tokens", "110", *drawn]
        found.append(Stage(f"draw {kind}", ["data", kind, *what, *how, *more], out))

    fit("digits")
    fit("pretrain")
    evaluate("pretrain")
    fit("sft")
    evaluate("sft")
    draw(
        "preferences", "sft", "preferences", runs / "pairs", "--samples", "8", "--temperature", "1", "--max_pairs", "2"
    )
    fit("mpo")
    draw("steps", "mpo", "critic", runs / "steps", "--samples", "4", "--temperature", "1.2", "--completions", "4")
    fit("prm")
    fit("orm")
    critics = ["--process_critic", f"{runs}/prm/model", "--outcome_critic", f"{runs}/orm/model"]
    evaluate("mpo", "--samples", "8", "--temperature", "1.2", "--top_p", "1.0", *critics)
    return found


def climb(seed: int, console: Console) -> dict[str, float]:
    """Runs what is not whole yet; returns seconds by stage."""
    notes = Path(f"runs/ladder/seed-{seed}/stages.json")
    known: dict[str, Any] = json.loads(notes.read_text()) if notes.is_file() else {}
    program = Path(sys.executable).with_name("mmcomponents")
    stamp = ""
    for stage in stages(seed):
        stamp = _stamp(stamp, stage)
        note = known.get(stage.name, {})
        begun = note.get("stamp") == stamp
        whole = begun and note["whole"]
        console.print(f"\n[bold]{stage.name}[/]" + (f": done, {note['seconds']:.0f} s" if whole else ""))
        console.print(f"  mmcomponents {shlex.join(stage.command)}", markup=False, highlight=False, soft_wrap=True)
        if whole:
            continue
        if not begun:
            shutil.rmtree(stage.made, ignore_errors=True)  # what another command made is no begin of this one
            note = {"stamp": stamp, "whole": False, "seconds": 0.0}
        started = time.perf_counter()
        try:
            code = subprocess.run([program, *stage.command], check=False).returncode
        finally:
            note["seconds"] += time.perf_counter() - started
            known[stage.name] = note
            _write(notes, known)
        if code:
            raise SystemExit(f"ladder: the stage {stage.name!r} ended with exit code {code}")
        note["whole"] = True
        _write(notes, known)
    return {stage.name: known[stage.name]["seconds"] for stage in stages(seed)}


def _stamp(before: str, stage: Stage) -> str:
    """Tells whether a stage, what it reads from recipes, or a stage before it has changed."""
    texts = [path.read_text() for path in sorted(RECIPES.glob("*.yaml")) if f"ladder/{path.stem}" in stage.command]
    return hashlib.sha256(json.dumps([before, *stage.command, *texts]).encode()).hexdigest()[:16]


def marks(folder: Path, selector: str) -> dict[str, bool]:
    """Whether what a selector chose is right, by the key of the question."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {line["key"]: line["right"][selector] > 0.5 for line in lines}


def paired_test(upper: Mapping[str, bool], lower: Mapping[str, bool]) -> dict[str, float]:
    """McNemar's exact test, two-sided: are wins and losses on the same questions a matter of chance?"""
    wins = sum(upper[key] and not lower[key] for key in upper)
    losses = sum(lower[key] and not upper[key] for key in upper)
    several = wins + losses
    tail = sum(comb(several, count) for count in range(min(wins, losses) + 1)) / 2**several
    return {"wins": wins, "losses": losses, "p": min(1.0, 2 * tail)}


def report(seed: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """What came of it, from the files of the evaluations."""
    folder = Path(f"runs/ladder/seed-{seed}/evaluate")
    right = {
        "pretrain": marks(folder / "pretrain", "first"),
        "sft": marks(folder / "sft", "first"),
        "mpo": marks(folder / "mpo", "first"),
        "best_of_8_prm": marks(folder / "mpo", "best_of_n_prm"),
        "best_of_8_orm": marks(folder / "mpo", "best_of_n_orm"),
        "oracle_8": marks(folder / "mpo", "oracle"),
    }
    return {
        "add": {rung: sum(of.values()) / len(of) for rung, of in right.items()},
        "seconds": round(sum(seconds.values()), 1),
        "seed": seed,
        "scenes": len(right["mpo"]),
        "paired": {f"{upper} over {lower}": paired_test(right[upper], right[lower]) for upper, lower in PAIRED},
        "self_consistency_8": _share(marks(folder / "mpo", "self_consistency")),
        "stages": {name: round(value, 1) for name, value in seconds.items()},
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
    console.print(table)
    table = Table("paired")
    for name in ("wins", "losses", "p"):
        table.add_column(name, justify="right")
    for name, test in found["paired"].items():
        table.add_row(name, f"{test['wins']}", f"{test['losses']}", f"{test['p']:.2g}")
    console.print(table)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)


def main() -> None:
    """Entry."""
    parser = argparse.ArgumentParser(description="Climb the ladder on handwriting.")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and draws (0)")
    seed = parser.parse_args().seed
    console = Console()
    found = report(seed, climb(seed, console))
    for folder in (Path(f"runs/ladder/seed-{seed}"), Path("runs/ladder")):
        _write(folder / "report.json", found)
    show(found, console)
    console.print(f"runs/ladder/seed-{seed}/report.json", highlight=False)


if __name__ == "__main__":
    main()
