"""One seed for a run: `seed_everything` is also the seed of weights and data, unless the recipe gives them one."""

from __future__ import annotations

import inspect
import os
import re
import secrets

from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.user_error import UserError


def with_seeds(recipe: Recipe, owners: dict[str, type | None]) -> Recipe:
    """Returns a recipe whose sections with an argument `seed` refer to `seed_everything`, if that is set.

    Args:
        recipe: Merged recipe.
        owners: Section -> class whose arguments it has.
    """
    given = recipe.tree.get("seed_everything")
    if given is True:  # a random one; Lightning's variable gives the processes that a run starts the same
        text = os.environ.get("PL_GLOBAL_SEED", str(secrets.randbelow(2**32)))
        if not text.isdecimal():
            raise UserError(f"the environment variable PL_GLOBAL_SEED must be a whole number, got {text!r}")
        seed = int(text)
        recipe = recipe.overlay({"seed_everything": seed}, recipe.origin("seed_everything"))
    elif given is None or given is False:
        return recipe
    elif (number := re.fullmatch(r"\s*(-?\d+)\s*", str(given))) and not 0 <= int(number[1]) < 2**32:
        place = recipe.place("seed_everything")
        raise UserError(f"seed_everything{place} must be from 0 to {2**32 - 1}, got {given}")
    for section, owner in owners.items():
        tree = recipe.tree.get(section)
        own = isinstance(tree, dict) and "seed" in tree
        if owner is None or own or not isinstance(tree, dict) or "seed" not in inspect.signature(owner).parameters:
            continue
        tree = {**tree, "seed": "${seed_everything}"}
        origins = {**recipe.origins, f"{section}.seed": recipe.origin("seed_everything")}
        recipe = Recipe({**recipe.tree, section: tree}, origins, recipe.data_class, recipe.sections)
    return recipe
