"""Models without a language side: they compose, train on packs without tokens, shard and resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer

import tiny
from mmcomponents.batch import PackedBatch
from mmcomponents.cli.main import main
from mmcomponents.component import WiringError
from mmcomponents.compose import Factories
from mmcomponents.heads import LMHead
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.runtime import Runtime
from mmcomponents.objectives import NextToken
from mmcomponents.positions import V2PE, RoPE
from mmcomponents.testing import Ranks, check_component, image_packs, join, small_model, small_parts
from mmcomponents.testing.training_steps import PackList, run_steps
from mmcomponents.training.distributed.sharding import materialize
from mmcomponents.training.flops import work
from mmcomponents.training.memory.device_memory import Run
from mmcomponents.training.memory.estimate import Estimator, make_plan
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from no_language import SLOTS, BoxHead, BoxLoss, ManyMaps, seeing_task

PACKS = [pack for seed in range(2) for pack in image_packs(seed, tile=tiny.TILE, tokens_per_tile=tiny.VISUAL_TOKENS)]
"""Packs 4 and 9 have no images."""


def test_packs_without_tokens_have_no_positions_and_no_work_of_tokens() -> None:
    model, batch = small_model(**SLOTS, heads={"boxes": BoxHead}), join(*PACKS[:5])
    assert batch.num_tokens == 0
    assert batch.num_segments == 5
    assert batch.layout.cu_seqlens.tolist() == [0] * 6
    assert batch.layout.segment_of_token().shape == (0,)
    found = work(model, batch)
    assert (found["work/tokens"], found["work/tiles"], found["work/targets"]) == (0, 7, 0)
    assert found["work/flops/vision"] > 0
    boxes = model(batch, read=lambda heads, state: heads["boxes"](state, batch))
    assert boxes.shape == (7, 4)


def test_a_head_is_built_with_the_width_of_the_last_map() -> None:
    assert small_model(**SLOTS, heads={"boxes": BoxHead}).heads["boxes"].in_features == 4 * tiny.VISION
    assert small_model(**SLOTS, merger=None, heads={"boxes": BoxHead}).heads["boxes"].in_features == tiny.VISION
    maps = tiny.vision_factory(levels=(1, 2))
    model = small_model(**SLOTS, merger=None, vision=maps, heads={"boxes": ManyMaps})
    assert model.heads["boxes"].in_features == (tiny.VISION, tiny.VISION)
    factories = Factories(**small_parts(**SLOTS, heads={"boxes": BoxHead}))
    assert factories.build(None, None).heads["boxes"].in_features == 4 * tiny.VISION


def test_what_a_head_needs_is_said() -> None:
    nothing = dict.fromkeys(("vision", "merger"))
    with pytest.raises(WiringError, match="the head boxes needs a backbone or a vision encoder and the recipe has nei"):
        small_model(**SLOTS, **nothing, heads={"boxes": BoxHead})
    parts = small_parts(**SLOTS, heads={"lm": LMHead})
    with pytest.raises(WiringError, match="the head lm cannot be built for width 96 and vocab_size None: vocab_size m"):
        Factories(**parts).build(None, None)
    maps = small_parts(**SLOTS, merger=None, vision=tiny.vision_factory(levels=(1, 2)), heads={"boxes": BoxHead})
    with pytest.raises(WiringError, match=r"the head boxes cannot be built for width \(24, 24\) and vocab_size 64: "):
        Factories(**maps).build(64, None)
    with pytest.raises(WiringError, match=r"the head lm \(LMHead\) reads hidden states and the backbone slot is empty"):
        Factories(**parts).build(64, None)


def test_a_run_trains_and_resumes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 2}
    whole = run_steps(seeing_task(), PACKS, 2, **options)
    assert whole["losses"][-1] < whole["losses"][0]
    path = str(tmp_path / "half.ckpt")
    run_steps(seeing_task(), PACKS, 2, save_to=path)
    rest = run_steps(seeing_task(), PACKS, 2, ckpt_path=path, **options)
    assert rest["losses"] == whole["losses"][len(PACKS) // 2 :]
    for name, value in rest["weights"].items():
        assert torch.equal(value, whole["weights"][name]), name


def ranked(rank: int) -> list[PackedBatch]:
    """Returns the packs of a rank; in each micro-batch one of the ranks may have no images."""
    return [PACKS[4], PACKS[1], PACKS[2], PACKS[9]] if rank else [PACKS[0], PACKS[4], PACKS[3], PACKS[5]]


def train_as_rank(rank: int, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains an epoch, and a second one from the checkpoint of the first."""
    options: dict[str, Any] = {"strategy": "fsdp2", "devices": 2}
    first = run_steps(seeing_task(), ranked(rank), 2, save_to=path, **options)
    return first, run_steps(seeing_task(), ranked(rank), 2, ckpt_path=path, max_epochs=2, **options)


def test_two_ranks_equal_one_and_resume(two_ranks: Ranks, tmp_path: Path) -> None:
    together = [pack for pair in zip(ranked(0), ranked(1), strict=True) for pack in pair]
    one = run_steps(seeing_task(), together, 4, max_epochs=2)
    for first, second in two_ranks.run(train_as_rank, str(tmp_path / "last.ckpt")):
        assert [*first["losses"], *second["losses"]] == pytest.approx(one["losses"], rel=1e-5)
        for name, value in one["weights"].items():
            torch.testing.assert_close(second["weights"][name], value, rtol=1e-5, atol=1e-5)


