"""A small sharded checkpoint with the state of an optimizer, as torch writes it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import save
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from mmcomponents.checkpoints.runs import checksums, write_checksums


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Returns a folder of shards with its checksums."""
    folder = tmp_path / "run" / "last.ckpt"
    layer = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"state_dict": layer.state_dict(), "optimizer_0": get_optimizer_state_dict(layer, optimizer)}
        save(state, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": 1}, folder / "meta.pt")
    write_checksums(folder, checksums(folder))
    return folder
