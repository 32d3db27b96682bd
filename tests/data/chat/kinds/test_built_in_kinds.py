"""The kinds of this package: conversations, documents, pairs of answers, and scored steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from data.conftest import record
from mmcomponents.batch import IGNORE, Pairs, Steps
from mmcomponents.data.chat.kinds import Chat, Document, Pair, RecordKind, Sample, ScoredSteps
from mmcomponents.data.chat.kinds.scored_steps import scored_steps
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import ConversationError
from mmcomponents.data.media.images import TiledImage

ASK = {"role": "user", "content": "How many?"}
PAIR = {"messages": [{"role": "user", "content": "<image>\nHow many?"}], "chosen": "3 7", "rejected": "1"}
STEPS = {"messages": [ASK, {"role": "assistant", "content": "+"}, ASK, {"role": "assistant", "content": "-"}]}


def image(tiles: int = 1) -> TiledImage:
    return TiledImage(torch.zeros(tiles, 3, 2, 2))


@pytest.fixture
def renderer(tokenizer: PreTrainedTokenizerFast) -> SampleRenderer:
    return SampleRenderer(tokenizer, tokens_per_tile=4)


def test_a_conversation_is_one_segment(renderer: SampleRenderer) -> None:
    one, other = image(2), image()
    messages = [{"role": "user", "content": "<image> or <image>?"}, {"role": "assistant", "content": "3"}]
    (segment,) = Chat().render(Sample({"messages": messages}, [one, other]), renderer)
    chat = renderer.chat(messages, [one, other])
    assert (segment.input_ids, segment.labels) == (chat.input_ids, chat.labels)
    assert segment.images == [one, other]
    assert [(span.start, span.count) for span in segment.spans] == list(chat.image_spans)
    assert [span.image for span in segment.spans] == [0, 1]
    assert segment.extras == {}


def test_frames_of_videos_are_placed_in_the_order_of_the_text(renderer: SampleRenderer) -> None:
    still, frames = image(), [image(), image()]
    asked = record("<video> and <image>", "3")
    (segment,) = Chat().render(Sample(asked, [still], [frames]), renderer)
    assert segment.images == [*frames, still]


def test_questions_of_a_conversation_are_asked_one_by_one(renderer: SampleRenderer) -> None:
    turns = [
        {"role": "user", "content": "<image> How many?"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "Read them."},
        {"role": "assistant", "content": "3 7 1"},
    ]
    shown = image()
    sample = Sample({"messages": turns, "kinds": ["count"]}, [shown])
    first, second = Chat().prompts(sample, renderer)
    assert [(p.question, p.answer, p.kind) for p in (first, second)] == [
        ("How many?", "3", "count"),
        ("Read them.", "3 7 1", ""),
    ]
    assert first.segment.images == second.segment.images == [shown]
    assert all(label == IGNORE for label in second.segment.labels)
    assert Chat().turns(sample.record) == 2


def test_a_document_may_have_images(renderer: SampleRenderer) -> None:
    (plain,) = Document().render(Sample({"text": "some words"}), renderer)
    assert plain.input_ids == renderer.document("some words", []).input_ids
    shown = image()
    (segment,) = Document().render(Sample({"text": "Look: <image>"}, [shown]), renderer)
    assert segment.images == [shown]
    assert [span.count for span in segment.spans] == [4]
    with pytest.raises(ConversationError, match="0 <image> placeholders"):
        Document().render(Sample({"text": "none"}, [image(), image()]), renderer)


def test_a_pair_is_two_segments_that_share_the_image(renderer: SampleRenderer) -> None:
    shown = image()
    chosen, rejected = Pair().render(Sample(PAIR, [shown]), renderer)
    assert chosen.images[0] is rejected.images[0] is shown
    begin = 1 + chosen.labels.index(next(label for label in chosen.labels if label != IGNORE))
    assert list(chosen.input_ids[: begin - 1]) == list(rejected.input_ids[: begin - 1])
    pairs = chosen.extras["pairs"]
    assert isinstance(pairs, Pairs)
    assert (pairs.chosen.tolist(), pairs.rejected.tolist(), pairs.reference_logps) == ([0], [1], None)
    assert rejected.extras == {}
    (prompt,) = Pair().prompts(Sample(PAIR, [shown]), renderer)
    assert (prompt.question, prompt.answer) == ("How many?", "3 7")


def test_steps_read_as_the_positive_word(renderer: SampleRenderer, tokenizer: PreTrainedTokenizerFast) -> None:
    kind = ScoredSteps(["+", "-"])
    (segment,) = kind.render(Sample(STEPS), renderer)
    plus, minus = tokenizer.convert_tokens_to_ids(["+", "-"])
    assert [label for label in segment.labels if label != IGNORE] == [plus, minus]
    assert minus not in segment.input_ids
    steps = segment.extras["steps"]
    assert isinstance(steps, Steps)
    assert steps.label.tolist() == [1, 0]
    assert [segment.labels[place + 1] for place in steps.score_at.tolist()] == [plus, minus]
    assert [prompt.answer for prompt in kind.prompts(Sample(STEPS), renderer)] == ["+", "-"]


def test_each_verdict_has_a_target_and_its_end() -> None:
    steps = scored_steps([IGNORE, 2, 8, IGNORE, 1, 8], [0, 1])
    assert (steps.score_at.tolist(), steps.sample.tolist(), steps.label.tolist()) == ([0, 3], [0, 0], [0, 1])
    with pytest.raises(ValueError, match="2 verdicts are supervised at 1 positions"):
        scored_steps([IGNORE, 1, 8], [1, 0])


@pytest.mark.parametrize(
    ("kind", "sample", "segments", "own_system"),
    [
        (Chat(), record("How many?"), 1, False),
        (Chat(), {"messages": [{"role": "system", "content": "Mine."}, *record("a")["messages"]]}, 1, True),
        (Document(), {"text": "words"}, 1, True),
        (Pair(), {**PAIR, "messages": [ASK]}, 2, False),
        (ScoredSteps(["+", "-"]), STEPS, 1, False),
    ],
    ids=["chat", "chat with system", "document", "pair", "steps"],
)
def test_measured_sizes(
    kind: RecordKind, sample: dict[str, Any], segments: int, own_system: bool, renderer: SampleRenderer
) -> None:
    measured = kind.measure(Sample(sample), renderer)
    rendered = kind.render(Sample(sample), renderer)
    assert measured.text_tokens == sum(len(segment.input_ids) for segment in rendered)
    assert (measured.segments, measured.uses, measured.own_tiles) == (segments, segments, 0)
    assert measured.own_system == own_system == RecordKind.measure(kind, Sample(sample), renderer).own_system
    longer = RecordKind.takes_system(kind, Sample(sample), renderer)
    assert longer != own_system, "the shortcut of the kind is what rendering with a system text gives"
