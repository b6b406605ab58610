"""Block diffusion: all blocks in one pass equal one block after another, and the cache changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from built import act
from nano_llada.config.decoding import Block, Diffusion
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, Masking
from nano_llada.core.batch import TokenBatch
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.forward import rectangles
from nano_llada.decode.lean import lean_passes
from nano_llada.decode.types import Request, collect
from nano_llada.diffusion.masking import groups_of
from nano_llada.objectives.denoising import noisy_features
from nano_llada.objectives.likelihood import bound_nll

CPU = torch.device("cpu")
TABLES = {
    # (kind, documents of the row, block size): who (row) sees whom (column); n is noisy, c clean
    ("block_causal", (5,), 2): [
        "##...",
        "##...",
        "####.",
        "####.",
        "#####",
    ],
    ("two_stream", (4,), 2): [
        "##..|....",
        "##..|....",
        "..##|##..",
        "..##|##..",
        "....|##..",
        "....|##..",
        "....|####",
        "....|####",
    ],
    ("two_stream", (3, 2), 2): [
        "##...|.....",
        "##...|.....",
        "..#..|##...",
        "...##|.....",
        "...##|.....",
        ".....|##...",
        ".....|##...",
        ".....|###..",
        ".....|...##",
        ".....|...##",
    ],
}


@pytest.mark.parametrize("case", TABLES, ids=str)
def test_masks_are_these_pictures(case, make_batch):
    kind, documents, size = case
    batch = make_batch([list(documents)], width=sum(documents))
    pattern = AttentionPattern.blocks(kind, batch.doc_ids, batch.positions, size)
    width = sum(documents) * (2 if kind == "two_stream" else 1)
    dense = pattern.dense(width, width, CPU)
    picture = ["".join("#" if seen else "." for seen in line) for line in dense[0, 0].tolist()]
    assert picture == [line.replace("|", "") for line in TABLES[case]]


@pytest.mark.parametrize("kind", ["causal", "full", "block_causal", "two_stream", "two_stream_causal"])
def test_flex_attention_and_a_dense_mask_agree(kind, make_batch):
    from torch.nn.attention.flex_attention import flex_attention

    batch = make_batch([[7, 6], [16], [3, 9]], width=16)
    if kind in ("causal", "full"):
        pattern = AttentionPattern.packed(kind, batch.doc_ids)
    else:
        pattern = AttentionPattern.blocks(kind, batch.doc_ids, batch.positions, 4)
    width = 32 if kind.startswith("two_stream") else 16
    q, k, v = torch.randn(3, 3, 2, width, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    dense, flex = pattern.dense(width, width, CPU), pattern.flex(width, width, CPU)
    assert not bool(dense.all())
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=dense)
    torch.testing.assert_close(flex_attention(q, k, v, block_mask=flex), expected, atol=1e-5, rtol=0)


def blockwise(model, noisy, batch: TokenBatch, masked, size: int):
    """Features of masked positions, one document and block at a time: clean text before it, then the noisy block."""
    found = torch.zeros(*masked.shape, model.config.hidden_size)
    for row in range(len(noisy)):
        for doc in range(int(batch.doc_ids[row].max()) + 1):
            places = (batch.doc_ids[row] == doc).nonzero()[:, 0]
            for first in range(0, len(places), size):
                block = places[first : first + size]
                tokens = torch.cat([batch.tokens[row, places[:first]], noisy[row, block]])[None]
                positions = torch.arange(tokens.shape[1])[None]
                pattern = AttentionPattern.blocks("block_causal", torch.zeros_like(tokens), positions, size)
                found[row, block] = model.features(tokens, pattern, positions=positions)[0, first:]
    return found[masked]


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 9),
    documents=st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=3), min_size=1, max_size=3),
    kv_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_all_blocks_at_once_equal_one_block_after_another(
    make_model, make_batch, context, size, documents, kv_heads, seed
):
    model = make_model(seed=seed % 3, num_kv_heads=kv_heads)
    batch = make_batch(documents, width=30, scored=0.8)
    noisy = act(Masking()).corrupt(batch, context(len(documents), step=seed), size)
    with torch.no_grad():
        features, computed = noisy_features(model, noisy.tokens, batch, noisy.masked, size)
        expected = blockwise(model, noisy.tokens, batch, noisy.masked, size)
    assert computed == 2 * batch.tokens.numel()
    assert len(features)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


def test_a_block_as_long_as_the_row_is_llada_1(model, make_batch, context):
    batch = make_batch([[9, 5], [14], [3, 4, 5]], width=16)
    plain = act(Denoising()).loss(model, batch, context(3))
    for size in (14, 16, 99):
        out = act(Denoising(blocks=BlockSizeSchedule(size))).loss(model, batch, context(3))
        assert torch.equal(out.total, plain.total)
        assert out.positions == plain.positions == batch.tokens.numel()
    # and the two-stream pass with such a block gives what the plain pass gives
    noisy = act(Masking()).corrupt(batch, context(3), 16)
    assert torch.equal(noisy.masked, act(Masking()).corrupt(batch, context(3)).masked)
    once, _ = noisy_features(model, noisy.tokens, batch, noisy.masked, None)
    both, _ = noisy_features(model, noisy.tokens, batch, noisy.masked, 16)
    torch.testing.assert_close(both, once, atol=1e-5, rtol=0)
    small = act(Denoising(blocks=BlockSizeSchedule(4))).loss(model, batch, context(3))
    assert abs(float(small.total - plain.total)) > 1e-2
    assert small.positions == 2 * plain.positions


def test_blocks_of_one_token_are_an_exact_likelihood(peaky, make_batch, vocab):
    """Each token is predicted from the clean ones before it, so there is nothing to draw."""
    batch = make_batch([[7], [5]])
    bound = bound_nll(peaky, batch, vocab, draws=1, seed=0, block_size=1)
    assert bound.standard_error.tolist() == [0, 0]
    for row, length in enumerate((7, 5)):
        total = 0.0
        for i in range(length):
            tokens = batch.tokens[row : row + 1, : i + 1].clone()
            tokens[0, i] = vocab.mask
            pattern = AttentionPattern("block_causal", key_blocks=torch.arange(i + 1)[None])
            log_probs = peaky(tokens, pattern)[0, i].log_softmax(-1)
            total -= float(log_probs[batch.tokens[row, i]]) if batch.scored[row, i] else 0.0
        assert float(bound.mean[row]) == pytest.approx(total, abs=1e-4)


def test_blocks_bound_adds_up_over_blocks(peaky, make_batch, vocab):
    """The bound of a text is the sum of its blocks' bounds: scoring one block at a time gives the same in the mean."""
    batch = make_batch([[8]], scored=1.0)
    rows = TokenBatch(*(t.expand(400, *t.shape[1:]).contiguous() for t in vars(batch).values()))
    rows = replace(rows, rows=torch.arange(400))
    whole = bound_nll(peaky, rows, vocab, draws=4, seed=1, block_size=4).mean
    parts = torch.zeros(400, dtype=torch.float64)
    for first in (0, 4):
        inside = torch.arange(rows.tokens.shape[1]) // 4 == first // 4
        parts += bound_nll(peaky, replace(rows, scored=rows.scored & inside), vocab, draws=4, seed=2, block_size=4).mean
    error = float((whole.var() + parts.var()).sqrt()) / 20
    assert error < 0.05 * float(whole.mean())
    assert abs(float(whole.mean() - parts.mean())) < 4 * error


