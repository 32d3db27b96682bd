"""Negative log-likelihood of a linear head, computed in chunks of logits.

With a vocabulary size of 151,674, the logits of 16,384 positions take 10 GB in fp32. Only positions with a target go
through the head, in chunks. Matrix products run in the dtype of the inputs, everything after them in fp32. The gradient
is computed together with the logits of a chunk, or the logits are recomputed in the backward pass if the weights of the
positions are not known before (`linear_nll`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcomponents.batch import IGNORE
from mmcomponents.nn.autocast import autocast_dtype

CHUNK_LOGITS, CHUNK_ROWS = 2**21, 256
"""Number of logits held at once, in fp32: 8 MB, which fit the cache of a CPU. At least `CHUNK_ROWS` positions, as the
weight is read again for each chunk: 155 MB at a vocabulary size of 151,674."""


def linear_nll(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Computes the negative log-likelihood of each position.

    Args:
        hidden: `[n, d]`.
        weight: `[vocab, d]`.
        labels: `[n]`, `IGNORE` where there is no target.

    Returns:
        fp32 `[n]`, zero where there is no target.
    """
    targets = (labels != IGNORE).nonzero()[:, 0]
    hidden, weight = _autocast(hidden[targets], weight)
    nll = _row_nll(hidden, weight, labels[targets])
    return nll.new_zeros(labels.shape).index_copy(0, targets, nll)


def weighted_linear_nll(hidden: Tensor, weight: Tensor, labels: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Computes a weighted sum of negative log-likelihoods, at a third less cost than weighting `linear_nll`.

    Args:
        hidden: `[n, d]`.
        weight: `[vocab, d]`.
        labels: `[n]`, `IGNORE` where there is no target.
        row_weights: fp32 `[n]`; they get no gradient.

    Returns:
        The sum, an fp32 scalar, and the negative log-likelihood of each position, fp32 `[n]`, without gradient.
    """
    targets = (labels != IGNORE).nonzero()[:, 0]
    hidden, weight = _autocast(hidden[targets], weight)
    total, nll = _weighted_nll(hidden, weight, labels[targets], row_weights[targets].float())
    return total, nll.new_zeros(labels.shape).index_copy(0, targets, nll)


def _autocast(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Applies autocast and no-grad to the operands of a product, as they have no effect in an autograd function."""
    if not torch.is_grad_enabled():  # not visible in a function's forward, which would compute a gradient
        hidden, weight = hidden.detach(), weight.detach()
    dtype = autocast_dtype(hidden.device.type) or weight.dtype
    return hidden.to(dtype), weight.to(dtype)


def _log_probs(hidden: Tensor, weight: Tensor) -> Tensor:
    return torch.log_softmax((hidden @ weight.T).float(), dim=-1)


def _nll(log_probs: Tensor, labels: Tensor) -> Tensor:
    return -log_probs.gather(1, labels[:, None])[:, 0]


def _logit_gradient(log_probs: Tensor, labels: Tensor, row_weights: Tensor) -> Tensor:
    """Overwrites log-probabilities with the gradient of the weighted sum with respect to the logits."""
    grad = log_probs.exp_()
    grad.scatter_add_(1, labels[:, None], grad.new_full((labels.shape[0], 1), -1.0))
    return grad.mul_(row_weights[:, None])


class _WeightedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        nll = torch.empty(labels.shape, dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.zeros_like(hidden) if hidden.requires_grad else None
        # The sum over chunks is fp32, whatever the dtype of the weight.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if weight.requires_grad else None
        for h, y, w, out, rows in _split(hidden, weight, labels, row_weights, nll):
            log_probs = _log_probs(h, weight)
            out.copy_(_nll(log_probs, y))
            grad = _logit_gradient(log_probs, y, w).to(weight.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                _add_product(grad_weight, grad, h)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(nll)
        return (nll * row_weights).sum(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad_total.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad_total).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None


class _RowNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        nll = torch.empty(labels.shape, dtype=torch.float32, device=hidden.device)
        for h, y, _, out, _ in _split(hidden, weight, labels, nll, nll):
            out.copy_(_nll(_log_probs(h, weight), y))
        ctx.save_for_backward(hidden, weight, labels)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nll: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels = ctx.saved_tensors
        need_hidden, need_weight, _ = ctx.needs_input_grad
        grad_hidden = torch.zeros_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        for h, y, w, _, rows in _split(hidden, weight, labels, grad_nll, grad_nll):
            grad = _logit_gradient(_log_probs(h, weight), y, w).to(weight.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                _add_product(grad_weight, grad, h)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None


_row_nll: Callable[[Tensor, Tensor, Tensor], Tensor] = _RowNLL.apply
_weighted_nll: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = _WeightedNLL.apply


def _split(
    hidden: Tensor, weight: Tensor, labels: Tensor, row_weights: Tensor, out: Tensor
) -> list[tuple[Tensor, Tensor, Tensor, Tensor, slice]]:
    size = max(CHUNK_ROWS, CHUNK_LOGITS // weight.shape[0])
    slices = [slice(i, i + size) for i in range(0, labels.shape[0], size)]
    return [(hidden[s], labels[s], row_weights[s], out[s], s) for s in slices]


def _add_product(total: Tensor, grad: Tensor, hidden: Tensor) -> None:
    """Computes `total += grad.T @ hidden` with an fp32 total."""
    if grad.dtype == total.dtype:
        total.addmm_(grad.T, hidden)
    else:
        total += grad.T @ hidden
