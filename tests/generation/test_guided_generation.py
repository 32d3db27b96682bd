"""Pictures after a reasoning text. Contracts: tests/contracts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import got
from mmcomponents.batch import TokenType
from mmcomponents.component import WiringError
from mmcomponents.data.chat import end_ids
from mmcomponents.data.chat.reasoned_prompt import reasoning_ids
from mmcomponents.extras import References
from mmcomponents.generation import Context, GuidedGeneration
from mmcomponents.generation.prompt_parts import with_suffixes
from mmcomponents.heads import LMHead
from mmcomponents.objectives import PictureDiffusion

HOW = got.renderer()
MODEL = got.model(vocabulary=len(HOW.tokenizer))
BOX = "<box>[[0, 0, 500, 500]]</box> (red)"


def sampler(**changes: Any) -> GuidedGeneration:
    return GuidedGeneration(**({"steps": 3, "max_new_tokens": 8, "semantic": 2.0, "spatial": 1.5} | changes))


def context(seed: int = 0) -> Context:
    return Context(HOW.tokenizer, end_ids(HOW.tokenizer), torch.Generator().manual_seed(seed))


def drawn(texts: list[str], files: tuple[bytes, ...] = (), **changes: Any) -> list[np.ndarray]:
    prompts = got.prompts(HOW, len(texts), files)
    return [got.pixels(answer.picture) for answer in sampler(**changes).draw(MODEL, prompts, texts, context())]


def test_drawing_the_text_that_was_generated_gives_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    made, prompts = sampler(), got.prompts(HOW)
    texts = [got.TEXT, "a bus"]
    start = HOW.tokenizer.convert_tokens_to_ids("<img>")
    ids = [[*reasoning_ids(text, HOW.tokenizer), start] for text in texts]

    def steps(
        model: Any, given: Any, stop_ids: Any, generator: Any, ended: Any, draws: Any
    ) -> Iterator[dict[int, int]]:
        assert {*stop_ids} == {*end_ids(HOW.tokenizer)}
        for place in range(max(map(len, ids))):
            yield {segment: own[place] for segment, own in enumerate(ids) if place < len(own)}
            assert [ended(segment) for segment in (0, 1)] == [place + 1 >= len(own) for own in ids]

    monkeypatch.setattr(made.writer, "steps", steps)
    answers = made.answer(MODEL, prompts, context())
    assert [answer.reasoning for answer in answers] == texts
    assert all(answer.picture is not None and answer.picture.size == (got.SIDE, got.SIDE) for answer in answers)
    assert made.draw(MODEL, prompts, texts, context()) == answers


def test_a_text_without_the_tag_of_a_picture_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sampler()

    def steps(*_: Any, **__: Any) -> Iterator[dict[int, int]]:
        yield {0: 70, 1: 70}
        for _ in range(7):
            yield {0: 70}

    monkeypatch.setattr(made.writer, "steps", steps)
    cut, ended = made.answer(MODEL, got.prompts(HOW), context())
    assert cut.problems == ("the text is cut after 8 tokens, without <img>",)
    assert ended.problems == ("the text ends after 1 tokens, without <img>",)
    assert cut.picture is not None


def test_the_second_pass_is_that_of_training() -> None:
    """Hidden states of the queries, and latents of the layout, are those that the objective sees."""
    seen: list[tuple[torch.Tensor, ...]] = []
    head: Any = MODEL.heads["picture"]
    kept = head.predicted

    def spy(noisy: torch.Tensor, level: torch.Tensor, reference: Any, spatial: Any, semantic: Any) -> torch.Tensor:
        seen.append((reference, spatial, semantic.context, semantic.pooled))
        return kept(noisy, level, reference, spatial, semantic)

    head.predicted = spy
    try:
        pack = got.packed([got.sample()], HOW)
        objective = PictureDiffusion(dropout=0.0)
        with torch.no_grad():
            objective(MODEL, pack, objective.counts(pack))
        drawn([got.TEXT], semantic=1.0, spatial=1.0)
    finally:
        del head.predicted
    assert len(seen) == 1 + 3
    for one, other in zip(seen[0], seen[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", ["box", "words"])
def test_a_changed_box_changes_the_layout_and_changed_words_the_words(change: str) -> None:
    head: Any = MODEL.heads["picture"]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    kept = head.predicted

    def spy(noisy: Any, level: Any, reference: Any, spatial: torch.Tensor, semantic: Any) -> torch.Tensor:
        seen.append((spatial, semantic.context))
        return kept(noisy, level, reference, spatial, semantic)

    head.predicted = spy
    try:
        changed = BOX.replace("500, 500", "500, 999") if change == "box" else f"a bus {BOX}"
        for text in (BOX, changed):
            drawn([text], semantic=1.0, spatial=1.0)
    finally:
        del head.predicted
    assert torch.equal(seen[0][0], seen[3][0]) == (change == "words")
    assert not torch.equal(seen[0][1], seen[3][1])  # the words are read with the boxes between them


def test_a_text_without_boxes_makes_a_picture_and_one_that_cannot_be_read_is_told(caplog: Any) -> None:
    with caplog.at_level("WARNING"):
        answers = sampler().draw(MODEL, got.prompts(HOW), ["a bus", f"{BOX} <box>[[1, 2]]</box> (red)"], context())
    assert answers[0].problems == ()
    (problem,) = answers[1].problems
    assert "is not <box>" in problem
    assert answers[1].reasoning == f"{BOX} <box>[[1, 2]]</box> (red)"
    assert "1 of 2 reasoning texts cannot be read as a whole" in caplog.text
    with_box = sampler().draw(MODEL, got.prompts(HOW), ["a bus", BOX], context())
    assert with_box[0].picture == answers[0].picture


def test_the_last_image_of_a_prompt_is_the_reference() -> None:
    weights = {"semantic": 0.0, "spatial": 0.0, "reference": 2.0}  # only the reference counts, and the pooled words
    found = [drawn([""], (got.png(colour),), **weights)[0] for colour in ("red", "blue")]
    assert np.abs(found[0] - found[1]).max() > 1
    prompts = got.prompts(HOW, 1, (got.png("red"),))
    prompts.extras.clear()
    with pytest.raises(ValueError, match="prompt 1 has an image that is not given as a reference picture"):
        sampler().draw(MODEL, prompts, [""], context())
    images = [[Image.new("RGB", (got.SIDE, got.SIDE), colour) for colour in ("blue", "red")], []]
    field = sampler().fields(MODEL, images)["references"]
    assert isinstance(field, References)
    assert field.segment.tolist() == [0]
    assert field.picture.tensor[0, :, 3, 3].tolist() == [1.0, -1.0, -1.0]
    grey = sampler().fields(MODEL, [[Image.new("L", (got.SIDE, got.SIDE), 255)]])["references"]
    assert grey.tensors()[0].tolist() == torch.ones(1, 3, got.SIDE, got.SIDE).tolist()
    assert sampler().answer_length(MODEL) == 8 + 1 + got.QUERIES
    with pytest.raises(ValueError, match="reference picture has 8 x 8 pixels, and pictures are made with 16 x 16"):
        sampler().fields(MODEL, [[Image.new("RGB", (8, 8))]])


def test_noise_depends_on_seed_and_prompt_alone() -> None:
    texts = [BOX, BOX]
    first = sampler().draw(MODEL, got.prompts(HOW), texts, context(1))
    assert first[0].picture != first[1].picture
    assert first == sampler().draw(MODEL, got.prompts(HOW), texts, context(1))
    assert first != sampler().draw(MODEL, got.prompts(HOW), texts, context(2))


def test_suffixes_stand_after_each_segment() -> None:
    prompts = got.prompts(HOW)
    longer = with_suffixes(prompts, [[(5, TokenType.TEXT)], [(0, TokenType.QUERY), (1, TokenType.QUERY)]])
    end = int(prompts.layout.cu_seqlens[1])
    assert longer.layout.cu_seqlens.tolist() == [0, end + 1, prompts.num_tokens + 3]
    assert longer.input_ids[end] == 5
    assert longer.layout.token_type[-2:].tolist() == [TokenType.QUERY] * 2
    assert torch.equal(longer.input_ids[end + 1 : -2], prompts.input_ids[end:])
    assert longer.layout.max_seqlen == max(longer.layout.cu_seqlens.diff().tolist())


def test_wrong_models_and_arguments_are_refused() -> None:
    with pytest.raises(WiringError, match="GuidedGeneration reads the head 'autoencoder' and the model"):
        sampler().check(got.model(heads={"lm": LMHead, "picture": got.CONDITION}))
    with pytest.raises(WiringError, match="has 21 steps and the schedule of 'picture' 20 noise levels"):
        sampler(steps=21).check(MODEL)
    with pytest.raises(WiringError, match="needs a tokenizer"):
        sampler().draw(MODEL, got.prompts(HOW), ["", ""], Context())
    with pytest.raises(ValueError, match="2 prompts and 1 reasoning texts"):
        sampler().draw(MODEL, got.prompts(HOW), [""], context())
