"""Norms of the gradients of each slot, and the callback that logs them."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class GradientNorms(Callback):
    """Logs the norm of the gradients before clipping: `grad_norm/SLOT` for each slot, and `grad_norm` for all.

    They are computed every `log_every_n_steps` steps only; of sharded gradients, over all shards.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Logs the norms of the step; on all ranks, as the norm of a sharded gradient is a collective operation."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not trainer.loggers or not every or (trainer.global_step + 1) % every:
            return
        norms = {}
        for slot, grads in slot_gradients(optimizer).items():
            norm = get_total_norm(grads)
            norms[f"grad_norm/{slot}"] = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if norms:
            on_device = [norm.to(pl_module.device) for norm in norms.values()]
            norms["grad_norm"] = torch.linalg.vector_norm(torch.stack(on_device))
            pl_module.log_dict(norms, batch_size=1)


def slot_gradients(optimizer: Optimizer) -> dict[str, list[Tensor]]:
    """Returns the gradients of each slot that has any.

    Args:
        optimizer: Optimizer whose parameter groups are named by slot, see `mmcomponents.training.slots.param_groups`.

    Returns:
        Gradients by slot, each in its parameter's shape: any shape.
    """
    grads: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        found = [p.grad for p in group["params"] if p.grad is not None]
        if found:
            grads.setdefault(str(group.get("name", "parameters")).split("/")[0], []).extend(found)
    return grads


def local_norms(optimizer: Optimizer) -> dict[str, Tensor]:
    """Computes the norm of the gradients of each slot, a scalar; of sharded gradients, that of this rank's shards."""
    return {
        slot: get_total_norm([grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads])
        for slot, grads in slot_gradients(optimizer).items()
    }
