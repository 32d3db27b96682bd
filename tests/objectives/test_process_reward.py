from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_f1_score

import step_packs
import tiny
from mmcomponents.batch import PackedBatch, Steps
from mmcomponents.component import WiringError
from mmcomponents.data.loading.collation import collate
from mmcomponents.heads import Verbalizer
from mmcomponents.objectives import ProcessReward


def pack() -> PackedBatch:
    batch = tiny.pack([("t", 4), ("i", 2), ("t", 9)], [("t", 6)], [("t", 3)])
    return step_packs.with_steps(batch, [4, 2, 0], seed=3)


def test_value_and_gradient_equal_the_plain_computation() -> None:
    model, batch = step_packs.critic(), pack()
    logits = tiny.logits(model, batch)[batch.steps.score_at][:, list(step_packs.WORDS)]
    expected = cross_entropy(logits, 1 - batch.steps.label)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)

    objective = ProcessReward()
    totals = objective.counts(batch)
    assert totals == {"steps": 6.0, "targets": 6.0}
    out = objective(model, batch, totals)
    torch.testing.assert_close(out.total, expected)
    torch.testing.assert_close(out.parts["loss"], expected)
    called = logits.argmax(-1) == 1 - batch.steps.label
    torch.testing.assert_close(out.parts["accuracy"], called.float().mean())
    torch.testing.assert_close(out.parts["positives"], batch.steps.label.float().mean())
    torch.testing.assert_close(objective.scores, logits.softmax(-1)[:, 0].detach())
    found = torch.autograd.grad(out.total, parameters, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_only_the_words_at_the_steps_contribute() -> None:
    model, batch, objective = step_packs.critic(), pack(), ProcessReward()
    before = objective(model, batch, objective.counts(batch)).total
    other = replace(batch, labels=torch.full_like(batch.labels, 5))
    assert torch.equal(objective(model, other, objective.counts(other)).total, before)
    fewer = Steps.of(*(t[1:].tolist() for t in (batch.steps.score_at, batch.steps.sample, batch.steps.label)))
    assert not torch.equal(objective(model, replace(batch, steps=fewer), objective.counts(batch)).total, before)


@pytest.mark.parametrize(
    "batch",
    [
        replace(tiny.pack([("t", 9)], [("t", 4)]), steps=Steps.of()),
        replace(tiny.pack([("i", 1), ("t", 3)]), steps=Steps.of()),
        replace(collate([], tiny.VISUAL_TOKENS, 0), steps=Steps.of()),
    ],
    ids=["text", "an image", "no sample"],
)
def test_a_pack_without_steps_is_zero_and_has_all_gradients(batch) -> None:
    model, objective = step_packs.critic(), ProcessReward()
    totals = objective.counts(batch)
    assert totals == {"steps": 0.0, "targets": 0.0}
    out = objective(model, batch, totals)
    assert out.total == 0
    assert all(torch.isfinite(v) for v in out.parts.values())
    out.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any()


def test_packs_that_say_nothing_of_steps_are_refused() -> None:
    batch = tiny.pack([("t", 9)])
    with pytest.raises(WiringError, match=r"data\.verdicts is not set"):
        ProcessReward().counts(batch)
    with pytest.raises(WiringError, match=r"data\.verdicts is not set"):
        ProcessReward()(step_packs.critic(), batch, {"steps": 1.0})


def test_a_head_without_verdicts_is_refused() -> None:
    batch, objective = pack(), ProcessReward()
    with pytest.raises(WiringError, match=r"the head 'lm' \(LMHead\) does not compute: use Verbalizer"):
        objective(tiny.model(), batch, objective.counts(batch))
    with pytest.raises(WiringError, match="use Verbalizer"):
        objective.check(tiny.model())
    objective.check(step_packs.critic())


def test_nothing_of_it_is_saved() -> None:
    model, batch, objective = step_packs.critic(), pack(), ProcessReward()
    objective(model, batch, objective.counts(batch))
    assert objective.scores is not None
    assert not objective.state_dict()


PLUS, MINUS, SCORE, NUMBERS, FIRST = 7, 3, 9, 8, 20
"""Verdict tokens, the token before a verdict, and the first of the tokens 20 to 27 for the numbers."""


def chains(count: int, draw: torch.Generator) -> PackedBatch:
    """Returns solutions of five steps that add three modulo eight; a step with another result is wrong."""
    ids, score_at, sample, label, boundaries = list[int](), list[int](), list[int](), list[int](), [0]
    for chain in range(count):
        value = int(torch.randint(NUMBERS, (), generator=draw))
        ids.append(FIRST + value)
        for _ in range(5):
            wrong = bool(torch.rand((), generator=draw) < 0.3)
            jump = int(torch.randint(1, NUMBERS, (), generator=draw)) if wrong else 0
            value = (value + 3 + jump) % NUMBERS
            ids += [FIRST + value, SCORE]
            score_at.append(len(ids) - 1)
            sample.append(chain)
            label.append(int(not wrong))
            ids.append(PLUS)
        boundaries.append(len(ids))
    batch = tiny.pack([("t", len(ids))])
    cu = torch.tensor(boundaries, dtype=torch.int32)
    layout = replace(batch.layout, cu_seqlens=cu, max_seqlen=int(cu.diff().max()))
    return replace(
        batch,
        input_ids=torch.tensor(ids),
        layout=layout,
        steps=Steps.of(score_at, sample, label),
        segment_sample=torch.arange(count),
        segment_source=torch.zeros(count, dtype=torch.long),
        keys=[str(n) for n in range(count)],
    )


def macro_f1(model, objective: ProcessReward, batch: PackedBatch) -> float:
    with torch.no_grad():
        objective(model, batch, objective.counts(batch))
    called = (objective.scores > 0.5).long()
    return multiclass_f1_score(called, batch.steps.label, num_classes=2, average="macro").item()


def test_it_learns_to_spot_wrong_steps() -> None:
    """Trains random weights on solutions that add three; tests on held-out ones."""
    head = Verbalizer(tiny.WIDTH, tiny.VOCAB, (PLUS, MINUS))
    model, objective = tiny.model(vision=None, merger=None, projector=None, heads={"lm": head}).train(), ProcessReward()
    draw, held_out = torch.Generator().manual_seed(1), chains(200, torch.Generator().manual_seed(2))
    before = macro_f1(model, objective, held_out)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        batch = chains(32, draw)
        optimizer.zero_grad()
        objective(model, batch, objective.counts(batch)).total.backward()
        optimizer.step()
    assert before < 0.7
    assert macro_f1(model.eval(), objective, held_out) > 0.9
