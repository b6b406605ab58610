"""What is minimised, against naive loops and sums by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from built import act
from nano_llada.config.objectives import Denoising, Masking, NextToken
from nano_llada.core.batch import LossOutput, TokenBatch
from nano_llada.core.pattern import AttentionPattern
from nano_llada.objectives import cross_entropy as module
from nano_llada.objectives.cross_entropy import cross_entropy, head_cross_entropy


def head_case(count: int = 11, tokens: int = 24) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(count, 8, generator=rng).requires_grad_()
    head = torch.randn(tokens, 8, generator=rng).requires_grad_()
    return features, head, torch.randint(tokens, (count,), generator=rng), torch.rand(count, generator=rng) * 3


@pytest.mark.parametrize("tokens", [24, 64, 65])
@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_head_cross_entropy_equals_the_plain_form_with_gradients(monkeypatch, rows_at_once, tokens):
    monkeypatch.setattr(module, "CHUNK_BYTES", rows_at_once * 4 * tokens)
    features, head, targets, weights = head_case(tokens=tokens)
    plain = F.cross_entropy(features @ head.T, targets, reduction="none")
    total, nll = head_cross_entropy(features, head, targets, weights)
    torch.testing.assert_close(nll, plain.detach())
    torch.testing.assert_close(total, (plain * weights).sum())
    expected = torch.autograd.grad((plain * weights).sum() * 0.7, [features, head])
    torch.testing.assert_close(torch.autograd.grad(total * 0.7, [features, head]), expected)
    assert not nll.requires_grad


def test_head_cross_entropy_is_the_same_without_gradients():
    with_gradient = head_cross_entropy(*head_case())
    with torch.no_grad():
        torch.testing.assert_close(head_cross_entropy(*head_case()), tuple(t.detach() for t in with_gradient))


def test_head_cross_entropy_of_nothing_is_zero_with_zero_gradients():
    features, head, targets, weights = head_case(0)
    total, nll = head_cross_entropy(features, head, targets, weights)
    total.backward()
    assert (float(total.detach()), len(nll)) == (0.0, 0)
    assert float(head.grad.abs().sum()) == 0


def test_cross_entropy_is_float32_whatever_the_logits_are():
    logits = torch.randn(5, 24, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    targets = torch.arange(5)
    assert cross_entropy(logits, targets).dtype == torch.float32
    torch.testing.assert_close(
        cross_entropy(logits, targets), F.cross_entropy(logits.float(), targets, reduction="none")
    )
    with torch.autocast("cpu", torch.bfloat16):
        features, head, targets, weights = head_case()
        total, nll = head_cross_entropy(features.to(torch.bfloat16), head, targets, weights)
    assert (total.dtype, nll.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(nll, F.cross_entropy(features @ head.T, targets, reduction="none"), atol=0.1, rtol=0.05)


def documents(batch: TokenBatch):
    """(row, places) of every document of a batch."""
    for row in range(len(batch.tokens)):
        for name in batch.doc_ids[row].unique().tolist():
            if name >= 0:
                yield row, (batch.doc_ids[row] == name).nonzero()[:, 0].tolist()


def test_next_token_equals_a_naive_loop_over_documents(peaky, make_batch, context):
    batch = make_batch([[5, 4], [3, 1, 2], [9]], width=10, scored=0.6)
    total, count = 0.0, 0
    for row, places in documents(batch):
        for n in range(1, len(places)):
            if batch.scored[row, places[n]]:
                context_tokens = batch.tokens[row, places[:n]][None]
                logits = peaky(context_tokens, AttentionPattern("causal"))[0, -1]
                total -= float(logits.detach().log_softmax(-1)[batch.tokens[row, places[n]]])
                count += 1
    out = act(NextToken()).loss(peaky, batch, context(3))
    assert count > 8
    assert batch.scored[0, 5]  # the first token of a document has nothing before it, scored or not
    assert (int(out.count), int(out.predicted)) == (count, count)
    assert out.total.item() == pytest.approx(total, rel=1e-5)


def test_next_token_loss_moves_only_with_scored_tokens_and_their_past(peaky, make_batch, context):
    batch = make_batch([[10]])
    scored = torch.arange(10)[None] == 4
    base = TokenBatch(batch.tokens, scored, batch.doc_ids, batch.positions, batch.rows)
    reference = act(NextToken()).loss(peaky, base, context(1)).total.item()
    for place in range(10):
        tokens = batch.tokens.clone()
        tokens[0, place] = (int(tokens[0, place]) - 6 + 5) % 18 + 6
        moved = TokenBatch(tokens, scored, batch.doc_ids, batch.positions, batch.rows)
        same = act(NextToken()).loss(peaky, moved, context(1)).total.item() == reference
        assert same == (place > 4)


def nll_of(model, noisy, batch: TokenBatch) -> Tensor:
    """(B, L) cross-entropy of the clean tokens, by the plain form."""
    pattern = AttentionPattern.packed("full", batch.doc_ids)
    logits = model(noisy.tokens, pattern, positions=batch.positions)
    return F.cross_entropy(logits.transpose(1, 2), batch.tokens, reduction="none").detach()


PADDING = (("tokens", 1), ("scored", False), ("doc_ids", -1), ("positions", 0))
ROWS = [[6, 5], [3, 8], [11], [2, 2, 2]]


@pytest.mark.parametrize("masking", [Masking(), Masking("bernoulli")], ids=["exact", "bernoulli"])
def test_denoising_per_token_by_hand(peaky, make_batch, context, masking):
    batch = make_batch(ROWS, scored=0.7)
    noisy = act(masking).corrupt(batch, context(4))
    out = act(Denoising(masking)).loss(peaky, batch, context(4))
    assert int(out.predicted) == int(noisy.masked.sum()) > 0
    assert int(out.count) == int(batch.scored.sum())
    assert out.total.item() == pytest.approx(float((nll_of(peaky, noisy, batch) * noisy.weights).sum()), rel=1e-5)


def test_denoising_per_document_averages_each_answer_first(peaky, make_batch, context):
    batch = make_batch(ROWS, scored=0.7)
    noisy = act(Masking()).corrupt(batch, context(4))
    weighted = nll_of(peaky, noisy, batch) * noisy.weights
    answers = [(row, places) for row, places in documents(batch) if batch.scored[row, places].any()]
    expected = sum(float(weighted[row, places].sum() / batch.scored[row, places].sum()) for row, places in answers)
    out = act(Denoising(normalise_by="document")).loss(peaky, batch, context(4))
    assert 4 < len(answers) == int(out.count)
    assert out.total.item() == pytest.approx(expected, rel=1e-5)


def test_uniform_weight_is_a_plain_mean_over_masked_tokens(peaky, make_batch, context):
    batch = make_batch(ROWS, scored=0.7)
    noisy = act(Masking()).corrupt(batch, context(4))
    out = act(Denoising(loss_weight="uniform")).loss(peaky, batch, context(4))
    assert int(out.count) == int(noisy.masked.sum())
    mean = float(nll_of(peaky, noisy, batch)[noisy.masked].mean())
    assert (out.total / out.count).item() == pytest.approx(mean, rel=1e-5)
    elbo = act(Denoising()).loss(peaky, batch, context(4))
    assert abs((elbo.total / elbo.count).item() - mean) > 0.01


def test_metrics_split_text_from_end_tokens(peaky, make_batch, context, vocab):
    batch = make_batch([[12]] * 4)
    tokens = batch.tokens.clone()
    tokens[:, 7:] = vocab.eos  # an answer filled with its end
    batch = TokenBatch(tokens, batch.scored, batch.doc_ids, batch.positions, batch.rows)
    noisy = act(Masking()).corrupt(batch, context(4))
    nll, end = nll_of(peaky, noisy, batch), noisy.masked & (tokens == vocab.eos)
    text = noisy.masked & ~end
    metrics = act(Denoising()).loss(peaky, batch, context(4)).metrics
    for name, chosen in (("masked_text_loss", text), ("masked_eos_loss", end)):
        total, count = metrics[name]
        assert int(count) == int(chosen.sum()) > 0
        assert float(total) == pytest.approx(float(nll[chosen].sum()), rel=1e-5)


def parts(objective, model, batch: TokenBatch, ctx, size: int) -> list[LossOutput]:
    return [act(objective).loss(model, batch.select(slice(i, i + size)), ctx) for i in range(0, len(batch.rows), size)]


@pytest.mark.parametrize(
    "objective",
    [
        NextToken(),
        Denoising(),
        Denoising(Masking("bernoulli")),
        Denoising(normalise_by="document"),
        Denoising(loss_weight="uniform"),
        Denoising(random_length=0.5),
    ],
    ids=["next_token", "denoising", "bernoulli", "document", "uniform", "random_length"],
)
@pytest.mark.parametrize("size", [1, 3])
def test_sums_and_counts_of_micro_batches_add_up(peaky, make_batch, context, objective, size):
    batch = make_batch(ROWS, scored=0.7)
    whole, split = act(objective).loss(peaky, batch, context(4)), parts(objective, peaky, batch, context(4), size)
    assert len({int(part.count) for part in split}) > 1
    assert sum(int(part.count) for part in split) == int(whole.count)
    assert sum(int(part.predicted) for part in split) == int(whole.predicted)
    assert sum(part.total.item() for part in split) == pytest.approx(whole.total.item(), rel=1e-5)
    for name, (total, count) in whole.metrics.items():
        assert sum(int(part.metrics[name][1]) for part in split) == int(count)
        assert sum(float(part.metrics[name][0]) for part in split) == pytest.approx(float(total), rel=1e-5)


@pytest.mark.parametrize("objective", [NextToken(), Denoising(), Denoising(normalise_by="document")])
def test_padding_changes_nothing(peaky, make_batch, context, objective):
    batch = make_batch([[10], [7]], scored=0.8)
    wider = TokenBatch(*(F.pad(getattr(batch, name), (0, 5), value=fill) for name, fill in PADDING), batch.rows)
    outs = [act(objective).loss(peaky, some, context(2)) for some in (batch, wider)]
    assert int(outs[0].count) == int(outs[1].count) > 0
    assert outs[0].total.item() == pytest.approx(outs[1].total.item(), rel=1e-5)


@pytest.mark.parametrize("objective", [NextToken(), Denoising(), Denoising(normalise_by="document")])
def test_a_batch_with_nothing_scored_has_zero_loss_and_gradient(make_model, make_batch, context, objective):
    model = make_model()
    out = act(objective).loss(model, make_batch([[6], [6]], scored=0.0), context(2))
    out.total.backward()
    assert (out.total.item(), int(out.count), int(out.predicted)) == (0.0, 0, 0)
    assert all(p.grad is None or float(p.grad.abs().sum()) == 0 for p in model.parameters())


@pytest.mark.parametrize("objective", [NextToken(), Denoising(), Denoising(normalise_by="document")])
def test_gradients_equal_those_of_the_plain_form(make_model, make_batch, context, objective):
    batch, model = make_batch([[7, 4], [5, 6]], scored=0.8), make_model(peak=16.0)
    act(objective).loss(model, batch, context(2)).total.backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    if isinstance(objective, NextToken):
        pattern = AttentionPattern.packed("causal", batch.doc_ids)
        logits = model(batch.tokens, pattern, positions=batch.positions)[:, :-1]
        weights = (batch.scored[:, 1:] & (batch.doc_ids[:, 1:] == batch.doc_ids[:, :-1])).float()
        targets = batch.tokens[:, 1:]
    else:
        noisy = act(objective.corruption).corrupt(batch, context(2))
        logits = model(noisy.tokens, AttentionPattern.packed("full", batch.doc_ids), positions=batch.positions)
        weights, targets = noisy.weights.clone(), batch.tokens
        if objective.normalise_by == "document":
            for row, places in documents(batch):
                weights[row, places] /= batch.scored[row, places].sum()
    (F.cross_entropy(logits.transpose(1, 2), targets, reduction="none") * weights).sum().backward()
    torch.testing.assert_close(ours, [p.grad for p in model.parameters()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_length": 1.5}, r"random_length must be in \[0, 1\], got 1.5"),
        ({"loss_weight": "uniform", "normalise_by": "document"}, "normalise_by must be 'token'"),
    ],
)
def test_contradictory_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Denoising(**options)
