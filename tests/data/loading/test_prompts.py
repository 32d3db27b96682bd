from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from data.conftest import png, record
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.single_questions import single_questions
from mmcomponents.data.chat.special_tokens import ConversationError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.prompts import PromptDataset, prompt_batch
from mmcomponents.data.media.tiling import Tiling


@pytest.fixture
def renderer(tokenizer: PreTrainedTokenizerFast) -> SampleRenderer:
    return SampleRenderer(tokenizer, 4, Tiling(1, 4, 28))


def several(*questions: str) -> list[dict[str, str]]:
    turns = []
    for n, question in enumerate(questions):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": f"answer {n}"}]
    return turns


def test_the_questions_of_a_scene_share_its_image(write_shard: Callable[..., Path], renderer: SampleRenderer) -> None:
    scene = {"messages": several("<image>\nfirst", "second", "third"), "kinds": ["a", "b", "c"], "source": "s"}
    text = {"messages": several("only text"), "source": "s"}
    files = [png(100, 30)]
    shard = write_shard([(scene, files), (text, []), (scene, files)])
    dataset = PromptDataset(Index.open([shard], renderer.tokenizer), renderer, prompts_per_batch=4)
    assert len(dataset) == 2
    prompts = dataset[0]
    assert len(prompts) == prompts.batch.num_segments == 4
    assert prompts.questions == ["first", "second", "third", "only text"]
    assert prompts.answers == ["answer 0", "answer 1", "answer 2", "answer 0"]
    assert prompts.kinds == ["a", "b", "c", ""]
    assert prompts.keys == prompts.batch.keys == ["train-000000/0000"] * 3 + ["train-000000/0001"]
    assert prompts.pictures == [files[0]] * 3 + [None]
    batch, layout = prompts.batch, prompts.batch.layout
    assert batch.images is not None
    tiles = len(batch.images.pixels)
    assert tiles == 4, "three tiles and a thumbnail"
    segments = layout.segment_of_token()
    for segment in range(3):
        indices = batch.visual_index[(segments == segment) & (batch.visual_index >= 0)]
        assert indices.tolist() == list(range(tiles * 4))
    assert (batch.labels == -100).all()
    texts = [renderer.tokenizer.decode(batch.input_ids[segments == s]) for s in range(4)]
    assert all(text.endswith("<|im_start|>assistant\n") for text in texts)
    assert "second" in texts[1]
    assert "first" not in texts[1]
    assert "answer" not in "".join(texts)


def test_a_batch_moves(write_shard: Callable[..., Path], renderer: SampleRenderer) -> None:
    shard = write_shard([(record(), [png()])])
    prompts = PromptDataset(Index.open([shard], renderer.tokenizer), renderer, 4)[0]
    moved = prompts.to("meta")
    assert moved.batch.input_ids.device == torch.device("meta")
    assert moved.answers == prompts.answers


def test_bad_samples_are_refused_whole(write_shard: Callable[..., Path], renderer: SampleRenderer) -> None:
    shard = write_shard([(record(), [b"broken"]), (record(), [png()])])
    dataset = PromptDataset(Index.open([shard], renderer.tokenizer), renderer, 4)
    prompts = dataset[0]
    assert prompts.keys == ["train-000000/0001"]
    assert prompts.batch.refused == ["train-000000/0000: not an image: 6 bytes of no known format, or a broken header"]
    empty = dataset[None]
    assert len(empty) == 0
    assert empty.batch.num_tokens == 1


def test_single_questions_bring_the_images_they_may_use() -> None:
    turns = several("<image> one", "two", "<image> three")
    found = [(one.messages[-1]["content"], one.answer, one.images) for one in single_questions(turns)]
    assert found == [
        ("<image> one", "answer 0", 1),
        ("<image>\ntwo", "answer 1", 1),
        ("<image>\n<image> three", "answer 2", 2),
    ]
    with pytest.raises(ConversationError, match="1 turns"):
        single_questions(turns[:1])


def test_free_prompts(renderer: SampleRenderer) -> None:
    image, other = Image.new("RGB", (28, 28)), Image.new("L", (28, 56))
    asks = [[{"role": "user", "content": text}] for text in ("one", "two", "<image><image> three", "four")]
    batch = prompt_batch(asks, [[image], [image], [image, other], []], renderer)
    assert batch.num_segments == 4
    assert batch.images is not None
    assert batch.layout.grid[:, 0].tolist() == [1, 1, 3], "one and two share their image"
    assert prompt_batch(asks[:1], None, renderer).images is None
    with pytest.raises(ValueError, match="4 conversations, 1 lists"):
        prompt_batch(asks, [[image]], renderer)
    with pytest.raises(ConversationError, match="2 <image>"):
        prompt_batch(asks[2:3], [[image]], renderer)


def test_samples_with_an_image_are_asked_about_first(
    write_shard: Callable[..., Path], renderer: SampleRenderer
) -> None:
    text, scene = ({"messages": several(question), "source": "s"} for question in ("only text", "<image>\nseen"))
    file = png(28, 28)
    index = Index.open([write_shard([(text, []), (scene, [file]), (text, [])])], renderer.tokenizer)
    asked = [PromptDataset(index, renderer, 4).one_question_each(count) for count in (1, 2, 9)]
    assert [batch.pictures for batch in asked] == [[file], [file, None], [file, None, None]]
    assert [batch.questions[0] for batch in asked] == ["seen"] * 3
