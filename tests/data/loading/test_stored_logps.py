"""Tests of stored log-probabilities: to which samples they belong, and which runs must not use them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from data.conftest import png, record
from data.test_datamodule import module_of
from mmcomponents.batch import Exact, Pairs
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.errors import DataError
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.loading.stored_logps import ReferenceFile, conditions, reference_path, save_references
from mmcomponents.data.packing.answer_pairs import PairsOnce
from mmcomponents.data.packing.source_options import SourceOptions

from .test_collation import sample as rendered


def pair(number: int, image: bool = True, source: str = "charts") -> dict[str, Any]:
    asked = [{"role": "user", "content": f"{'<image>' if image else ''}\nHow many {number}?"}]
    return {"messages": asked, "chosen": "3 " * (number + 1), "rejected": "7 1", "source": source}


@pytest.fixture
def shards(write_shard: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """Two shards with pairs of two sources, other samples among them, and one shard without a pair."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_shard([(pair(0), [png(80, 20)]), (record(), [png()]), (pair(1, source="maps"), [png(20, 60)])], "train-a")
    write_shard([({"text": "Plain."}, []), (pair(2, image=False), [])], "train-b")
    write_shard([(record("no pair"), [])], "train-c")
    return tmp_path


def predicted(folder: Path, **changes: Any) -> PairsOnce:
    data = module_of(folder, predict=str(folder / "train-*.tar"), **changes)
    data.setup("predict")
    assert data.predict_pairs is not None
    return data.predict_pairs


def write(folder: Path, unknown: tuple[int, ...] = (), **changes: Any) -> Path:
    """Writes files as `predict` does, with the values -n and -n - 0.5 for pair n."""
    pairs = predicted(folder, **changes)
    out, index = folder / "reference", pairs.index
    files = {}
    for shard in range(len(index.shards)):
        first, end = index.begins[shard : shard + 2].tolist()
        values = np.full((end - first, 2), np.nan, np.float32)
        for number in pairs.samples:
            if first <= number < end and number not in unknown:
                values[number - first] = -number, -number - 0.5
        if not np.isnan(values).all():
            made_with = conditions(index, shard, pairs.sizes)
            files[reference_path(index, shard, out)] = ReferenceFile(values, made_with)
    save_references(files)
    return out


def trained(folder: Path, **changes: Any) -> PackedDataModule:
    data = module_of(folder, reference_logps=str(folder / "reference"), **changes)
    data.setup("fit")
    return data


def test_each_pair_gets_its_values(shards: Path) -> None:
    out = write(shards)
    assert sorted(path.name.split(".")[0] for path in out.iterdir()) == ["train-a-000000", "train-b-000000"]
    data = trained(shards, val=str(shards / "train-a-*.tar"))
    for part, expected in (("train", {0, 2, 4}), ("val", {0, 2})):
        seen = set()
        packs = data.packs(part)
        for number in range(packs.one_pass()):
            batch = packs[number]
            if batch.pairs is not None:
                assert batch.pairs.reference_logps is not None
                stored = batch.pairs.reference_logps.tensor
                assert stored.dtype == torch.float32
                samples = batch.segment_sample[batch.pairs.chosen].tolist()
                assert stored.tolist() == [[-sample, -sample - 0.5] for sample in samples]
                seen |= set(samples)
        assert seen == expected
    plain = module_of(shards)
    plain.setup("fit")
    assert all(batch.pairs is None or batch.pairs.reference_logps is None for batch in plain.train_dataloader())


def test_predict_reads_pairs_alone_in_their_order(shards: Path) -> None:
    pairs = predicted(shards)
    assert pairs.samples.tolist() == [0, 2, 4]
    assert pairs.others == 3
    data = module_of(
        shards,
        predict=str(shards / "train-*.tar"),
        pack_tokens=200,
        jpeg_quality=(75, 100),
        delta_log2=[0, 1],
        token_share=None,
    )
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert len(batches) > 1
    again = list(data.predict_dataloader())
    for batch, other in zip(batches, again, strict=True):
        assert batch.pairs is not None
        assert batch.layout.delta_log2 is None
        assert torch.equal(batch.input_ids, other.input_ids)
        if batch.images is not None:
            assert torch.equal(batch.images.pixels, other.images.pixels)
    samples = [n for b in batches for n in b.segment_sample[b.pairs.chosen].tolist()]
    assert sorted(samples) == [0, 2, 4]


