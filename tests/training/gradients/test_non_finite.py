"""NonFiniteGuard keeps NaN out of the weights, on all ranks in the same step."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import AdamW

import tiny
from contracts.pair import Sized, look_ahead, make_task, whole
from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.component import NonFiniteError
from mmcomponents.projectors import MLPProjector
from mmcomponents.testing import Ranks
from mmcomponents.training import FinalCheckpoint, MultimodalTask, NonFiniteGuard

ALL = "vision, projector, embedder, backbone, heads.lm"


def pack(name: str, *, is_bad: bool = False) -> PackedBatch:
    """Returns a pack of one sample; the pixels of a bad one are NaN."""
    made = tiny.pack([("t", 4), ("i", 1), ("t", 6)], seed=ord(name[0]))
    assert made.images is not None
    if is_bad:
        made.images = replace(made.images, pixels=made.images.pixels * torch.nan)
    return replace(made, keys=[f"shard/{name}"])


A, B, C, BAD = pack("a"), pack("b"), pack("c"), pack("x", is_bad=True)


class BrokenBackward(MLPProjector):
    """Projector with a correct output and a gradient of NaN."""

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        out = super().forward(features)
        return out + (out * 0.0).sqrt()


def fit(
    folder: Path,
    packs: list[PackedBatch],
    guard: NonFiniteGuard,
    *more: Callback,
    window: int = 1,
    task: dict[str, Any] | None = None,
    ckpt_path: Path | None = None,
    val: list[PackedBatch] | None = None,
    **trainer: Any,
) -> tuple[Trainer, dict[str, Tensor]]:
    """Trains for one pass over the packs; returns the trainer and the weights."""
    run = Trainer(
        accelerator="cpu",
        accumulate_grad_batches=window,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[guard, FinalCheckpoint(str(folder), 1), *more],
        **{"logger": False, "max_epochs": 1, "num_sanity_val_steps": 0} | trainer,
    )
    module = make_task(optimizer=partial(AdamW, lr=0.01), **(task or {}))
    run.fit(module, look_ahead(Sized(packs), window, run), val and Sized(val), ckpt_path=ckpt_path)
    return run, weights(module)


def weights(module: LightningModule) -> dict[str, Tensor]:
    assert isinstance(module, MultimodalTask)
    assert module.model is not None
    return {name: whole(p.detach()).clone() for name, p in module.model.named_parameters()}


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_run_stops_before_the_update_and_keeps_the_last_checkpoint(tmp_path: Path, clip: float | None) -> None:
    with pytest.raises(NonFiniteError) as caught:
        fit(tmp_path, [A, B, BAD, C], NonFiniteGuard(), gradient_clip_val=clip)
    assert str(caught.value) == (
        f"step 3: the loss and the gradient of {ALL} are NaN or infinite (samples: shard/x); the run stops and its last"
        " checkpoint is unchanged"
    )
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_the_micro_batch_is_named(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"^step 2: the loss and .* \(samples: shard/x\)"):
        fit(tmp_path, [A, B, BAD, C], NonFiniteGuard(), window=2)


def test_a_gradient_alone_names_its_slots_and_the_samples_of_the_step(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as caught:
        fit(tmp_path, [A, B], NonFiniteGuard(), window=2, task={"projector": BrokenBackward})
    assert str(caught.value).startswith(
        "step 1: the gradient of vision, projector is NaN or infinite (samples: shard/a, shard/b);"
    )


def test_of_many_samples_the_first_are_named(tmp_path: Path) -> None:
    many = replace(tiny.pack(*[[("t", 4), ("i", 1), ("t", 3)]] * 10), keys=[f"k{n}" for n in range(10)])
    with pytest.raises(NonFiniteError, match=r"\(samples: k0, k1, k2, k3, k4, k5, k6, k7 and 2 more\)"):
        fit(tmp_path, [many], NonFiniteGuard(), task={"projector": BrokenBackward})


class Metrics(Callback):
    """Records the logged number of skipped steps."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["train/skipped_steps"]))


