"""Answers of other samplers than the default one."""

from __future__ import annotations

import pytest
import torch

from mmcomponents.component import WiringError
from mmcomponents.generation import Answer, Autoregressive, Conversation, Sampler, answer_prompts, generate, stream


class Whole(Sampler):
    """Answers with complete texts."""

    def forward(self, model, prompts, context):
        assert not model.training
        assert not torch.is_grad_enabled()
        drawn = torch.rand(prompts.num_segments, generator=context.generator).tolist()
        return [Answer(f"{number:.9f}") for number in drawn]


class Lengths(Whole):
    answers = "values"

    def forward(self, model, prompts, context):
        return [Answer(values=length) for length in prompts.layout.cu_seqlens.diff()]


def test_a_sampler_replaces_the_arguments_of_decoding(tokenizer, writer) -> None:
    model = writer().train()
    sampler = Autoregressive(4, temperature=1.0, top_k=9)
    settings = {"max_new_tokens": 4, "temperature": 1.0, "top_k": 9}
    wanted = generate(model, tokenizer, ["7", "What?"], seed=1, **settings)
    assert generate(model, tokenizer, ["7", "What?"], seed=1, sampler=sampler) == wanted
    (alone,) = generate(model, tokenizer, ["7"], seed=1, **settings)
    assert "".join(stream(model, tokenizer, "7", seed=1, sampler=sampler)) == alone
    assert "".join(Conversation(model, tokenizer, seed=1, sampler=sampler).say("7")) == alone
    with pytest.raises(ValueError, match="temperature and top_k cannot be combined with a sampler"):
        generate(model, tokenizer, ["7"], sampler=sampler, temperature=1.0, top_k=2)


class Keyed(Whole):
    """Answers with numbers that are drawn for each prompt."""

    def forward(self, model, prompts, context):
        return [Answer(f"{own.random():.9f}") for own in prompts.generators("text")]


def test_draws_without_a_seed_differ_from_call_to_call(tokenizer, writer) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(answer_prompts(writer(), tokenizer, ["7"], sampler=Keyed()))
    assert found[0] == found[1] != found[2]


def test_draws_of_a_prompt_with_a_key_do_not_depend_on_the_others(tokenizer, writer) -> None:
    model, settings = writer(), {"sampler": Keyed(), "seed": 3}
    both = answer_prompts(model, tokenizer, ["7", "What?"], keys=["a", "b"], **settings)
    assert answer_prompts(model, tokenizer, ["What?"], keys=["b"], **settings) == both[1:]
    assert answer_prompts(model, tokenizer, ["7", "7"], keys=["b", "c"], **settings)[0] == both[1]
    assert both[0] != both[1]
    assert answer_prompts(model, tokenizer, ["7"], keys=["a"], sampler=Keyed(), seed=11) != both[:1]


def test_samplers_of_complete_texts_and_of_values(tokenizer, writer) -> None:
    model = writer().train()
    first = generate(model, tokenizer, ["7", "What?"], seed=1, sampler=Whole())
    assert first == generate(model, tokenizer, ["7", "What?"], seed=1, sampler=Whole())
    assert len(set(first)) == 2
    assert model.training
    short, long = answer_prompts(model, tokenizer, ["7", "7 7 7"], sampler=Lengths())
    assert 0 < int(short.values) < int(long.values)
    assert answer_prompts(model, tokenizer, [], sampler=Lengths()) == []
    with pytest.raises(ValueError, match="got one str"):
        answer_prompts(model, tokenizer, "7", sampler=Lengths())
    with pytest.raises(WiringError, match=r"generate needs a sampler that .* and Lengths answers with values"):
        generate(model, tokenizer, ["7"], sampler=Lengths())
    with pytest.raises(WiringError, match=r"generate with stop texts needs a .* Whole has no steps"):
        generate(model, tokenizer, ["7"], sampler=Whole(), stop="a")
    with pytest.raises(WiringError, match="stream needs a sampler"):
        stream(model, tokenizer, "7", sampler=Whole())
    with pytest.raises(WiringError, match="a conversation needs a sampler"):
        Conversation(model, tokenizer, sampler=Lengths())
    with pytest.raises(ValueError, match="more than the limit of 2"):
        answer_prompts(model, tokenizer, ["7"], sampler=Lengths(), max_length=2)
