"""Memory of each shipped recipe of a training stage on the GPUs that its comment names, without weights.

    python benchmarks/recipe_memory.py [NAME ...]

A comment is a line such as "# Memory: 53.7 GiB on each of 32 GPUs of 80 GB". For each kind of GPU that it names: what
`mmcomponents plan` finds, whether it fits, and the activation checkpointing that computes the least again and fits. The
exit code is 1 if a recipe does not fit, or its comment is not what is found.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmcomponents.cli.models.planned_run import largest_tile, planned_run
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe import SHIPPED, shipped
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.terminal.plan_tables import shown
from mmcomponents.training import MultimodalTask
from mmcomponents.training.memory.estimate import Estimator
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from mmcomponents.training.memory.verdict import RESERVE, verdict
from mmcomponents.training.slots import freeze

FLAGS = {"internvl3/9b-prm": ["--model.heads.lm.init_args.token_ids", "[10, 12]"]}
"""Settings that a recipe leaves to its user."""

_STAGE = re.compile(
    r"internvl[^/]*/.*-|(mmfuser|piip|langbridge)/.*-(stage|finetune)|hovle/2b-(dist|align|fine)|midetr/r50-coco"
    r"|synergen/2b-|got/3b-"
)
_CLAIM = re.compile(r"([0-9.]+) GiB on (?:each of )?([0-9]+) GPUs? of ([0-9]+) GB")


@dataclass(frozen=True)
class Claim:
    """What the comment of a recipe says: GiB on each of a number of devices of so many GB."""

    used: float
    devices: int
    capacity: int


def stages() -> list[str]:
    """Returns the names of the shipped recipes that train on GPUs."""
    return [name for name in shipped() if _STAGE.match(name)]


def claims(name: str) -> list[Claim]:
    """Returns what the comment of a recipe says; nothing if it has none."""
    path = next(root / f"{name}.yaml" for root in SHIPPED if root.is_dir())
    comments = [line.removeprefix("#") for line in Path(path).read_text().splitlines() if line.startswith("#")]
    found = _CLAIM.findall(" ".join(comments))
    return [Claim(float(used), int(devices), int(capacity)) for used, devices, capacity in found]


def estimator_of(name: str, devices: int) -> tuple[Estimator, Any]:
    """Returns the estimator of a recipe on a number of devices, and its settings of activation checkpointing."""
    cli = RecipeCLI("plan", sort_flags(["--config", name, *FLAGS.get(name, [])]), MultimodalTask, data_class=None)
    task: Any = cli.model
    freeze(cli.meta_model, task.slots)
    tree = cli.recipe.resolved()
    run, settings, packing = planned_run(tree, task, cli.meta_model, devices)
    if planned_run(tree, task, cli.meta_model, None)[0].devices > devices:  # the packs of a step follow one another
        run = replace(run, accumulates=True)
    pack = synthetic_pack(cli.meta_model, packing.tokens, None, packing.tiles, largest_tile(tree))
    reference = getattr(task.make_objective(), "reference", None)
    return Estimator(cli.meta_model, run, pack, reference), settings


def used(name: str, claim: Claim) -> float:
    """Returns the GiB that a recipe needs on each device of a claim."""
    estimator, settings = estimator_of(name, claim.devices)
    return estimator.memory(settings).total / 2**30


def main(names: list[str]) -> int:
    """Prints a line for each recipe and kind of device."""
    wrong = 0
    for name in names or stages():
        for claim in claims(name) or [Claim(0.0, 8, 80)]:
            estimator, settings = estimator_of(name, claim.devices)
            found = verdict(estimator, settings, claim.capacity * 2**30)
            total = estimator.memory(settings).total / 2**30
            is_right = found.fits and abs(total - claim.used) < 0.1
            wrong += not is_right
            cheapest = "none" if found.cheapest is None else shown(found.cheapest)
            sys.stdout.write(
                f"{name:28s} {claim.devices:3d} x {claim.capacity:3d} GB: {total:6.1f} GiB with {shown(settings)}"
                f" ({claim.used} in the comment), {'fits' if found.fits else 'DOES NOT FIT'}; cheapest: {cheapest}\n"
            )
            sys.stdout.flush()
    sys.stdout.write(f"{wrong} of them do not fit or are not what the comment says; {RESERVE:.0%} is left free\n")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
