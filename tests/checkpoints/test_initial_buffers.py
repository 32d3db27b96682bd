"""Buffers of parts in a folder, as `InitialWeights` loads them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig
from torch import nn

from mmcomponents.checkpoints import load_initial
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import small_model, small_parts, text_packs
from mmcomponents.testing.case import Case
from mmcomponents.testing.contracts.state_round_trip import write_folder
from mmcomponents.training import SlotOptions
from mmcomponents.training.adapters import inject_adapters


class Scaled(nn.Linear):
    """Linear map with a buffer."""

    def __init__(self, in_features: int, out_features: int, value: float) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("scale", torch.full((2,), value))


class OfScaled(LinearProjector):
    """Projector of such a map."""

    def __init__(self, in_features: int, out_features: int, value: float = 0.0) -> None:
        super().__init__(in_features, out_features)
        self.linear = Scaled(in_features, out_features, value)
        self.init_weights()


def test_a_buffer_of_a_layer_with_an_adapter_is_loaded(tmp_path: Path) -> None:
    parts = small_parts(projector=partial(OfScaled, value=3.0))
    folder = write_folder(Case("projector", None, parts, text_packs), small_model(**parts), tmp_path)
    model = small_model(projector=OfScaled)
    inject_adapters(model, {"projector": SlotOptions(adapter=LoraConfig(target_modules=["linear"], r=2))})
    load_initial(model, {"projector": folder}, trust_remote_code=True)
    assert model.projector.linear.base_layer.scale.tolist() == [3.0, 3.0]
