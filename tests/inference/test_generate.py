"""Answers from text and pictures, with a head that says what the test wants."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import tiny
from mmcomponents.data import ConversationError, train_tokenizer
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.inference import generate


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is this? It is a cat, a dog or 7."] * 4, 400)


class Parrot(LMHead):
    """Says one text over and over, whatever it is asked."""

    def __init__(self, ids: list[int], vocab: int) -> None:
        super().__init__(tiny.WIDTH, vocab)
        self.ids, self.calls = ids, 0

    def forward(self, state, batch):
        out = torch.zeros(state.hidden.shape[0], self.weight.shape[0])
        out[:, self.ids[self.calls % len(self.ids)]] = 1.0
        self.calls += 1
        return out


def parrot(tokenizer, text: str):
    ids = tokenizer.encode(text, add_special_tokens=False)
    vocab = len(tokenizer)
    return tiny.model(embedder=TokenEmbedder(vocab, tiny.WIDTH), heads={"lm": Parrot(ids, vocab)})


PICTURE = Image.new("RGB", (40, 20))


def test_an_answer_ends_at_the_end_of_the_turn_whatever_eos_is(tokenizer) -> None:
    model = parrot(tokenizer, "It is a cat<|im_end|>")
    for eos in ("<|im_end|>", "<|endoftext|>", None):
        tokenizer.eos_token = eos
        model.heads["lm"].calls = 0
        assert generate(model, tokenizer, ["What is this?"], [PICTURE], max_new_tokens=40) == ["It is a cat"]
    tokenizer.eos_token = "<|im_end|>"


def test_stop_texts_are_cut_off(tokenizer) -> None:
    model = parrot(tokenizer, "a cat, a dog")
    assert generate(model, tokenizer, ["?"], max_new_tokens=12, stop=[", a"]) == ["a cat"]
    model.heads["lm"].calls = 0
    before = model.heads["lm"].calls
    assert generate(model, tokenizer, ["?"], max_new_tokens=40, stop=",") == ["a cat"]
    assert model.heads["lm"].calls - before < 12, "a stop of one token ends the decoding as well"


def test_each_modules_mode_comes_back(tokenizer) -> None:
    model = parrot(tokenizer, "a<|im_end|>").train()
    model.vision.eval()
    generate(model, tokenizer, ["?"], [PICTURE])
    assert not model.vision.training
    assert model.backbone.training


def test_prompts_answer_alike_together_and_alone(tokenizer) -> None:
    vocab = len(tokenizer)
    model = tiny.model(embedder=TokenEmbedder(vocab, tiny.WIDTH), heads={"lm": LMHead(tiny.WIDTH, vocab)})
    prompts = ["What is this?", "<image> and <image>: a dog?", [{"role": "user", "content": "7"}]]
    images = [PICTURE, [PICTURE, Image.new("L", (16, 16))], None]
    together = generate(model, tokenizer, prompts, images, max_new_tokens=6)
    alone = [generate(model, tokenizer, [p], [i], max_new_tokens=6)[0] for p, i in zip(prompts, images, strict=True)]
    assert together == alone
    drawn = [generate(model, tokenizer, ["7"], max_new_tokens=9, temperature=1.0, seed=s) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert generate(model, tokenizer, []) == []


def test_wrong_input_is_refused(tokenizer) -> None:
    model = parrot(tokenizer, "a")
    with pytest.raises(ValueError, match="a list of prompts, got one str"):
        generate(model, tokenizer, "What?")
    with pytest.raises(ValueError, match="2 prompts and images for 1"):
        generate(model, tokenizer, ["a", "b"], [PICTURE])
    with pytest.raises(ConversationError, match=r"2.*1|1.*2"):
        generate(model, tokenizer, ["<image> and <image>"], [PICTURE])
    with pytest.raises(FileNotFoundError):
        generate(model, tokenizer, ["a"], ["nothing.png"])
