from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tiny
from mmcomponents.batch import ModelState, PackedBatch, TokenType
from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.generation.uniform_draws import Draws
from mmcomponents.heads import LMHead
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import V2PE, RoPE
from mmcomponents.testing import Ranks

PROMPTS = ([("t", 3), ("i", 2), ("t", 2)], [("t", 4)], [("t", 1), ("i", 1), ("t", 5)])


def longer(batch: PackedBatch, token: int) -> PackedBatch:
    """Appends a text token to a pack of one prompt."""
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
    """Decodes greedily without a cache: a full forward pass for each token."""
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
    assert tiny.token_ids(Autoregressive(12), model, batch, set()) == wanted
    # A stop token ends only the segment that generates it.
    stop = {wanted[1][2]}
    ended = [by_hand(model, b, 12, stop) for b in tiny.separate(batch)]
    assert tiny.token_ids(Autoregressive(12), model, batch, stop) == ended
    assert len({len(a) for a in ended}) > 1


def test_sampling_is_seeded() -> None:
    model, batch = tiny.model(), tiny.pack(*PROMPTS)

    def run(seed: int) -> list[list[int]]:
        return tiny.token_ids(
            Autoregressive(8, temperature=1.5), model, batch, set(), torch.Generator().manual_seed(seed)
        )

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


def test_top_p_is_of_the_distribution_at_the_temperature() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(2000, 1)  # 0.67, 0.24, 0.09; at temperature 0.5: 0.87, 0.12, 0.02
    drawn = {t: set(Autoregressive(temperature=t, top_p=0.8).pick(logits).tolist()) for t in (0.5, 1.0, 4.0)}
    assert drawn == {0.5: {0}, 1.0: {0, 1}, 4.0: {0, 1, 2}}


def test_top_p_is_full_at_its_boundary() -> None:
    """Half of four equal probabilities are two tokens: the third would begin where the limit is reached."""
    assert len(set(Autoregressive(temperature=1.0, top_p=0.5).pick(torch.zeros(2000, 4)).tolist())) == 2


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
    """Dynamic NTK: each prompt keeps the base of its own length, also after an earlier segment has ended."""
    model = tiny.model(position=RoPE(8, base=100.0, ntk_factor=4.0, max_position_embeddings=4))
    batch = tiny.pack([("t", 5)], [("t", 30)], [("t", 11)])
    wanted = [tiny.token_ids(Autoregressive(8), model, b, set())[0] for b in tiny.separate(batch)]
    assert tiny.token_ids(Autoregressive(8), model, batch, set()) == wanted
    stop = {wanted[0][1]}
    ended = [tiny.token_ids(Autoregressive(8), model, b, stop)[0] for b in tiny.separate(batch)]
    assert len(ended[0]) < len(ended[1])
    assert tiny.token_ids(Autoregressive(8), model, batch, stop) == ended


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), 1e-45, -1.0])
def test_a_temperature_that_gives_no_probabilities_is_refused(temperature) -> None:
    with pytest.raises(ValueError, match="need temperature >= 0"):
        Autoregressive(temperature=temperature)


def test_a_draw_follows_the_probabilities_and_never_takes_what_is_out_of_question() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 0.0, -torch.inf]]).repeat(4000, 1)
    draws = Draws.of(3, [("q", sample) for sample in range(4000)], 1)
    tokens = draws.pick(logits, 0, torch.arange(4000))
    assert set(tokens.tolist()) == {1, 3}
    assert float((tokens == 1).float().mean()) == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=0.02)
    for level in (0.0, 1.0 - 2**-53):
        ends = Draws(torch.full((1, 1), level, dtype=torch.float64))
        assert ends.pick(logits[:1], 0, torch.tensor([0])).item() in (1, 3)


def test_a_draw_depends_on_seed_key_sample_and_step_alone() -> None:
    names = [("a", 0), ("a", 1), ("b", 0)]
    numbers = Draws.of(1, names, 4).uniform
    assert numbers.unique().numel() == 12
    assert torch.equal(Draws.of(1, names[::-1], 6).uniform.flip(0)[:, :4], numbers)
    assert not torch.equal(Draws.of(2, names, 4).uniform, numbers)


