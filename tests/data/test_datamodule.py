from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.special_tokens import TemplateError
from mmcomponents.data.chat.tokenizer import vocabulary_fingerprint
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.errors import DataError
from mmcomponents.data.loading.progress import PackProgress
from mmcomponents.data.media.frames import DrawnFrames
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.model_check import check_parts
from mmcomponents.data.packing.pack_plan import Budgets

from .conftest import png, record


class Reader(LightningModule):
    """Logs its batches, and trains one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained: list[tuple[str, ...]] = []
        self.totals: list[float] = []
        self.targets: list[int] = []
        self.validated: list[str] = []

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        return {"targets": float((batch.labels >= 0).sum())}

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        self.trained.append(tuple(batch.keys))
        assert batch.totals is not None
        assert {name for name in batch.totals if not name.startswith("data/")} == {"targets"}
        self.totals.append(batch.totals["targets"])
        self.targets.append(int((batch.labels >= 0).sum()))
        return self.weight * 0.0

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        self.validated += batch.keys

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def module_of(folder: Path, **changes: Any) -> PackedDataModule:
    settings: dict[str, Any] = {
        "tokenizer": str(folder / "tokenizer"),
        "tokens_per_tile": 4,
        "train": str(folder / "train-*.tar"),
        "tile_size": 28,
        "max_tiles": 4,
        "pack_tokens": 1500,
        "pack_tiles": 16,
        "num_workers": 0,
        "seed": 3,
    }
    return PackedDataModule(**{**settings, **changes})


def trainer_of(tmp_path: Path, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    return Trainer(**{**settings, **changes})


def test_each_sample_is_trained_on_once_an_epoch(handwriting: Path, tmp_path: Path) -> None:
    reader, data = Reader(), module_of(handwriting, val=str(handwriting / "val-*.tar"))
    trainer_of(tmp_path, max_epochs=3).fit(reader, datamodule=data)
    plan = data.train_packs.plan
    first = plan.packs_in_epoch(0)
    keys = [key for pack in reader.trained[:first] for key in pack]
    assert len(keys) == len(set(keys)) == 60
    assert len(reader.trained) == 3 * first == data.trainer.num_training_batches * 3
    stream = [tuple(data.train_packs[number].keys) for number in range(3 * first)]
    assert reader.trained == stream
    validated = reader.validated[-12:]
    assert sorted(validated) == sorted(set(reader.validated))
    assert len(set(validated)) == 12


def test_without_validation_data(handwriting: Path, tmp_path: Path) -> None:
    reader = Reader()
    trainer_of(tmp_path, max_steps=2).fit(reader, datamodule=module_of(handwriting))
    assert len(reader.trained) == 2
    assert reader.validated == []


def test_validation_reads_in_the_order_of_the_shards(handwriting: Path) -> None:
    data = module_of(handwriting, val=str(handwriting / "train-*.tar"), block=4)
    data.setup("validate")
    keys = [key for batch in data.val_dataloader() for key in batch.keys]
    blocks = [sorted(keys[begin : begin + 4]) for begin in range(0, len(keys), 4)]
    assert [key for block in blocks for key in block] == sorted(keys)


@pytest.mark.parametrize("stop", [4, 7, 10, 16])
def test_a_resumed_run_equals_an_uninterrupted_one(stop: int, handwriting: Path, tmp_path: Path) -> None:
    whole = Reader()
    planned = module_of(handwriting)
    trainer_of(tmp_path, max_steps=16, accumulate_grad_batches=2).fit(whole, datamodule=planned)
    assert len(planned.train_dataloader()) == 10, "the stops are in the first epoch, at its end and in the second"

    class Stop(Callback):
        """Stops in the middle of an epoch or of an accumulation window, and writes a checkpoint."""

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.batch_progress.total.processed == stop:
                trainer.save_checkpoint(tmp_path / "stop.ckpt")
                raise KeyboardInterrupt

    first, second = Reader(), Reader()
    interrupted = trainer_of(tmp_path, max_steps=16, accumulate_grad_batches=2, callbacks=[Stop()])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        interrupted.fit(first, datamodule=module_of(handwriting))
    assert len(first.trained) == stop
    again = trainer_of(tmp_path, max_steps=16, accumulate_grad_batches=2)
    data = module_of(handwriting, num_workers=2)
    again.fit(second, datamodule=data, ckpt_path=str(tmp_path / "stop.ckpt"), weights_only=False)
    assert second.trained[:10] == whole.trained[stop:][:10]
    assert abs(len(second.trained) - len(whole.trained[stop:])) <= 1, "a window that was cut is a step of its own"
    shorter = min(len(second.trained), len(whole.trained) - stop)
    assert second.trained[:shorter] == whole.trained[stop:][:shorter]
    if stop != 7:
        assert second.totals == whole.totals[stop:]
    assert data.state_dict()["packs"] == stop + len(second.trained)


def test_resume_by_lightnings_own_checkpoint(handwriting: Path, tmp_path: Path) -> None:
    whole, first, second = Reader(), Reader(), Reader()
    trainer_of(tmp_path, max_steps=12).fit(whole, datamodule=module_of(handwriting))
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    halted = trainer_of(tmp_path, max_steps=7, callbacks=[keep], enable_checkpointing=True)
    halted.fit(first, datamodule=module_of(handwriting))
    trainer_of(tmp_path, max_steps=12).fit(
        second, datamodule=module_of(handwriting), ckpt_path=str(tmp_path / "step=5.ckpt"), weights_only=False
    )
    assert first.trained == whole.trained[:7]
    assert second.trained == whole.trained[5:]


def test_a_bookmark_of_another_plan_is_not_used(handwriting: Path) -> None:
    data, fresh = (module_of(handwriting, block=8) for _ in range(2))
    for module in (data, fresh):
        module.setup("fit")
    wanted = [data.train_packs.plan.pack(number) for number in range(20)]
    another = data.train_packs.plan.bookmark(15)._replace(pack=2)
    fresh.load_state_dict({"packs": 0, "batches": 0, "plan": "of another run", "bookmark": tuple(another)})
    assert [fresh.train_packs.plan.pack(number) for number in range(20)] == wanted
    own = {"plan": fresh.train_packs.plan.fingerprint(), "bookmark": tuple(another)}
    fresh.load_state_dict({"packs": 0, "batches": 0, **own})
    assert [fresh.train_packs.plan.pack(number) for number in range(20)] != wanted, "one of its own is believed"


def test_the_bookmark_is_that_of_the_last_pack_and_a_new_run_starts_at_the_first(
    handwriting: Path, tmp_path: Path
) -> None:
    first, second = Reader(), Reader()
    data = module_of(handwriting, block=1)  # a pack each
    trainer_of(tmp_path, max_steps=6).fit(first, datamodule=data)
    state = data.state_dict()
    assert (state["packs"], state["bookmark"][2]) == (6, 5)
    data.load_state_dict(state | {"packs": 12, "world": 2})  # as by two ranks
    trainer_of(tmp_path, max_steps=2).fit(second, datamodule=data)
    assert second.trained == first.trained[:2]


def test_totals_are_those_of_the_optimizer_step(handwriting: Path, tmp_path: Path) -> None:
    reader = Reader()
    trainer_of(tmp_path, max_epochs=2, accumulate_grad_batches=4).fit(reader, datamodule=module_of(handwriting))
    length = len(reader.trained) // 2
    assert length % 4, "the last window of an epoch must be short for this test"
    for epoch in (0, length):
        for begin in range(0, length, 4):
            window = slice(epoch + begin, epoch + min(begin + 4, length))
            assert reader.totals[window] == [float(sum(reader.targets[window]))] * len(reader.targets[window])


def test_limited_and_overfitted_epochs(handwriting: Path, tmp_path: Path) -> None:
    limited, overfit = Reader(), Reader()
    settings = {"max_epochs": 2, "accumulate_grad_batches": 2}
    trainer_of(tmp_path, limit_train_batches=3, **settings).fit(limited, datamodule=module_of(handwriting))
    assert len(set(limited.trained)) == 6
    assert limited.totals[2] == limited.targets[2], "the third batch is a step of its own"
    trainer_of(tmp_path, overfit_batches=3, **settings).fit(overfit, datamodule=module_of(handwriting))
    assert overfit.trained[:3] == overfit.trained[3:] == limited.trained[:3]


def test_the_loader_does_not_depend_on_the_workers(handwriting: Path) -> None:
    def read(workers: int) -> list[PackedBatch]:
        data = module_of(handwriting, num_workers=workers, delta_log2=[0, 2, 4])
        data.setup("fit")
        return list(data.train_dataloader())

    for alone, helped in zip(read(0), read(2), strict=True):
        assert alone.keys == helped.keys
        assert torch.equal(alone.input_ids, helped.input_ids)
        assert torch.equal(alone.labels, helped.labels)
        assert alone.images is not None
        assert helped.images is not None
        assert torch.equal(alone.images.pixels, helped.images.pixels)
        assert alone.layout.delta_log2 is not None
        assert helped.layout.delta_log2 is not None
        assert torch.equal(alone.layout.delta_log2, helped.layout.delta_log2)
        assert alone.totals == helped.totals


class _Counter:
    def __init__(self, processed: int) -> None:
        self.processed = processed


class _Trainer:
    """The attributes of a trainer that `PackProgress` reads."""

    overfit_batches = 0
    training = True

    def __init__(self, batches: int, world: int) -> None:
        self.world_size = world
        self.fit_loop = self.epoch_loop = self.batch_progress = self
        self.total = _Counter(batches)


def test_another_number_of_ranks_goes_on_at_the_same_pack() -> None:
    progress = PackProgress()
    assert progress.used(_Trainer(5, 2)) == 10  # type: ignore[arg-type]
    progress.load(packs=10, batches=5)
    assert progress.used(_Trainer(5, 4)) == 10  # type: ignore[arg-type]
    assert progress.used(_Trainer(7, 4)) == 18  # type: ignore[arg-type]
    progress.forget_other_run(_Trainer(0, 1))  # type: ignore[arg-type]
    assert progress.used(_Trainer(0, 1)) == 0  # type: ignore[arg-type]


@pytest.fixture
def broken(write_shard: Callable[..., Path], tokenizer: Any, tmp_path: Path) -> Callable[..., Path]:
    """A shard with samples that were damaged after indexing."""

    def write(good: int) -> Path:
        shard = write_shard([(record(), [png(16, 16)]) for _ in range(good + 3)])
        data = bytearray(shard.read_bytes())
        image = data.index(b"IDAT", data.index(b"0001.0.png"))
        data[image + 6 : image + 30] = bytes(24)
        text = data.index(b'{"messages"', data.index(b"0002.json"))
        data[text] = ord("[")
        role = data.index(b"assistant", data.index(b"0003.json"))
        data[role : role + 9] = b"Assistant"
        shard.write_bytes(bytes(data))
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        return tmp_path

    return write


def test_bad_samples_are_named_counted_and_left_out(
    broken: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    data = module_of(broken(40), max_refused=0.1, pack_tokens=300)
    data.setup("fit")
    with caplog.at_level(logging.WARNING):
        batches = list(data.train_dataloader())
    refused = sorted(line for batch in batches for line in batch.refused)
    names = [line.partition(":")[0] for line in refused]
    assert names == ["train-000000/0001", "train-000000/0002", "train-000000/0003"]
    assert "broken image" in refused[0]
    assert "wrong JSON" in refused[1]
    assert "'Assistant'" in refused[2]
    for line in refused:
        assert line in caplog.text
    assert "(3 so far)" in caplog.text
    left = {key for batch in batches for key in batch.keys}
    assert len(left) == 40
    assert not left & set(names)


def test_too_many_bad_samples_are_an_error(broken: Callable[..., Path]) -> None:
    data = module_of(broken(40), pack_tokens=300)
    data.setup("fit")
    with pytest.raises(DataError, match=r"1 of \d+ samples .* max_refused 0.01"):
        list(data.train_dataloader())


def test_a_pack_of_nothing_but_bad_samples_has_no_target(broken: Callable[..., Path]) -> None:
    data = module_of(broken(1), max_refused=1.0, pack_tokens=40)
    data.setup("fit")
    batches = list(data.train_dataloader())
    empty = [batch for batch in batches if batch.refused]
    assert len(empty) == 3, "four samples, a pack each"
    for batch in empty:
        assert batch.num_tokens == 1
        assert batch.num_segments == 1
        assert (batch.labels == -100).all()
        assert batch.images is None


def test_what_cannot_be_used_is_known_before_the_run(
    write_shard: Callable[..., Path], tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [(record(), [png()])] * 30 + [(record(answer="too long " * 200), [png()]), (record(), [b"no image"])]
    shard = write_shard(samples)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(DataError, match=r"2 of 32 samples cannot be used.*max_refused 0.01.*train-000000/00"):
        module_of(tmp_path, train=str(shard), pack_tokens=300).setup("fit")
    module_of(tmp_path, train=str(shard), pack_tokens=300, max_refused=0.1).setup("fit")
    assert "train-000000/0030" in caplog.text
    assert "tokens, a pack takes 300" in caplog.text
    assert "train-000000/0031: not an image" in caplog.text


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("num_workers", 0, -1),
        ("worker_timeout", 0, -0.5),
        ("seed", 0, -1),
        ("block", 1, 0),
        ("eval_frames", 1, 0),
        ("max_refused", 0.0, -0.01),
        ("max_refused", 1.0, 1.01),
    ],
)
def test_settings_have_limits(name: str, good: float, bad: float) -> None:
    module_of(Path("nowhere"), **{name: good})
    with pytest.raises(ValueError, match=f"data.*{name} "):
        module_of(Path("nowhere"), **{name: bad})


def test_defaults_are_those_of_internvl3() -> None:
    data = PackedDataModule("nowhere", 256)
    assert data.images.tiling() == Tiling(min_tiles=1, max_tiles=12, tile_size=448, thumbnail=True)
    assert data.packing.budgets() == Budgets(tokens=16384, tiles=48)
    assert data.videos.drawn() == DrawnFrames(8, 32)
    assert (data.images.normalization, data.delta_log2, data.images.jpeg()) == ("imagenet", None, None)


def test_missing_files_are_named_with_the_command_that_makes_them(tmp_path: Path, handwriting: Path) -> None:
    with pytest.raises(DataError, match=r"no shard matches .*nothing-\*.tar.*mmcomponents data handwriting"):
        module_of(handwriting, train=str(tmp_path / "nothing-*.tar")).setup("fit")
    with pytest.raises(DataError, match=r"no tokenizer folder .*absent.*mmcomponents data"):
        module_of(handwriting, tokenizer=str(tmp_path / "absent")).setup("fit")
    with pytest.raises(DataError, match=r"set data.test"):
        module_of(handwriting).setup("test")
    with pytest.raises(DataError, match=r"set data.val"):
        module_of(handwriting).setup("validate")


def test_a_model_that_does_not_fit_is_refused(handwriting: Path) -> None:
    data = module_of(handwriting)
    fits = {"tokens_per_tile": 4, "image_size": 28, "vocab_size": len(data.tokenizer)}
    data.check_model(**fits)
    data.check_model(tokens_per_tile=None, image_size=None, vocab_size=1000)
    for change, message in [
        ({"tokens_per_tile": 16}, r"produce 16 visual tokens per tile.*tokens_per_tile is 4"),
        ({"image_size": 56}, r"56 pixels.*tile_size is 28"),
        ({"vocab_size": 10}, r"vocab_size is 10"),
        ({"image_token_id": 0}, r"image_token_id is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.check_model(**{**fits, **change})


def test_parts_with_files_and_for_tokenizers_are_checked(handwriting: Path, tmp_path: Path) -> None:
    data, path = module_of(handwriting), tmp_path / "words"
    part = SimpleNamespace(files=("words",), words=str(path), tokenizer_fingerprint="abc")
    check_parts({"projector": part, "plain": object()}, None)
    with pytest.raises(ValueError, match=r"projector \(SimpleNamespace\) reads words: there is no file .*words"):
        check_parts({"projector": part}, data)
    path.touch()
    found = vocabulary_fingerprint(data.tokenizer)
    with pytest.raises(ValueError, match=rf"fingerprint abc \(.*words\), and the tokenizer of the data has {found}"):
        check_parts({"projector": part}, data)
    part.tokenizer_fingerprint = found
    check_parts({"projector": part}, data)


def test_a_tokenizer_that_lacks_the_template_is_refused(handwriting: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(TemplateError, match="<IMG_CONTEXT>"):
        module_of(handwriting, tokenizer=str(tmp_path / "bare")).check_model(4, 28, 1000)


def test_questions_of_the_test_data(handwriting: Path) -> None:
    data = module_of(handwriting, test=str(handwriting / "test-*.tar"), prompts_per_batch=12, test_questions=23)
    data.setup("test")
    batches: Iterator[Any] = iter(data.test_dataloader())
    sizes = [len(batch) for batch in batches]
    assert sum(sizes) == 23
    assert max(sizes) <= 12
    data.setup("predict")
    assert len(data.predict_dataloader()) == len(sizes)


def test_the_number_of_visual_tokens_is_that_of_the_model(handwriting: Path) -> None:
    module = module_of(handwriting, tokens_per_tile=None)
    with pytest.raises(DataError, match="tokens_per_tile is not set, and there is no model to take it from"):
        module.renderer  # noqa: B018
    module.check_model(tokens_per_tile=4, image_size=28, vocab_size=512)
    assert module.renderer.tokens_per_tile == 4
    text = module_of(handwriting, tokens_per_tile=None)
    text.check_model(tokens_per_tile=None, image_size=None, vocab_size=512)
    assert text.tokens_per_tile == 1
    with pytest.raises(ValueError, match="produce 4 visual tokens per tile, the data's tokens_per_tile is 2"):
        module_of(handwriting, tokens_per_tile=2).check_model(tokens_per_tile=4, image_size=28, vocab_size=512)