def test_groups_are_the_blocks_of_each_document(make_batch):
    batch = make_batch([[3, 5], [8]], width=9)
    assert groups_of(batch, None).tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 0], [0] * 9]
    found = groups_of(batch, 2).tolist()
    assert found[0][:8] == [0, 0, 1, 2, 2, 3, 3, 4]
    assert found[1][:8] == [0, 0, 1, 1, 2, 2, 3, 3]


REQUESTS = [
    Request((6, 7, 8)),
    Request((9, 20, 11, 12, 13, 9, 23, 8, 9, 10, 11), seed=1),
    Request((14, 15), seed=2, max_new_tokens=4),
    Request(tuple(range(6, 14)), seed=3),
]
CONFIGS = {
    "greedy": Block(max_new_tokens=21, block_size=4, threshold=0.6, min_new_tokens=8),
    "one a pass": Block(max_new_tokens=12, block_size=5, threshold=1.0, min_new_tokens=12),
    "drawn": Block(max_new_tokens=17, block_size=8, threshold=0.3, temperature=0.9, top_p=0.95, min_new_tokens=8),
    "penalty": Block(max_new_tokens=17, block_size=3, threshold=0.5, repetition_penalty=1.3, min_new_tokens=8),
    "one token a block": Block(max_new_tokens=9, block_size=1, threshold=0.9),
    "one block": Block(max_new_tokens=16, block_size=64, threshold=0.5, min_new_tokens=6),
}
each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def write(model, vocab, config, requests=REQUESTS, backend=lean_passes):
    events = list(BatchSampler(model, vocab, config, backend=backend).stream(requests))
    return events, collect(events, len(requests), vocab.ends)


