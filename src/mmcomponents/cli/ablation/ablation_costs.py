"""Parameters and FLOPs of the variants of an ablation, counted without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmcomponents.cli.ablation.ablation_spec import Variant
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


def cost_of(variant: Variant, more: Sequence[str] = ()) -> Cost:
    """Builds a variant on the meta device, as `mmcomponents plan` does.

    Args:
        variant: Variant of the recipe that is built.
        more: Further flags.
    """
    from mmcomponents.cli.recipes.early_check import check_command
    from mmcomponents.cli.recipes.flags import sort_flags
    from mmcomponents.cli.runs.plan_run import estimator_of
    from mmcomponents.component import WiringError
    from mmcomponents.training.memory.estimate import make_plan

    words = [*variant.flags(), *more]
    try:
        check_command("fit", words)
        found = make_plan(*estimator_of("ablate", sort_flags(words)))
    except (UserError, WiringError) as error:
        return Cost(error=" ".join(str(error).split()).removeprefix("ablate: "))
    return Cost(found.parameters["total"], found.trainable["total"], found.training_flops["total"])
