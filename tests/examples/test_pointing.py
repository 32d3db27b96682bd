"""The parts of examples/third_party by themselves: contract tests, two ranks, and samples that cannot be used."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from mmcomponents.batch import Exact, PackedBatch, TokenType
from mmcomponents.component import WiringError
from mmcomponents.data import DataError, PackedDataModule, SampleError, ShardWriter, build_index, train_tokenizer
from mmcomponents.data.chat.kinds import Chat, Kinds, RecordKind, Sample
from mmcomponents.data.media.images import TiledImage
from mmcomponents.data.settings import ImageSettings, LoadingSettings, PackingSettings, QuestionSettings
from mmcomponents.extras import Actions
from mmcomponents.heads import LMHead
from mmcomponents.objectives import NextToken
from mmcomponents.testing import check_component, check_packer, check_record_kind, small_parts, text_packs
from mmcomponents.testing.packs import join
from mmcomponents.testing.training_steps import StepRecorder, weights_of
from mmcomponents.training import MultimodalTask
from pointing import EulerSampler, FirstFit, FlowMatching, NoisyActionEmbedder, PointingTask, VelocityHead, read_actions
from pointing.noisy_actions import actions_per_segment

QUESTIONS = 7
PARTS = {"embedder": NoisyActionEmbedder, "heads": {"actions": VelocityHead}}
Written = tuple[dict[str, Any], bytes | None]


def action_packs(seed: int, *, tile: int, tokens_per_tile: int) -> list[PackedBatch]:
    """Returns the packs of `text_packs` with up to three actions at the end of each; the last pack has none."""
    packs = []
    for n, pack in enumerate(text_packs(seed, tile=tile, tokens_per_tile=tokens_per_tile)):
        count = min(1 + (seed + n) % 3, pack.num_tokens - 1)
        token_type = pack.layout.token_type.clone()
        token_type[len(token_type) - count :] = TokenType.ACTION
        values = torch.randn(count, 2, generator=torch.Generator().manual_seed(10 * seed + n))
        actions = Actions(Exact(values), torch.ones(count, dtype=torch.bool))
        layout = replace(pack.layout, token_type=token_type)
        packs.append(replace(pack, layout=layout, extras={"actions": actions}))
    return packs


def npy(values: Any, dtype: str = "float32") -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values, dtype))
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (28, 28), (200, 0, 0)).save(file, "png")
    return file.getvalue()


def task(n: int = 0, **changes: Any) -> dict[str, Any]:
    return {"instruction": f"Move to the square {n}.", "source": "drawn", **changes}


def moves(n: int) -> bytes:
    """Returns a file with one to three actions."""
    return npy([[n / 100, -k / 10] for k in range(1 + n % 3)])


def write(folder: Path, samples: Sequence[Written], *kinds: RecordKind) -> list[str]:
    """Writes a shard with its index, and a tokenizer; returns the reasons for which samples cannot be used."""
    tokenizer = train_tokenizer([str(record.get("instruction", "")) for record, _ in samples], 300)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    with ShardWriter(folder, "train") as writer:
        for n, (record, actions) in enumerate(samples):
            members = {} if actions is None else {"actions.npy": actions}
            writer.write(f"{n:04d}", record, [("png", png())], members)
    build_index(writer.paths[0], tokenizer, kinds=Kinds(kinds or [PointingTask()]))
    return list(data_of(folder, *kinds).open_index("train").problems.values())


def data_of(folder: Path, *kinds: RecordKind) -> PackedDataModule:
    return PackedDataModule(
        str(folder / "tokenizer"),
        tiny.VISUAL_TOKENS,
        f"{folder}/train-*.tar",
        test=f"{folder}/train-*.tar",
        images=ImageSettings(tile_size=28, max_tiles=1),
        packing=PackingSettings(tokens=200, tiles=None),
        loading=LoadingSettings(num_workers=0, max_refused=0.5),
        questions=QuestionSettings(per_batch=1, limit=QUESTIONS),
        kinds=list(kinds) or [PointingTask()],
        packer=FirstFit(),
    )


@pytest.mark.parametrize(
    ("slot", "factory", "more"),
    [
        ("embedder", NoisyActionEmbedder, {}),
        ("head", VelocityHead, {}),
        ("objective", FlowMatching, {"packs": action_packs, "neighbours": PARTS}),
        ("sampler", EulerSampler, {"packs": action_packs, "neighbours": PARTS}),
    ],
)
def test_the_parts_pass_the_contract_tests(slot: str, factory: Any, more: dict[str, Any], two_ranks: Any) -> None:
    report = check_component(slot, factory, ranks=two_ranks, **more)
    skipped = {result.test for result in report.results if result.status == "not applicable"}
    assert skipped <= {"neutral_start", "attention_backends_agree", "checkpointing_changes_nothing"}


def test_the_kind_passes_the_contract_tests() -> None:
    images, members = [TiledImage.of_tiles(1)], {"actions.npy": moves(2)}
    check_record_kind(PointingTask(), [Sample(task(n), images, members=members) for n in range(2)])


def test_the_packer_passes_the_contract_tests() -> None:
    check_packer(FirstFit())


def train(folder: str, world: int) -> dict[str, Any]:
    """Trains three steps of four packs; returns losses, gradient norms and weights."""
    data, notes = data_of(Path(folder)), StepRecorder()
    made = MultimodalTask(
        **small_parts(**PARTS, vision=partial(tiny.vision, image_size=28, patch_size=7)),
        objective=FlowMatching,
        sampler=EulerSampler,
        optimizer=partial(SGD, lr=0.05, momentum=0.9),
        vocab_size=300,
    )
    run = Trainer(
        accelerator="cpu", devices=world, strategy="fsdp2" if world > 1 else "auto", max_steps=3, logger=False,
        accumulate_grad_batches=4 // world, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[notes], default_root_dir=folder,
    )  # fmt: skip
    run.fit(made, datamodule=data)
    answers = {row["key"]: torch.tensor(row["answer"]) for rows in run.predict(made, datamodule=data) for row in rows}
    return {"losses": notes.losses, "norms": notes.norms, "weights": weights_of(made.model), "answers": answers}


def test_two_ranks_train_and_answer_as_one(two_ranks: Any, tmp_path: Path) -> None:
    assert write(tmp_path, [(task(n), moves(n)) for n in range(72)]) == []
    one = train(str(tmp_path), 1)
    assert len({*one["losses"]}) == 3
    found = two_ranks.run(lambda rank, folder: train(folder, 2), str(tmp_path))
    assert len(one["answers"]) == QUESTIONS
    answers = [each.pop("answers") for each in found]
    assert [len(each) for each in answers] == [QUESTIONS // 2 + 1, QUESTIONS // 2], (
        "rank 1 has a batch without questions"
    )
    torch.testing.assert_close(answers[0] | answers[1], one.pop("answers"), rtol=1e-5, atol=1e-5)
    for each in found:
        torch.testing.assert_close(each, one, rtol=1e-5, atol=1e-5)


def test_a_sample_becomes_a_question_and_action_positions(tmp_path: Path) -> None:
    write(tmp_path, [(task(n), moves(n)) for n in range(12)])
    data = data_of(tmp_path)
    data.setup("fit")
    batches = [data.train_packs[number] for number in range(len(data.train_packs))]
    assert sorted(sample for batch in batches for sample in batch.segment_sample.tolist()) == [*range(12)]
    assert len(batches) > 1
    assert all(batch.num_tokens <= 200 for batch in batches)
    for batch in batches:
        is_action = (batch.layout.token_type == TokenType.ACTION).split(batch.layout.cu_seqlens.diff().tolist())
        assert [int(part.sum()) for part in is_action] == [1 + sample % 3 for sample in batch.segment_sample.tolist()]
        assert all(bool(part[len(part) - int(part.sum()) :].all()) for part in is_action)
        wanted = torch.cat([read_actions(moves(sample)) for sample in batch.segment_sample.tolist()])
        actions = batch.extras["actions"]
        assert isinstance(actions, Actions)
        assert torch.equal(actions.values.tensor, wanted)
        assert FlowMatching().counts(batch) == {"actions": len(wanted)}
    empty = data.train_packs[None]
    assert FlowMatching().counts(empty) == {"actions": 0}


def test_prompts_do_not_contain_the_answer(tmp_path: Path) -> None:
    write(tmp_path, [(task(n), moves(n)) for n in range(3)])
    data = data_of(tmp_path)
    data.setup("test")
    batches = [*data.test_dataloader()]
    assert [each.answers for each in batches] == [[read_actions(moves(n)).tolist()] for n in range(3)]
    for n, prompts in enumerate(batches):
        actions = prompts.batch.extras["actions"]
        assert isinstance(actions, Actions)
        assert actions.values.tensor.shape == (0, 2)
        assert int((prompts.batch.layout.token_type == TokenType.ACTION).sum()) == 1 + n


class SameKeys(PointingTask):
    name = "imitation"


class Longer(PointingTask):
    """Renders one position more than is measured."""

    def render(self, sample, renderer):
        segments = super().render(sample, renderer)
        if sample.number >= 0:
            segments[0].input_ids, segments[0].labels = [*segments[0].input_ids, 0], [*segments[0].labels, -100]
        return segments


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (({"aim": "there"}, moves(0)), 'wrong JSON: no kind of record (pointing, chat) matches its keys "aim": '),
        (
            (task(messages=[{"role": "user", "content": "Go."}]), moves(0)),
            'wrong JSON: the kinds pointing and chat both match its keys "instruction", "messages", "source"',
        ),
        ((task(), None), "the member .actions.npy is missing, which samples of the kind pointing have beside .json"),
        ((task(instruction=3), moves(0)), 'wrong JSON: "instruction" is not a text (int)'),
        (
            (task(), npy([[0, 0, 0]])),
            "actions.npy has [1, 3] float32 and must have [A, 2] float32 in rows",
        ),
    ],
)
def test_a_sample_that_cannot_be_used_is_one_line(tmp_path: Path, sample: Written, said: str) -> None:
    (problem,) = write(tmp_path, [(task(), moves(0)), sample], PointingTask(), Chat())
    assert problem.startswith(said)
    assert "\n" not in problem


def test_two_kinds_of_a_package_that_match_are_named(tmp_path: Path) -> None:
    problems = write(tmp_path, [(task(), moves(0))], PointingTask(), SameKeys())
    assert problems == ['wrong JSON: the kinds pointing and imitation both match its keys "instruction", "source"']


def test_another_length_than_measured_is_skipped_by_name(tmp_path: Path) -> None:
    write(tmp_path, [(task(n), moves(n)) for n in range(3)], Longer())
    data = data_of(tmp_path, Longer())
    data.setup("fit")
    batch = data.train_packs[0]
    assert len(batch.refused) == 3
    for line in batch.refused:
        assert "train-000000/" in line
        assert "tokens, its index has" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not in numpy's format"),
        (b"hello, this is no array", "is not in numpy's format"),
        (moves(2)[:-1], "has 23 bytes of values and must have 24"),
        (moves(2) + b"x", "has 25 bytes of values and must have 24"),
        (npy([[0, 0]], "float64"), "has [1, 2] float64"),
        (npy([0, 0]), "has [2] float32"),
        (npy(np.zeros((0, 2))), "has [0, 2] float32"),
        (npy(np.zeros((65, 2))), "has [65, 2] float32"),
        (npy([[0, np.nan]]), "values that are NaN or infinite"),
    ],
)
def test_files_that_are_no_actions(data: bytes, said: str) -> None:
    with pytest.raises(SampleError, match=r"actions\.npy") as caught:
        read_actions(data)
    assert said in str(caught.value)


def test_first_fit() -> None:
    sizes = np.array([[0.6, 0.1], [0.5, 0.1], [0.4, 0.1], [0.1, 0.9], [0.4, 0.05], [0.1, 0.85]])
    assert FirstFit().pack(sizes) == [[0, 2], [1, 3], [4, 5]]
    assert repr(FirstFit()) == "pointing.first_fit.FirstFit()"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"heads": {"actions": partial(VelocityHead, action_width=3)}}, "of 2 values and VelocityHead gives 3"),
        ({"heads": {"actions": LMHead}}, "of 2 values and LMHead gives none"),
        ({"embedder": small_parts()["embedder"]}, "TokenEmbedder takes actions of no values and VelocityHead gives 2"),
        ({"heads": {"lm": LMHead}}, "FlowMatching reads the head 'actions' and the model has lm"),
        (
            {"sampler": partial(EulerSampler, head="act")},
            "EulerSampler reads 'act', a VelocityHead, and the",
        ),
        ({"objective": NextToken, "heads": {"lm": VelocityHead}}, "weighted_nll of the head 'lm', which VelocityHead"),
    ],
)
def test_parts_that_do_not_fit(parts: dict[str, Any], said: str) -> None:
    chosen = {"objective": FlowMatching, "sampler": EulerSampler, **PARTS, **parts}
    own = {name: chosen.pop(name) for name in ("objective", "sampler")}
    with pytest.raises(WiringError) as caught:
        MultimodalTask(**small_parts(**chosen), **own, vocab_size=tiny.VOCAB).check()
    assert said in str(caught.value)


def test_actions_of_another_width_than_the_model(tmp_path: Path) -> None:
    (pack,) = action_packs(0, tile=tiny.TILE, tokens_per_tile=tiny.VISUAL_TOKENS)[:1]
    wide = partial(NoisyActionEmbedder, action_width=3), partial(VelocityHead, action_width=3)
    model = tiny.model(embedder=wide[0](tiny.VOCAB, tiny.WIDTH), heads={"actions": wide[1](tiny.WIDTH, tiny.VOCAB)})
    with pytest.raises(ValueError, match="the actions have 2 values and the embedder takes 3"):
        FlowMatching()(model, pack, FlowMatching().counts(pack))


def test_packs_without_actions_say_which_kind_is_missing() -> None:
    (pack,) = text_packs(0, tile=tiny.TILE, tokens_per_tile=tiny.VISUAL_TOKENS)[:1]
    with pytest.raises(ValueError, match=r"name a kind that gives them in data\.kinds, such as PointingTask"):
        FlowMatching().counts(pack)


def test_unusable_samples_end_a_run_above_the_limit(tmp_path: Path) -> None:
    write(tmp_path, [(task(n), moves(n) if n else None) for n in range(3)] + [(task(), None)] * 2)
    with pytest.raises(DataError, match=r"the member \.actions\.npy is missing"):
        data_of(tmp_path).setup("fit")


def test_the_record_of_the_script_is_that_of_the_kind() -> None:
    assert PointingTask().matches(json.loads('{"instruction": "Move to the red square."}'))
    assert not PointingTask().matches({"messages": []})


class HostReads(TorchDispatchMode):
    """Counts reads of single values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_actions_are_counted_without_a_read_for_each_segment() -> None:
    pack = join(*action_packs(0, tile=16, tokens_per_tile=4))
    with HostReads() as reads:
        assert actions_per_segment(pack) == [1, 2, 3, 1, 0]
    assert reads.count == 0
