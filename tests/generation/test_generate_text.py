"""Answers from text and images, with a head that repeats a given text."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.chat.special_tokens import ConversationError
from mmcomponents.data.media.images import ImageError
from mmcomponents.generation.generate_text import generate
from mmcomponents.generation.inputs import set_delta
from mmcomponents.positions import V2PE, RoPE

PICTURE = Image.new("RGB", (40, 20))


def test_an_answer_ends_at_the_end_of_the_turn_whatever_eos_is(tokenizer, parrot) -> None:
    model = parrot("It is a cat<|im_end|>")
    for eos in ("<|im_end|>", "<|endoftext|>", None):
        tokenizer.eos_token = eos
        model.heads["lm"].calls = 0
        assert generate(model, tokenizer, ["What is this?"], [PICTURE], max_new_tokens=40) == ["It is a cat"]
    tokenizer.eos_token = "<|im_end|>"


def test_stop_texts_are_cut_off(tokenizer, parrot) -> None:
    model = parrot("a cat, a dog")
    assert generate(model, tokenizer, ["?"], max_new_tokens=12, stop=[", a"]) == ["a cat"]
    model.heads["lm"].calls = 0
    before = model.heads["lm"].calls
    assert generate(model, tokenizer, ["?"], max_new_tokens=40, stop=",") == ["a cat"]
    assert model.heads["lm"].calls - before < 12, "a stop of one token ends the decoding as well"


def test_each_modules_mode_comes_back(tokenizer, parrot) -> None:
    model = parrot("a<|im_end|>").train()
    model.vision.eval()
    generate(model, tokenizer, ["?"], [PICTURE])
    assert not model.vision.training
    assert model.backbone.training


def test_prompts_answer_alike_together_and_alone(tokenizer, writer) -> None:
    model = writer()
    prompts = ["What is this?", "<image> and <image>: a dog?", [{"role": "user", "content": "7"}]]
    images = [PICTURE, [PICTURE, Image.new("L", (16, 16))], None]
    together = generate(model, tokenizer, prompts, images, max_new_tokens=6)
    alone = [generate(model, tokenizer, [p], [i], max_new_tokens=6)[0] for p, i in zip(prompts, images, strict=True)]
    assert together == alone
    drawn = [generate(model, tokenizer, ["7"], max_new_tokens=9, temperature=1.0, seed=s) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert generate(model, tokenizer, []) == []


def test_wrong_input_is_refused(tokenizer, parrot) -> None:
    model = parrot("a")
    with pytest.raises(ValueError, match="a list of prompts, got one str"):
        generate(model, tokenizer, "What?")
    with pytest.raises(ValueError, match="2 prompts and images for 1"):
        generate(model, tokenizer, ["a", "b"], [PICTURE])
    with pytest.raises(ConversationError, match=r"2.*1|1.*2"):
        generate(model, tokenizer, ["<image> and <image>"], [PICTURE])
    with pytest.raises(ImageError, match=r"no image file nothing.png"):
        generate(model, tokenizer, ["a"], ["nothing.png"])


def test_a_stop_of_several_tokens_ends_the_decoding(tokenizer, parrot) -> None:
    model = parrot("a cat, a dog or 7.")
    assert generate(model, tokenizer, ["?", "??"], max_new_tokens=40, stop=["dog or"])[0] == "a cat, a "
    assert model.heads["lm"].calls < 20


def test_images_come_in_any_form_and_are_encoded_once(tokenizer, writer, tmp_path) -> None:
    model, path = writer(), tmp_path / "a.png"
    picture = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    picture.save(path)
    forms = [picture, path, str(path), path.read_bytes(), np.asarray(picture)]
    answers = generate(model, tokenizer, ["?"] * len(forms), forms, max_new_tokens=4)
    assert len(set(answers)) == 1
    tiles = []
    model.vision.register_forward_pre_hook(lambda module, given: tiles.append(given[0].pixels.shape[0]))
    generate(model, tokenizer, ["?", "What?"], [picture, picture], max_new_tokens=2)
    assert tiles == [1]


def test_a_video_is_its_frames(tokenizer, writer) -> None:
    model = writer()
    frames = [Image.new("RGB", (16, 16), (shade, 0, 90)) for shade in (0, 120, 255)]
    text = "Frame-1: <image>\nFrame-2: <image>\nFrame-3: <image>\nWhat?"
    wanted = generate(model, tokenizer, [text], [frames], max_new_tokens=6)
    assert generate(model, tokenizer, ["What?"], videos=[[frames]], max_new_tokens=6) == wanted
    with pytest.raises(ValueError, match="1 prompts and videos for 2"):
        generate(model, tokenizer, ["What?"], videos=[None, None])


def test_a_prompt_that_is_too_long_is_refused(tokenizer, writer) -> None:
    model = writer(position=RoPE(8, max_position_embeddings=40))
    assert generate(model, tokenizer, ["a"], max_new_tokens=4)
    with pytest.raises(ValueError, match=r"prompt 2 has \d+ tokens, with 4 new ones more than the limit of 40"):
        generate(model, tokenizer, ["a", "7 " * 30], max_new_tokens=4)
    assert generate(model, tokenizer, ["7 " * 30], max_new_tokens=4, max_length=200)
    with pytest.raises(ValueError, match=r"the prompt has .* more than the limit of 20"):
        generate(writer(), tokenizer, ["7 " * 30], max_new_tokens=4, max_length=20)
    stretched = writer(position=RoPE(8, ntk_factor=2.0, max_position_embeddings=40))
    assert generate(stretched, tokenizer, ["7 " * 30], max_new_tokens=4)


def test_delta_belongs_to_v2pe(tokenizer, writer) -> None:
    model = writer(position=V2PE(8))
    set_delta(model, 1 / 4)
    assert model.position.delta_log2 == 2
    with pytest.raises(ValueError, match="delta must be a power of two"):
        set_delta(model, 0.3)
    with pytest.raises(ValueError, match="delta is a setting of V2PE, and the model's positions are RoPE"):
        set_delta(writer(position=RoPE(8)), 0.5)
