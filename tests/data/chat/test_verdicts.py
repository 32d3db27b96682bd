"""Critic samples: what is read, what is to be learnt, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from data.conftest import png, record
from data.test_datamodule import module_of
from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.template import render_prompt
from mmcomponents.data.chat.verdicts import Verdicts, check_words
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.inspection import open_part, show_sample

WORDS = ["+", "-"]


def critic(*verdicts: str, image: bool = True) -> dict[str, Any]:
    """A solution whose steps are judged one after the other."""
    messages = []
    for number, verdict in enumerate(verdicts):
        step = f"{'<image>' if image and not number else ''}\nStep {number}: 3 7 1"
        messages += [{"role": "user", "content": step}, {"role": "assistant", "content": verdict}]
    return {"messages": messages, "source": "critic"}


@pytest.fixture
def critics(write_shard: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    shard = write_shard(
        [
            (critic("+", "-", "+"), [png(40, 20)]),
            (critic("-"), [png()]),
            (critic("-", "-", image=False), []),
            (critic("+", "+", "-", "-"), [png(20, 60)]),
        ]
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return shard


def packs(folder: Path, **changes: Any) -> PackedDataModule:
    data = module_of(folder, **{"verdicts": WORDS, "pack_tokens": 4000, **changes})
    data.setup("fit")
    return data


@pytest.mark.parametrize("part", ["train", "val"])
def test_every_verdict_reads_as_the_positive_word(
    critics: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, part: str
) -> None:
    data = packs(tmp_path, val=str(critics))
    plus, minus = Verdicts.of(WORDS, tokenizer).ids
    assert tokenizer.decode([plus, minus]) == "+-"
    (batch,) = [data.packs(part)[number] for number in range(data.packs(part).one_pass())]
    assert not batch.refused
    steps = batch.steps
    assert steps is not None
    assert steps.score_at.dtype == steps.sample.dtype == steps.label.dtype == torch.int64
    truth = {0: [1, 0, 1], 1: [0], 2: [0, 0], 3: [1, 1, 0, 0]}
    order = batch.segment_sample.tolist()
    assert steps.label.tolist() == [label for sample in order for label in truth[sample]]
    assert steps.sample.tolist() == [segment for segment, sample in enumerate(order) for _ in truth[sample]]
    # the word behind each place is the positive one; its target is the true one, and there is no other target
    assert (batch.input_ids[steps.score_at + 1] == plus).all()
    assert batch.labels[steps.score_at].tolist() == [plus if label else minus for label in steps.label.tolist()]
    assert int((batch.labels != IGNORE).sum()) == len(steps.label) == 10
    # the place is the end of what a critic is asked with
    segment = order.index(1)
    begin = int(batch.layout.cu_seqlens[segment])
    at = int(steps.score_at[steps.sample == segment])
    visual = int((batch.visual_index[begin:] >= 0)[: at - begin].sum())
    asked = render_prompt(critic("-")["messages"][:1], tokenizer, [visual]).input_ids
    assert batch.input_ids[begin : at + 1].tolist() == asked


def test_inputs_do_not_know_the_truth(
    write_shard: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write_shard([(critic("+", "-", "+"), [png()]), (critic("-", "+", "-"), [png()])])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    dataset = packs(tmp_path).train_packs
    (one,), (other,) = dataset.render(0), dataset.render(1)
    assert one.input_ids == other.input_ids
    assert one.labels != other.labels


def test_a_pack_without_samples_has_no_step(critics: Path, tmp_path: Path) -> None:
    empty = packs(tmp_path).train_packs[None]
    assert empty.steps is not None
    assert len(empty.steps.label) == 0
    assert packs(tmp_path, verdicts=None).train_packs[None].steps is None


def test_what_is_no_critic_sample_is_left_out_and_named(
    write_shard: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: Any
) -> None:
    asked = [{"role": "user", "content": "How many?"}]
    samples: list[tuple[dict[str, Any], list[bytes]]] = [
        (critic("+", "-", image=False), []),
        ({"messages": asked, "chosen": "+", "rejected": "-"}, []),
        ({"text": "Plain text."}, []),
        (critic("+", "+ ", image=False), []),
        (record("What?", "maybe"), []),
        (critic("+", "", image=False), []),
        (critic("+-", image=False), []),
    ]
    write_shard(samples)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    data = packs(tmp_path, max_refused=1.0)
    with caplog.at_level(logging.WARNING):
        batches = list(data.train_dataloader())
    refused = sorted(line for batch in batches for line in batch.refused)
    for line, expected in zip(
        refused,
        ["a pair has no verdicts", "a document has no", "answer 2", "'maybe', is neither", "''", "'+-'"],
        strict=True,
    ):
        assert expected in line
        assert line in caplog.text
    assert sum(len(batch.steps.label) for batch in batches if batch.steps is not None) == 2
    with pytest.raises(DataError, match="max_refused"):
        list(packs(tmp_path).train_dataloader())


def test_broken_messages_are_a_samples_fault(tokenizer: PreTrainedTokenizerFast) -> None:
    verdicts = Verdicts.of(WORDS, tokenizer)
    turns: list[Any] = [[], [1], [{"role": "assistant"}], [{"role": "assistant", "content": 3}], [{"content": "+"}]]
    for messages in [*turns, [{"role": ["user"], "content": "+"}], critic("+")["messages"][:1]]:
        with pytest.raises(SampleError):
            verdicts.hide(messages)
    hidden, labels = verdicts.hide(critic("-", "+")["messages"])
    assert labels == [0, 1]
    assert [m["content"] for m in hidden if m["role"] == "assistant"] == ["+", "+"]


@pytest.mark.parametrize(
    "words", [[], ["+"], ["+", "+"], ["+", "-", "0"], ["", "-"], ["+", ""], "+-", ["+", 1], [None, "-"]]
)
def test_two_different_words_are_asked_for(words: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.verdicts (must be two words|has .* twice)"):
        check_words(words)
    with pytest.raises(ValueError, match=r"data\.verdicts (must be two words|has .* twice)"):
        module_of(tmp_path, verdicts=words)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["good", "bad"], r"'good' is not a single token of the tokenizer but \d \('g', .*\)"),
        (["+", "<|im_end|>"], r"'<\|im_end\|>' is not a single token"),
        (["\u212b", "\u00c5"], "not a single token"),
    ],
)
def test_words_that_are_no_single_token_are_refused_before_training(
    words: list[str], complaint: str, critics: Path, tmp_path: Path
) -> None:
    data = module_of(tmp_path, verdicts=words)
    with pytest.raises(DataError, match=complaint):
        data.check_model(4, 28, 1000)
    with pytest.raises(DataError, match=complaint):
        data.setup("fit")


def test_words_that_become_the_same_token_are_refused(qwen: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="the same token"):
        Verdicts.of(["\u2126", "\u03a9"], qwen)  # the sign for ohm and the letter that it is normalised to
    with pytest.raises(DataError, match="together with the line break"):
        Verdicts.of(["+", "\n"], qwen)  # two line breaks are one token
    assert Verdicts.of(["+", "-"], qwen).ids == (10, 12)
    assert Verdicts.of(["Yes", "No"], qwen).ids == (9454, 2753)


def test_the_heads_tokens_are_compared(critics: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = module_of(tmp_path, verdicts=WORDS)
    plus, minus = Verdicts.of(WORDS, tokenizer).ids
    data.check_model(4, 28, 1000, verdict_ids=(plus, minus))
    with pytest.raises(ValueError, match=rf"tokens {minus} and {plus} as verdicts.* are {plus} and {minus}"):
        data.check_model(4, 28, 1000, verdict_ids=(minus, plus))
    module_of(tmp_path).check_model(4, 28, 1000, verdict_ids=(1, 2))  # without verdicts in the data nothing to compare


def test_an_inspection_shows_the_true_words(critics: Path, tmp_path: Path) -> None:
    opened = open_part(module_of(tmp_path, verdicts=WORDS, val=str(critics)), "val")
    shown = show_sample(opened.packs, 0)
    assert [piece.text for piece in shown.text if piece.supervised] == ["+", "-", "+"]
    assert shown.targets == 3


def test_verdicts_do_not_change_the_plan(critics: Path, tmp_path: Path) -> None:
    plans = [packs(tmp_path, verdicts=words).train_packs.plan.fingerprint() for words in (WORDS, None, ["-", "+"])]
    assert len(set(plans)) == 1
