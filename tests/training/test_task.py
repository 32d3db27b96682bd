"""The task in Lightning's loop, on synthetic packs."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

import tiny
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import PackedBatch
from mmcomponents.checkpoints import CheckpointError
from mmcomponents.component import WiringError
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.generation import Autoregressive
from mmcomponents.heads import LMHead, Verbalizer
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.objectives import NextToken
from mmcomponents.positions import V2PE
from mmcomponents.projectors import MLPProjector
from mmcomponents.training import MultimodalTask, SlotOptions, WarmupCosine
from mmcomponents.training.units.checkpointing import Checkpointed
from mmcomponents.training.units.compilation import Compiled

PACKS = [
    tiny.pack([("t", 4), ("i", 2), ("t", 8)], [("t", 6)], targets=[6, 3]),
    tiny.pack([("t", 9)], targets=[1], seed=1),  # no image, few targets
    tiny.pack([("t", 2), ("i", 1), ("t", 12)], targets=[11], seed=2),
]


def task(**changes) -> MultimodalTask:
    arguments = {
        "vision": tiny.vision,
        "merger": PixelUnshuffle,
        "projector": MLPProjector,
        "embedder": TokenEmbedder,
        "position": V2PE,
        "backbone": partial(DecoderLM, 32, 2, 4, 48, num_kv_heads=2),
        "heads": {"lm": LMHead},
        "optimizer": partial(SGD, lr=0.5),
        "vocab_size": tiny.VOCAB,
        "image_token_id": tiny.IMAGE_TOKEN,
    }
    return MultimodalTask(**(arguments | changes))


def trainer(tmp_path, **changes) -> Trainer:
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
        "max_epochs": 1,
    }
    return Trainer(**(settings | changes))


def loader(packs: list[PackedBatch]) -> torch.utils.data.DataLoader[PackedBatch]:
    return torch.utils.data.DataLoader(packs, batch_size=None)


def with_totals(packs: list[PackedBatch]) -> list[PackedBatch]:
    from dataclasses import replace

    counts = [NextToken().counts(b) for b in packs]
    totals = {name: sum(c[name] for c in counts) for name in counts[0]}
    return [replace(b, totals=totals) for b in packs]


def test_accumulated_packs_make_one_step_with_one_denominator(tmp_path) -> None:
    trained = task()
    trainer(tmp_path, accumulate_grad_batches=3).fit(trained, loader(with_totals(PACKS)))
    alone = task()
    alone.configure_model()
    objective, packs = NextToken(), with_totals(PACKS)
    sum(objective(alone.model, b, b.totals).total for b in packs).backward()
    for a, b in zip(trained.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a, b - 0.5 * b.grad, rtol=1e-5, atol=1e-6)


def test_a_short_last_window_is_a_whole_step(tmp_path) -> None:
    trained = task()
    packs = with_totals(PACKS[:2]) + with_totals(PACKS[2:])
    trainer(tmp_path, accumulate_grad_batches=2).fit(trained, loader(packs))
    alone = task()
    alone.configure_model()
    for group in (packs[:2], packs[2:]):
        alone.model.zero_grad()
        sum(NextToken()(alone.model, b, b.totals).total for b in group).backward()
        with torch.no_grad():
            for p in alone.model.parameters():
                p.sub_(0.5 * p.grad)
    for a, b in zip(trained.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_accumulation_without_totals_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"wrap the loader in mmcomponents\.data\.loading\.Lookahead"):
        trainer(tmp_path, accumulate_grad_batches=2).fit(task(), loader(PACKS))


def test_the_logged_loss_is_that_of_the_whole_step(tmp_path) -> None:
    trained = task()
    run = trainer(tmp_path, accumulate_grad_batches=3)
    run.fit(trained, loader(with_totals(PACKS)))
    fresh = task()
    fresh.configure_model()
    expected = sum(NextToken()(fresh.model, b, b.totals).total for b in with_totals(PACKS))
    torch.testing.assert_close(run.callback_metrics["train/loss"], expected.detach(), rtol=1e-5, atol=1e-5)


def test_validation_is_the_mean_over_all_targets(tmp_path) -> None:
    run, checked = trainer(tmp_path), task()
    run.validate(checked, loader(PACKS), verbose=False)
    expected = sum(NextToken()(checked.model, b, b.totals).total for b in with_totals(PACKS))
    torch.testing.assert_close(run.callback_metrics["val/loss"], expected.detach(), rtol=1e-5, atol=1e-5)


def test_configure_model_may_be_called_again(tmp_path) -> None:
    checked = task()
    checked.configure_model()
    model = checked.model
    trainer(tmp_path, max_steps=1).fit(checked, loader(PACKS))
    trainer(tmp_path).validate(checked, loader(PACKS), verbose=False)
    assert checked.model is model


def test_equal_seeds_make_equal_weights() -> None:
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(made))
        built = task(seed=seed)
        built.configure_model()
        made.append(torch.cat([p.flatten() for p in built.model.parameters()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_slots_set_what_is_trained_and_how_fast(tmp_path) -> None:
    trained = task(
        vision=partial(tiny.vision, drop_path=0.5),
        slots={
            "vision": SlotOptions(trainable=False),
            "projector": SlotOptions(lr=0.125, weight_decay=0.25),
            "heads": SlotOptions(lr=0.0625),
        },
        optimizer=partial(SGD, lr=0.5, weight_decay=0.01),
    )
    trained.configure_model()
    before = {n: p.clone() for n, p in trained.model.named_parameters()}
    groups = {g["name"]: g for g in trained.configure_optimizers().param_groups}
    table = {name: (g["lr"], g["weight_decay"]) for name, g in groups.items()}
    assert table == {
        "projector": (0.125, 0.25),
        "projector/no_decay": (0.125, 0.0),
        "embedder": (0.5, 0.01),
        "backbone": (0.5, 0.01),
        "backbone/no_decay": (0.5, 0.0),
        "heads.lm": (0.0625, 0.01),
    }
    counted = sum(p.numel() for g in groups.values() for p in g["params"])
    assert counted == sum(p.numel() for p in trained.model.parameters() if p.requires_grad)
    trainer(tmp_path).fit(trained, loader(PACKS))
    trained.train()
    assert not trained.model.vision.training
    assert trained.model.backbone.training
    for name, value in trained.model.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("vision."), name


def test_units_of_an_unsharded_model_have_their_settings() -> None:
    built = task(slots={"backbone": SlotOptions(activation_checkpointing="full", compile=True)})
    built.configure_model()
    assert built.model is not None
    layer = built.model.backbone.layers[0]
    assert isinstance(layer, Compiled)
    assert isinstance(layer, Checkpointed)
    assert not any(isinstance(module, Compiled | Checkpointed) for module in built.model.vision.modules())


def test_a_tied_weight_is_in_one_group_and_follows_the_embedder() -> None:
    tied = task(heads={"lm": partial(LMHead, tied=True)}, slots={"embedder": SlotOptions(trainable=False)})
    tied.configure_model()
    assert not tied.model.heads["lm"].weight.requires_grad
    names = [g["name"] for g in tied.configure_optimizers().param_groups]
    assert not any(n.startswith(("embedder", "heads")) for n in names)


def test_wrong_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"slots\.projecter: the model has no such slot.*did you mean 'projector'"):
        task(slots={"projecter": SlotOptions()}).check()
    with pytest.raises(WiringError, match="NextToken reads the head 'ml' and the model has lm"):
        task(objective=partial(NextToken, head="ml")).check()
    with pytest.raises(WiringError, match="the projector needs a vision encoder"):
        task(vision=None, merger=None).check()
    with pytest.raises(WiringError, match="the embedder needs a vocab_size"):
        task(vocab_size=None).check()
    frozen = task(slots={n: SlotOptions(False) for n in ("vision", "projector", "embedder", "backbone", "heads")})
    frozen.configure_model()
    with pytest.raises(ValueError, match="every slot is frozen"):
        frozen.configure_optimizers()
    with pytest.raises(RuntimeError, match="not built yet"):
        task().counts(PACKS[0])


@pytest.mark.parametrize("schedule", [partial(StepLR, step_size=2), partial(WarmupCosine, total_steps=5)])
def test_a_schedule_that_knows_its_length_needs_no_trainer(schedule: Any) -> None:
    made = task(scheduler=schedule)
    made.configure_model()
    assert made.configure_optimizers()["lr_scheduler"]["interval"] == "step"


def test_check_builds_no_weights() -> None:
    checked = task()
    checked.check()
    assert checked.model is None


def test_warmup_then_cosine() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, total_steps=12, warmup_steps=2, final_ratio=0.1)
    rates = []
    for _ in range(13):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[7] == pytest.approx(1.1)  # halfway through the decay
    assert rates[12] == pytest.approx(0.2)
    assert WarmupCosine(optimizer, total_steps=100).warmup_steps == 3
    with pytest.raises(ValueError, match="total_steps must be at least 1"):
        WarmupCosine(optimizer, total_steps=0)


def test_weights_of_the_start_are_looked_for_before_a_model_is_built_unless_the_run_goes_on(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trainer(tmp_path, max_steps=1)
    first.fit(task(), loader(PACKS))
    first.save_checkpoint(tmp_path / "last.ckpt")
    gone = {"weights": str(tmp_path / "gone")}
    later = trainer(tmp_path, max_steps=2)
    later.ckpt_path = str(tmp_path / "last.ckpt")  # as the command sets it
    later.fit(task(**gone), loader(PACKS))
    monkeypatch.setattr(MultimodalTask, "_compose", lambda self: pytest.fail("a model was built"))
    with pytest.raises(CheckpointError, match="gone"):
        task(**gone).configure_model()


def test_the_data_is_told_about_the_model() -> None:
    class Data(LightningDataModule):
        """Records the arguments."""

        def check_model(self, **model: Any) -> None:
            self.model = model

    data = Data()
    task().check(data)
    assert data.model == {
        "tokens_per_tile": tiny.VISUAL_TOKENS,
        "image_size": tiny.TILE,
        "vocab_size": tiny.VOCAB,
        "image_token_id": tiny.IMAGE_TOKEN,
        "verdict_ids": None,
    }
    task(vision=None, merger=None, projector=None).check(data)
    assert (data.model["tokens_per_tile"], data.model["image_size"]) == (None, None)
    task(heads={"lm": partial(Verbalizer, token_ids=(3, 5))}).check(data)
    assert data.model["verdict_ids"] == (3, 5)


class Refusing(Autoregressive):
    """Fits no model."""

    def check(self, model: Any) -> None:
        raise WiringError("Refusing fits no model")


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_the_sampler_is_checked_before_every_run(tmp_path, verb: str) -> None:
    run = getattr(trainer(tmp_path), verb)
    with pytest.raises(WiringError, match="Refusing fits no model"):
        run(task(sampler=Refusing), loader(PACKS[:1]))
    with pytest.raises(WiringError, match="Refusing fits no model"):
        task(sampler=Refusing).check()


class Prompted(Autoregressive):
    """Takes no context."""

    def forward(self, model: Any, prompts: Any) -> Any:
        return []


def test_the_arguments_of_the_sampler_are_checked_before_weights_exist() -> None:
    with pytest.raises(WiringError, match=r"the sampler Prompted takes \(model, prompts\): a sampler has forward"):
        task(sampler=Prompted).check()


class Tokens:
    """A data module's tokenizer of 90 tokens."""

    def __len__(self) -> int:
        return 90

    def get_vocab(self) -> dict[str, int]:
        return {"<IMG_CONTEXT>": 7}


