"""The output layer: its losses and entropies equal the plain forms, and its gradient survives half precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nano_llada.objectives import cross_entropy as module
from nano_llada.objectives.cross_entropy import head_cross_entropy, head_entropy, head_nll

VOCAB = 24
BF16 = 2.0**-8  # relative distance of neighbouring bfloat16 numbers


def case(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features that are not centred and few targets: gradients that add up, as those of frequent tokens do."""
    rng = torch.Generator().manual_seed(0)
    features = (torch.randn(count, 16, generator=rng) + 0.5).to(dtype).requires_grad_()
    head = (torch.randn(VOCAB, 16, generator=rng) * 0.3).to(dtype).requires_grad_()
    return features, head, torch.randint(VOCAB // 3, (count,), generator=rng), torch.rand(count, generator=rng)


def rows_at_once(monkeypatch, rows: int) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", rows * 4 * VOCAB)


@pytest.mark.parametrize("rows", [1, 3, 10, 11, 100])
def test_head_nll_is_cross_entropy_with_its_gradients(monkeypatch, rows):
    rows_at_once(monkeypatch, rows)
    features, head, targets, weights = case(11)
    nll, plain = head_nll(features, head, targets), F.cross_entropy(features @ head.T, targets, reduction="none")
    torch.testing.assert_close(nll, plain)
    found = torch.autograd.grad((nll * weights).sum(), [features, head])
    torch.testing.assert_close(found, torch.autograd.grad((plain * weights).sum(), [features, head]))


def test_head_nll_has_the_gradient_of_any_function_of_it(monkeypatch):
    """Preferences are not a weighted sum: the sigmoid of one."""
    rows_at_once(monkeypatch, 4)
    features, head, targets, weights = case(9)

    def some(nll: Tensor) -> Tensor:
        return F.logsigmoid((nll * (weights - 0.5)).sum()) + nll.square().mean()

    found = torch.autograd.grad(some(head_nll(features, head, targets)), [features, head])
    plain = some(F.cross_entropy(features @ head.T, targets, reduction="none"))
    torch.testing.assert_close(found, torch.autograd.grad(plain, [features, head]))


def test_head_nll_of_nothing_is_nothing():
    features, head, targets, _ = case(0)
    nll = head_nll(features, head, targets)
    assert nll.shape == (0,)
    (gradient,) = torch.autograd.grad(nll.sum(), head)
    assert float(gradient.abs().sum()) == 0


@pytest.mark.parametrize("rows", [1, 7, 10**6])
def test_both_forms_agree_whatever_the_chunks(monkeypatch, rows):
    features, head, targets, weights = case(50)
    whole = head_nll(features, head, targets)
    rows_at_once(monkeypatch, rows)
    total, nll = head_cross_entropy(features, head, targets, weights)
    torch.testing.assert_close(nll, whole.detach())
    torch.testing.assert_close(total, (whole * weights).sum())
    torch.testing.assert_close(
        torch.autograd.grad(total, [features, head]), torch.autograd.grad((whole * weights).sum(), [features, head])
    )


def test_a_target_whose_probability_is_zero_in_float32_has_its_loss(monkeypatch):
    rows_at_once(monkeypatch, 2)
    features, targets = torch.eye(3, requires_grad=True), torch.tensor([1, 0, 2])
    head = torch.zeros(VOCAB, 3)
    head[0] = torch.tensor([300.0, 0.0, 1e4])  # e^-300 and e^-10000 are no float32
    head.requires_grad_()
    total, nll = head_cross_entropy(features, head, targets, torch.tensor([1.0, 2.0, 3.0]))
    assert nll.tolist() == pytest.approx([300.0, math.log(VOCAB), 1e4])
    assert float(total.detach()) == pytest.approx(300 + 2 * math.log(VOCAB) + 3e4)
    (gradient,) = torch.autograd.grad(total, head)
    assert gradient[:3, 0].tolist() == [1.0, -1.0, 0.0]  # the likely token is pushed down, the wanted one up


def head_gradient(features: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """In float32, of the same numbers."""
    features, head = features.detach().float(), head.detach().float().requires_grad_()
    total = (F.cross_entropy(features @ head.T, targets, reduction="none") * weights).sum()
    return torch.autograd.grad(total, head)[0]


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.float() - truth).norm() / truth.norm())


