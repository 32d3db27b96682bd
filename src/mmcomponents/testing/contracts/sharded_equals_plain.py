"""Contract 10: a model that is built on the meta device and filled afterwards equals one that is built with weights."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from mmcomponents.checkpoints import load_initial
from mmcomponents.compose import Factories
from mmcomponents.testing.case import Case, outputs
from mmcomponents.testing.contracts.state_round_trip import write_folder
from mmcomponents.testing.packs import IMAGE_TOKEN, VOCAB_SIZE
from mmcomponents.testing.ranks import Ranks, modules_sent_as_code
from mmcomponents.testing.report import Findings, NotApplicable
from mmcomponents.testing.training_steps import weights_of
from mmcomponents.training.distributed.sharding import materialize, shard_model


def sharded_equals_plain(case: Case, found: Findings, ranks: Ranks) -> None:
    """Compares all parameters and buffers bit for bit: drawn on one device, and drawn or loaded on two ranks."""
    factories = Factories(**case.parts)
    plain = factories.build(VOCAB_SIZE, IMAGE_TOKEN)
    plain.init_weights(0)
    with torch.device("meta"):
        meta = factories.build(VOCAB_SIZE, IMAGE_TOKEN)
    materialize(meta, torch.device("cpu"), seed=0)
    found.tensors("drawn after the meta device", weights_of(meta), weights_of(plain), allowed=0.0)
    with torch.no_grad():
        expected = outputs(plain.eval(), case.mixed())
        for name, value in outputs(meta.eval(), case.mixed()).items():
            found.equal(f"{name} of a model from the meta device", value, expected[name])
    with tempfile.TemporaryDirectory() as folder:
        other, path = case.model(seed=7), None
        if not modules_sent_as_code(case.parts):  # else a rank imports another class than it is sent
            with suppress(NotApplicable):  # which `state_round_trip` reports
                path = str(write_folder(case, other, Path(folder)))
        for rank, (drawn, loaded) in enumerate(ranks.run(_sharded, case.parts, path)):
            found.tensors(f"drawn on two ranks (rank {rank})", drawn, weights_of(plain), allowed=0.0)
            if loaded is not None:
                found.tensors(f"loaded on two ranks (rank {rank})", loaded, weights_of(other), allowed=0.0)


def _sharded(
    rank: int, parts: dict[str, Any], folder: str | None
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Returns the unsharded weights and buffers of a model as `fsdp2` builds it: as drawn, and as loaded."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", rank=rank, world_size=int(os.environ["WORLD_SIZE"]))
    with torch.device("meta"):
        model = Factories(**parts).build(VOCAB_SIZE, IMAGE_TOKEN)
    shard_model(model, init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    materialize(model, torch.device("cpu"), seed=0)
    drawn = weights_of(model)
    if folder is None:
        return drawn, None
    load_initial(model, folder, trust_remote_code=True)
    return drawn, weights_of(model)
