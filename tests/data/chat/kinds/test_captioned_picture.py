"""Pictures to be made. Contracts: tests/contracts/test_data_contracts.py."""

from __future__ import annotations

import pytest

import synergen
from mmcomponents.batch import IGNORE, TokenType
from mmcomponents.data.chat.kinds import CaptionedPicture, Kinds, Sample
from mmcomponents.data.errors import SampleError
from mmcomponents.data.media.images import TiledImage


def test_a_picture_is_the_answer_to_its_caption() -> None:
    how = synergen.renderer()
    (segment,) = CaptionedPicture(0.0).render(synergen.sample("4 7", synergen.picture(0)), how)
    segment.check()
    ids, text = list(segment.input_ids), how.tokenizer
    (made,) = (span for span in segment.spans if span.type == TokenType.IMAGE_GEN)
    before = text.decode(ids[: made.start])
    assert before == "<|im_start|>user\nGenerate an image of: 4 7<|im_end|>\n<|im_start|>assistant\n<img>"
    assert made.count == 4
    assert text.decode(ids[made.start + 4 :]).startswith("</img><|im_end|>\n")
    targets = [text.decode([label]) for label in segment.labels if label != IGNORE]
    assert targets == ["<img>", "</img>", "<|im_end|>"]
    batch = synergen.packed([synergen.sample("4 7", synergen.picture(0))], how)
    assert batch.visual_index[batch.layout.token_type == TokenType.IMAGE_GEN].tolist() == [0, 1, 2, 3]


def test_a_prompt_that_is_left_out_has_the_unconditional_token_and_the_same_length() -> None:
    how, kind = synergen.renderer(), CaptionedPicture(1.0)
    for caption in ("4 7", "a long caption of many words, which is longer than the sentence that replaces it"):
        sample = synergen.sample(caption, synergen.picture(0))
        (left_out,), (kept,) = kind.render(sample, how), CaptionedPicture(0.0).render(sample, how)
        assert len(left_out.input_ids) == len(kept.input_ids)
        (query,) = (span for span in left_out.spans if span.type == TokenType.QUERY)
        text = how.tokenizer.decode(list(left_out.input_ids)[: query.start])
        assert text == "<|im_start|>user\nGenerate an image of: "
        assert query.count == 1
        assert caption not in how.tokenizer.decode(left_out.input_ids)
        assert sum(label != IGNORE for label in left_out.labels) == 3
    (plain,) = kind.render(synergen.sample("4 7", synergen.picture(0), training=False), how)
    assert not any(span.type == TokenType.QUERY for span in plain.spans)


def test_the_draw_depends_on_the_sample_and_its_occurrence() -> None:
    how, kind = synergen.renderer(), CaptionedPicture(0.3)

    def dropped(key: tuple[int, int, int, int]) -> bool:
        sample = Sample({"caption": "4 7"}, [synergen.picture(0)], key=key, is_training=True)
        return any(span.type == TokenType.QUERY for span in kind.render(sample, how)[0].spans)

    keys = [(0, epoch, number, copy) for epoch in range(3) for number in range(60) for copy in range(2)]
    found = [dropped(key) for key in keys]
    assert found == [dropped(key) for key in keys]
    assert 0.2 < sum(found) / len(found) < 0.4
    assert found[:120] != found[120:240]  # another epoch
    assert found[0:120:2] != found[1:120:2]  # another occurrence


def test_the_question_of_a_picture() -> None:
    how, kind = synergen.renderer(), CaptionedPicture()
    sample = Sample({"caption": "4 7"}, [synergen.picture(0)])
    (prompt,) = kind.prompts(sample, how)
    assert (prompt.question, prompt.answer, prompt.kind) == ("Generate an image of: 4 7", "4 7", "picture")
    assert how.tokenizer.decode(prompt.segment.input_ids).endswith("<|im_start|>assistant\n")
    assert not prompt.segment.images
    assert prompt.form == "picture"
    assert kind.turns(sample.record) == 1


def test_errors() -> None:
    how, kind = synergen.renderer(), CaptionedPicture()
    with pytest.raises(SampleError, match=r"is one image, got 2 images and 0 videos$"):
        kind.render(Sample({"caption": "4"}, [synergen.picture(0), synergen.picture(1)]), how)
    with pytest.raises(SampleError, match=r"is one image, got 0 images and 0 videos$"):
        kind.render(Sample({"caption": "4"}), how)
    with pytest.raises(SampleError, match=r"is one tile, got 3 tiles: set data\.sources\.NAME\.max_tiles"):
        kind.render(Sample({"caption": "4"}, [TiledImage.of_tiles(3)], number=0), how)
    with pytest.raises(SampleError, match=r'"caption" is not a text, but 4$'):
        Kinds([kind]).of({"caption": 4})
    with pytest.raises(ValueError, match=r"dropout must be from 0 to 1, got 1.5"):
        CaptionedPicture(1.5)
