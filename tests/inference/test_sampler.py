from dataclasses import replace

import pytest
import torch

import tiny
from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.inference import Autoregressive
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import V2PE, RoPE

PROMPTS = ([("t", 3), ("i", 2), ("t", 2)], [("t", 4)], [("t", 1), ("i", 1), ("t", 5)])


def longer(batch: PackedBatch, token: int) -> PackedBatch:
    """The pack of one prompt with one more text token."""
    layout, none = batch.layout, torch.tensor([-1])
    return replace(
        batch,
        input_ids=torch.cat((batch.input_ids, torch.tensor([token]))),
        visual_index=torch.cat((batch.visual_index, none)),
        labels=torch.cat((batch.labels, none)),
        layout=replace(
            layout,
            token_type=torch.cat((layout.token_type, torch.tensor([int(TokenType.TEXT)]))),
            image_id=torch.cat((layout.image_id, none)),
            cu_seqlens=layout.cu_seqlens + torch.tensor([0, 1], dtype=torch.int32),
            max_seqlen=layout.max_seqlen + 1,
        ),
    )


def by_hand(model: MultimodalModel, batch: PackedBatch, count: int, stop: set[int]) -> list[int]:
    """Greedy answer without a cache: the whole sequence anew for each token."""
    answer: list[int] = []
    for _ in range(count):
        token = int(tiny.logits(model, batch)[-1].argmax())
        if token in stop:
            break
        answer.append(token)
        batch = longer(batch, token)
    return answer


@pytest.mark.parametrize(
    "position", [V2PE(8, delta=1 / 16), V2PE(8, delta=1 / 16, realign=False), RoPE(8)], ids=["V2PE", "plain", "RoPE"]
)
@torch.no_grad()
def test_greedy_equals_the_full_forward_for_several_prompts(position) -> None:
    model, batch = tiny.model(position=position), tiny.pack(*PROMPTS)
    wanted = [by_hand(model, b, 12, set()) for b in tiny.separate(batch)]
    assert Autoregressive(12)(model, batch, set()) == wanted
    # A token that one of them writes early ends that one alone.
    stop = {wanted[1][2]}
    ended = [by_hand(model, b, 12, stop) for b in tiny.separate(batch)]
    assert Autoregressive(12)(model, batch, stop) == ended
    assert len({len(a) for a in ended}) > 1


def test_sampling_is_seeded() -> None:
    model, batch = tiny.model(), tiny.pack(*PROMPTS)

    def run(seed: int) -> list[list[int]]:
        return Autoregressive(8, temperature=1.5)(model, batch, set(), torch.Generator().manual_seed(seed))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_top_k_and_top_p_limit_what_is_drawn() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]]).repeat(4000, 1)
    drawn = {name: set(sampler.pick(logits).tolist()) for name, sampler in {
        "all": Autoregressive(temperature=1.0),
        "top_k": Autoregressive(temperature=1.0, top_k=2),
        "top_p": Autoregressive(temperature=1.0, top_p=0.7),  # 0.64 + 0.23: the second crosses the limit
        "one": Autoregressive(temperature=1.0, top_p=0.1),
        "greedy": Autoregressive(),
    }.items()}  # fmt: skip
    assert drawn == {"all": {0, 1, 2, 3, 4}, "top_k": {0, 1}, "top_p": {0, 1}, "one": {0}, "greedy": {0}}


def test_temperature_sharpens() -> None:
    logits = torch.tensor([[1.0, 0.0]]).repeat(20000, 1)
    share = (Autoregressive(temperature=0.5).pick(logits) == 0).float().mean()
    assert float(share) == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item(), abs=0.01)


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}])
def test_wrong_settings_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="need temperature >= 0"):
        Autoregressive(**wrong)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        Autoregressive(0)


@torch.no_grad()
def test_a_length_dependent_base_stays_with_its_prompt() -> None:
    """Dynamic NTK: each prompt keeps the base of its own length, also when one before it has ended."""
    model = tiny.model(position=RoPE(8, base=100.0, ntk_factor=4.0, max_position_embeddings=4))
    batch = tiny.pack([("t", 5)], [("t", 30)], [("t", 11)])
    wanted = [Autoregressive(8)(model, b, set())[0] for b in tiny.separate(batch)]
    assert Autoregressive(8)(model, batch, set()) == wanted
    stop = {wanted[0][1]}
    ended = [Autoregressive(8)(model, b, stop)[0] for b in tiny.separate(batch)]
    assert len(ended[0]) < len(ended[1])
    assert Autoregressive(8)(model, batch, stop) == ended


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), 1e-45, -1.0])
def test_a_temperature_that_gives_no_probabilities_is_refused(temperature) -> None:
    with pytest.raises(ValueError, match="need temperature >= 0"):
        Autoregressive(temperature=temperature)
