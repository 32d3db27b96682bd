"""Answers to validation questions as an image in TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import tiny
from contracts.pair import make_task
from mmcomponents.batch import ModelState, PackedBatch
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.demos.handwriting.builder import make_handwriting
from mmcomponents.generation import Answer, Autoregressive, Context, Sampler
from mmcomponents.heads import LMHead
from mmcomponents.testing import Ranks
from mmcomponents.training import AnswerPictures


class Digits:
    """Tokenizer that decodes each token to its number."""

    eos_token_id = 0

    def convert_tokens_to_ids(self, token: str) -> None:
        return None

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class Data(LightningDataModule):
    """A pack to train and validate on, and two questions."""

    tokenizer = Digits()

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def train_dataloader(self) -> torch.utils.data.DataLoader[PackedBatch]:
        from mmcomponents.objectives import NextToken

        batch = tiny.pack([("i", 1), ("t", 6)])
        batch.totals = NextToken().counts(batch)
        return torch.utils.data.DataLoader([batch] * 2, batch_size=None)

    def val_dataloader(self) -> torch.utils.data.DataLoader[PackedBatch]:
        return torch.utils.data.DataLoader([tiny.pack([("i", 1), ("t", 6)])], batch_size=None)

    def validation_prompts(self, count: int) -> PromptBatch:
        self.asked += 1
        buffer = io.BytesIO()
        Image.new("L", (30, 20), 200).save(buffer, "png")
        prompts = tiny.pack([("i", 1), ("t", 3)], [("t", 4)])
        pictures = [buffer.getvalue(), None]
        return PromptBatch(prompts, ["what?", "and?"], ["1", "2"], ["", ""], ["a", "b"], pictures)


def fit(logger: Any, data: LightningDataModule, task: dict[str, Any] | None = None, **trainer: Any) -> None:
    run = Trainer(
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=1,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[AnswerPictures()],
        **trainer,
    )
    chosen = {"sampler": lambda: Autoregressive(max_new_tokens=3, temperature=1.0)} | (task or {})
    run.fit(make_task(**chosen), data)


def pictures(folder: str) -> list[tuple[int, Image.Image]]:
    events = EventAccumulator(folder)
    events.Reload()
    if "val/answers" not in events.Tags()["images"]:
        return []
    return [(e.step, Image.open(io.BytesIO(e.encoded_image_string))) for e in events.Images("val/answers")]


def test_each_validation_adds_a_picture_of_the_same_questions(tmp_path: Path) -> None:
    logger, data = TensorBoardLogger(str(tmp_path)), Data()
    fit(logger, data)
    found = pictures(logger.log_dir)
    assert [step for step, _ in found] == [1, 2]  # none during the sanity check
    assert data.asked == 1
    assert all(p.width > 800 and p.height < 250 for _, p in found)  # two questions wide: one has no image
    assert np.asarray(found[0][1]).std() > 0


class Overflow(LMHead):
    """Head whose logits are NaN."""

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        return super().forward(state, batch) * torch.nan


def test_logits_that_are_not_finite_end_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    with caplog.at_level("WARNING", "mmcomponents"):
        fit(logger, Data(), {"heads": {"lm": Overflow}})
    assert pictures(logger.log_dir) == []
    assert "no image of answers: the logits of " in caplog.text


class Coordinates(Sampler):
    """Answers with four values per prompt, one of them not finite."""

    answers = "values"

    def forward(self, model: Any, prompts: PackedBatch, context: Context) -> list[Answer]:
        return [Answer(values=torch.tensor([0.5, 0.25, torch.nan, number])) for number in range(prompts.num_segments)]


class Painter(Sampler):
    """Answers with red pictures."""

    answers = "picture"

    def forward(self, model: Any, prompts: PackedBatch, context: Context) -> list[Answer]:
        return [Answer(picture=Image.new("RGB", (40, 30), (255, 0, 0))) for _ in range(prompts.num_segments)]


class OldSampler(Autoregressive):
    """A sampler of the earlier contract."""

    def forward(self, model: Any, prompts: PackedBatch, stop_ids: Any, generator: Any = None) -> Any:
        return [[1] for _ in range(prompts.num_segments)]


def test_values_and_pictures_are_shown(tmp_path: Path) -> None:
    found = []
    for sampler in (Coordinates, Painter):
        logger = TensorBoardLogger(str(tmp_path), name=sampler.__name__)
        fit(logger, Data(), {"sampler": sampler})
        found.append(pictures(logger.log_dir)[-1][1])
    values, painted = found
    assert painted.width > values.width
    assert (255, 0, 0) in {colour for _, colour in painted.convert("RGB").getcolors(100_000)}
    assert (255, 0, 0) not in {colour for _, colour in values.convert("RGB").getcolors(100_000)}


def test_a_sampler_of_another_contract_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    with caplog.at_level("WARNING", "mmcomponents"):
        fit(logger, Data(), {"sampler": OldSampler})
    assert pictures(logger.log_dir) == []
    assert "no image of answers: the sampler OldSampler takes stop_ids" in caplog.text


class Failing(Sampler):
    """A sampler whose own code fails."""

    def forward(self, model: Any, prompts: PackedBatch, context: Context) -> list[Answer]:
        raise KeyError("lost")


def test_a_sampler_that_fails_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    with caplog.at_level("WARNING", "mmcomponents"):
        fit(logger, Data(), {"sampler": Failing})
    assert pictures(logger.log_dir) == []
    assert "no image of answers: KeyError: 'lost'" in caplog.text


class Silent(Data):
    """Data without questions."""

    def validation_prompts(self, count: int) -> PromptBatch | None:
        self.asked += 1
        return None


def test_data_without_questions_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger, data = TensorBoardLogger(str(tmp_path)), Silent()
    with caplog.at_level("WARNING", "mmcomponents"):
        fit(logger, data)
    assert caplog.text.count("no image of answers: no validation sample has a question") == data.asked == 1


@pytest.mark.parametrize("logged", [False, True])
def test_without_tensorboard_nothing_is_asked(tmp_path: Path, logged: bool) -> None:
    data = Data()
    fit(CSVLogger(str(tmp_path)) if logged else False, data)
    assert data.asked == 0


def test_the_weights_do_not_depend_on_the_pictures(tmp_path: Path) -> None:
    """Sampling does not change the state of the run's random generators."""
    states = []
    for logger in (TensorBoardLogger(str(tmp_path)), False):
        torch.manual_seed(0)
        fit(logger, Data())
        states.append(torch.random.get_rng_state())
    assert torch.equal(*states)


