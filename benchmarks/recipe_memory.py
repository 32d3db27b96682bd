"""Memory of each shipped recipe of a training stage on the GPUs that its comment names, without weights.

    python benchmarks/recipe_memory.py [NAME ...]

For each recipe and each kind of GPU: memory of a GPU with the recipe's activation checkpointing and with each uniform
setting, and the setting that computes the least again and fits.
"""

from __future__ import annotations

import sys
from typing import Any

from mmcomponents.cli.models.planned_run import planned_run
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe import shipped
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.training import MultimodalTask
from mmcomponents.training.memory.estimate import Estimator
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from mmcomponents.training.memory.verdict import verdict
from mmcomponents.training.slots import freeze

HARDWARE = {
    "1b": ((8, 24), (1, 80)),
    "2b": ((8, 24), (1, 80)),
    "4b": ((8, 80),),
    "8b": ((8, 80),),
    "9b": ((8, 80),),
    "14b": ((8, 80),),
    "38b": ((32, 80),),
    "78b": ((64, 80),),
}
for name in sys.argv[1:] or [n for n in shipped() if n.startswith("internvl") and "-" in n]:
    cli = RecipeCLI("plan", sort_flags(["--config", name]), MultimodalTask, data_class=None)
    task: Any = cli.model
    model = cli.meta_model
    freeze(model, task.slots)
    reference = getattr(task.make_objective(), "reference", None)
    for devices, memory in HARDWARE[name.split("/")[1].split("-")[0]]:
        run, settings, packing = planned_run(cli.recipe.resolved(), task, model, devices)
        est = Estimator(model, run, synthetic_pack(model, packing.tokens, None, packing.tiles), reference)
        v = verdict(est, settings, memory * 2**30)
        u = [round(est.memory(dict.fromkeys(est.slots, s)).total / 2**30, 1) for s in ("none", "selective", "full")]
        print(name, f"{devices}x{memory}", u, v.fits, v.cheapest, v.devices, flush=True)
