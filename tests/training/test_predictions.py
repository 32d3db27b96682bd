"""What `predict` returns and writes, on one rank and on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

import tiny
from contracts.pair import make_task
from mmcomponents.batch import PackedBatch
from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.generation import Answer, Autoregressive, Context, Sampler
from mmcomponents.testing import Ranks
from mmcomponents.training import Predictions


class Digits:
    """Tokenizer that decodes each token to its number."""

    eos_token_id = 0

    def convert_tokens_to_ids(self, token: str) -> None:
        return None

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class Lengths(Sampler):
    """Answers with the length of each prompt, as a value, or NaN for prompts of the given length."""

    answers = "values"

    def __init__(self, odd: int = -1) -> None:
        super().__init__()
        self.odd = odd

    def forward(self, model: Any, prompts: PackedBatch, context: Context) -> list[Answer]:
        lengths = prompts.layout.cu_seqlens.diff().float()
        return [Answer(values=torch.where(length == self.odd, torch.nan, length)[None]) for length in lengths]


class Painter(Sampler):
    """Answers with grey pictures, as bright as the prompt is long."""

    answers = "picture"

    def forward(self, model: Any, prompts: PackedBatch, context: Context) -> list[Answer]:
        lengths = prompts.layout.cu_seqlens.diff().tolist()
        return [Answer(picture=Image.new("L", (4, 3), length)) for length in lengths]


class Questions(LightningDataModule):
    """Batches of one, two or no question on this rank; the question's length is its number plus 2."""

    tokenizer = Digits()
    batches = ([0], [1, 2], [3], [])

    def predict_dataloader(self) -> DataLoader[PromptBatch]:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return DataLoader([self.batch(numbers) for numbers in self.batches[rank::world]], batch_size=None)

    def batch(self, numbers: list[int]) -> PromptBatch:
        pack = tiny.pack(*([("t", number + 2)] for number in numbers or [0]))
        texts = [f"question {number}" for number in numbers]
        nothing = [""] * len(numbers)
        return PromptBatch(pack, texts, nothing, nothing, [f"../s/{n}" for n in numbers], [None] * len(numbers))


def predict(folder: str, sampler: Any, data: LightningDataModule | None = None, **trainer: Any) -> Predictions:
    writer = Predictions()
    run = Trainer(
        default_root_dir=folder, logger=False, enable_progress_bar=False, callbacks=[writer],
        use_distributed_sampler=False, accelerator="cpu", **trainer,
    )  # fmt: skip
    run.predict(make_task(sampler=sampler), data or Questions())
    return writer


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_values_are_written_as_nested_lists(tmp_path: Path) -> None:
    writer = predict(str(tmp_path), Lengths)
    assert writer.written == tmp_path / "predictions.jsonl"
    assert [row["answer"] for row in rows(tmp_path)] == [[2.0], [3.0], [4.0], [5.0]]
    assert rows(tmp_path)[1] == {"key": "../s/1", "kind": "", "question": "question 1", "answer": [3.0]}


def test_text_is_written_as_it_was(tmp_path: Path) -> None:
    predict(str(tmp_path), lambda: Autoregressive(max_new_tokens=2))
    assert all(len(row["answer"].split()) <= 2 for row in rows(tmp_path))
    assert [row["question"] for row in rows(tmp_path)] == [f"question {n}" for n in range(4)]


def test_pictures_are_written_beside_the_rows(tmp_path: Path) -> None:
    assert predict(str(tmp_path / "run"), Painter).pictures == 4
    assert [row["answer"] for row in rows(tmp_path / "run")] == [
        f"predictions/s_{name}.png" for name in ("0-0-0", "1-1-0", "2-1-1", "3-2-0")
    ]
    for number, row in enumerate(rows(tmp_path / "run")):
        with Image.open(tmp_path / "run" / row["answer"]) as picture:
            assert picture.getpixel((0, 0)) == number + 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_values_of_nan_are_an_error_that_names_the_question(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"values for \.\./s/1 are NaN or infinite, .* predictions.jsonl is not"):
        predict(str(tmp_path), lambda: Lengths(odd=3))
    assert not (tmp_path / "predictions.jsonl").exists()


def as_rank(rank: int, folder: str, odd: int) -> str:
    try:
        predict(folder, lambda: Lengths(odd), strategy="fsdp2", devices=2)
        predict(f"{folder}/painted", Painter, strategy="fsdp2", devices=2)
    except NonFiniteError as error:
        return str(error)
    return ""


def test_two_ranks_write_what_one_does(two_ranks: Ranks, tmp_path: Path) -> None:
    two_ranks.run(as_rank, str(tmp_path / "two"), -1)
    for name, sampler in (("", Lengths), ("painted", Painter)):
        predict(str(tmp_path / "one" / name), sampler)
        assert rows(tmp_path / "two" / name) == rows(tmp_path / "one" / name)
    assert len(list((tmp_path / "two" / "painted" / "predictions").iterdir())) == 4


def test_values_of_nan_end_all_ranks(two_ranks: Ranks, tmp_path: Path) -> None:
    first, second = two_ranks.run(as_rank, str(tmp_path), 3)
    assert first == second
    assert "values for ../s/1 are NaN" in first


class Packs(LightningDataModule):
    """One pack without pairs."""

    def predict_dataloader(self) -> DataLoader[PackedBatch]:
        return DataLoader([tiny.pack([("t", 4)])], batch_size=None)


def test_packs_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match=r"the pack with tiny/0 has none: set data.predict to shards of pairs, or"):
        predict(str(tmp_path), Autoregressive, Packs())


class NoLikelihood(nn.Module):
    """A head that is no language-model head."""


def test_heads_without_log_probabilities_are_refused() -> None:
    from dataclasses import replace

    from mmcomponents.batch import Pairs
    from mmcomponents.training.predictions import pair_rows

    model = tiny.model()
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]))
    batch = replace(tiny.pack([("t", 4)], [("t", 3)]), pairs=pairs)
    assert [row["key"] for row in pair_rows(model, batch, "lm")] == ["tiny/0"]
    with pytest.raises(WiringError, match="a head such as LMHead, and the head 'actions' does not exist"):
        pair_rows(model, batch, "actions")
    model.heads["actions"] = NoLikelihood()
    with pytest.raises(WiringError, match="and the head 'actions' is NoLikelihood"):
        pair_rows(model, batch, "actions")


def test_rows_of_another_task_are_written_in_order(tmp_path: Path) -> None:
    writer = Predictions()
    trainer: Any = type("T", (), {"default_root_dir": str(tmp_path), "world_size": 1, "global_rank": 0,
                                  "is_global_zero": True, "callbacks": [writer, Callback()]})  # fmt: skip
    writer.on_predict_start(trainer, None)  # type: ignore[arg-type]
    for outputs in ([[{"a": 1}], [{"b": "ä"}]], {"c": 2.5}):
        writer.on_predict_batch_end(trainer, None, outputs, None, 0)  # type: ignore[arg-type]
    writer.on_predict_end(trainer, None)  # type: ignore[arg-type]
    assert rows(tmp_path) == [{"a": 1}, {"b": "ä"}, {"c": 2.5}]
