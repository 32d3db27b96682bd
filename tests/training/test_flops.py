"""FLOPs of the parts compared with torch's counter, and the cost of a training step."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tiny
from mmcomponents.batch import VisualFeatures
from mmcomponents.fusers import Fuser
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import NextToken
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import small_model
from mmcomponents.training.flops import peak_flops, step_factors, work

PACK = tiny.pack([("t", 4), ("i", 2), ("t", 9)], [("t", 6)], targets=[7, 2])


def counted(model: MultimodalModel, step: bool = False) -> dict[str, int]:
    """Returns torch's counts for the modules of a model in one forward (and backward) pass of the loss."""
    objective = NextToken()
    counter = FlopCounterMode(display=False)
    # The plain kernel consists of matrix products, which the counter counts; it has no formula for the CPU's fused one.
    with counter, sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(step):
        out = objective(model, PACK, objective.counts(PACK))
        if step:
            out.total.backward()
    return {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}


def excess(heads_width: int = 32, layers: int = 2) -> int:
    """torch counts causal attention as the full square, the backbone as half of it."""
    squares = sum(n**2 for n in PACK.layout.cu_seqlens.diff().tolist())
    return layers * 2 * squares * heads_width


@pytest.mark.parametrize("levels", [(-1,), (1,)])
@pytest.mark.parametrize("linear", [False, True])
def test_parts_count_what_torch_counts(linear, levels) -> None:
    changes = {"projector": LinearProjector(4 * tiny.VISION, tiny.WIDTH)} if linear else {}
    model = tiny.model(vision=tiny.vision(levels=levels), **changes)
    found, parts = counted(model), model.parts()
    assert parts["vision"].flops(PACK) == found["MultimodalModel.vision"]
    assert parts["projector"].flops(PACK) == found["MultimodalModel.projector"]
    assert parts["backbone"].flops(PACK) == found["MultimodalModel.backbone"] - excess()
    rest = found["Global"] - sum(found[f"MultimodalModel.{n}"] for n in ("vision", "projector", "backbone"))
    # The head is called through a method, which no module's count includes; without gradient it only computes logits.
    assert parts["heads.lm"].flops(PACK) == rest == 2 * 9 * tiny.WIDTH * tiny.VOCAB
    assert parts["merger"].flops(PACK) == parts["embedder"].flops(PACK) == parts["position"].flops(PACK) == 0


def test_grouped_heads_of_another_width_are_counted() -> None:
    model = tiny.model(backbone=tiny.backbone(num_heads=2, num_kv_heads=1, head_dim=8))
    assert model.backbone.flops(PACK) == counted(model)["MultimodalModel.backbone"] - excess(heads_width=16)


def test_a_step_costs_three_forward_passes_and_a_frozen_part_less() -> None:
    model = tiny.model().train()
    assert {n: f for n, f in step_factors(model).items() if f != 3} == {"merger": 2, "position": 2}  # of zero FLOPs
    forward = sum(v for n, v in work(model, PACK).items() if "flops" in n)
    # The gradient of the pixels is not computed; the counter counts the full square of causal attention three times,
    # and not the product that the head adds in place.
    patches, head = 2 * 16 * 2 * model.vision.patch_embedding.weight.numel(), model.heads["lm"].flops(PACK)
    assert counted(model, step=True)["Global"] == 3 * (forward + excess()) - patches - head

    for name in ("vision", "projector", "embedder"):
        model.parts()[name].requires_grad_(False)
    factors = step_factors(model)
    assert [factors[n] for n in ("vision", "projector", "backbone", "heads.lm")] == [1, 1, 3, 3]
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    factors = step_factors(model)
    assert [factors[n] for n in ("vision", "projector", "backbone", "heads.lm")] == [1, 3, 2, 2]
    own = {n: p.flops(PACK) for n, p in model.parts().items()}
    expected = own["vision"] + 3 * own["projector"] + 2 * own["heads.lm"] + 2 * (own["backbone"] + excess())
    # The products of attention cost three: the gradient passes through both of their factors.
    attention = 2 * excess()
    assert counted(model, step=True)["Global"] == expected + attention


def test_the_work_of_a_pack() -> None:
    model = tiny.model()
    found = work(model, PACK)
    assert [found[f"work/{n}"] for n in ("tokens", "tiles", "targets")] == [27, 2, 9]
    flops = {n for n in found if n.startswith("work/flops/")}
    assert flops == {f"work/flops/{n}" for n in ("vision", "projector", "embedder", "backbone", "heads.lm")}
    text = work(model, tiny.pack([("t", 5)]))
    assert text.keys() == found.keys()
    assert text["work/flops/vision"] == text["work/flops/projector"] == text["work/tiles"] == 0


def test_counts_need_no_weights() -> None:
    with torch.device("meta"):
        model = tiny.model()
    assert work(model, PACK) == work(tiny.model(merger=partial(PixelUnshuffle, tiny.VISION)()), PACK)


class Mixing(Fuser):
    """Fuser of half the rows that counts its maps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_features = self.out_features = width
        self.linear = torch.nn.Linear(width, width)

    def grid(self, hw: tuple[int, int]) -> tuple[int, int]:
        return hw[0] // 2, hw[1]

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        return 1000.0 * num_tiles + 10 * hw[0] + hw[1]

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        return features


class Counted(PixelUnshuffle):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.linear = torch.nn.Linear(2, 2)

    map_flops = Mixing.map_flops


def test_fuser_and_merger_know_the_grid() -> None:
    model = small_model(fuser=Mixing, merger=Counted)
    found = work(model, tiny.pack([("t", 3), ("i", 2)]))
    rows, columns = model.vision.grid((tiny.TILE, tiny.TILE))
    assert found["work/flops/fuser"] == 2000 + 10 * rows + columns
    assert found["work/flops/merger"] == 2000 + 10 * (rows // 2) + columns
    assert work(model, tiny.pack([("t", 3)]))["work/flops/fuser"] == 0


def test_the_peak_of_a_device_is_that_without_sparsity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == pytest.approx(989e12, rel=1e-3)
    assert peak_flops(torch.device("cuda"), torch.float64) is None
    assert peak_flops(torch.device("cpu"), torch.float32) is None
