"""Tokenizer for tests of text, and models with known answers."""

from __future__ import annotations

import pytest
import torch

import tiny
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(["What is this? It is a cat, a dog or 7."] * 4, 400)


class Parrot(LMHead):
    """Repeats one text regardless of the prompt."""

    def __init__(self, ids: list[int], vocab: int) -> None:
        super().__init__(tiny.WIDTH, vocab)
        self.ids, self.calls = ids, 0

    def forward(self, state, batch):
        out = torch.zeros(state.hidden.shape[0], self.weight.shape[0])
        out[:, self.ids[self.calls % len(self.ids)]] = 1.0
        self.calls += 1
        return out


@pytest.fixture
def parrot(tokenizer):
    """Factory of models that repeat a text."""

    def make(text: str):
        ids, vocab = tokenizer.encode(text, add_special_tokens=False), len(tokenizer)
        return tiny.model(embedder=TokenEmbedder(vocab, tiny.WIDTH), heads={"lm": Parrot(ids, vocab)})

    return make


@pytest.fixture
def writer(tokenizer):
    """Factory of models with an ordinary language-model head."""

    def make(**parts):
        vocab = len(tokenizer)
        heads = {"lm": LMHead(tiny.WIDTH, vocab)}
        return tiny.model(embedder=TokenEmbedder(vocab, tiny.WIDTH), heads=heads, **parts)

    return make
