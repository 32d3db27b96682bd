from __future__ import annotations

from functools import partial

import pytest
import torch

from mmcomponents.training.memory.optimizer_state import state_bytes


@pytest.mark.parametrize(
    ("optimizer", "dtype", "expected"),
    [
        (partial(torch.optim.AdamW, lr=1e-3), torch.float32, 8),
        (partial(torch.optim.AdamW, lr=1e-3, amsgrad=True), torch.float32, 12),
        (partial(torch.optim.AdamW, lr=1e-3), torch.bfloat16, 4),
        (partial(torch.optim.SGD, lr=1e-3), torch.float32, 0),
        (partial(torch.optim.SGD, lr=1e-3, momentum=0.9), torch.float32, 4),
        (partial(torch.optim.Adafactor, lr=1e-3), torch.float32, 2 * 4 / 256),  # a row and a column of a matrix
    ],
)
def test_bytes_per_weight(optimizer, dtype: torch.dtype, expected: float) -> None:
    assert state_bytes(optimizer, dtype) == pytest.approx(expected, abs=1e-3)