def as_rank(rank: int, folder: str) -> list[int]:
    logger = TensorBoardLogger(folder, version=0)
    fit(logger, Data(), strategy="fsdp2", devices=2)
    return [step for step, _ in pictures(logger.log_dir)] if rank == 0 else []


def test_sharded_ranks_answer_together_and_one_draws(two_ranks: Ranks, tmp_path: Path) -> None:
    assert two_ranks.run(as_rank, str(tmp_path))[0] == [1]  # Lightning gives each rank one of the two packs
    assert len(list(tmp_path.rglob("events.*"))) == 1


def test_the_datamodule_offers_different_questions_of_different_scenes(tmp_path: Path) -> None:
    make_handwriting(str(tmp_path), scenes=20, held_out=10, val_scenes=8, samples_per_shard=20, vocab_size=400)
    data = PackedDataModule(
        tokenizer=str(tmp_path / "tokenizer"),
        tokens_per_tile=4,
        tile_size=28,
        max_tiles=4,
        train=str(tmp_path / "train-*.tar"),
        val=str(tmp_path / "val-*.tar"),
        num_workers=0,
    )
    assert data.validation_prompts(2) is None
    assert data.source_names == []
    data.setup("fit")
    assert data.source_names == ["handwriting"]
    prompts = data.validation_prompts(5)
    assert len(prompts) == prompts.batch.num_segments == len(set(prompts.keys)) == 5
    assert len(set(prompts.kinds)) > 2
    assert prompts.batch.keys == prompts.keys
    assert data.validation_prompts(5).questions == prompts.questions
    assert len(data.validation_prompts(100)) == 8
