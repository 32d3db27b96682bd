"""Parameters and FLOPs of the variants of an ablation, counted without weights."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from typing import Any

from mmcomponents.cli.ablation.ablation_spec import Settings, Variant, flags_of
from mmcomponents.cli.user_error import UserError


@dataclass(frozen=True)
class Cost:
    """What a variant costs.

    Attributes:
        parameters: Number of parameters.
        trainable: Those that are trained.
        flops: Floating-point operations of a training step over a full pack.
        error: Why the variant cannot be built, in one line; the figures are None then.
    """

    parameters: int | None = None
    trainable: int | None = None
    flops: int | None = None
    error: str = ""

    def row(self) -> dict[str, Any]:
        """Returns the cost as a JSON value."""
        return asdict(self)


def cost_of(variant: Variant) -> Cost:
    """Builds a variant on the meta device, as `mmcomponents plan` does."""
    from mmcomponents.cli.recipes.flags import sort_flags
    from mmcomponents.cli.runs.plan_run import estimator_of
    from mmcomponents.component import WiringError
    from mmcomponents.training.memory.estimate import make_plan

    try:
        _check("fit", variant.flags())
        found = make_plan(*estimator_of("ablate", sort_flags(variant.flags())))
    except (UserError, WiringError) as error:
        return Cost(error=" ".join(str(error).split()).removeprefix("ablate: "))
    return Cost(found.parameters["total"], found.trainable["total"], found.training_flops["total"])


def errors_of_tests(variant: Variant, tests: Mapping[str, Settings]) -> dict[str, str]:
    """Returns why settings of tests are invalid, in one line, by the name of the test."""
    found = {}
    for name, settings in tests.items():
        try:
            _check("test", [*variant.flags(), *flags_of(settings.items())])
        except UserError as error:
            found[name] = str(error)
    return found


def _check(verb: str, words: Sequence[str]) -> None:
    """Checks all keys and values of a recipe with flags, as the verb does before it builds anything.

    Raises:
        UserError: One is unknown or invalid.
    """
    from mmcomponents.cli.recipes.early_check import check_command
    from mmcomponents.cli.recipes.flags import sort_flags
    from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.training import MultimodalTask

    check_command(verb, [*words])
    with redirect_stdout(io.StringIO()), suppress(SystemExit):  # it prints the recipe, and ends
        RecipeCLI(verb, sort_flags([*words, "--print_config"]), MultimodalTask, PackedDataModule)
