"""MPO compared with the reference's figures and with a plain computation on padded sequences."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

import tiny
from figures import figure
from mmcomponents.batch import IGNORE, Exact, PackedBatch, Pairs
from mmcomponents.component import WiringError
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.drop_path import DropPath
from mmcomponents.objectives import MPO, FrozenReference, answer_logps
from mmcomponents.objectives import mpo as module
from pair_packs import Other, join, no_pair, pair, with_reference

FIGURES = figure("c_mpo_losses.json")
START = 0.8 * math.log(2) + 0.4 * math.log(2)


def weights(case: dict[str, Any]) -> dict[str, float]:
    """Returns the weights for a case of the reference, which does not weight a single loss type."""
    types = case["loss_type"].split(",")
    dpo, bco = case["sigmoid_loss_weight(w_p)"], case["bco_pair_loss_weight(w_q)"]
    if len(types) == 1:
        dpo, bco = float("sigmoid" in types), float("bco_pair" in types)
    return {"dpo_weight": dpo, "bco_weight": bco, "nll_weight": case["rpo_alpha(w_g)"] or 0.0}


@pytest.mark.parametrize("case", FIGURES["logp_cases"], ids=lambda c: f"case {c['case']}")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_terms_equal_the_reference_step_by_step(case, dtype) -> None:
    chosen = weights(case)
    objective = MPO(beta=case["beta"], label_smoothing=case["label_smoothing"], **chosen)
    for step in case["steps"]:
        logps = [
            torch.tensor([step[f"{who}_chosen_logps"], step[f"{who}_rejected_logps"]], dtype=dtype).T
            for who in ("policy", "reference")
        ]
        found = objective.terms(*logps)
        loss = chosen["dpo_weight"] * found["dpo"] + chosen["bco_weight"] * found["bco"]
        loss = loss + chosen["nll_weight"] * step["nll_loss"]
        wanted = {
            "delta": step["running_mean_after"],
            "dpo": sum(step["sigmoid_losses_per_pair"]) / case["batch_size"],
            "bco": sum(step["bco_losses_per_pair_with_delta_after_update"]) / case["batch_size"],
        }
        scale = chosen["dpo_weight"] + chosen["bco_weight"]  # the reference's rewards are weighted by their loss types
        wanted |= {f"{side}_reward": step[f"rewards_{side}"] / scale for side in ("chosen", "rejected")}
        assert {name: float(found[name]) for name in wanted} == pytest.approx(wanted, abs=2e-5)
        assert float(loss) == pytest.approx(step["loss"], abs=2e-5)
        assert all(value.dtype == dtype for value in found.values())


@pytest.mark.parametrize("case", FIGURES["logits_cases"], ids=["first", "second"])
def test_log_probabilities_and_loss_equal_the_reference_from_logits(case) -> None:
    labels = [*case["chosen_labels"], *case["rejected_labels"]]

    def logps(name: str) -> tuple[Tensor, float]:
        logits = [torch.tensor(sequence, dtype=torch.float64) for sequence in case[name]]
        nll = [
            cross_entropy(r[: len(y) - 1], torch.tensor(y[1:]), reduction="none", ignore_index=IGNORE)
            for r, y in zip(logits, labels, strict=True)
        ]
        half = len(nll) // 2
        targets = sum(y != IGNORE for answer in case["chosen_labels"] for y in answer[1:])
        return -torch.stack([n.sum() for n in nll]).view(2, half).T, float(sum(n.sum() for n in nll[:half])) / targets

    policy, nll = logps("policy_logits(2B,L,V; chosen rows first, right padded)")
    reference, _ = logps("reference_logits")
    assert nll == pytest.approx(case["policy_nll"], abs=2e-5)
    torch.testing.assert_close(policy[:, 0].tolist(), case["policy_chosen_logps"], rtol=0, atol=2e-5)
    torch.testing.assert_close(reference[:, 1].tolist(), case["reference_rejected_logps"], rtol=0, atol=2e-5)
    found = MPO().terms(policy, reference)
    assert float(0.8 * found["dpo"] + 0.2 * found["bco"] + nll) == pytest.approx(case["loss"], abs=2e-5)
    assert float(found["delta"]) == pytest.approx(case["running_mean_after"], abs=2e-5)


def test_two_pairs_by_hand() -> None:
    """Rewards (1, 0) and (0, -3): delta is their mean, -0.5, and is used in the same step."""
    found = MPO(beta=0.5).terms(
        torch.tensor([[-8.0, -9.0], [-4.0, -12.0]]), torch.tensor([[-10.0, -9.0], [-4.0, -6.0]])
    )
    log_sigmoid = [-math.log1p(math.exp(-x)) for x in (1.0, 3.0, 1.5, -0.5, 0.5, 2.5)]
    assert float(found["delta"]) == -0.5
    assert float(found["dpo"]) == pytest.approx(-sum(log_sigmoid[:2]) / 2)
    assert float(found["bco"]) == pytest.approx(-sum(log_sigmoid[2:]) / 2)
    assert [float(found[f"{side}_reward"]) for side in ("chosen", "rejected")] == [0.5, -1.5]


def test_delta_moves_in_training_mode_alone_and_is_weighted_by_pairs() -> None:
    objective, zeros = MPO(beta=1.0), torch.zeros
    objective.terms(torch.tensor([[3.0, 1.0]]), zeros(1, 2))
    found = objective.terms(torch.tensor([[-1.0, -1.0]] * 3), zeros(3, 2))
    assert float(found["delta"]) == pytest.approx((2.0 - 3.0) / 4)  # a mean of means would be 0.5
    objective.eval()
    assert float(objective.terms(torch.full((5, 2), 9.0), zeros(5, 2))["delta"]) == float(found["delta"])
    assert float(MPO(bco_weight=0.0).terms(torch.ones(1, 2), zeros(1, 2))["delta"]) == 0.0


def test_gradients_have_the_right_signs_and_swapping_turns_the_margin() -> None:
    logps = torch.tensor([[-5.0, -4.0]], requires_grad=True)
    found = MPO().eval().terms(logps, torch.tensor([[-4.5, -4.5]]))
    for term in ("dpo", "bco"):
        (gradient,) = torch.autograd.grad(found[term], logps, retain_graph=True)
        assert gradient[0, 0] < 0 < gradient[0, 1]
    swapped = MPO().eval().terms(logps.flip(1), torch.tensor([[-4.5, -4.5]]))
    assert swapped["dpo"] < math.log(2) < found["dpo"]
    assert swapped["chosen_reward"] == found["rejected_reward"]


def test_no_pair_is_no_loss() -> None:
    objective = MPO()
    found = objective.terms(torch.zeros(0, 2, requires_grad=True), torch.zeros(0, 2))
    assert all(value == 0 for value in found.values())
    assert found["dpo"].requires_grad


def test_delta_is_in_the_checkpoint_and_no_precision_casts_it() -> None:
    objective = MPO()
    objective.terms(torch.tensor([[-500.123, -700.456]]), torch.zeros(1, 2))
    cast = HalfPrecision("bf16-true").convert_module(objective)
    state = {name: value.clone() for name, value in cast.state_dict().items()}
    other = MPO()
    other.load_state_dict(state)
    step = (torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    assert float(other.terms(*step)["delta"]) == float(objective.terms(*step)["delta"]) == pytest.approx(-29.939475)
    with pytest.raises(RuntimeError, match="_extra_state"):
        MPO().load_state_dict({})


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}])
def test_wrong_settings_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="must be"):
        MPO(**wrong)


# Packs.

PROMPT = [("t", 3), ("i", 2), ("t", 4)]


def singles(shared: bool = True) -> list[PackedBatch]:
    return [
        pair(PROMPT, 5, 3, seed=1, shared=shared),
        pair([("t", 6)], 2, 7, seed=2, shared=shared),
        pair([("i", 1), ("t", 2), ("i", 1), ("t", 2)], 4, 4, seed=3, shared=shared),
    ]


def plain_loss(model: MultimodalModel, reference: MultimodalModel, delta: float) -> Tensor:
    """Computes the loss with one padded sequence per answer, its own images and full logits."""
    logits, labels, reference_logits = [], [], []
    for batch in tiny.separate(join(*singles(shared=False))):
        logits.append(tiny.logits(model, batch))
        labels.append(batch.labels)
        reference_logits.append(tiny.logits(reference, batch).detach())
    padded = [torch.nn.utils.rnn.pad_sequence(x, batch_first=True) for x in (logits, reference_logits)]
    target = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE)
    nll = [cross_entropy(p.mT, target, reduction="none", ignore_index=IGNORE) for p in padded]
    rewards = 0.1 * (nll[1] - nll[0]).sum(1).view(-1, 2)
    dpo = -logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()
    bco = -(logsigmoid(rewards[:, 0] - delta) + logsigmoid(delta - rewards[:, 1])).mean()
    return 0.8 * dpo + 0.2 * bco + nll[0][::2].sum() / (target[::2] != IGNORE).sum()


def test_value_and_gradient_equal_the_plain_computation(monkeypatch) -> None:
    model, reference, batch = tiny.model(), tiny.model(5), join(*singles())
    objective = MPO(reference=Other)
    logits = tiny.logits(model, batch)  # before `forward` of the head is patched
    assert logits.shape[0] == batch.num_tokens
    with torch.no_grad():
        rewards = 0.1 * (answer_logps(model, batch) - answer_logps(reference, batch))
    expected = plain_loss(model, reference, float(rewards.mean()))
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(expected, parameters)

    monkeypatch.setattr(type(model.heads["lm"]), "forward", lambda *a: pytest.fail("the head's logits were made"))
    totals = objective.counts(batch)
    assert totals == {"pairs": 3.0, "chosen_targets": 11.0}
    out = objective(model, batch, totals)
    torch.testing.assert_close(out.total, expected)
    for a, b in zip(torch.autograd.grad(out.total, parameters), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    parts = {name: float(value) for name, value in out.parts.items()}
    assert parts["loss"] == pytest.approx(expected.item())
    assert parts["delta"] == pytest.approx(float(rewards.mean()))
    assert parts["margin"] == pytest.approx(float((rewards[:, 0] - rewards[:, 1]).mean()), abs=1e-6)
    assert parts["margin"] == pytest.approx(parts["chosen_reward"] - parts["rejected_reward"], abs=1e-6)
    assert parts["accuracy"] == pytest.approx(float((rewards[:, 0] > rewards[:, 1]).double().mean()))
    assert parts["loss"] == pytest.approx(0.8 * parts["dpo"] + 0.2 * parts["bco"] + parts["nll"], abs=1e-6)


def test_shared_images_equal_copied_images_at_half_the_tiles() -> None:
    model, results = tiny.model(), []
    for shared in (True, False):
        batch = join(*singles(shared))
        objective = MPO(reference=Other)
        model.zero_grad()
        total = objective(model, batch, objective.counts(batch)).total
        total.backward()
        results.append((total.detach(), [p.grad.clone() for p in model.parameters()], len(batch.images.pixels)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert 2 * results[0][2] == results[1][2]


def test_sums_are_over_targets_alone_whatever_else_is_in_the_pack() -> None:
    """Excludes prompt tokens, image tokens and segments outside pairs; sums are not means over tokens."""
    model, batch = tiny.model(), pair(PROMPT, 5, 3)
    mixed = join(tiny.pack([("t", 9)], seed=8), batch, tiny.pack([("i", 1), ("t", 4)], seed=9))
    nll = cross_entropy(tiny.logits(model, batch), batch.labels, reduction="none", ignore_index=IGNORE)
    boundary = int(batch.layout.cu_seqlens[1])
    sums = torch.stack([-nll[:boundary].sum(), -nll[boundary:].sum()])[None]
    assert (nll != 0).sum() == 8
    for given in (batch, mixed):
        torch.testing.assert_close(answer_logps(model, given), sums.double(), rtol=1e-5, atol=1e-5)
    empty = join(no_pair(seed=8), batch)
    assert MPO(reference=Other).counts(empty) == {"pairs": 1.0, "chosen_targets": 5.0}
    # the loss would silently ignore them
    with pytest.raises(WiringError, match=r"tiny/0 is not a pair \(2 such in this pack\).*repeat 0.*NextToken"):
        MPO(reference=Other).counts(mixed)
    with pytest.raises(WiringError, match=r"tiny/0 is not a pair \(1 such"):
        MPO(reference=Other).counts(tiny.pack([("t", 9)]))


def test_the_first_loss_is_that_of_no_difference() -> None:
    model = tiny.model()
    objective = MPO(reference=partial(FrozenReference))
    objective.prepare(model, tiny.model)
    batch = join(*singles())
    out = objective(model, batch, objective.counts(batch))
    assert float(out.total - out.parts["nll"]) == pytest.approx(START, abs=1e-6)
    assert float(out.parts["dpo"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(out.parts["accuracy"]) == 0  # ties do not count as accurate


@pytest.mark.parametrize("loss", [{"bco_weight": 0.0, "nll_weight": 0.0}, {"dpo_weight": 0.0, "bco_weight": 1.0}, {}])
def test_a_far_first_step_is_reported_once(loss, caplog) -> None:
    model, batch, objective = tiny.model(), join(*singles()), MPO(reference=Other, **loss)
    totals = objective.counts(batch)
    with caplog.at_level(logging.WARNING):
        objective(model, batch, totals)
        objective(model, batch, totals)
    (record,) = caplog.records
    text = record.getMessage()
    assert "before any training the preference terms are" in text
    assert f"{(objective.dpo_weight + 2 * objective.bco_weight) * math.log(2):.4f} is expected" in text


def test_nothing_is_reported_where_the_start_is_right_or_the_run_goes_on(caplog) -> None:
    model, batch = tiny.model(), join(*singles())
    fine, resumed = MPO(reference=partial(Other, 0)), MPO(reference=Other)
    resumed.set_extra_state(torch.tensor([0.0, 64.0, 0.0], dtype=torch.float64))
    with caplog.at_level(logging.WARNING):
        for objective in (fine, resumed, MPO(reference=Other).eval()):
            objective(model, batch, objective.counts(batch))
    assert not caplog.records


def dropping() -> MultimodalModel:
    model = tiny.model(vision=tiny.vision(drop_path=0.5)).train()
    assert any(isinstance(m, DropPath) and m.rate > 0 for m in model.modules())
    return model


@pytest.mark.parametrize("bco_weight", [0.2, 0.0])
def test_with_drop_path_the_first_step_is_measured_in_evaluation_mode(bco_weight, caplog) -> None:
    model, packs, calls = dropping(), singles(), []
    packs[0] = replace(packs[0], totals={"pairs": 3.0}, window=packs[1:])
    modes = [module.training for module in model.modules()]
    model.register_forward_hook(lambda module, *_: calls.append(module.training))
    totals = {"pairs": 3.0, "chosen_targets": 11.0}
    right, wrong = (MPO(reference=partial(Other, seed), bco_weight=bco_weight) for seed in (0, 5))
    with caplog.at_level(logging.WARNING):
        right(model, packs[0], totals)
        assert calls == [False] * 3 + [True] * (3 if bco_weight else 1), "once for each pack of the window"
        assert not caplog.records
        wrong(model, packs[0], totals)
        assert len(caplog.records) == 1
        assert "before any training the preference terms are" in caplog.text
        calls.clear()
        wrong(model, packs[0], totals)
        assert all(calls)
    assert len(caplog.records) == 1
    assert [module.training for module in model.modules()] == modes


def test_the_noise_of_drop_path_is_no_far_start(caplog, monkeypatch) -> None:
    model, batch = dropping(), singles()[0]
    with caplog.at_level(logging.WARNING):
        torch.manual_seed(0)
        MPO(reference=partial(Other, 0), beta=1.0)(model, batch, {"pairs": 1.0, "chosen_targets": 5.0})
        assert not caplog.records
        # negative test: drop path is not detected
        monkeypatch.setattr(module, "is_random", lambda model: False)
        MPO(reference=partial(Other, 0), beta=1.0)(model, batch, {"pairs": 1.0, "chosen_targets": 5.0})
    assert caplog.records


def steps_of(objective: MPO, begin: int, end: int, window: int = 4) -> None:
    """Runs the packs from `begin` to `end` of a run that starts or resumes at `begin`."""
    model, packs = tiny.model(), [with_reference(pair([("t", 4)], 3, 4, seed=s)) for s in range(8)]
    ahead = Lookahead(packs[begin:], window, objective.counts, place=lambda: (begin, len(packs)))  # type: ignore[arg-type]
    for batch, _ in zip(ahead, range(begin, end), strict=False):
        objective(model, batch, batch.totals)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 6])
def test_a_run_that_stops_inside_a_step_counts_its_pairs_once(stop, caplog) -> None:
    whole, before, after = MPO(), MPO(), MPO()
    steps_of(whole, 0, 8)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        steps_of(before, 0, stop)
        after.set_extra_state(before.get_extra_state())
        assert float(after.get_extra_state()[2]) == (-stop) % 4
        reported = len(caplog.records)
        steps_of(after, stop, 8)
    assert reported == len(caplog.records) == 1, "the first step, once"
    torch.testing.assert_close(after.get_extra_state(), whole.get_extra_state())
    assert after.get_extra_state().tolist()[1:] == [8.0, 0.0]
    # negative test: the remaining packs are not restored
    forgot = MPO()
    forgot.set_extra_state(before.get_extra_state() * torch.tensor([1.0, 1.0, 0.0]))
    steps_of(forgot, stop, 8)
    assert (float(forgot.get_extra_state()[1]) > 8) == (stop % 4 > 0)


def test_answers_without_a_word_and_missing_references_are_refused() -> None:
    batch = pair(PROMPT, 5, 3, seed=4)
    start = int(batch.layout.cu_seqlens[1])
    silent = replace(batch, labels=batch.labels.clone())
    silent.labels[start:] = IGNORE
    with pytest.raises(WiringError, match="rejected answer of tiny/4 has no target"):
        MPO(reference=Other).counts(silent)
    with pytest.raises(WiringError, match=r"tiny/4 has no stored.*mmcomponents predict.*FrozenReference"):
        MPO().counts(batch)
    unknown = replace(batch, pairs=replace(batch.pairs, reference_logps=Exact(torch.tensor([[-3.0, math.nan]]))))
    with pytest.raises(WiringError, match="tiny/4 has no stored"):
        MPO().counts(unknown)


def test_a_step_of_unknown_length_is_refused() -> None:
    batch = with_reference(pair(PROMPT, 5, 3))
    objective, model = MPO(), tiny.model()
    with pytest.raises(WiringError, match=r"wrap the loader in mmcomponents\.data\.loading\.Lookahead"):
        objective(model, replace(batch, totals={"pairs": 2.0}), {"pairs": 2.0, "chosen_targets": 5.0})


def test_delta_of_a_window_is_that_of_its_whole_step_and_moves_once() -> None:
    model, packs = tiny.model(), [with_reference(p) for p in [*singles(), no_pair(seed=7)]]
    order = [packs[3], *packs[:3]]  # a pack without pairs comes first
    whole, split = MPO(), MPO()
    batch = join(*packs)
    out = whole(model, batch, whole.counts(batch))
    counts = [split.counts(b) for b in order]
    totals = {name: sum(c[name] for c in counts) for name in counts[0]}
    marked = [replace(b, totals=totals) for b in order]
    marked[0].window = marked[1:]
    outs = [split(model, b, totals) for b in marked]
    torch.testing.assert_close(sum(o.total for o in outs), out.total)
    for name, value in out.parts.items():
        torch.testing.assert_close(sum(o.parts[name] for o in outs), value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(split.get_extra_state(), whole.get_extra_state())
    assert abs(float(out.parts["delta"])) > 0.01
    # negative test: delta of the first packs only
    partly = MPO()
    marked[0].window = marked[1:2]
    wrong = [partly(model, b, totals) for b in marked]
    assert abs(float(sum(o.total for o in wrong) - out.total)) > 1e-4


def test_without_bco_nothing_is_run_ahead() -> None:
    calls, model = [], tiny.model()
    batch = replace(with_reference(pair(PROMPT, 5, 3)), totals={"pairs": 2.0}, window=[])
    batch.window.append(with_reference(pair(PROMPT, 2, 3, seed=6)))
    model.register_forward_hook(lambda *_: calls.append(1))
    totals = {"pairs": 2.0, "chosen_targets": 7.0}
    for weight, expected in ((0.2, 2), (0.0, 1)):
        objective = MPO(bco_weight=weight)
        objective.set_extra_state(torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64))
        calls.clear()
        objective(model, batch, totals)
        assert len(calls) == expected


def test_fifty_steps_prefer_the_chosen_answers() -> None:
    model = tiny.model().train()
    batch = join(*[pair([("t", 4), ("i", 1), ("t", 3)], 4, 4, seed=s) for s in range(4)])
    objective = MPO()
    stored = Exact(answer_logps(model, batch).detach().float())
    batch = replace(batch, pairs=replace(batch.pairs, reference_logps=stored))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = []
    for _ in range(50):
        out = objective(model, batch, objective.counts(batch))
        optimizer.zero_grad()
        out.total.backward()
        optimizer.step()
        history.append({name: float(value) for name, value in out.parts.items()})
    assert history[-1]["accuracy"] > 0.95
    assert history[-1]["margin"] > 0.1
    assert history[-1]["nll"] <= history[0]["nll"]


def test_a_pair_knows_its_segments() -> None:
    pairs = join(*singles()).pairs
    assert isinstance(pairs, Pairs)
    assert (pairs.chosen.tolist(), pairs.rejected.tolist()) == ([0, 2, 4], [1, 3, 5])


def test_rewards_of_nan_leave_delta_as_it_was() -> None:
    objective, reference = MPO().train(), torch.zeros(2, 2)
    before = objective.terms(torch.tensor([[-1.0, -3.0], [-2.0, -5.0]]), reference)["delta"]
    assert objective.terms(torch.full((2, 2), torch.nan), reference)["delta"] == before
    assert objective.terms(torch.tensor([[-1.0, -3.0]]), reference)["delta"].isfinite()