def plain(done):
    return [(c.tokens, c.order, c.forwards, c.finish) for c in done]


@each
def test_cached_and_uncached_write_the_same(peaky, vocab, config):
    _, cached = write(peaky, vocab, config)
    _, uncached = write(peaky, vocab, replace(config, cached=False))
    assert plain(cached) == plain(uncached)
    assert sum(len(c.tokens) for c in cached) > 12


@each
def test_a_batch_writes_what_its_rows_write_alone(peaky, vocab, config):
    events, together = write(peaky, vocab, config)
    alone = [write(peaky, vocab, config, [request])[1][0] for request in REQUESTS]
    assert plain(together) == plain(alone)
    if config.block_size == 4:
        assert len({c.forwards for c in together}) > 2  # rows were at different places
    assert all(token not in vocab.unwritable for writes in events for w in writes for _, token in w.writes)


def test_logits_are_those_of_training(peaky, make_batch, vocab):
    """What the sampler sees of a block is what the vectorised training pass computes for it."""
    seen = []
    original = peaky.features

    def watch(tokens, pattern, **kwargs):
        features = original(tokens, pattern, **kwargs)
        if kwargs.get("cache") is not None:
            seen.append(features)
        return features

    peaky.features = watch
    try:
        events, (done,) = write(
            peaky,
            vocab,
            Block(max_new_tokens=12, block_size=4, threshold=0.6, min_new_tokens=12),
            [REQUESTS[0]],
            rectangles,
        )
    finally:
        del peaky.features
    canvas = [*REQUESTS[0].prompt, *[vocab.mask] * 12]
    clean = torch.tensor([[*REQUESTS[0].prompt, *done.tokens]])
    for features, writes in zip(seen, events, strict=True):
        first = min(i for i, token in enumerate(canvas) if token == vocab.mask) // 4 * 4
        select = torch.tensor([[first <= i < first + 4 and token == vocab.mask for i, token in enumerate(canvas)]])
        batch = TokenBatch(clean, select, torch.zeros_like(clean), torch.arange(clean.shape[1])[None], torch.arange(1))
        expected, _ = noisy_features(peaky, torch.tensor([canvas]), batch, select, 4)
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
        for place, token in writes[0].writes:
            canvas[3 + place] = token
    assert len(seen) > 3


def test_threshold_one_writes_one_token_a_pass(peaky, vocab):
    events, (done,) = write(
        peaky, vocab, Block(max_new_tokens=10, block_size=4, threshold=1.0, min_new_tokens=10), REQUESTS[:1]
    )
    assert [len(writes[0].writes) for writes in events] == [1] * 10
    assert done.tokens_per_forward == 1
    _, (quick,) = write(
        peaky, vocab, Block(max_new_tokens=10, block_size=4, threshold=0.0, min_new_tokens=10), REQUESTS[:1]
    )
    assert quick.forwards == 4  # the prompt ends inside a block: 1 + 4 + 4 + 1 places


