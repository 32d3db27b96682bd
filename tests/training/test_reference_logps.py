"""Stored reference log-probabilities equal live ones: `predict` followed by training gives rewards of zero."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from safetensors import safe_open
from torch import Tensor

import tiny
from contracts.pair import make_task
from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.special_tokens import IMAGE_CONTEXT
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import open_shard
from mmcomponents.data.packing.source_options import SourceOptions
from mmcomponents.objectives import MPO
from mmcomponents.objectives.answers import answer_logps
from mmcomponents.testing import Ranks
from mmcomponents.training import MultimodalTask, Predictions, ReferenceLogps
from mmcomponents.training.throughput import Throughput

VOCAB = 300


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(file, "png")
    return file.getvalue()


def pair(number: int, images: int, source: str) -> dict[str, Any]:
    asked = {"role": "user", "content": "<image>\n" * images + f"Read the digits {number}."}
    chosen, rejected = "3 7 " * (1 + number % 4), f"no {number} digits"
    return {"messages": [asked], "chosen": chosen, "rejected": rejected, "source": source}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes three shards: pairs of two sources with images of several tiles or none, mixed with other samples."""
    out = tmp_path_factory.mktemp("pairs")
    tokenizer = train_tokenizer(["Read the digits in order.", "3 7 1"] * 3, VOCAB)
    tokenizer.save_pretrained(out / "tokenizer")
    number = 0
    for shard in ("a", "b", "c"):
        with open_shard(out / f"pairs-{shard}.tar") as writer:
            for place in range(5):
                images = number % 3
                files = [("png", png(16 * (1 + (number + n) % 3), 16 + 8 * n)) for n in range(images)]
                writer.write(f"{place}", pair(number, images, ("charts", "maps")[number % 2]), files)
                number += 1
            answer = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "3"}]
            writer.write("chat", {"messages": answer, "source": "talk"})
        build_index(out / f"pairs-{shard}.tar", tokenizer)
    return out


def data_of(folder: Path, **changes: Any) -> PackedDataModule:
    settings: dict[str, Any] = {
        "tokenizer": str(folder / "tokenizer"),
        "tokens_per_tile": tiny.VISUAL_TOKENS,
        "tile_size": tiny.TILE,
        "max_tiles": 4,
        "pack_tokens": 700,
        "pack_tiles": 16,
        "num_workers": 0,
        "sources": {"maps": SourceOptions(max_tiles=2)},
    }
    return PackedDataModule(**(settings | changes))


def task_of(folder: Path, **changes: Any) -> MultimodalTask:
    image_token = data_of(folder).tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
    return make_task(vocab_size=VOCAB, image_token_id=image_token, objective=MPO, seed=3, **changes)


def trainer_of(callbacks: Sequence[Any], **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
    }
    return Trainer(**(settings | changes))


def predict(folder: Path, out: Path, data: dict[str, Any] | None = None, **trainer: Any) -> ReferenceLogps:
    writer = ReferenceLogps(str(out))
    module = data_of(folder, **({"predict": str(folder / "pairs-*.tar")} | (data or {})))
    trainer_of([writer], **trainer).predict(task_of(folder), module)
    return writer