def test_vocabulary_size_and_placeholder_are_those_of_the_tokenizer_unless_they_are_given() -> None:
    def filled(**settings: Any) -> tuple[int | None, int | None]:
        made = task(**{"vocab_size": None, "image_token_id": None, **settings})
        made.fill_in(Tokens())
        return made.vocab_size, made.image_token_id

    assert filled() == (90, 7)
    assert filled(vocab_size=128, image_token_id=9) == (128, 9)
    assert filled(vision=None, merger=None, projector=None) == (90, None)
    assert filled(embedder=None, heads={})[0] is None
    made = task(vocab_size=None)
    made.fill_in(Tokens())
    assert made.hparams["vocab_size"] == 90, "a checkpoint names it"
    with pytest.raises(WiringError, match="the embedder needs a vocab_size and the recipe has none"):
        task(vocab_size=None).configure_model()


def test_the_vocabulary_size_of_weights_takes_precedence(tmp_path, monkeypatch) -> None:
    asked: list[str] = []

    def read(folder: str, **_: Any) -> Any:
        asked.append(str(folder))
        return SimpleNamespace(spec=SimpleNamespace(vocab_size=64))

    monkeypatch.setattr("mmcomponents.training.task.read", read)
    for weights in (str(tmp_path), {"embedder": str(tmp_path), "backbone": "b"}):
        made = task(vocab_size=None, weights=weights)
        made.fill_in(Tokens())
        assert made.vocab_size == 64
    for weights in ("nowhere", {"backbone": str(tmp_path)}):
        made = task(vocab_size=None, weights=weights)
        made.fill_in(Tokens())
        assert made.vocab_size == 90
    assert asked == [str(tmp_path)] * 2