def summed_in_bf16(case_: tuple[Tensor, Tensor, Tensor, Tensor], rows: int) -> Tensor:
    """What the head's gradient would be if chunks were added up in the precision of the weights."""
    features, head, targets, weights = (tensor.detach() for tensor in case_)
    total = torch.zeros_like(head)
    for first in range(0, len(targets), rows):
        chunk = slice(first, first + rows)
        slope = (features[chunk] @ head.T).float().softmax(-1) - F.one_hot(targets[chunk], VOCAB)
        total += (slope * weights[chunk, None]).to(head.dtype).T @ features[chunk]
    return total


@pytest.mark.parametrize("rows", [1, 4, 16, 4000])
def test_the_gradient_of_the_head_adds_up_in_float32(monkeypatch, rows):
    """With 1000 chunks the error is one rounding; summed in bfloat16 it would be fifty times that."""
    rows_at_once(monkeypatch, rows)
    inputs = case(4000, torch.bfloat16)
    truth = head_gradient(*inputs)
    total, _ = head_cross_entropy(*inputs)
    (gradient,) = torch.autograd.grad(total, inputs[1])
    assert error(gradient, truth) < BF16
    lost = error(summed_in_bf16(inputs, rows), truth)
    assert (lost > 3 * BF16) == (rows <= 16)
    if rows <= 4:
        assert lost > 20 * BF16


@pytest.mark.parametrize("form", ["head_cross_entropy", "head_nll"])
@pytest.mark.parametrize("rows", [1, 16, 4000])
def test_autocast_keeps_the_gradient_of_float32_weights(monkeypatch, form, rows):
    rows_at_once(monkeypatch, rows)
    exact = case(4000, torch.bfloat16)  # numbers that autocast does not round
    truth = head_gradient(*exact)
    features, head, targets, weights = exact[0].detach().float(), exact[1].detach().float(), *exact[2:]
    head.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        if form == "head_nll":
            nll = head_nll(features, head, targets)
            total = (nll * weights).sum()
        else:
            total, nll = head_cross_entropy(features, head, targets, weights)
    (gradient,) = torch.autograd.grad(total, head)
    assert (nll.dtype, gradient.dtype) == (torch.float32, torch.float32)
    assert error(gradient, truth) < BF16
    assert error(nll.detach(), F.cross_entropy(features @ head.T, targets, reduction="none").detach()) < BF16


def test_head_entropy_is_that_of_the_distribution_with_its_gradient():
    features, head, targets, weights = case(40)
    features = (features.detach() * torch.linspace(0.5, 5, 40)[:, None]).requires_grad_()  # from unsure to nearly sure
    entropy, right = head_entropy(features, head, targets)
    logits = features @ head.T
    plain = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy, plain)
    assert float(entropy.detach().min()) < 0.5
    assert float(entropy.detach().max()) > 2
    assert torch.equal(right, logits.argmax(-1) == targets)
    found = torch.autograd.grad((entropy * weights).sum(), [features, head])
    torch.testing.assert_close(found, torch.autograd.grad((plain * weights).sum(), [features, head]))


def test_entropy_and_its_slope_by_hand():
    """dH/dz = -p (log p + H), and a uniform distribution has log V nats."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, -1.0, 0.5, 0.0]], requires_grad=True)
    entropy, right = head_entropy(logits, torch.eye(4), torch.tensor([0, 0]))
    assert float(entropy[0].detach()) == pytest.approx(math.log(4))
    assert right[1]
    (slope,) = torch.autograd.grad(entropy.sum(), logits)
    log_p = logits.detach().log_softmax(-1)
    torch.testing.assert_close(slope, -log_p.exp() * (log_p + entropy.detach()[:, None]))
    assert float(slope[1, 0]) < 0  # to raise the likeliest logit lowers the entropy


def test_entropy_of_certainty_is_zero_and_finite():
    logits = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    entropy, _ = head_entropy(logits, torch.eye(3), torch.tensor([1]))
    (slope,) = torch.autograd.grad(entropy.sum(), logits)
    assert float(entropy.detach()) == 0
    assert bool(slope.isfinite().all())


def test_entropy_is_float32_whatever_the_features_are():
    features, head, targets, _ = case(6, torch.bfloat16)
    entropy, _ = head_entropy(features, head, targets)
    assert entropy.dtype == torch.float32
    plain = torch.distributions.Categorical(logits=(features @ head.T).float()).entropy()
    torch.testing.assert_close(entropy, plain)