def stored(out: Path) -> dict[str, Tensor]:
    found = {}
    for path in sorted(out.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found[path.name] = file.get_tensor("logps")
    return found


def test_stored_reference_equals_live(folder: Path, tmp_path: Path) -> None:
    writer = predict(folder, tmp_path)
    written = writer.written
    assert written is not None
    assert (written.files, written.pairs, written.unreadable, written.others) == (3, 15, 0, 3)
    files = stored(tmp_path)
    assert [name.split(".")[0] for name in files] == ["pairs-a", "pairs-b", "pairs-c"]
    for values in files.values():
        assert values.dtype == torch.float32
        assert values.shape == (6, 2)
        assert values.isnan().all(1).tolist() == [False] * 5 + [True]
    every = torch.cat([values[:5] for values in files.values()])
    assert [written.chosen, written.rejected] == pytest.approx(every.mean(0).tolist(), rel=1e-5)

    # packs of other composition: shuffled, of another size, with samples that are not pairs
    data = data_of(folder, train=str(folder / "pairs-*.tar"), pack_tokens=430, reference_logps=str(tmp_path), seed=5)
    data.setup("fit")
    task = task_of(folder)
    task.configure_model()
    task.eval()
    assert task.model is not None
    shown, tiles = 0, 0
    for batch in data.train_dataloader():
        if batch.pairs is not None:
            assert batch.pairs.reference_logps is not None
            with torch.no_grad():
                live = answer_logps(task.model, batch)
            rewards = 0.1 * (live - batch.pairs.reference_logps.tensor)
            assert float(rewards.abs().max()) < 1e-5
            assert float(live[:, 0].std()) > 0.1 or len(live) == 1, "equal values would hide a wrong order"
            shown += len(live)
            tiles = max(tiles, 0 if batch.images is None else int(batch.images.tile_image.bincount().max()))
    assert shown == 15
    assert tiles > 2


def test_the_law_breaks_with_other_inputs(folder: Path, tmp_path: Path) -> None:
    """Values depend on the tiles, so that settings have to be compared."""
    predict(folder, tmp_path / "one")
    predict(folder, tmp_path / "other", {"max_tiles": 1, "sources": None})
    one, other = (torch.cat(list(stored(tmp_path / name).values())) for name in ("one", "other"))
    assert float((one - other).abs().nan_to_num().max()) > 1e-3


def test_training_with_stored_values_starts_at_no_reward(folder: Path, tmp_path: Path) -> None:
    """Runs a complete `fit`, in which the callback does nothing."""
    predict(folder, tmp_path)

    class First(Throughput):
        """Records the metrics of the first step."""

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:  # type: ignore[override]
            self.logged = dict(trainer.callback_metrics)

    first, writer = First(), ReferenceLogps(str(tmp_path / "untouched"))
    sources = {"maps": SourceOptions(max_tiles=2), "talk": SourceOptions(repeat=0)}
    data = data_of(folder, train=str(folder / "pairs-[ab].tar"), reference_logps=str(tmp_path), sources=sources)
    trainer_of([first, writer], max_steps=1, log_every_n_steps=1).fit(task_of(folder), data)
    assert abs(float(first.logged["train/margin"])) < 1e-5
    assert abs(float(first.logged["train/chosen_reward"])) < 1e-5
    assert writer.written is None
    assert not (tmp_path / "untouched").exists()


def as_rank(rank: int, folder: str, out: str, strategy: str) -> Any:
    return predict(Path(folder), Path(out), {"pack_tokens": 300}, devices=2, strategy=strategy).written


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_write_what_one_does(two_ranks: Ranks, folder: Path, tmp_path: Path, strategy: str) -> None:
    one = predict(folder, tmp_path / "one").written
    first, second = two_ranks.run(as_rank, str(folder), str(tmp_path / "two"), strategy)
    assert first == second
    assert (first.files, first.pairs, first.others) == (3, 15, 3)
    assert first.chosen == pytest.approx(one.chosen, rel=1e-6)  # type: ignore[union-attr]
    torch.testing.assert_close(stored(tmp_path / "two"), stored(tmp_path / "one"), equal_nan=True)


def test_broken_pairs_are_nan_counted_and_named(folder: Path, tmp_path: Path, caplog: Any) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("pairs-a.tar", "pairs-a.index.safetensors"):
        (shards / name).write_bytes((folder / name).read_bytes())
    broken = bytearray((shards / "pairs-a.tar").read_bytes())
    place = broken.index(b"IDAT", broken.index(b"1.0.png"))
    broken[place + 6 : place + 30] = bytes(24)
    (shards / "pairs-a.tar").write_bytes(bytes(broken))
    where = {"predict": str(shards / "pairs-a.tar"), "max_refused": 0.5}
    with caplog.at_level(logging.WARNING):
        written = predict(folder, tmp_path / "out", where).written
    assert written is not None
    assert (written.pairs, written.unreadable) == (4, 1)
    assert "pairs-a/1: " in caplog.text
    assert "1 pairs have no log-probabilities: pairs-a/1" in caplog.text
    (values,) = stored(tmp_path / "out").values()
    assert values.isnan().all(1).tolist() == [False, True, False, False, False, True]
    with pytest.raises(DataError, match="max_refused"):
        predict(folder, tmp_path / "none", {"predict": where["predict"]})
    assert list((tmp_path / "none").iterdir()) == []


def test_a_run_that_did_not_read_all_writes_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\d+ of 15 pairs were not read .*limit_predict_batches"):
        predict(folder, tmp_path, limit_predict_batches=1)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_gives_no_number_is_an_error(folder: Path, tmp_path: Path) -> None:
    task = task_of(folder)
    task.configure_model()
    assert task.model is not None
    next(task.model.heads["lm"].parameters()).data.fill_(float("nan"))
    data = data_of(folder, predict=str(folder / "pairs-*.tar"))
    with pytest.raises(DataError, match="15 of 15 pairs are not finite"):
        trainer_of([ReferenceLogps(str(tmp_path))]).predict(task, data)
    assert list(tmp_path.iterdir()) == []


def test_questions_are_answered_as_before(folder: Path, tmp_path: Path, caplog: Any) -> None:
    writer = ReferenceLogps(str(tmp_path / "out"))
    with caplog.at_level(logging.WARNING):
        result = trainer_of([writer]).predict(task_of(folder), data_of(folder, test=str(folder / "pairs-a.tar")))
    assert "data.predict is not set" in caplog.text
    assert result is not None
    assert {"key", "question", "answer", "kind"} == set(result[0][0])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_told_at_the_beginning(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be created"):
        predict(folder, tmp_path / "file" / "out")


def test_without_the_callback_predict_returns_the_rows(folder: Path) -> None:
    data = data_of(folder, predict=str(folder / "pairs-b.tar"))
    result: Any = trainer_of([]).predict(task_of(folder), data)
    rows = [row for batch in result for row in batch]
    assert sorted(row["key"] for row in rows) == [f"pairs-b/{n}" for n in range(5)]
    assert all(row["chosen"] < 0 > row["rejected"] for row in rows)


def test_a_pack_without_pairs_gives_no_row(folder: Path) -> None:
    data = data_of(folder, predict=str(folder / "pairs-b.tar"))
    data.setup("predict")
    empty: PackedBatch = data.packs("predict")[None]
    task = task_of(folder)
    task.configure_model()
    assert task.predict_step(empty, 0) == []


@pytest.mark.parametrize("first", [False, True])
def test_nan_is_told_of_the_file_that_would_be_written(folder: Path, tmp_path: Path, first: bool) -> None:
    task = task_of(folder)
    task.configure_model()
    with torch.no_grad():
        next(task.model.heads["lm"].parameters()).fill_(torch.nan)
    callbacks = [Predictions(), ReferenceLogps(str(tmp_path))]
    trainer = trainer_of(callbacks if first else callbacks[::-1], default_root_dir=str(tmp_path / "run"))
    with pytest.raises(DataError, match=r"the log-probabilities of \d+ of \d+ pairs are not finite"):
        trainer.predict(task, data_of(folder, predict=str(folder / "pairs-*.tar")))
    assert [path.name for path in tmp_path.iterdir()] == []
