"""Projector from any module of torch or another package."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.limits import check_sizes
from mmcomponents.nn.wrapped import matrix_flops
from mmcomponents.projectors.base import Projector, num_addressed, one_map


class ModuleProjector(Projector):
    """Applies a module to the last dimension of the visual tokens.

    Weights that the module's constructor loads are kept; the others are drawn as those of all parts.

    Args:
        in_features: Width of the visual tokens.
        out_features: Width of the backbone.
        module: Class or function that makes the module from both widths, such as `torch.nn.Linear`.

    Raises:
        WiringError: It makes no module, or one that does not map `[N, n, in_features]` to `[N, n, out_features]`.
    """

    def __init__(
        self, in_features: int | tuple[int, ...], out_features: int, module: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        in_features = one_map(self, in_features)
        check_sizes(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        if isinstance(module, nn.Module):
            raise WiringError(
                f"ModuleProjector needs what makes a module of both widths, such as the class {type(module).__name__},"
                " not a module"
            )
        self.module = module(in_features, out_features)
        name = type(self.module).__name__
        if not isinstance(self.module, nn.Module):
            raise WiringError(f"ModuleProjector needs a module, and its factory made a {name}")
        with torch.device("meta"), torch.no_grad():
            try:
                shape = tuple(module(in_features, out_features)(torch.empty(2, 3, in_features)).shape)
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise WiringError(f"{name} does not take tokens [2, 3, {in_features}]: {reason}") from error
        if shape != (2, 3, out_features):
            raise WiringError(
                f"{name} maps tokens [2, 3, {in_features}] to {list(shape)}, and ModuleProjector needs"
                f" [2, 3, {out_features}]"
            )
        self.init_weights()

    def flops(self, batch: PackedBatch) -> float:
        """Counts the matrices over the visual tokens that the pack points to."""
        return matrix_flops(self.module, num_addressed(batch))

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        """Projects the primary map, `[N, n, in_features]` to `[N, n, out_features]`.

        Raises:
            WiringError: It has another width, which the module might not notice.
        """
        tokens = features.primary.tokens
        if tokens.shape[-1] != self.in_features:
            width = tokens.shape[-1]
            raise WiringError(f"{type(self).__name__} takes feature maps of width {self.in_features}, got {width}")
        out: Tensor = self.module(tokens)
        return out
