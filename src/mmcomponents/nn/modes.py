"""Training and evaluation mode of a model, for losses that also need its output without dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_RATES = ("p", "rate", "drop_prob", "dropout", "attention_dropout")


def is_random(model: nn.Module) -> bool:
    """Returns whether dropout or drop path is active (any attribute name of a rate), so that two passes differ."""
    rates = ((module.training, getattr(module, name, None)) for module in model.modules() for name in _RATES)
    return any(training and isinstance(rate, float) and rate > 0.0 for training, rate in rates)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Sets evaluation mode within the block and then restores the mode of each module, frozen ones included."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
