"""Contracts 7 and 10: two ranks equal one, sharded equals unsharded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

import tiny
from checkpoints_models import hf_model
from contracts.pair import Notes, OwnCounts, Sized, folder_of, make_task, micro_batches, train, train_as_rank
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.demos.handwriting.builder import make_handwriting
from mmcomponents.positions import V2PE
from mmcomponents.testing import Ranks
from mmcomponents.training import FSDP2Strategy, SlotOptions

STEPS, WINDOW = 20, 2


def alone(steps: int = STEPS, **options: Any) -> dict[str, Any]:
    """Trains one process on the same global batches."""
    packs = [pack for batches in micro_batches(steps, 2, WINDOW) for ranked in batches for pack in ranked]
    return train(packs, 2 * WINDOW, **options)


def assert_alike(one: dict[str, Any], two: dict[str, Any]) -> None:
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(two["norms"], one["norms"], rtol=1e-5, atol=1e-5)
    assert two["weights"].keys() == one["weights"].keys()
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


FROZEN = {"slots": {"vision": SlotOptions(trainable=False)}}
CHECKPOINTED = {"slots": {"backbone": SlotOptions(activation_checkpointing="full")}}


@pytest.mark.parametrize(
    ("strategy", "task"), [("ddp", CHECKPOINTED), ("fsdp2", FROZEN)], ids=["ddp, checkpointed", "fsdp2, vision frozen"]
)
def test_two_ranks_equal_one(two_ranks, strategy, task) -> None:
    """With more steps than the contract test of each part, with `ddp`, and with a frozen slot."""
    one = alone(task={} if task is CHECKPOINTED else task)
    assert len(one["losses"]) == len(one["norms"]) == STEPS
    assert max(one["norms"]) > 0.5, "clipping is active"
    first, second = two_ranks.run(train_as_rank, strategy, STEPS, WINDOW, {"task": task})
    assert_alike(one, first)
    assert_alike(first, second)


def test_two_ranks_start_from_a_folder_as_one_does(two_ranks, tmp_path: Path) -> None:
    hf_model("300m", "qwen2", False).save_pretrained(tmp_path)
    options = {"task": {"weights": str(tmp_path), "position": partial(V2PE, base=10_000.0)}}
    one = alone(steps=4, **options)
    first, _ = two_ranks.run(train_as_rank, "fsdp2", 4, WINDOW, options)
    assert_alike(one, first)
    drawn = alone(steps=4, task={"position": partial(V2PE, base=10_000.0)})
    assert abs(drawn["losses"][0] - one["losses"][0]) > 0.01, "the weights of the folder are used"


def bf16_as_rank(rank: int) -> dict[str, Any]:
    """Trains in mixed precision: bf16 computation over fp32 weights."""
    mine = [ranked[rank] for batches in micro_batches(3, 2, WINDOW) for ranked in batches]
    strategy = FSDP2Strategy(compute_dtype="bf16")
    return train(mine, WINDOW, strategy=strategy, devices=2)


def test_bf16_computation_over_fp32_weights(two_ranks) -> None:
    one = alone(steps=3)
    first, second = two_ranks.run(bf16_as_rank)
    assert first["losses"] == second["losses"]
    assert {w.dtype for w in first["weights"].values()} == {torch.float32}
    torch.testing.assert_close(first["losses"], one["losses"], rtol=2e-2, atol=0)
    assert first["losses"] != one["losses"]


class Units(Callback):
    """Records the classes of a unit."""

    classes: list[str]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.classes = [kind.__name__ for kind in type(pl_module.model.backbone.layers[0]).__mro__]


def compiled_as_rank(rank: int) -> dict[str, Any]:
    mine = [ranked[rank] for batches in micro_batches(3, 2, WINDOW) for ranked in batches]
    strategy, units = FSDP2Strategy(activation_checkpointing="full", compile=True), Units()
    return train(mine, WINDOW, strategy=strategy, devices=2, callbacks=[units]) | {"units": units.classes}


def test_compiled_and_checkpointed_units_are_sharded(two_ranks) -> None:
    for found in two_ranks.run(compiled_as_rank):
        assert_alike(alone(steps=3), found)
        assert {"Compiled", "Checkpointed", "FSDPModule", "DecoderLayer"} <= {*found["units"]}


def as_rank_with_its_own_mean(rank: int, strategy: str, steps: int) -> dict[str, Any]:
    """Negative test: each micro-batch is divided by its own count."""
    mine = [ranked[rank] for batches in micro_batches(steps, 2, WINDOW) for ranked in batches]
    return train(mine, WINDOW, counts=OwnCounts, strategy=strategy, devices=2)


def test_break_of_contract_7_a_denominator_for_each_rank(two_ranks) -> None:
    one = alone(steps=3)
    wrong, _ = two_ranks.run(as_rank_with_its_own_mean, "ddp", 3)
    with pytest.raises(AssertionError):
        assert_alike(one, wrong)


def train_on_shards(folder: str, world: int) -> dict[str, Any]:
    """Trains three steps of four packs with the library's data module; returns losses and norms."""
    data = PackedDataModule(
        f"{folder}/tokenizer", tiny.VISUAL_TOKENS, f"{folder}/train-*.tar", tile_size=28, max_tiles=1, pack_tokens=600,
        pack_tiles=4, num_workers=0,
    )  # fmt: skip
    notes = Notes()
    run = Trainer(
        accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", max_steps=3, logger=False,
        accumulate_grad_batches=4 // world, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[notes], default_root_dir=folder,
    )  # fmt: skip
    task = make_task(
        vision=partial(tiny.vision, image_size=28, patch_size=7),
        vocab_size=len(data.tokenizer),
        image_token_id=data.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    run.fit(task, datamodule=data)
    return {"losses": notes.losses, "norms": notes.norms, "weights": {}}


def train_on_shards_as_rank(rank: int, folder: str) -> dict[str, Any]:
    return train_on_shards(folder, 2)


def test_two_ranks_of_the_data_module_equal_one(two_ranks, tmp_path: Path) -> None:
    make_handwriting(str(tmp_path), scenes=24, held_out=1, val_scenes=1, vocab_size=400)
    one = train_on_shards(str(tmp_path), 1)
    assert len(one["losses"]) == 3
    for found in two_ranks.run(train_on_shards_as_rank, str(tmp_path)):
        assert_alike(one, found)


def test_a_run_goes_on_from_a_sharded_checkpoint_on_two_ranks_or_one(two_ranks, tmp_path: Path) -> None:
    path = str(tmp_path / "half.ckpt")
    whole, _ = two_ranks.run(train_as_rank, "fsdp2", 4, WINDOW, {})
    two_ranks.run(train_as_rank, "fsdp2", 2, WINDOW, {"save_to": path})
    assert "meta.pt" in folder_of(Path(path))
    assert not Path(path + ".part").exists()
    both = two_ranks.run(resume_as_rank, path, 2)
    single = Ranks(1)
    try:
        one = single.run(resume_as_rank, path, 1)
    finally:
        single.close()
    for resumed in (*both, *one):
        assert_alike({**whole, "losses": whole["losses"][2:], "norms": whole["norms"][2:]}, resumed)


def resume_as_rank(rank: int, path: str, world: int) -> dict[str, Any]:
    """Trains steps 3 and 4 from the checkpoint, as a second epoch, on `world` ranks."""
    batches = [ranked for step in micro_batches(4, 2, WINDOW)[2:] for ranked in step]
    mine = [pack for ranked in batches for pack in ranked[rank::world]]
    return train(mine, 2 * WINDOW // world, strategy="fsdp2", devices=world, ckpt_path=path, max_epochs=2)


def test_packs_differ_between_ranks() -> None:
    batches = micro_batches(1, 2, WINDOW)[0]
    assert [[p.images is None for p in ranked] for ranked in batches] == [[False, True]] * WINDOW
    counts = {int((p.labels >= 0).sum()) for ranked in batches for p in ranked}
    assert len(counts) > 1
    assert batches[0][0].num_tokens != batches[0][1].num_tokens


def as_rank_whose_data_ends_early(rank: int) -> dict[str, Any]:
    """Rank 1 declares as many packs as rank 0 and yields three fewer."""
    mine = [ranked[rank] for batches in micro_batches(4, 2, WINDOW) for ranked in batches]

    class Early(Sized):
        def __iter__(self) -> Iterator[Any]:
            return iter(self.packs[:-3] if rank else self.packs)

    return train(mine, WINDOW, strategy="fsdp2", devices=2, loader=Early)


def test_all_ranks_stop_when_one_has_no_data_left(two_ranks) -> None:
    first, second = two_ranks.run(as_rank_whose_data_ends_early)
    assert len(first["losses"]) == 2, "eight packs against five are two whole windows of two"
    assert_alike(first, second)