def test_ranks_are_kept_in_step_by_the_empty_pack(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    for rank in range(2):
        data = module_of(shards, predict=str(shards / "train-*.tar"), pack_tokens=120)
        data.setup("predict")
        monkeypatch.setattr(data, "_ranks", lambda rank=rank: (rank, 2))
        seen.append([0 if b.pairs is None else len(b.pairs.chosen) for b in data.predict_dataloader()])
    assert len(seen[0]) == len(seen[1])
    assert sum(map(sum, seen)) == 3
    assert 0 in seen[1]


def test_shards_without_a_pair_are_refused(shards: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 1 samples of data.predict is a usable pair"):
        module_of(shards, predict=str(shards / "train-c-*.tar")).setup("predict")
    with pytest.raises(DataError, match="3 pairs exceed a budget"):
        module_of(shards, predict=str(shards / "train-*.tar"), pack_tokens=20).setup("predict")


def test_a_pair_that_no_pack_can_hold_is_named(shards: Path) -> None:
    with pytest.raises(
        DataError, match=r"2 of 6 samples cannot be used.*train-a-000000/0000, train-a-000000/0002: 5 tiles"
    ):
        predicted(shards, pack_tiles=3)


def test_a_missing_file_is_named_with_the_command(shards: Path) -> None:
    missing = r"train-a-000000\..*\.safetensors with .*2 pairs .* does not exist: run `mmcomponents predict"
    with pytest.raises(DataError, match=missing):
        trained(shards)
    write(shards)
    (path,) = (shards / "reference").glob("train-b*")
    path.unlink()
    with pytest.raises(DataError, match=r"train-b-000000.*1 pairs.*mmcomponents predict"):
        trained(shards)
    module_of(shards, train=str(shards / "train-c*.tar"), reference_logps=str(shards / "nowhere")).setup("fit")


def test_a_shard_that_was_written_anew_is_not_taken_for_the_old_one(
    shards: Path, write_shard: Callable[..., Path]
) -> None:
    write(shards)
    write_shard([({"text": "Plain."}, []), (record("more"), []), (pair(2, image=False), [])], "train-b")
    with pytest.raises(
        DataError, match=r"\(train-b-000000\.\w+\.reference\.safetensors does, for a shard of this name"
    ):
        trained(shards)


def test_shards_of_one_name_do_not_collide(shards: Path, write_shard: Callable[..., Path]) -> None:
    other = shards / "other"
    other.mkdir()
    for path in shards.glob("train-a-*"):
        shutil.copy(path, other / path.name.replace("train-a", "train-b"))
    both = [str(shards / "train-b-000000.tar"), str(other / "train-b-000000.tar")]
    data = module_of(shards, predict=both)
    data.setup("predict")
    index = data.predict_pairs.index  # type: ignore[union-attr]
    first, second = (reference_path(index, shard, "x") for shard in (0, 1))
    assert first != second
    assert {first.name.split(".")[0], second.name.split(".")[0]} == {"train-b-000000"}
    moved = module_of(shards, predict=str(shards / "train-a-*.tar"))
    moved.setup("predict")
    name = reference_path(moved.predict_pairs.index, 0, "x").name  # type: ignore[union-attr]
    assert name.split(".")[1] == second.name.split(".")[1], "the same samples in another folder"


def test_wrong_contents_are_refused(shards: Path) -> None:
    out = write(shards)
    (path,) = out.glob("train-b*")
    for content in (b"", b"nonsense", path.read_bytes()[:-5]):
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=r"train-b-.*has no readable reference log-probabilities.*mmcomponents predict"
        ):
            trained(shards)
    pairs = predicted(shards)
    made_with = conditions(pairs.index, 1, pairs.sizes)
    for shape in ((3, 2), (2, 3), (2,)):
        save_references({path: ReferenceFile(np.zeros(shape, np.float32), made_with)})
        with pytest.raises(DataError, match=r"has values .* has 2 samples: .*mmcomponents predict"):
            trained(shards)


def test_a_pair_without_values_counts_as_refused(shards: Path, caplog: Any) -> None:
    write(shards, unknown=(2,))
    with pytest.raises(DataError, match=r"1 of 6 samples.*train-a-000000/0002: .*no log-probabilities.*predict"):
        trained(shards)
    data = trained(shards, max_refused=0.5)
    batches = list(data.train_dataloader())
    (line,) = [line for batch in batches for line in batch.refused]
    assert line.startswith("train-a-000000/0002: ")
    assert "no log-probabilities of this pair" in line
    assert sorted(n for b in batches for n in b.segment_sample.tolist() if n >= 0) == [0, 0, 1, 3, 4, 4, 5]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"system": "Be brief."}, "system None in the file, 'Be brief.' in the run"),
        ({"max_tiles": 2}, "max_tiles of the source 'charts' 4 in the file, 2 in the run"),
        ({"min_tiles": 2}, "min_tiles of the source"),
        (
            {"sources": {"maps": SourceOptions(max_tiles=1)}},
            "max_tiles of the source 'maps' 4 in the file, 1 in the run",
        ),
        ({"thumbnail": False}, "thumbnail True in the file, False in the run"),
        ({"tile_size": 14}, "tile_size 28 in the file, 14 in the run"),
        ({"tokens_per_tile": 1}, "tokens_per_tile 4 in the file, 1 in the run"),
        ({"normalization": "clip"}, "normalization 'imagenet' in the file, 'clip' in the run"),
        ({"control_text": "refuse"}, "control_text"),
        ({"eval_frames": 4}, "eval_frames"),
    ],
)
def test_other_inputs_are_refused_with_what_differs(shards: Path, changes: dict[str, Any], named: str) -> None:
    write(shards)
    trained(shards)
    with pytest.raises(DataError, match=f"computed on other inputs than this run's: {named}.*mmcomponents predict"):
        trained(shards, **changes)


