from functools import partial

import pytest
import torch

import tiny
from mmcomponents.batch import ModelState
from mmcomponents.component import WiringError
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead, Verbalizer

WORDS = (7, 3)


def head(**changes) -> Verbalizer:
    return Verbalizer(tiny.WIDTH, tiny.VOCAB, WORDS, **changes)


def test_verdicts_are_the_logits_of_the_two_words() -> None:
    judge, hidden = head(), torch.randn(5, tiny.WIDTH)
    logits = judge(ModelState(hidden=hidden), tiny.pack([("t", 5)]))
    found = judge.verdict_logits(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits[:, [7, 3]])


def test_the_score_is_the_sigmoid_of_the_difference_whatever_the_other_words_are() -> None:
    judge, hidden = head(), torch.randn(5, tiny.WIDTH)
    before = judge.verdict_logits(hidden)
    torch.testing.assert_close(before.softmax(-1)[:, 0], torch.sigmoid(before[:, 0] - before[:, 1]), rtol=0, atol=1e-7)
    with torch.no_grad():
        others = [n for n in range(tiny.VOCAB) if n not in WORDS]
        judge.weight[others] += 100.0
    assert torch.equal(judge.verdict_logits(hidden), before)
    with torch.no_grad():
        judge.weight += torch.randn(tiny.WIDTH)  # the same on all logits of a position
    after = judge.verdict_logits(hidden)
    torch.testing.assert_close(after[:, 0] - after[:, 1], before[:, 0] - before[:, 1], rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_weights_of_the_two_tokens_alone() -> None:
    judge = head()
    judge.verdict_logits(torch.randn(4, tiny.WIDTH)).sum().backward()
    assert judge.weight.grad is not None
    assert judge.weight.grad.any(1).nonzero()[:, 0].tolist() == [3, 7]


def test_a_language_models_weight_goes_in_as_it_is() -> None:
    plain = LMHead(tiny.WIDTH, tiny.VOCAB)
    judge = head()
    judge.load_state_dict(plain.state_dict())
    hidden = torch.randn(3, tiny.WIDTH)
    assert torch.equal(judge.logits(hidden), plain.logits(hidden))
    labels = torch.tensor([4, 7, -100])
    assert torch.equal(judge.nll(hidden, labels), plain.nll(hidden, labels))


def test_a_tied_one_reads_the_embedding_weight() -> None:
    model = tiny.model(embedder=TokenEmbedder(tiny.VOCAB, tiny.WIDTH), heads={"lm": head(tied=True)})
    assert model.heads["lm"].weight is model.embedder.embedding_weight()


def test_bf16_keeps_fp32_digits_of_the_difference() -> None:
    judge, hidden = head().to(torch.bfloat16), torch.randn(64, tiny.WIDTH, dtype=torch.bfloat16)
    exact = hidden.double() @ judge.weight[list(WORDS)].double().T
    torch.testing.assert_close(judge.verdict_logits(hidden).double(), exact, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(judge.verdict_logits(hidden).double(), exact, rtol=1e-5, atol=1e-5)


def test_wrong_words_are_refused() -> None:
    make = partial(Verbalizer, tiny.WIDTH, tiny.VOCAB)
    with pytest.raises(WiringError, match=r"two different token_ids.*\[3, 3\]"):
        make((3, 3))
    with pytest.raises(WiringError, match=r"two different token_ids.*\[3\]"):
        make((3,))  # type: ignore[arg-type]
    with pytest.raises(WiringError, match=r"\[64\] are outside the vocabulary of 64 tokens"):
        make((3, 64))


def test_flops_are_those_of_two_tokens_for_each_step() -> None:
    judge, batch = head(), tiny.pack([("t", 9)])
    assert judge.flops(batch) == LMHead.flops(judge, batch) > 0
    from mmcomponents.batch import Steps

    batch.steps = Steps.of([2, 5], [0, 0], [1, 0])
    assert judge.flops(batch) == 2 * 2 * 2 * tiny.WIDTH
