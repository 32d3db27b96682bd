import pytest
import torch
from torch.nn.functional import cross_entropy

from mmcomponents.batch import IGNORE
from mmcomponents.nn import linear_nll as module
from mmcomponents.nn.linear_nll import linear_nll, weighted_linear_nll


@pytest.fixture(params=[2**23, 64], ids=["one chunk", "many chunks"])
def _chunks(request, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK_LOGITS", request.param)
    monkeypatch.setattr(module, "CHUNK_ROWS", 2)


def draw(dtype: torch.dtype = torch.float32, targets: bool = True):
    torch.manual_seed(0)
    hidden = torch.randn(23, 12, dtype=dtype, requires_grad=True)
    weight = torch.randn(31, 12, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 31, (23,))
    labels[::3] = IGNORE
    return hidden, weight, labels if targets else torch.full_like(labels, IGNORE), torch.rand(23)


def plain(hidden, weight, labels):
    return cross_entropy((hidden @ weight.T).float(), labels, reduction="none", ignore_index=IGNORE)


@pytest.mark.usefixtures("_chunks")
def test_value_and_gradient_equal_the_plain_computation() -> None:
    hidden, weight, labels, weights = draw()
    expected = plain(hidden, weight, labels)
    wanted = torch.autograd.grad((expected * weights).sum() * 1.7, (hidden, weight))

    nll = linear_nll(hidden, weight, labels)
    torch.testing.assert_close(nll, expected)
    for a, b in zip(torch.autograd.grad((nll * weights).sum() * 1.7, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)

    total, each = weighted_linear_nll(hidden, weight, labels, weights)
    torch.testing.assert_close(total, (expected * weights).sum())
    torch.testing.assert_close(each, expected)
    assert not each.requires_grad
    for a, b in zip(torch.autograd.grad(total * 1.7, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_by_finite_differences() -> None:
    hidden, weight, labels, weights = draw(torch.float64)

    def total(h, w):
        # The loss is fp32; fp64 inputs with a wide step still detect a wrong gradient.
        return weighted_linear_nll(h, w, labels, weights)[0].double()

    assert torch.autograd.gradcheck(total, (hidden, weight), eps=1e-2, atol=1e-2, rtol=1e-2)


def test_bf16_gives_fp32_losses() -> None:
    hidden, weight, labels, weights = draw(torch.bfloat16)
    total, each = weighted_linear_nll(hidden, weight, labels, weights)
    assert total.dtype == each.dtype == linear_nll(hidden, weight, labels).dtype == torch.float32
    torch.testing.assert_close(each, plain(hidden, weight, labels))
    grad_hidden, grad_weight = torch.autograd.grad(total, (hidden, weight))
    assert grad_hidden.dtype == grad_weight.dtype == torch.bfloat16


def test_autocast_is_followed() -> None:
    hidden, weight, labels, weights = draw()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, each = weighted_linear_nll(hidden, weight, labels, weights)
        expected = plain(hidden, weight, labels)
    torch.testing.assert_close(each, expected)
    assert {g.dtype for g in torch.autograd.grad(total, (hidden, weight))} == {torch.float32}


def test_no_target_is_zero_with_gradients() -> None:
    hidden, weight, labels, weights = draw(targets=False)
    for total in (weighted_linear_nll(hidden, weight, labels, weights)[0], linear_nll(hidden, weight, labels).sum()):
        assert total == 0
        assert all(not g.any() for g in torch.autograd.grad(total, (hidden, weight)))


def test_positions_without_target_never_reach_the_head(monkeypatch) -> None:
    hidden, weight, labels, weights = draw()
    monkeypatch.setattr(module, "CHUNK_LOGITS", 64)
    monkeypatch.setattr(module, "CHUNK_ROWS", 2)
    seen = []
    original = module._log_probs
    monkeypatch.setattr(module, "_log_probs", lambda h, w: (seen.append(h.shape[0]), original(h, w))[1])
    weighted_linear_nll(hidden, weight, labels, weights)
    assert sum(seen) == int((labels != IGNORE).sum())
    assert max(seen) * weight.shape[0] <= 64


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, labels, weights = draw()
    total, _ = weighted_linear_nll(hidden, weight.detach(), labels, weights)
    total.backward()
    assert hidden.grad is not None
    assert weight.grad is None