def test_a_skipped_step_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Weights, moments and averaged weights are those of a run without the bad pack."""
    metrics, ema = Metrics(), partial(EMAWeightAveraging, decay=0.5)
    with caplog.at_level(logging.WARNING, "mmcomponents"):
        run, found = fit(tmp_path, [A, B, BAD, C], NonFiniteGuard(1), metrics, ema())
    _, wanted = fit(tmp_path / "other", [A, B, C], NonFiniteGuard(), ema())
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert run.global_step == 4
    assert metrics.seen == [0, 0, 1, 1]
    (line,) = [record.getMessage() for record in caplog.records if record.name.endswith("non_finite")]
    assert line.startswith("step 3: the loss and the gradient of")
    assert line.endswith("(samples: shard/x); step skipped (1 of at most 1)")


def test_skipped_steps_are_counted_over_resumes(tmp_path: Path) -> None:
    fit(tmp_path, [A, BAD], NonFiniteGuard(1))
    guard = NonFiniteGuard(1)
    with pytest.raises(NonFiniteError, match=r"step 3: .*; the run stops after 1 skipped steps"):
        fit(tmp_path, [BAD], guard, ckpt_path=tmp_path / "last.ckpt", max_epochs=2)
    assert guard.skipped == 1


class Explodes(Callback):
    """Makes a weight infinite in the update of a step, as an optimizer may."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            torch.nn.init.constant_(next(pl_module.parameters()), torch.inf)


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"^step 2: the weights are NaN or infinite; they are not saved"):
        fit(tmp_path, [A, B, C], NonFiniteGuard(), Explodes(2))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        NonFiniteGuard(-1)


def test_infinite_gradients_are_left_to_a_scaler(tmp_path: Path) -> None:
    def plugin() -> MixedPrecision:
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**120))

    precision = plugin()
    _, found = fit(tmp_path, [A, B], NonFiniteGuard(), plugins=precision)
    assert precision.scaler is not None
    assert precision.scaler.get_scale() == 2.0**118, "two steps with infinite gradients"
    assert all(value.isfinite().all() for value in found.values())
    with pytest.raises(NonFiniteError, match=r"^step 1: the loss is NaN or infinite \(samples: shard/x\)"):
        fit(tmp_path, [BAD], NonFiniteGuard(), plugins=plugin())
    fit(tmp_path, [BAD], NonFiniteGuard(1), plugins=plugin())


def as_rank(rank: int, folder: str, strategy: str, skipped: int, clip: float | None) -> tuple[str, dict[str, Tensor]]:
    """Returns the error and the weights; only the second rank has a bad pack, in the second step."""
    packs = [[A, B, C], [C, BAD, A]][rank]
    try:
        return "", fit(
            Path(folder), packs, NonFiniteGuard(skipped), strategy=strategy, devices=2, gradient_clip_val=clip
        )[1]
    except NonFiniteError as error:
        return str(error), {}


@pytest.mark.parametrize(("strategy", "clip"), [("ddp", 0.5), ("fsdp2", None)])
def test_all_ranks_stop_in_the_same_step(two_ranks: Ranks, tmp_path: Path, strategy: str, clip: float | None) -> None:
    answers = two_ranks.run(as_rank, str(tmp_path), strategy, 0, clip)
    for message, _ in answers:
        assert message.startswith(f"step 2: the loss and the gradient of {ALL} are NaN")
        assert "(samples: shard/x)" in message
    (_, first), (_, second) = two_ranks.run(as_rank, str(tmp_path), strategy, 1, clip)
    assert all(value.isfinite().all() for value in first.values())
    torch.testing.assert_close(first, second, rtol=0, atol=0)


class BadValidation(Callback):
    """Makes the validation loss of one epoch NaN."""

    def __init__(self, epochs: tuple[int, ...]) -> None:
        self.epochs = epochs

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: PackedBatch, *_: Any
    ) -> None:
        if trainer.current_epoch in self.epochs:
            assert batch.images is not None
            batch.images.pixels.mul_(torch.nan)


class Fresh(Sized):
    """Loader that yields copies."""

    def __iter__(self) -> Any:
        return iter([pack("v") for _ in self.packs])


def test_a_validation_loss_of_nan_is_told_once_and_is_not_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = FinalCheckpoint(str(tmp_path / "best"), filename="{step}", monitor="val/loss")
    run = Trainer(
        accelerator="cpu", max_epochs=4, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, num_sanity_val_steps=0, callbacks=[best, BadValidation((0, 2, 3))],
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "mmcomponents"):
        run.fit(module := make_task(), look_ahead(Sized([A]), 1, run), Fresh([A]))
    assert best.best_model_path.endswith("step=2.ckpt")
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("validation_means")]
    assert lines == ["step 1: val/loss is NaN or infinite; later such values are only logged"]
    assert run.global_step == 4
    assert all(value.isfinite().all() for value in weights(module).values())
