"""A data module of one's own, whose packs are no samples of shards."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch
from mmcomponents.data import DataModule
from mmcomponents.data.base import Part
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.errors import DataError
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.loading.numbered_packs import Packs
from mmcomponents.data.loading.prompts import PromptBatch, Prompts
from mmcomponents.data.settings import LoadingSettings


class Counted(Packs):
    """Packs of two samples of the numbers of an epoch, one of which may be skipped."""

    source_names = ("numbers",)

    def __init__(self, length: int, skipped: bool = False) -> None:
        self.length, self.skipped, self.samples = length, skipped, 2 * length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int | None) -> PackedBatch:
        if item is None:
            return collate([], 1, 0)
        numbers = [2 * item, 2 * item + 1]
        refused = [f"numbers/{numbers.pop()}: skipped"] if self.skipped else []
        ids = [RenderedSample([n, n + 1], [-100, n + 1], sample=n, source=0, key=f"numbers/{n}") for n in numbers]
        return collate(ids, 1, 0, refused, epoch=item // self.length)


class Numbers(DataModule):
    """The smallest data module."""

    def __init__(self, length: int = 5, val: int = 3, skipped: bool = False, **loading: Any) -> None:
        super().__init__(LoadingSettings(**{"num_workers": 0, **loading}))
        self.lengths, self.skipped_ones = {"train": length, "val": val}, skipped

    def open(self, part: Part) -> Packs | None:
        return Counted(self.lengths[part], self.skipped_ones) if part in self.lengths else None


class Reader(LightningModule):
    """Notes what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained: list[list[int]] = []
        self.validated: list[list[int]] = []
        self.totals: list[float] = []

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        return {"targets": float((batch.labels >= 0).sum())}

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        self.trained.append(batch.segment_sample.tolist())
        assert batch.totals is not None
        self.totals.append(batch.totals["targets"])
        return self.weight * 0.0

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        self.validated.append(batch.segment_sample.tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer_of(folder: Path, **settings: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **{**quiet, **settings})


def pack(number: int) -> list[int]:
    return [2 * number, 2 * number + 1]


def test_an_epoch_is_that_of_the_packs_and_validation_one_pass(tmp_path: Path) -> None:
    reader, data = Reader(), Numbers()
    trainer_of(tmp_path, max_epochs=2, accumulate_grad_batches=2, num_sanity_val_steps=0).fit(reader, datamodule=data)
    assert reader.trained == [pack(number) for number in range(10)]
    assert reader.totals == [4, 4, 4, 4, 2] * 2, "two targets in a pack, two packs in a step"
    assert reader.validated == [pack(number) for number in range(3)] * 2
    assert data.source_names == ["numbers"]
    state = data.state_dict()
    assert (state["packs"], state["batches"], state["world"], state["bookmark"]) == (10, 10, 1, ())
    assert state["plan"] == f"{__name__}.Counted"


def test_a_run_resumes_at_its_pack(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.batch_progress.total.processed == 3:
                trainer.save_checkpoint(tmp_path / "stop.ckpt")
                raise KeyboardInterrupt

    first, second = Reader(), Reader()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer_of(tmp_path, max_steps=8, callbacks=[Stop()]).fit(first, datamodule=Numbers())
    trainer_of(tmp_path, max_steps=8).fit(
        second, datamodule=Numbers(num_workers=1), ckpt_path=str(tmp_path / "stop.ckpt"), weights_only=False
    )
    assert first.trained + second.trained == [pack(number) for number in range(8)]


def test_packs_are_divided_among_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, validated = [], []
    for rank in range(2):
        data = Numbers()
        monkeypatch.setattr(data, "_ranks", lambda rank=rank: (rank, 2))
        data.setup("validate")
        validated.append([batch.segment_sample.tolist() for batch in data.val_dataloader()])
        data._open("train", optional=False)
        monkeypatch.setattr(data, "_place", lambda: (0, 3))
        trained.append(list(data._next_packs()))
    assert validated == [[pack(0), pack(2)], [pack(1), [-1]]], "the rank without a pack gets the empty one"
    assert trained == [[0, 2, 4], [1, 3, 5]]


def test_another_fingerprint_is_told(caplog: pytest.LogCaptureFixture) -> None:
    data = Numbers()
    data.load_state_dict({"packs": 2, "batches": 2, "world": 1, "plan": "of other packs", "bookmark": (1, 2)})
    data.setup("validate")
    data._open("train", optional=False)
    with caplog.at_level(logging.WARNING):
        list(data._next_packs())
    assert "the data or its settings changed since the checkpoint" in caplog.text


def test_bookmarks_of_equal_packs_are_opened() -> None:
    opened = []

    class Marked(Counted):
        def bookmark(self, number: int) -> tuple[int, ...]:
            return (number, 7)

        def open_at(self, bookmark: tuple[int, ...]) -> None:
            opened.append(bookmark)

    class Module(Numbers):
        def open(self, part: Part) -> Packs | None:
            return Marked(5)

    data = Module()
    data._open("train", optional=False)
    state = data.state_dict()
    assert state["bookmark"] == (0, 7)
    data.load_state_dict(state | {"plan": "another"})
    assert opened == []
    data.load_state_dict(state)
    assert opened == [(0, 7)]


def test_skipped_samples_are_counted_and_have_a_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quiet = {"num_sanity_val_steps": 0, "limit_val_batches": 0}
    trainer_of(tmp_path, max_epochs=1, **quiet).fit(Reader(), datamodule=Numbers(skipped=True, max_refused=0.5))
    assert "train data: skipped numbers/9: skipped (5 so far)" in caplog.text
    with pytest.raises(DataError, match=r"of [\d.]+ samples were skipped, more than max_refused 0\.2"):
        trainer_of(tmp_path, max_epochs=1, **quiet).fit(Reader(), datamodule=Numbers(skipped=True, max_refused=0.2))


def test_validation_may_be_omitted(tmp_path: Path) -> None:
    class Without(Numbers):
        def __init__(self) -> None:
            super().__init__()
            self.lengths = {"train": 2}

    reader = Reader()
    trainer_of(tmp_path, max_epochs=1).fit(reader, datamodule=Without())
    assert (len(reader.trained), reader.validated) == (2, [])


def test_parts_that_are_missing_are_named() -> None:
    with pytest.raises(DataError, match=r"the recipe has no test data: Numbers\.open\('test'\) gives None"):
        Numbers().setup("test")
    with pytest.raises(DataError, match="no test data"):
        Numbers().setup("predict")
    assert Numbers().validation_prompts(3) is None


def test_data_without_a_tokenizer_say_so() -> None:
    with pytest.raises(DataError, match=r"^Numbers has no tokenizer$"):
        _ = Numbers().tokenizer
    with pytest.raises(DataError, match=r"^Numbers has no renderer of prompts$"):
        _ = Numbers().renderer


def test_predict_may_read_packs() -> None:
    class Predicts(Numbers):
        predict_part: Part = "val"

    data = Predicts()
    data.setup("predict")
    assert [batch.segment_sample.tolist() for batch in data.predict_dataloader()] == [pack(n) for n in range(3)]


def test_workers_read_such_packs() -> None:
    data = Numbers(num_workers=1)
    data.setup("validate")
    assert [batch.segment_sample.tolist() for batch in data.val_dataloader()] == [pack(n) for n in range(3)]


def test_what_open_must_not_give_is_named() -> None:
    class Odd(Numbers):
        def open(self, part: Part) -> Any:
            return 5 if part == "train" else Counted(3)

    with pytest.raises(DataError, match=r"Odd\.open\('train'\) gives int, not Packs, Prompts or None"):
        Odd().setup("fit")
    data = Odd()
    data.setup("test")
    with pytest.raises(DataError, match=r"Odd\.open\('test'\) gives Counted, where Prompts are needed"):
        data.test_dataloader()


class NoBase(Numbers):
    def __init__(self) -> None:
        pass


class Broken(Numbers):
    def open(self, part: Part) -> Packs | None:
        raise OSError("no server")


class Unnumbered(Counted):
    def __init__(self) -> None:
        self.length = 5


class Empty(Counted):
    def __len__(self) -> int:
        return 0


class Mappings(Counted):
    def __getitem__(self, item: int | None) -> Any:
        return {"item": item}


class Given(Numbers):
    """Opens the same packs for each part."""

    def __init__(self, packs: Packs, **loading: Any) -> None:
        super().__init__(**loading)
        self.given = packs

    def open(self, part: Part) -> Packs | None:
        return self.given


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (NoBase(), r"NoBase\.__init__ must call super\(\)\.__init__\(\) first"),
        (Broken(), r"Broken\.open\('train'\) failed: OSError: no server"),
        (Given(Unnumbered()), r"Unnumbered has no number of samples: set self\.samples in its __init__"),
        (Given(Empty(5)), "the (train|val) data is empty: the length of Empty is 0"),
        (Given(Mappings(5)), r"Mappings\.__getitem__ must return a PackedBatch, not a dict"),
        (Given(Mappings(5), num_workers=1), r"Mappings\.__getitem__ must return a PackedBatch, not a dict"),
    ],
)
@pytest.mark.parametrize("sanity", [0, 2])
def test_a_module_that_breaks_the_contract_is_told_so(
    tmp_path: Path, data: DataModule, message: str, sanity: int
) -> None:
    with pytest.raises(DataError, match=f"^{message}$"):
        trainer_of(tmp_path, max_steps=1, num_sanity_val_steps=sanity).fit(Reader(), datamodule=data)


class OneQuestion(Prompts):
    """Questions of one's own."""

    samples = 1

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int | None) -> PromptBatch:
        if number is None:
            return PromptBatch(collate([], 1, 0))
        return PromptBatch(collate([RenderedSample([1, 2], [-100] * 2)], 1, 0), ["?"], ["!"], [""], ["q"], [None])


def test_questions_need_no_index() -> None:
    class Asked(Numbers):
        def open(self, part: Part) -> Any:
            return OneQuestion() if part == "test" else None

    data = Asked()
    data.setup("test")
    assert [batch.questions for batch in data.test_dataloader()] == [["?"]]

    class Wrong(OneQuestion):
        def __getitem__(self, number: int | None) -> Any:
            return super().__getitem__(number).batch

    data._datasets["test"] = Wrong()
    with pytest.raises(DataError, match=r"Wrong\.__getitem__ must return a PromptBatch, not a PackedBatch"):
        list(data.test_dataloader())
