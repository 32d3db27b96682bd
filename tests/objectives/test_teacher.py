"""An objective that stops before the backbone, with a teacher from a folder of another architecture."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

import tiny
from contracts.pair import make_task, micro_batches, train
from mmcomponents.batch import LossOutput, PackedBatch
from mmcomponents.checkpoints import CheckpointError, load
from mmcomponents.nn.runtime import Runtime
from mmcomponents.objectives import Objective
from mmcomponents.objectives.base import Build, Model
from mmcomponents.positions import V2PE
from mmcomponents.testing import Ranks, small_model, small_parts, text_packs
from mmcomponents.testing.case import Case
from mmcomponents.testing.contracts.state_round_trip import write_folder
from mmcomponents.training import SlotOptions
from mmcomponents.training.distributed.fsdp2 import FSDP2Strategy

PACKS = [pack for rows in micro_batches(3, 1, 1) for row in rows for pack in row]
FROZEN = {name: SlotOptions(trainable=False) for name in ("embedder", "backbone", "heads")}


class VisualTokens(Objective):
    """Squared distance of the visual tokens to those of a teacher."""

    needs = ("visual_tokens",)
    denominator = "tiles"

    def __init__(self, teacher: str) -> None:
        super().__init__()
        self.folder = teacher
        self._teacher: tuple[Model, ...] = ()

    def prepare(self, model: Model, build: Build) -> None:
        if not self._teacher:
            self._teacher = (build(self.folder),)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        return {"tiles": 0.0 if batch.images is None else float(batch.images.num_tiles)}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        ours = self._tokens(model, batch)
        with torch.no_grad():
            theirs = self._tokens(self._teacher[0], batch)
        theirs = ours.detach() if theirs is None else theirs  # alone and without gradient, no blank tile is encoded
        total = (ours - theirs).square().mean(-1).sum() / max(totals["tiles"], 1.0)
        if batch.images is None:
            total = 0 * total
        return LossOutput(total, {"loss": total.detach()})

    def _tokens(self, model: Model, batch: PackedBatch) -> Tensor:
        return model(batch, Runtime(needs=self.needs), read=lambda heads, state: state.visual_tokens)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of a model with a deeper encoder."""
    parts = small_parts(vision=tiny.vision_factory(num_layers=3), position=V2PE)
    model = small_model(seed=4, **parts)
    return str(write_folder(Case("vision", None, parts, text_packs), model, tmp_path_factory.mktemp("teacher")))


def run(teacher: str, packs: list[PackedBatch], **options: Any) -> dict[str, Any]:
    task = {"objective": partial(VisualTokens, teacher), "slots": FROZEN, **options.pop("task", {})}
    return train(packs, 1, task, **options)


def test_the_model_stops_before_what_is_not_needed() -> None:
    model = small_model(position=V2PE)
    called: list[str] = []
    for name, part in model.parts().items():
        part.register_forward_hook(lambda *_, name=name: called.append(name))
    batch = PACKS[0]
    state = model(batch, Runtime(needs=("visual_tokens",)))
    assert called == ["vision", "merger", "projector"]
    assert (state.embeds, state.hidden) == (None, None)
    assert torch.equal(state.visual_tokens, model(batch).visual_tokens)
    called.clear()
    assert model(batch, Runtime(needs=("embeds", "visual"))).embeds is not None
    assert "backbone" not in called
    with pytest.raises(
        ValueError, match="the model's state has no 'hiden', only visual, visual_tokens, embeds, hidden"
    ):
        Runtime(needs=("hiden",))


def test_a_student_learns_from_the_teacher_of_a_folder(teacher: str) -> None:
    found = run(teacher, PACKS * 4)
    assert found["losses"][-1] < 0.8 * found["losses"][0]
    assert not any("teacher" in name for name in found["weights"])


def train_as_rank(rank: int, teacher: str, compute_dtype: str) -> tuple[list[float], set[str], bool]:
    kinds: set[str] = set()
    sharded: list[bool] = []

    class Seen(VisualTokens):
        def prepare(self, model: Model, build: Build) -> None:
            super().prepare(model, build)
            parameters = list(self._teacher[0].parameters())  # type: ignore[attr-defined]
            kinds.update(str(p.dtype) for p in parameters)
            sharded.append(all(isinstance(p, DTensor) for p in parameters))

    mine = [ranked[rank] for batches in micro_batches(3, 2, 1) for ranked in batches]
    strategy = FSDP2Strategy(compute_dtype=compute_dtype)  # type: ignore[arg-type]
    task = {"objective": partial(Seen, teacher)}
    found = run(teacher, mine, task=task, strategy=strategy, devices=2)
    return found["losses"], kinds, all(sharded)


def test_a_teacher_is_sharded_like_the_model(teacher: str, two_ranks: Ranks) -> None:
    packs = [pack for rows in micro_batches(3, 2, 1) for row in rows for pack in row]
    one = train(packs, 2, {"objective": partial(VisualTokens, teacher), "slots": FROZEN})
    (losses, kinds, sharded), _ = two_ranks.run(train_as_rank, teacher, "fp32")
    torch.testing.assert_close(losses, one["losses"], rtol=1e-5, atol=1e-5)
    assert (kinds, sharded) == ({"torch.float32"}, True)
    (losses, kinds, sharded), _ = two_ranks.run(train_as_rank, teacher, "bf16")
    assert (kinds, sharded) == ({"torch.bfloat16"}, True)
    assert losses == pytest.approx(one["losses"], rel=0.05)


def test_a_teacher_is_the_model_of_its_folder(teacher: str) -> None:
    task = make_task()
    task.configure_model()
    found, expected = task._another_model(teacher), load(teacher)
    for name, value in expected.named_parameters():
        assert torch.equal(found.get_parameter(name), value), name
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        task._another_model(Path(teacher) / "none")
