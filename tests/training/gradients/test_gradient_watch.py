"""GradientWatch stops the run on every rank if a part is not connected, and only then."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import SGD

import tiny
from contracts.pair import Sized, look_ahead, make_task
from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.heads import LMHead
from mmcomponents.projectors import MLPProjector
from mmcomponents.training import GradientWatch, MultimodalTask, NoGradientError, SlotOptions

IMAGE = [("t", 3), ("i", 1), ("t", 6)]
TEXT = [("t", 8)]


class Cut(MLPProjector):
    """Projector whose output is multiplied by zero."""

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        return super().forward(features) * 0.0


class Detached(MLPProjector):
    """Projector whose output is detached."""

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        return super().forward(features).detach()


def fit(
    packs: list[PackedBatch], window: int = 1, steps: int = 10, ahead: bool = True, **changes: Any
) -> tuple[Trainer, GradientWatch]:
    watch = GradientWatch(steps)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=window,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    task = make_task(optimizer=partial(SGD, lr=0.01), **changes)
    loader = Lookahead(Sized(packs), window, task.counts) if ahead else torch.utils.data.DataLoader(packs, None)
    trainer.fit(task, loader)
    return trainer, watch


def packs(*kinds: list[tuple[str, int]]) -> list[PackedBatch]:
    return [tiny.pack(kind, seed=n) for n, kind in enumerate(kinds)]


FROZEN_VISION = {"slots": {"vision": SlotOptions(trainable=False)}}


@pytest.mark.parametrize("projector", [Cut, Detached])
def test_a_part_without_gradient_is_named(projector) -> None:
    with pytest.raises(NoGradientError) as caught:
        fit(packs(*[IMAGE] * 12), projector=projector, **FROZEN_VISION)
    assert str(caught.value) == (
        f"projector ({projector.__name__}) received no gradient in the first 10 steps with images; "
        "freeze it (model.slots.projector.trainable: false) or connect it"
    )


def test_all_silent_parts_are_named() -> None:
    with pytest.raises(NoGradientError, match=r"vision \(InternViT\) and projector \(Cut\) .* freeze them \(model"):
        fit(packs(*[IMAGE] * 2), steps=2, projector=Cut)


@pytest.mark.parametrize("ahead", [True, False])
def test_only_steps_with_images_count(ahead) -> None:
    mixed = packs(*[TEXT, IMAGE, TEXT] * 3)  # three steps with images
    trainer, _ = fit(mixed, steps=4, ahead=ahead, projector=Cut)
    assert trainer.global_step == 9
    with pytest.raises(NoGradientError, match="first 3 steps with images"):
        fit(mixed, steps=3, ahead=ahead, projector=Cut)


def test_an_image_in_any_micro_batch_makes_a_step_with_images() -> None:
    with pytest.raises(NoGradientError, match="first 2 steps with images"):
        fit(packs(IMAGE, TEXT, TEXT, IMAGE), window=2, steps=2, projector=Cut)


def test_a_run_without_images_is_not_judged() -> None:
    trainer, _ = fit(packs(*[TEXT] * 4), steps=2)
    assert trainer.global_step == 4


def test_a_model_without_vision_is_judged_on_text() -> None:
    class Deaf(tiny.DecoderLM):
        def forward(self, x: Tensor, *rest: Any) -> Tensor:
            return super().forward(x * 0.0, *rest)

    parts = {"vision": None, "merger": None, "projector": None, "backbone": partial(Deaf, 32, 2, 4, 48)}
    with pytest.raises(NoGradientError, match=r"embedder \(TokenEmbedder\).* in the first 2 steps; freeze it"):
        fit(packs(*[TEXT] * 3), steps=2, **parts)


def test_a_healthy_run_goes_on_and_the_watch_stops_looking() -> None:
    trainer, watch = fit(packs(*[IMAGE] * 4), steps=2)
    assert trainer.global_step == 4
    assert watch._checked == 1


def test_frozen_parts_and_a_watch_of_no_steps_are_exempt() -> None:
    frozen = {"slots": {"vision": SlotOptions(False), "projector": SlotOptions(False)}}
    assert fit(packs(*[IMAGE] * 3), steps=2, projector=Cut, **frozen)[0].global_step == 3
    assert fit(packs(*[IMAGE] * 3), steps=0, projector=Cut)[0].global_step == 3
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        GradientWatch(-1)


def as_rank(rank: int, strategy: str, task: dict[str, Any], steps: int) -> str:
    """Two ranks, of which the second never has an image."""
    mine = packs(*[(IMAGE, TEXT)[rank]] * steps)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[GradientWatch(3)],
    )
    module: MultimodalTask = make_task(**task)
    try:
        # After the sanity check FSDP2 keeps a tied weight unsharded: another parameter than the one with the gradient.
        trainer.fit(module, look_ahead(Sized(mine), 1, trainer), Sized(packs(IMAGE, IMAGE)))
    except NoGradientError as error:
        return f"{trainer.global_step}: {error}"
    return f"{trainer.global_step}: healthy"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_end_together(two_ranks, strategy) -> None:
    answers = two_ranks.run(as_rank, strategy, {"projector": Cut, **FROZEN_VISION}, 5)
    assert answers[0] == answers[1]
    assert answers[0].startswith("2: projector (Cut) received no gradient in the first 3 steps with images")
    assert two_ranks.run(as_rank, strategy, {"heads": {"lm": partial(LMHead, tied=True)}}, 4) == ["4: healthy"] * 2


def flags_as_rank(rank: int) -> str:
    """The only gradient of a part is in the shard of rank zero, which alone has an image."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    module, watch, run = make_task(), GradientWatch(1), SimpleNamespace(world_size=2)
    module.configure_model()
    for p in module.model.parameters():
        p.grad = torch.full_like(p, float(rank == 0))
    watch.on_train_start(run, module)
    watch.on_train_batch_start(run, module, packs((IMAGE, TEXT)[rank])[0], 0)
    try:
        watch.on_before_optimizer_step(run, module, None)
    except NoGradientError as error:
        return str(error)
    return f"{watch._checked} checked, {len(watch._waiting)} waiting"


def test_a_gradient_or_an_image_on_one_rank_counts_for_all(two_ranks) -> None:
    assert two_ranks.run(flags_as_rank) == ["1 checked, 0 waiting"] * 2
