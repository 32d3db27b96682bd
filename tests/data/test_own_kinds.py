"""Samples of kinds of another package, from the shard to the pack."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

from mmcomponents.batch import TokenType
from mmcomponents.data.chat.kinds import Chat, Document, Kinds, Pair, RecordKind, Sample
from mmcomponents.data.chat.placeholders import place_media
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import build_index, index_shards
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shard_index import OPTIONAL, index_path, load_index, save_index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.data.loading.dataset import PackDataset
from mmcomponents.data.loading.opening import PackSettings, open_packs
from mmcomponents.data.loading.prompts import PromptDataset
from mmcomponents.data.media.frames import DrawnFrames
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.packing.pack_plan import Budgets, Pack
from mmcomponents.extras import Actions

from .conftest import png, record
from .own_kinds import Broken, Height, Heights, Moves, Sketch, moves
from .test_datamodule import module_of

BUILT_IN = [Chat(), Document(), Pair()]
Written = tuple[dict[str, Any], Sequence[bytes], Mapping[str, bytes]]


def shard_of(folder: Path, samples: Sequence[Written]) -> Path:
    with ShardWriter(folder, "train") as writer:
        for number, (contents, images, members) in enumerate(samples):
            writer.write(f"{number:04d}", contents, [("png", image) for image in images], members)
    return writer.paths[0]


def samples() -> list[Written]:
    return [
        ({"task": "Go there.", "source": "robot"}, [png(40, 20)], {"moves.npy": moves(1, 2, 3, 4, 5, 6)}),
        (record("How many?"), [png(30, 30)], {}),
        ({"task": "Stop.", "source": "robot"}, [], {"moves.npy": moves(7, 8)}),
        ({"height": 1.5, "of": "a tree", "source": "trees"}, [], {}),
        ({"text": "plain words"}, [], {}),
    ]


def kinds_of(*own: RecordKind) -> Kinds:
    return Kinds([*BUILT_IN, *own])


@pytest.fixture
def shard(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    path = shard_of(tmp_path, samples())
    build_index(path, tokenizer, kinds=kinds_of(Moves(), Height()))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return path


def packs_of(
    shard: Path, tokenizer: PreTrainedTokenizerFast, *own: RecordKind, system: str | None = None, **settings: Any
) -> PackDataset:
    index = Index.open([shard], tokenizer, kinds=kinds_of(*own))
    renderer = SampleRenderer(tokenizer, 4, Tiling(1, 4, 28), system=system)
    return open_packs(index, renderer, PackSettings(Budgets(1500), **settings))[0]


def test_members_reach_the_pack_as_a_field(shard: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    packs = packs_of(shard, tokenizer, Moves(), Height(), shuffle=False)
    assert packs.index.problems == {}
    batch = packs[0]
    assert batch.refused == []
    assert batch.keys == [packs.index.name(number) for number in range(5)]
    actions, heights = batch.extras["actions"], batch.extras["heights"]
    assert isinstance(actions, Actions)
    assert isinstance(heights, Heights)
    assert actions.values.tensor.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert actions.values.tensor.dtype == torch.float32
    assert heights.value.tolist() == [1.5]
    places = (batch.layout.token_type == TokenType.ACTION).nonzero()[:, 0]
    assert batch.layout.segment_of_token()[places].tolist() == [0, 0, 0, 2]
    assert (batch.visual_index[places] == -1).all()
    columns = packs.index.columns(0)
    assert columns.kind.tolist() == [1, 0, 1, 2, 0]
    assert columns.turns.tolist() == [1, 1, 1, 0, 0]


def test_sizes_from_the_index_are_those_of_the_pack(shard: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for system in (None, "Answer in one word."):
        packs = packs_of(shard, tokenizer, Moves(), Height(), system=system)
        every = np.arange(len(packs.index))
        tokens, tiles = packs.sizes.of(packs.index.take(every), every, np.zeros_like(every), 0)
        for number in every.tolist():
            batch = packs[Pack(0, 0, (number,), (0,), (int(tokens[number]),))]
            assert batch.refused == []
            assert (batch.num_tokens, 0 if batch.images is None else batch.images.num_tiles) == (
                tokens[number],
                tiles[number],
            )


def test_a_pack_without_such_samples_has_the_empty_field(shard: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    packs = packs_of(shard, tokenizer, Moves(), Height())
    for batch in (packs[Pack(0, 0, (1,))], packs[None]):
        actions = batch.extras["actions"]
        assert isinstance(actions, Actions)
        assert actions.values.tensor.shape == (0, 2)
        heights = batch.extras["heights"]
        assert isinstance(heights, Heights)
        assert len(heights.value) == 0


def test_fields_pass_the_data_module_and_its_workers(shard: Path, tmp_path: Path) -> None:
    found = []
    for workers in (0, 1):
        data = module_of(tmp_path, kinds=[*BUILT_IN, Moves(), Height()], num_workers=workers)
        data.setup("fit")
        (batch,) = data.train_dataloader()
        assert batch.totals is not None
        found.append(batch)
    one, other = (batch.extras["actions"] for batch in found)
    assert isinstance(one, Actions)
    assert isinstance(other, Actions)
    assert one.values.tensor.shape == (4, 2)
    assert torch.equal(one.values.tensor, other.values.tensor)
    assert found[0].seed == found[1].seed == 3


def test_questions_of_such_samples_have_values_as_answers(shard: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    index = Index.open([shard], tokenizer, kinds=kinds_of(Moves(), Height()))
    prompts = PromptDataset(index, SampleRenderer(tokenizer, 4, Tiling(1, 4, 28)), 8)
    (batch,) = (prompts[number] for number in range(len(prompts)))
    assert batch.answers == [[[1, 2], [3, 4], [5, 6]], "3", [[7, 8]]]
    assert batch.kinds == ["moves", "", "moves"]
    assert batch.questions == ["Go there.", "How many?", "Stop."]
    assert batch.batch.refused == []
    assert isinstance(batch.batch.extras["actions"], Actions)


def test_a_missing_member_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    task = {"task": "Go.", "source": "robot"}
    path = shard_of(tmp_path, [(task, [], {"moves.npy": moves(1, 2)}), (task, [], {}), (task, [], {"other.npy": b"1"})])
    build_index(path, tokenizer, kinds=kinds_of(Moves()))
    reason = "the member .moves.npy is missing, which samples of the kind moves have beside .json"
    assert load_index(index_path(path)).header.problems == {1: reason, 2: reason}


def test_a_member_with_the_suffix_of_an_image_is_none(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    class Paired(Moves):
        members: ClassVar[tuple[str, ...]] = ("target.png", "moves.npy")

    members = {"moves.npy": moves(1, 2), "target.png": png(8, 8)}
    path = shard_of(tmp_path, [({"task": "Go."}, [png(40, 20)], members)])
    build_index(path, tokenizer, kinds=kinds_of(Paired()))
    index = Index.open([path], tokenizer, kinds=kinds_of(Paired()))
    stored = index.read(0)
    assert stored.images == [png(40, 20)]
    assert stored.members == members
    assert index.columns(0).images.tolist() == [1]


def test_own_tiles_are_counted_and_collated(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = shard_of(tmp_path, [({"sketch": 3}, [], {}), ({"sketch": 1}, [], {}), ({"text": "words"}, [], {})])
    build_index(path, tokenizer, kinds=kinds_of(Sketch()))
    packs = packs_of(path, tokenizer, Sketch(), shuffle=False)
    columns = packs.index.columns(0)
    assert columns.own_tiles.tolist() == [3, 1, 0]
    tokens, tiles = packs.sizes.of(columns, np.arange(3), np.zeros(3, np.int64), 0)
    batch = packs[0]
    assert batch.refused == []
    assert batch.num_tokens == tokens.sum()
    assert tiles.tolist() == [3, 1, 0]
    assert batch.images is not None
    assert batch.images.vq_ids is not None
    assert batch.images.num_tiles == 4
    assert batch.visual_index[batch.layout.token_type == TokenType.IMAGE_GEN].tolist() == list(range(8))


class Moody(Moves):
    """Renders more tokens than the index has for each sample whose task says so."""

    grown = False

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        (segment,) = super().render(sample, renderer)
        if self.grown and "longer" in sample.record["task"]:
            segment.input_ids, segment.labels = [*segment.input_ids, 5], [*segment.labels, 5]
        return [segment]


def test_a_sample_with_another_length_than_planned_is_skipped_and_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tasks = ["Go.", "Go for longer.", "Stop.", "Wait."]
    path = shard_of(tmp_path, [({"task": task}, [], {"moves.npy": moves(1, 2)}) for task in tasks])
    kind = Moody()
    build_index(path, tokenizer, kinds=Kinds([kind]))
    kind.grown = True
    settings = {"kinds": [kind], "pack_tokens": 300}
    data = module_of(tmp_path, max_refused=0.25, **settings)
    data.setup("fit")
    with caplog.at_level(logging.WARNING):
        (batch,) = data.train_dataloader()
    assert len(batch.keys) == 3
    (line,) = batch.refused
    assert line.startswith("train-000000/0001: the sample has ")
    assert "or the record kind moves with other arguments, indexed it; run `mmcomponents data index` again" in line
    assert line in caplog.text
    assert batch.totals is not None
    assert batch.totals["data/refused"] == 1
    data = module_of(tmp_path, max_refused=0.2, **settings)
    data.setup("fit")
    with pytest.raises(DataError, match=r"1 of 4 samples were skipped, more than max_refused 0\.2") as caught:
        list(data.train_dataloader())
    assert "\n" not in str(caught.value)


def test_a_kind_that_fails_is_a_skipped_sample_of_the_index(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = shard_of(tmp_path, [({"text": "words"}, [], {}), ({"broken": True}, [], {})])
    for method, task in {"matches": "recognise", "check": "check", "render": "render", "turns": "measure"}.items():
        build_index(path, tokenizer, kinds=kinds_of(Broken(method)))
        problems = load_index(index_path(path)).header.problems
        assert problems == {1: f"the kind Broken cannot {task} the sample: KeyError: 'boxes'"}


def test_a_kind_that_fails_later_is_a_skipped_sample_of_the_pack(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = shard_of(tmp_path, [({"text": "words"}, [], {}), ({"broken": True}, [], {})])
    build_index(path, tokenizer, kinds=kinds_of(Broken("")))
    for method, task in {"matches": "recognise", "check": "check", "render": "render"}.items():
        batch = packs_of(path, tokenizer, Broken(method), shuffle=False)[0]
        assert batch.keys == ["train-000000/0000"]
        assert batch.refused == [f"train-000000/0001: the kind Broken cannot {task} the sample: KeyError: 'boxes'"]
    index = Index.open([path], tokenizer, kinds=kinds_of(Broken("prompts")))
    asked = PromptDataset(index, SampleRenderer(tokenizer, 4), 8)
    found = [line for number in range(len(asked)) for line in asked[number].batch.refused]
    assert "train-000000/0001: the kind Broken cannot ask about the sample: KeyError: 'boxes'" in found


def test_a_field_that_empty_lacks_is_a_skipped_sample_of_the_index_and_the_pack(
    shard: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (
        "the kind Height cannot render the sample: ValueError: the field heights is not among those that empty returns"
    )
    monkeypatch.setattr(Height, "empty", lambda self: {})
    batch = packs_of(shard, tokenizer, Moves(), Height(), shuffle=False)[0]
    assert batch.refused == [f"train-000000/0003: {told}"]
    build_index(shard, tokenizer, kinds=kinds_of(Moves(), Height()))
    assert load_index(index_path(shard)).header.problems == {3: told}


def test_a_run_without_the_kind_of_the_index_is_refused(shard: Path, tmp_path: Path) -> None:
    message = r"samples of the record kind data\.own_kinds\.Moves, which the run does not have: .*data\.kinds"
    with pytest.raises(DataError, match=message):
        module_of(tmp_path).setup("fit")


def test_an_index_without_a_kind_of_the_run_says_how_to_make_it(
    shard: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    build_index(shard, tokenizer)
    index = Index.open([shard], tokenizer, kinds=Kinds([Chat(), Document(), Height()]))
    command = f"mmcomponents data index {shard} --tokenizer FOLDER --kinds Chat Document data.own_kinds.Height"
    told = f"its index was made with the kinds chat, document, pair: run `{command}` "
    told += "with the tokenizer and the allowed tokens of the run"
    assert index.problems == dict.fromkeys((0, 2, 3), told)
    assert "no kind of record" in Index.open([shard], tokenizer).problems[3]
    index_path(shard).unlink()
    with pytest.raises(DataError) as caught:
        Index.open([shard], tokenizer, kinds=index.kinds)
    assert command in str(caught.value)


def test_kinds_that_no_sample_has_do_not_change_an_index(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = shard_of(tmp_path, [sample for sample in samples() if not {"task", "height"} & set(sample[0])])
    build_index(path, tokenizer)
    plain = index_path(path).read_bytes()
    build_index(path, tokenizer, kinds=kinds_of(Moves(), Height()))
    assert index_path(path).read_bytes() == plain
    with safe_open(index_path(path), framework="np") as file:
        assert set(OPTIONAL) & set(file.keys()) == set()
        assert '"kinds"' not in file.metadata()["index"]
    columns = load_index(index_path(path)).columns
    assert columns.uses.tolist() == columns.segments.tolist()
    assert columns.own_tiles.tolist() == columns.kind.tolist() == [0, 0]


def test_an_index_of_other_kinds_is_read_as_it_was_written(shard: Path, tmp_path: Path) -> None:
    path = index_path(shard)
    index = load_index(path)
    assert index.header.kinds == ["data.own_kinds.Moves", "data.own_kinds.Height"]
    with safe_open(path, framework="np") as file:
        assert set(OPTIONAL) < set(file.keys())
    save_index(index, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


class Twice(RecordKind):
    """A kind that matches what a document matches."""

    def matches(self, record: Mapping[str, Any]) -> bool:
        return "text" in record

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        raise AssertionError


def test_a_sample_of_two_kinds_is_skipped_by_the_index(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = shard_of(tmp_path, [({"text": "words"}, [], {}), (record("How many?"), [], {})])
    build_index(path, tokenizer, kinds=kinds_of(Twice()))
    problems = load_index(index_path(path)).header.problems
    assert problems == {0: 'wrong JSON: the kinds document and Twice both match its keys "text"'}


class Watched(RecordKind):
    """A film and what is seen in it: `{"seen": "It fades."}`."""

    def matches(self, record: Mapping[str, Any]) -> bool:
        return "seen" in record

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        asked = [{"role": "user", "content": "<video>"}, {"role": "assistant", "content": sample.record["seen"]}]
        placed, order = place_media(asked, sample.images, sample.videos, renderer.frame_template)
        return [RenderedSample.of_chat(renderer.chat(placed, order), order)]


def test_frames_of_a_film_are_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, movie: bytes) -> None:
    with ShardWriter(tmp_path, "films") as writer:
        writer.write("film", {"seen": "It fades."}, [("mp4", movie)])
    build_index(writer.paths[0], tokenizer, kinds=Kinds([Watched()]))
    index = Index.open(writer.paths, tokenizer, kinds=Kinds([Watched()]))
    renderer = SampleRenderer(tokenizer, 4, Tiling(1, 4, 28))
    packs, _ = open_packs(index, renderer, PackSettings(Budgets(1500), frames=DrawnFrames(2, 9)))
    tiles = set()
    for number in range(6):
        planned, batch = packs.plan.pack(number), packs[number]
        assert batch.refused == []
        assert (batch.num_tokens,) == planned.tokens
        assert batch.images is not None
        tiles.add(batch.images.num_tiles)
    assert len(tiles) > 1, "epochs draw other numbers of frames"


class Cropped(Height):
    """Draws a number for each occurrence of a sample."""

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        (segment,) = super().render(sample, renderer)
        value = sample.generator("crop").random()
        segment.extras["heights"] = Heights(torch.tensor([value], dtype=torch.float64))
        return [segment]


def test_draws_of_a_kind_are_new_in_each_epoch_and_occurrence(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = shard_of(tmp_path, [({"height": 1.0, "of": "a tree"}, [], {}), ({"height": 1.0, "of": "a hut"}, [], {})])
    build_index(path, tokenizer, kinds=kinds_of(Cropped()))

    def drawn(seed: int, epoch: int, *samples: tuple[int, int]) -> list[float]:
        packs = packs_of(path, tokenizer, Cropped(), seed=seed)
        numbers, copies = zip(*samples, strict=True)
        field = pickle.loads(pickle.dumps(packs))[Pack(0, epoch, numbers, copies)].extras["heights"]
        assert isinstance(field, Heights)
        values: list[float] = field.value.tolist()
        return values

    first, other, again = drawn(1, 0, (0, 0), (1, 0), (0, 1))
    assert drawn(1, 0, (1, 0)) == [other], "whatever shares the pack, in any process"
    different = {first, other, again, *drawn(2, 0, (0, 0)), *drawn(1, 1, (0, 0))}
    assert len(different) == 5


def test_members_that_no_kind_reads_are_told_by_the_index(shard: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "tokenizer")
    without = index_shards([str(shard)], folder, kinds=["Chat", "Document", "Pair"])
    assert without.notes == ["2 samples have a member .moves.npy, which no record kind reads (--kinds)"]
    names = ["Chat", "Document", "Pair", "data.own_kinds.Moves", "data.own_kinds.Height"]
    assert index_shards([str(shard)], folder, kinds=names).notes == []