@torch.no_grad()
@pytest.mark.parametrize("position", [V2PE(8, delta=1 / 16), RoPE(8, base=100.0, ntk_factor=4.0)], ids=["V2PE", "NTK"])
def test_a_forked_prompt_goes_on_as_several_would(position) -> None:
    model, batch = tiny.model(position=position), tiny.pack(*PROMPTS)
    names = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1)]
    sampler = Autoregressive(9, temperature=1.5)

    def run(prompts: PackedBatch, names: list[tuple[str, int]], repeats: list[int], stop: set[int]) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in names]
        draws = Draws.of(7, names, 9, [name == ("a", 1) for name in names])
        for new in sampler.steps(model, prompts, stop, draws=draws, repeats=repeats):
            for segment, token in new.items():
                answers[segment].append(token)
        return answers

    together = run(batch, names, [3, 1, 2], set())
    first, second, third = tiny.separate(batch)
    alone = [run({"a": first, "b": second, "c": third}[name[0]], [name], [1], set())[0] for name in names]
    assert together == alone
    assert together[1] == tiny.token_ids(Autoregressive(9), model, first, set())[0]  # greedy
    assert together[0] != together[2]
    stop = {together[0][2], together[4][5]}  # some end earlier than others
    assert run(batch, names, [3, 1, 2], stop) == [_cut(answer, stop) for answer in together]


def _cut(answer: list[int], stop: set[int]) -> list[int]:
    return answer[: next((place for place, token in enumerate(answer) if token in stop), len(answer))]


class Overflow(LMHead):
    """Head whose logits become NaN, or infinite, for one segment after the first token."""

    value = torch.nan

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        logits = super().forward(state, batch)
        if batch.visual_index.max() < 0:  # a decoding step
            logits[1:2, 5] = self.value
        return logits


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("sampler", [Autoregressive(4), Autoregressive(4, temperature=1.0, top_p=0.9, top_k=30)])
@pytest.mark.parametrize("drawn", [False, True])
def test_logits_that_are_not_finite_name_the_prompt(value: float, sampler: Autoregressive, drawn: bool) -> None:
    head = Overflow(tiny.WIDTH, tiny.VOCAB)
    head.value = value
    model, batch = tiny.model(heads={"lm": head}), tiny.pack(*PROMPTS)
    draws = Draws.of(1, [("q", n) for n in range(3)], 4) if drawn else None
    steps = sampler.steps(model, batch, set(), draws=draws)
    assert set(next(steps)) == {0, 1, 2}
    with pytest.raises(NonFiniteError, match=r"^the logits of tiny/1 are NaN or infinite at new token 2: the model's"):
        next(steps)


def fails_as_rank(rank: int) -> str:
    """Only the second rank has logits of NaN."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    head = (LMHead, Overflow)[rank](tiny.WIDTH, tiny.VOCAB)
    try:
        return str(tiny.token_ids(Autoregressive(4), tiny.model(heads={"lm": head}), tiny.pack(*PROMPTS), set()))
    except NonFiniteError as error:
        return str(error)


def test_all_ranks_stop_for_the_logits_of_one(two_ranks: Ranks) -> None:
    first, second = two_ranks.run(fails_as_rank)
    assert first == second
    assert second.startswith("the logits of tiny/1 are NaN or infinite at new token 2")


def test_a_prompt_without_a_key_is_named_by_its_number() -> None:
    model = tiny.model(heads={"lm": Overflow(tiny.WIDTH, tiny.VOCAB)})
    batch = replace(tiny.pack(*PROMPTS), keys=["", "", ""])
    with pytest.raises(NonFiniteError, match="the logits of prompt 2 are NaN"):
        tiny.token_ids(Autoregressive(4), model, batch, set())


def test_a_finished_answer_that_stays_in_the_batch_is_not_judged() -> None:
    model, batch = tiny.model(heads={"lm": Overflow(tiny.WIDTH, tiny.VOCAB)}), tiny.pack(*PROMPTS)
    (first,) = (token for segment, token in next(Autoregressive(1).steps(model, batch, set())).items() if segment == 1)
    found = list(Autoregressive(2).steps(model, batch, {first}, repeats=[1, 1, 1]))
    assert [sorted(new) for new in found] == [[0, 2], [0, 2]]


def test_single_logits_of_minus_infinity_exclude_their_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 0.0], [-torch.inf] * 3, [0.0, torch.nan, 1.0]])
    for sampler in (Autoregressive(), Autoregressive(temperature=1.0, top_p=0.5)):
        assert sampler.pick(logits).tolist() == [1, -1, -1]


def test_a_model_without_the_head_is_refused_by_name() -> None:
    model, batch = tiny.model(heads={"score": LMHead(tiny.WIDTH, tiny.VOCAB)}), tiny.pack(*PROMPTS)
    with pytest.raises(WiringError, match="Autoregressive reads the head 'lm' and the model has score"):
        tiny.token_ids(Autoregressive(2), model, batch)
