"""Training and evaluation mode of a model, for a loss that also has to know what the model says without its noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_RATES = ("p", "rate", "drop_prob", "dropout", "attention_dropout")


def is_random(model: nn.Module) -> bool:
    """Whether dropout or drop path, by any of the names that they have, make two passes differ."""
    rates = ((module.training, getattr(module, name, None)) for module in model.modules() for name in _RATES)
    return any(training and isinstance(rate, float) and rate > 0.0 for training, rate in rates)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module goes back to its own mode, frozen ones included."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