def test_what_changes_no_input_may_differ(shards: Path) -> None:
    write(shards)
    sources = {"maps": SourceOptions(repeat=2.0)}
    trained(shards, seed=9, block=2, pack_tokens=900, sources=sources, train_frames=(2, 4), max_refused=0.5)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"jpeg_quality": (75, 100)}, r"images\.jpeg_quality"), ({"delta_log2": [0, 1]}, "delta_log2")],
)
def test_random_draws_are_refused(shards: Path, changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf"inputs without augmentation, but data\.{name} .* set data\.{name} to null"):
        module_of(shards, reference_logps="somewhere", **changes)


def test_a_pack_has_references_of_all_pairs_or_of_none() -> None:
    def answers(reference: float | None) -> list[RenderedSample]:
        both = [rendered(1, [5, 6], [5, 6], [], []) for _ in range(2)]
        logps = None if reference is None else Exact(torch.tensor([[reference, reference]]))
        both[0].extras["pairs"] = Pairs(torch.tensor([0]), torch.tensor([1]), logps)
        return both

    batch = collate([*answers(-1.5), rendered(0, [5], [5], [], []), *answers(-2.0)], 4, 0)
    assert batch.pairs is not None
    assert batch.pairs.chosen.tolist() == [0, 3]
    assert batch.pairs.rejected.tolist() == [1, 4]
    assert batch.pairs.reference_logps is not None
    assert batch.pairs.reference_logps.tensor.tolist() == [[-1.5, -1.5], [-2.0, -2.0]]
    with pytest.raises(ValueError, match="1 of 2 samples have reference_logps: all or none"):
        collate([*answers(-1.5), *answers(None)], 4, 0)


def test_files_are_whole_or_not_there(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = ReferenceFile(np.zeros((1, 2), np.float32), {})
    with pytest.raises(TypeError):
        save_references({shards / "new/a": good, shards / "new/b": ReferenceFile(good.logps, {"x": object()})})  # type: ignore[dict-item]
    assert list((shards / "new").iterdir()) == []
    save_references({shards / "new/a": good})
    first = (shards / "new/a").read_bytes()
    save_references({shards / "new/a": good})
    assert (shards / "new/a").read_bytes() == first