def test_blocks_are_finished_left_to_right_and_counted_from_the_start_of_the_text(peaky, vocab):
    events, _ = write(
        peaky, vocab, Block(max_new_tokens=13, block_size=4, threshold=0.5, min_new_tokens=13), REQUESTS[:1]
    )
    blocks = [(3 + place) // 4 for writes in events for place, _ in writes[0].writes]
    assert blocks == sorted(blocks)
    assert sorted(place for writes in events for place, _ in writes[0].writes) == list(range(13))


def test_an_end_stops_the_text_at_its_block(table_model, vocab):
    table = torch.full((40, vocab.size), -9.0)
    table[:, 7] = 5.0
    table[9, vocab.turn_end] = 9.0
    model = table_model(table)
    _, (done,) = write(model, vocab, Block(max_new_tokens=30, block_size=4, threshold=0.5, cached=False), REQUESTS[:1])
    assert (done.tokens, done.finish) == ([7] * 6, "stop")
    assert done.forwards == 3


def test_only_finished_blocks_are_computed_again(peaky, vocab):
    widths = []
    original = peaky.features

    def watch(tokens, pattern, **kwargs):
        widths.append(tokens.shape[1])
        return original(tokens, pattern, **kwargs)

    peaky.features = watch
    try:
        write(
            peaky,
            vocab,
            Block(max_new_tokens=20, block_size=4, threshold=1.0, min_new_tokens=20),
            [Request(tuple(range(6, 14)))],
            rectangles,
        )
    finally:
        del peaky.features
    assert widths == [12, 4, 4, 4] + [8, 4, 4, 4] * 4


def test_gaps_and_suffixes_are_refused(peaky, vocab):
    for request in (Request((6,), suffix=(7,)), Request((6,), given=((1, 7),)), Request((6,), fill=True)):
        with pytest.raises(UserError, match=r"^a block model cannot see what follows a gap"):
            write(peaky, vocab, Block(), [request])


def diffuse(model, vocab, requests=REQUESTS, backend=lean_passes, **options):
    sampler = BatchSampler(model, vocab, Diffusion(max_new_tokens=14, min_new_tokens=14, **options), backend=backend)
    return plain(collect(sampler.stream(requests), len(requests), vocab.ends))


def test_approximate_caches_are_exact_where_nothing_kept_can_change(make_model, peaky, vocab):
    """In one layer keys depend on their own token alone; and a block of one pass is never read from the cache."""
    shallow = make_model(seed=5, peak=16.0, num_layers=1)
    for model, options in ((shallow, {"threshold": 0.5}), (shallow, {"steps": 7}), (peaky, {"threshold": 0.0})):
        expected = diffuse(model, vocab, block_length=4, **options)
        for kind in ("prefix", "dual"):
            assert diffuse(model, vocab, block_length=4, cache=kind, **options) == expected


@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_approximate_caches_compute_less_and_do_not_depend_on_the_batch(make_model, vocab, watch, kind):
    model = make_model(seed=11, peak=16.0, num_kv_heads=2)
    options = {"block_length": 5, "threshold": 0.6, "cache": kind}
    together = diffuse(model, vocab, **options)
    assert len({forwards for _, _, forwards, _ in together}) > 1
    seen = watch(model)
    assert together == [diffuse(model, vocab, [request], rectangles, **options)[0] for request in REQUESTS]
    widths = {tokens.shape[1] for tokens in seen.tokens}
    seen.stop()
    assert min(widths) <= 5 < 25 == max(widths)
    assert together != diffuse(model, vocab, block_length=5, threshold=0.6)  # approximate, and it shows on this model


def test_caches_need_blocks_and_no_guidance():
    with pytest.raises(ValueError, match=r"^cache 'dual' keeps what is outside a block: give a block_length"):
        Diffusion(cache="dual")
    with pytest.raises(ValueError, match="cannot be combined with guidance"):
        Diffusion(cache="prefix", block_length=4, guidance=1.0)
