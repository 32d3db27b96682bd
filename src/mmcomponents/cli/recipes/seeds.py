"""One seed for a run: `seed_everything` is also the seed of weights and data, unless the recipe gives them one."""

from __future__ import annotations

import inspect
import os
import secrets

from mmcomponents.cli.recipes.recipe import Recipe


def with_seeds(recipe: Recipe, owners: dict[str, type | None]) -> Recipe:
    """Returns a recipe whose sections with an argument `seed` refer to `seed_everything`, if that is set.

    Args:
        recipe: Merged recipe.
        owners: Section -> class whose arguments it has.
    """
    given = recipe.tree.get("seed_everything")
    if given is True:  # a random one; Lightning's variable gives the processes that a run starts the same
        seed = int(os.environ.get("PL_GLOBAL_SEED", secrets.randbelow(2**32)))
        recipe = recipe.overlay({"seed_everything": seed}, recipe.origin("seed_everything"))
    elif given is None or given is False:
        return recipe
    for section, owner in owners.items():
        tree = recipe.tree.get(section)
        own = isinstance(tree, dict) and "seed" in tree
        if owner is None or own or not isinstance(tree, dict) or "seed" not in inspect.signature(owner).parameters:
            continue
        tree = {**tree, "seed": "${seed_everything}"}
        origins = {**recipe.origins, f"{section}.seed": recipe.origin("seed_everything")}
        recipe = Recipe({**recipe.tree, section: tree}, origins, recipe.data_class, recipe.sections)
    return recipe