def test_the_contracts_of_a_head_that_reads_maps(two_ranks: Ranks) -> None:
    report = check_component(
        "head", BoxHead, neighbours=SLOTS, packs=image_packs, ranks=two_ranks,
        not_applicable={"attention_backends_agree": "it has no attention"},
    )  # fmt: skip
    skipped = {result.test for result in report.results if result.status == "not applicable"}
    without_units = "checkpointing_changes_nothing"
    assert skipped == {
        "decode_equals_forward",
        "neutral_start",
        "attention_backends_agree",
        "warm_start",
        without_units,
    }


def test_an_objective_of_maps_has_contracts_too(two_ranks: Ranks) -> None:
    neighbours = SLOTS | {"heads": {"boxes": BoxHead}}
    report = check_component("objective", BoxLoss, neighbours=neighbours, packs=image_packs, ranks=two_ranks)
    assert {result.status for result in report.results} == {"passed"}


def test_a_plan_has_tiles_and_no_tokens() -> None:
    with torch.device("meta"):
        model = small_model(**SLOTS, heads={"boxes": BoxHead})
    estimator = Estimator(model, Run(), synthetic_pack(model, 64, None))
    found = make_plan(estimator, {"vision": "none"})
    assert found.problem is None
    assert found.pack == {"tokens": 0, "tiles": 48, "visual_tokens": 0, "targets": 0, "segments": 1}
    assert found.flops["vision"] == 48 * model.vision.flops(synthetic_pack(model, 64, 1)) > 0
    real = small_model(**SLOTS, heads={"boxes": BoxHead})
    batch = synthetic_pack(real, 64, 3)
    assert real(batch, read=lambda heads, state: heads["boxes"](state, batch)).shape == (3, 4)


RECIPE = """
model:
  vision:
    class_path: InternViT
    init_args: {hidden_size: 24, num_layers: 2, num_heads: 3, intermediate_size: 40, image_size: 16, patch_size: 4}
  merger: PixelUnshuffle
  heads: {boxes: no_language.BoxHead}
  objective: no_language.BoxLoss
"""


def test_a_recipe_without_a_language_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    assert main(["plan", "--config", str(recipe), "--tiles", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pack"]["tiles"] == 3
    assert found["parameters"]["head"] == 4 * 4 * tiny.VISION + 4
    many = ["--model.vision.levels", "[1,2]", "--model.merger", "null"]
    assert main(["plan", "--config", str(recipe), *many]) == 2
    assert "the head boxes cannot be built for width (24, 24) and vocab_size None" in capsys.readouterr().err
    assert main(["plan", "--config", str(recipe), *many, "--model.heads.boxes", "no_language.ManyMaps"]) == 0


def test_the_data_of_a_task_without_a_language_side_need_not_know_its_visual_tokens() -> None:
    class Data(LightningDataModule):
        """Records the arguments."""

        def check_model(self, **model: Any) -> None:
            self.model = model

    data = Data()
    seeing_task().check(data)
    assert (data.model["tokens_per_tile"], data.model["image_size"], data.model["vocab_size"]) == (
        None,
        tiny.TILE,
        None,
    )


def test_validation_is_the_mean_over_all_boxes() -> None:
    task = seeing_task()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.validate(task, PackList(PACKS[:5]), verbose=False)
    objective, batch = BoxLoss(), join(*PACKS[:5])
    with torch.no_grad():
        expected = objective(task.model, batch, objective.counts(batch)).total
    torch.testing.assert_close(trainer.callback_metrics["val/loss"], expected, rtol=1e-5, atol=1e-5)


def test_a_call_that_decodes_may_leave_visual_tokens_out() -> None:
    model = tiny.model()
    batch, text = tiny.pack([("t", 3), ("i", 2), ("t", 2)]), tiny.pack([("t", 3)], seed=1)
    with torch.no_grad():
        tokens = model.project(model.encode(batch.images))
        assert tokens.shape[0] == 2 * tiny.VISUAL_TOKENS
        unguided = model(text, Runtime(visual_tokens=tokens)).hidden
        torch.testing.assert_close(unguided, model(text).hidden)
        cache = KVCache()
        model(text, Runtime(cache=cache))
        model(replace(text, images=batch.images), Runtime(cache=cache))
        with pytest.raises(ValueError, match="the pack points to 8 visual tokens and its images give 4"):
            model(batch, Runtime(visual_tokens=tokens[: tiny.VISUAL_TOKENS]))
        with pytest.raises(ValueError, match="the pack points to 0 visual tokens and its images give 8"):
            model(replace(text, images=batch.images))


def test_the_parts_are_sharded_and_drawn_like_those_of_a_plain_model() -> None:
    plain = Factories(**small_parts(**SLOTS, heads={"boxes": BoxHead})).build(None, None)
    plain.init_weights(3)
    with torch.device("meta"):
        model = Factories(**small_parts(**SLOTS, heads={"boxes": BoxHead})).build(None, None)
    materialize(model, torch.device("cpu"), seed=3)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("position", [V2PE, RoPE, None])
def test_a_language_model_takes_a_pack_without_tokens_too(position: Any) -> None:
    model, batch, objective = small_model(position=position).train(), PACKS[4], NextToken()
    loss = objective(model, batch, objective.counts(batch)).total
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert set(work(model, batch).values()) == {0.0}
