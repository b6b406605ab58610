"""The backbone: hand-written gradients, who sees what, cached decoding, and the options of its shape."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from nano_llada.config.model import ModelConfig, YarnScaling
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.model import functional
from nano_llada.model.functional import by_documents, normed_linear, rms_norm, rotary, swiglu_linear
from nano_llada.model.transformer import Transformer, rotary_frequencies

CAUSAL, FULL = AttentionPattern("causal"), AttentionPattern("full")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def angles(length: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    turned = torch.arange(length)[:, None].double() * 0.7 ** torch.arange(width // 2)
    return turned.cos()[None, :, None], turned.sin()[None, :, None]


def plain_rms_norm(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def plain_swiglu(gate_up):
    gate, up = gate_up.chunk(2, -1)
    return gate * torch.sigmoid(gate) * up


def plain_rotary(x, cos, sin):
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


PARTS = {
    "rms_norm": (lambda x, w: rms_norm(x, w, 1e-6), lambda x, w: plain_rms_norm(x, w, 1e-6), [(2, 3, 8), (8,)]),
    "rms_norm_per_head": (
        lambda x, w: rms_norm(x, w, 1e-3),
        lambda x, w: plain_rms_norm(x, w, 1e-3),
        [(2, 5, 3, 4), (3, 4)],
    ),
    "normed_linear": (
        lambda x, w, m: normed_linear(x, w, m, 1e-6),
        lambda x, w, m: plain_rms_norm(x, w, 1e-6) @ m.T,
        [(2, 3, 8), (8,), (5, 8)],
    ),
    "swiglu_linear": (swiglu_linear, lambda x, m: plain_swiglu(x) @ m.T, [(3, 4, 10), (6, 5)]),
    "rotary": (lambda x: rotary(x, *angles(5, 6)), lambda x: plain_rotary(x, *angles(5, 6)), [(2, 5, 3, 6)]),
}


@pytest.mark.parametrize("gain", [(8,), (2, 8)], ids=["one gain", "one a head"])
def test_norms_of_half_precision_have_gradients_with_gains_of_float32(gain):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 2, 8, generator=rng).bfloat16().requires_grad_()
    weight = torch.rand(gain, generator=rng).requires_grad_()
    x32, weight32 = x.detach().float().requires_grad_(), weight.detach().requires_grad_()
    found = torch.autograd.grad(rms_norm(x, weight, 1e-6).float().square().sum(), [x, weight])
    wanted = torch.autograd.grad(plain_rms_norm(x32, weight32, 1e-6).square().sum(), [x32, weight32])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", PARTS)
def test_hand_written_parts_equal_their_plain_forms_with_gradients(name):
    ours, plain, shapes = PARTS[name]
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected = plain(*inputs)
    upstream = normal(*expected.shape, seed=9).detach()
    torch.testing.assert_close(ours(*inputs), expected)
    got = torch.autograd.grad(ours(*inputs), inputs, upstream)
    torch.testing.assert_close(got, torch.autograd.grad(expected, inputs, upstream))


@pytest.mark.parametrize("name", PARTS)
def test_hand_written_gradients_pass_gradcheck(name):
    ours, _, shapes = PARTS[name]
    assert torch.autograd.gradcheck(ours, tuple(normal(*shape, seed=i) for i, shape in enumerate(shapes)))


def test_rotated_products_depend_on_distance_alone():
    cos, sin = angles(12, 8)
    q, k = (
        rotary(normal(1, 1, 1, 8).expand(1, 12, 1, 8), cos, sin),
        rotary(normal(1, 1, 1, 8, seed=1).expand(1, 12, 1, 8), cos, sin),
    )
    products = torch.einsum("blhd,bmhd->lm", q, k)
    torch.testing.assert_close(products[0, 3], products[8, 11])
    assert (products[0, 3] - products[3, 0]).abs() > 1e-3


def changed(model, pattern, tokens: torch.Tensor, place: int, positions=None) -> torch.Tensor:
    """(L,) largest change of the logits at each position when the token at `place` is changed."""
    other = tokens.clone()
    other[:, place] = (tokens[:, place] - 6 + 5) % 18 + 6
    with torch.no_grad():
        difference = model(other, pattern, positions=positions) - model(tokens, pattern, positions=positions)
    return difference.abs().amax((0, 2))


def test_causal_logits_do_not_depend_on_later_tokens(model, make_batch):
    tokens = make_batch([[8]]).tokens
    for place in range(8):
        change = changed(model, CAUSAL, tokens, place)
        assert (change[:place] == 0).all()
        assert (change[place:] > 1e-4).all()


def test_full_logits_depend_on_every_token(model, make_batch):
    tokens = make_batch([[8]]).tokens
    for place in range(8):
        assert (changed(model, FULL, tokens, place) > 1e-4).all()


@pytest.mark.parametrize("kind", ["causal", "full"])
def test_documents_of_a_row_do_not_see_each_other_bit_for_bit(model, make_batch, kind):
    batch = make_batch([[4, 3, 5]])
    pattern = AttentionPattern.packed(kind, batch.doc_ids)
    for place in range(12):
        change = changed(model, pattern, batch.tokens, place, batch.positions)
        other = batch.doc_ids[0] != batch.doc_ids[0, place]
        assert (change[other] == 0).all()
        assert change[place] > 1e-4


def test_packed_documents_get_the_logits_they_get_alone(model, make_batch):
    batch = make_batch([[4, 3, 5]], width=14)
    packed = model(batch.tokens, AttentionPattern.packed("full", batch.doc_ids), positions=batch.positions)
    for first, last in ((0, 4), (4, 7), (7, 12)):
        torch.testing.assert_close(packed[:, first:last], model(batch.tokens[:, first:last], FULL), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["causal", "full"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_document_by_document_equals_the_mask_with_gradients(
    make_model, make_batch, kind, kv_heads, monkeypatch
):
    batch = make_batch([[9], [4, 3, 5], [1, 7]], width=13)
    pattern = AttentionPattern.packed(kind, batch.doc_ids)
    model = make_model(num_heads=4, num_kv_heads=kv_heads).double()
    model.train()
    found = []
    for call in (10**9, 0):  # what a call is taken to cost: too much, nothing
        monkeypatch.setattr(functional, "CALL", call)
        used = by_documents(pattern, 13, 13, torch.zeros(3, 13, 32))
        assert (used is not None) == (call == 0)
        model.zero_grad()
        features = model.features(batch.tokens, pattern, positions=batch.positions)[batch.doc_ids >= 0]
        (features * torch.arange(features.numel()).view_as(features).cos()).sum().backward()
        found.append([features.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert used.lengths == (9, 4, 4, 3, 5, 1, 1, 7, 5)
    for masked, apart in zip(*found, strict=True):
        torch.testing.assert_close(apart, masked, atol=1e-9, rtol=1e-7)


def test_documents_are_attended_to_one_by_one_where_that_is_less_work_and_where_each_is_in_one_piece(make_batch):
    docs = make_batch([[200, 56], [256]], width=256).doc_ids
    packed = AttentionPattern.packed("causal", docs)
    assert by_documents(packed, 256, 256, torch.zeros(2, 256, 512)).lengths == (200, 56, 256)
    assert by_documents(packed, 256, 256, torch.zeros(2, 256, 16)) is None  # cheaper at once
    assert by_documents(packed, 1, 256, torch.zeros(2, 1, 512)) is None
    assert packed.stretches(1, 256) is None
    assert AttentionPattern("causal", torch.tensor([[0, 1, 0]])).stretches(3, 3) is None
    assert AttentionPattern("full").stretches(3, 3) is None
    positions = torch.arange(256).expand(2, -1)
    assert AttentionPattern.blocks("block_causal", docs, positions, 4).stretches(256, 256) is None
    short = AttentionPattern.packed("causal", make_batch([[8] * 32] * 2, width=256).doc_ids)
    assert by_documents(short, 256, 256, torch.zeros(2, 256, 128)) is None  # 64 calls


@pytest.mark.parametrize("kind", ["causal", "full"])
def test_padding_is_never_attended_to_bit_for_bit(model, make_batch, kind):
    batch = make_batch([[5], [9]], width=12)
    pattern = AttentionPattern.packed(kind, batch.doc_ids)
    other = torch.where(batch.doc_ids < 0, 17, batch.tokens)
    assert (other != batch.tokens).any()
    real = batch.doc_ids >= 0
    logits = model(batch.tokens, pattern, positions=batch.positions)
    assert torch.equal(model(other, pattern, positions=batch.positions)[real], logits[real])
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_cached_decoding_equals_uncached_with_prompts_of_unequal_length(peaky):
    texts = [list(range(6, 6 + n)) for n in (12, 7, 9)]
    prompts = [text[: len(text) - 4] for text in texts]  # the last four tokens come one at a time
    aligned = [(0,) * (8 - len(prompt)) + tuple(range(6, 6 + len(prompt))) for prompt in prompts]  # at the last token
    tokens = torch.tensor(aligned)
    docs, positions = torch.where(tokens == 0, -1, 0), (tokens - 6).clamp(min=0)
    cache = peaky.new_cache(3, 12)
    cached = [peaky(tokens, AttentionPattern("causal", docs), positions=positions, cache=cache)[:, -1]]
    for step in range(4):
        tokens = torch.tensor([[text[len(prompt) + step]] for text, prompt in zip(texts, prompts, strict=True)])
        positions = torch.tensor([[len(prompt) + step] for prompt in prompts])
        docs = F.pad(docs, (0, 1))
        cached.append(peaky(tokens, AttentionPattern("causal", docs), positions=positions, cache=cache)[:, -1])
    assert cache.length == 12
    for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        alone = peaky(torch.tensor([text]), CAUSAL)[0, len(prompt) - 1 :]
        torch.testing.assert_close(torch.stack([step[row] for step in cached]), alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_rows_of_a_cache_are_computed_apart_copied_and_swapped(peaky, make_batch):
    """Five, three and four tokens are held; then the last two rows, exchanged, get two and one more, with padding."""
    tokens = make_batch([[8]] * 3).tokens
    cache, larger = peaky.new_cache(3, 8), peaky.new_cache(4, 9)
    for row, held in enumerate((5, 3, 4)):
        cache.place([0], [held], first=row)
        peaky(tokens[row : row + 1, :held], CAUSAL, cache=cache)
    cache.swap(1, 2)
    for row in range(3):
        cache.copy(row, row + 1, 5, larger)
    new = torch.tensor([[tokens[2, 4], tokens[2, 5]], [tokens[1, 3], 6]])
    larger.place([4, 3], [2, 1], first=2)
    slots = torch.tensor([[4, 5], [3, 4]])
    docs = torch.where(torch.arange(6) < torch.tensor([[6], [4]]), 0, -1)
    pattern = AttentionPattern("causal", docs, query_slots=slots)
    found = peaky(new, pattern, positions=slots, cache=larger)
    expected = peaky(tokens[[2, 1]], CAUSAL)
    torch.testing.assert_close(found[0], expected[0, 4:6], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1, 0], expected[1, 3], atol=1e-5, rtol=0)


def test_a_full_cache_says_so(model):
    cache = model.new_cache(1, 3)
    with pytest.raises(UserError, match="holds 3 tokens, 4 are needed"):
        model(torch.full((1, 4), 6), CAUSAL, cache=cache)


def test_grouped_queries_equal_full_attention_with_repeated_heads(make_model, make_batch):
    grouped, full = make_model(num_kv_heads=2), make_model(num_kv_heads=4)
    weights = grouped.state_dict()
    for name in list(weights):
        if name.endswith("qkv.weight"):
            q, k, v = weights[name].split([32, 16, 16])
            doubled = [part.view(2, 8, 32).repeat_interleave(2, 0).flatten(0, 1) for part in (k, v)]
            weights[name] = torch.cat([q, *doubled])
    full.load_state_dict(weights)
    tokens = make_batch([[9]]).tokens
    for pattern in (CAUSAL, FULL):
        torch.testing.assert_close(grouped(tokens, pattern), full(tokens, pattern), atol=1e-5, rtol=0)


def test_tied_embeddings_are_one_parameter(make_model, make_batch):
    tied, free = make_model(tie_embeddings=True), make_model()
    assert tied.head.weight is tied.embed.weight
    sizes = [sum(p.numel() for p in m.parameters()) for m in (tied, free)]
    assert sizes[1] - sizes[0] == 24 * 32
    tied(make_batch([[5]]).tokens, FULL).logsumexp(-1).sum().backward()
    unused = [token for token in range(24) if token not in make_batch([[5]]).tokens]
    assert tied.embed.weight.grad[unused].abs().sum() > 0  # as an output, every row counts


@pytest.mark.parametrize("cached", [False, True])
def test_select_equals_indexing_all_logits(model, make_batch, cached):
    batch = make_batch([[6], [6], [6]], scored=0.5)
    cache = [model.new_cache(3, 6) if cached else None for _ in range(2)]
    chosen = model(batch.tokens, CAUSAL, select=batch.scored, cache=cache[0])
    everything = model(batch.tokens, CAUSAL, cache=cache[1])
    assert 0 < len(chosen) < 18
    torch.testing.assert_close(chosen, everything[batch.scored], atol=1e-6, rtol=0)


def test_default_shape_has_about_30_million_parameters():
    with torch.device("meta"):
        count = sum(p.numel() for p in Transformer(ModelConfig()).parameters())
    config = ModelConfig()
    assert config.mlp_width == 1408
    gains = (2 * config.num_layers + 1) * 512 + 2 * config.num_layers * 64
    assert count == config.num_layers * config.block_parameters + 2 * 6400 * 512 + gains
    assert 28e6 < count < 34e6


def test_yarn_keeps_fast_dimensions_and_stretches_slow_ones():
    yarn = YarnScaling(factor=4.0, original_length=512, beta_fast=16.0, beta_slow=1.0)
    shape = {"hidden_size": 128, "num_heads": 1}
    plain, one = rotary_frequencies(ModelConfig(**shape))
    scaled, factor = rotary_frequencies(ModelConfig(**shape, yarn=yarn))
    turns = plain * 512 / (2 * math.pi)  # over the original context
    fast, slow = turns >= 16, turns <= 0.9
    between = (turns < 12) & (turns > 1.2)
    assert min(int(part.sum()) for part in (fast, slow, between)) >= 5
    torch.testing.assert_close(scaled[fast], plain[fast])
    torch.testing.assert_close(scaled[slow], plain[slow] / 4)
    assert ((scaled < plain) & (scaled > plain / 4))[between].all()
    assert one == 1.0
    assert factor == pytest.approx(0.1 * math.log(4) + 1)


def test_yarn_changes_the_model_and_scales_attention(make_model, make_batch):
    plain, stretched = make_model(), make_model(yarn=YarnScaling(original_length=16))
    tokens = make_batch([[20]]).tokens
    assert stretched.rotary_scale == pytest.approx(1.1386, abs=1e-4)
    assert (plain(tokens, FULL) - stretched(tokens, FULL)).abs().max() > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_gives_the_same_gradients(make_model, make_batch, dropout):
    model, tokens, grads = make_model(dropout=dropout).train(), make_batch([[7], [7]]).tokens, []
    for model.gradient_checkpointing in (False, True):
        torch.manual_seed(3)
        model(tokens, FULL).logsumexp(-1).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    torch.testing.assert_close(grads[0], grads[1])
    assert max(float(g.abs().max()) for g in grads[0]) > 0


def test_dropout_acts_in_training_only(make_model, make_batch):
    model, tokens = make_model(dropout=0.5), make_batch([[7]]).tokens
    assert torch.equal(model(tokens, FULL), model(tokens, FULL))
    model.train()
    assert not torch.equal(model(tokens, FULL), model(tokens, FULL))


@pytest.mark.parametrize("options", [{"qk_norm": False}, {"head_size": 16}, {"num_kv_heads": 1}])
def test_options_of_the_shape_train(make_model, make_batch, options):
    model = make_model(**options)
    model(make_batch([[6]]).tokens, CAUSAL).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hidden_size": 30, "num_heads": 4}, "hidden_size 30 is not a multiple of num_heads 4"),
        ({"num_heads": 8, "num_kv_heads": 3}, "num_heads 8 is not a multiple of num_kv_heads 3"),
        ({"hidden_size": 12, "num_heads": 4}, "even head width, got 3"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_shapes_are_refused_with_the_numbers(shape, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**shape)


def test_fresh_weights_follow_the_seed_and_shrink_towards_the_residual_stream(vocab):
    config = ModelConfig(vocab_size=vocab.size, hidden_size=64, num_layers=8, num_heads=4)
    first, again = (Transformer(config).initialise(torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert first.blocks[0].gate_up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert first.blocks[0].down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert (first.norm.weight == 1).all()
