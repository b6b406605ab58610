"""Masking with all its options together: bands, complements and blocks keep the mean of the loss, and rows their noise.

Where times are stratified over R rows and R is a multiple of the number of counts a group may hide, every count is
hidden in equally many rows, whatever the random offset. A loss that depends on the count alone then has its expectation
as its mean, with no sampling error: most laws below are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from built import act
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, Masking
from nano_llada.core.batch import TokenBatch
from nano_llada.diffusion.masking import count_in_groups, groups_of, hide, stratified_draws
from nano_llada.diffusion.noise import Cosine
from pairwise import pairs_of, pairwise

FORMS = [("exact", "linear"), ("bernoulli", "linear"), ("bernoulli", "cosine")]
BANDS = [(0.0, 1.0), (0.3, 0.8), (0.0, 0.5), (0.5, 1.0)]
BLOCKS = [None, 4]


def maskings(*more: Sequence[Any]) -> list[tuple[Any, ...]]:
    """A `Masking`, and a value of each of `more`: every pair of any two options is among them."""
    cases = pairwise(FORMS, (True, False), BANDS, (False, True), *more)
    return [(Masking(*form, stratified, *band, twice), *rest) for form, stratified, band, twice, *rest in cases]


def name(masking: Masking) -> str:
    words = [masking.mask_count, masking.noise, "stratified" if masking.stratified else "independent"]
    return "-".join([*words, f"{masking.mask_rate_min}..{masking.mask_rate_max}", *["twice"] * masking.complementary])


def pick(batch: TokenBatch, rows: list[int]) -> TokenBatch:
    return TokenBatch(*(tensor[rows] for tensor in vars(batch).values()))


def halves(tensor: Tensor, masking: Masking) -> Tensor:
    """(2 or 1, B, ...): the first and the second time each row is shown."""
    return tensor.unflatten(0, (-1, 2 if masking.complementary else 1)).transpose(0, 1)


def sums_in_groups(values: Tensor, group: Tensor) -> Tensor:
    """(halves, B, groups): sums of `values` (halves, B, L) over each group (B, L)."""
    sums = torch.zeros(*values.shape[:2], int(group.max()) + 1, dtype=torch.float64)
    return sums.scatter_add_(2, group.expand(len(values), -1, -1), values.double())


def weight_cases() -> list:
    return [pytest.param(masking, size, id=f"{name(masking)}-{size}") for masking, size in maskings(BLOCKS)]


@pytest.mark.parametrize(("masking", "size"), weight_cases())
def test_weights_of_every_group_average_to_one(masking, size, make_batch, context):
    """Each half of each pair, and each group of each row, has the mean weight 1, at five standard errors."""
    rows, steps = 24, 30
    batch = make_batch([[12, 6, 3]] * rows)
    group, means = groups_of(batch, size), []
    counts = count_in_groups(batch.scored, group)
    assert int(counts[0].min()) == (2 if size else 3)  # a group of one token cannot be shared by a pair in a band
    for step in range(steps):
        noisy = act(masking).corrupt(batch, context(rows, step=step), size)
        means.append((sums_in_groups(halves(noisy.weights, masking), group) / counts).mean(1))
    found = torch.stack(means)  # (steps, halves, groups); steps are independent, rows are not
    error = found.std(0) / math.sqrt(steps)
    if masking.mask_count == "exact" and not masking.complementary:
        assert float(error.max()) < 1e-6
    assert float(error.mean()) < 0.08
    assert bool(((found.mean(0) - 1).abs() < 5 * error + 1e-5).all())
    overall = found.mean((1, 2))
    assert abs(float(overall.mean()) - 1) < 5 * float(overall.std()) / math.sqrt(steps) + 1e-5


def hidden_counts(masking: Masking, batch: TokenBatch, ctx, size: int | None) -> Tensor:
    """(halves, B, groups): how many tokens of each group are hidden."""
    noisy = act(masking).corrupt(batch, ctx, size)
    return sums_in_groups(halves(noisy.masked, masking), groups_of(batch, size)).long()


def loss_of(hidden: Tensor, size: int) -> Tensor:
    """What a token costs where `hidden` of its group's `size` are hidden: any table would do."""
    return 1 + (hidden * 2.3 + size).sin() + hidden.double() ** 1.5 / 3


def mean_loss(masking: Masking, batch: TokenBatch, ctx, size: int | None) -> Tensor:
    """(halves, groups): mean over rows of a group's weighted loss, divided by its tokens."""
    noisy, group = act(masking).corrupt(batch, ctx, size), groups_of(batch, size)
    counts = count_in_groups(batch.scored, group)
    hidden = sums_in_groups(halves(noisy.masked, masking), group)
    losses = loss_of(hidden, counts).gather(2, group.expand(len(hidden), -1, -1))
    return (sums_in_groups(halves(noisy.weights, masking) * losses, group) / counts).mean(1)


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("complementary", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("band", BANDS)
def test_exact_loss_is_the_mean_over_all_counts(make_batch, context, band, complementary, size):
    """Enumeration for groups of 1 to 4 tokens: each count in the band is alike, and so it is in the complement."""
    masking = Masking("exact", "linear", True, *band, complementary)
    documents = [4, 3, 2] if size is None else [8, 7, 6]
    if band == (0.0, 1.0) or not complementary:  # one token cannot be shared by a pair in a band
        documents += [1] if size is None else [5]
    batch = make_batch([documents] * 60)  # 60 is a multiple of every number of counts
    found = mean_loss(masking, batch, context(60, step=3), size)
    lengths = count_in_groups(batch.scored, groups_of(batch, size))[0].tolist()
    assert {2, 3, 4} <= set(lengths)
    assert len(lengths) == found.shape[1] == len(documents) * (1 if size is None else 2)
    for place, n in enumerate(lengths):
        for half, values in enumerate(found):
            low, high = Fraction(str(band[0])), Fraction(str(band[1]))
            counts = [k for k in range(0 if complementary else 1, n + 1) if low * n <= k <= high * n]
            counts = counts or [math.ceil(low * n) or 1]
            if half:
                counts = [n - k for k in counts]
            counts = [k for k in counts if k]  # a row with nothing hidden has no loss
            expected = sum(float(loss_of(torch.tensor(k), n)) for k in counts) / len(counts)
            assert float(values[place]) == pytest.approx(expected, rel=1e-5), (n, half)


@pytest.mark.parametrize(("band", "n"), [((0.3, 0.8), 1), ((0.0, 0.3), 3), ((0.6, 1.0), 2)])
def test_a_pair_weighs_every_group_alike_even_where_only_one_of_it_hides(make_batch, context, band, n):
    """The sum over both, divided by the tokens of both, is 1: or blocks of one token bear half of the loss."""
    masking = Masking("exact", "linear", True, *band, complementary=True)
    noisy = act(masking).corrupt(make_batch([[n]] * 12), context(12))
    assert float(noisy.weights.mean()) == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("complementary", [False, True], ids=["once", "twice"])
def test_training_loss_equals_enumeration_exactly(
    table_model, make_batch, context, vocab, enumerate_bound, n, complementary
):
    """The mean of the two halves of a complement bounds the likelihood as a single row does."""
    table = torch.randn(n + 3, vocab.size, generator=torch.Generator().manual_seed(n)) * 2  # by how many are hidden

    def rule(tokens: Tensor, positions: Tensor) -> Tensor:
        return table[(tokens == vocab.mask).sum(1, keepdim=True).expand_as(tokens)]

    one = make_batch([[n + 2]], seed=n)
    scored = torch.arange(n + 2)[None] >= 2  # after a prompt of two tokens
    tokens = torch.where(scored, 9, one.tokens)  # equal tokens, so that the loss depends on the count alone
    rows = replace(pick(replace(one, tokens=tokens, scored=scored), [0] * 60), rows=torch.arange(60))
    with torch.no_grad():
        out = act(Denoising(Masking(complementary=complementary))).loss(table_model(rule), rows, context(60))
    exact = enumerate_bound(table_model(rule), tokens[0], scored[0]) / n
    assert int(out.count) == 60 * n * (2 if complementary else 1)
    assert float(out.total / out.count) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("length", [2, 4])
def test_complementary_loss_is_unbiased_for_a_model_that_looks_at_the_text(
    peaky, make_batch, context, enumerate_bound, length
):
    one = make_batch([[2 + length]], seed=3)
    scored = torch.arange(2 + length)[None] >= 2
    exact = enumerate_bound(peaky, one.tokens[0], scored[0]) / length
    batch, losses = replace(pick(replace(one, scored=scored), [0] * 120), rows=torch.arange(120)), []
    with torch.no_grad():
        for step in range(24):
            out = act(Denoising(Masking(complementary=True))).loss(peaky, batch, context(120, step=step))
            losses.append(out.total.double() / out.count)
    error = float(torch.stack(losses).std()) / math.sqrt(24)
    assert error < 0.05 * exact
    assert float(torch.stack(losses).mean()) == pytest.approx(exact, abs=4 * error + 1e-5)


@pytest.mark.parametrize(("masking", "size"), [(m, size) for m, size in maskings(BLOCKS) if m.complementary], ids=str)
def test_a_pair_hides_every_scored_token_exactly_once(masking, size, make_batch, context, vocab):
    batch = make_batch([[9, 4], [13], [5, 5, 2]] * 4, width=14, scored=0.7)
    noisy = act(masking).corrupt(batch, context(12), size)
    first, second = halves(noisy.masked, masking)
    assert torch.equal(first.int() + second.int(), batch.scored.int())
    assert first.any()
    assert second.any()
    assert noisy.batch.rows.tolist() == [row for row in range(12) for _ in range(2)]
    for field, tensor in vars(noisy.batch).items():
        for half in halves(tensor, masking):
            assert torch.equal(half, getattr(batch, field))
    assert torch.equal(noisy.tokens == vocab.mask, noisy.masked)
    assert torch.equal(noisy.tokens[~noisy.masked], noisy.batch.tokens[~noisy.masked])
    assert torch.equal(noisy.weights > 0, noisy.masked)
    single = act(replace(masking, complementary=False)).corrupt(batch, context(12), size)
    if masking.mask_count == "bernoulli":  # the first of a pair is what would be shown alone
        assert torch.equal(first, single.masked)
        torch.testing.assert_close(halves(noisy.weights, masking)[0], single.weights)


@pytest.mark.parametrize("complementary", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("band", [*BANDS, (0.25, 0.3), (0.9, 1.0), (0.0, 0.05)])
def test_an_exact_band_holds_in_every_group(make_batch, context, band, complementary):
    masking = Masking("exact", "linear", True, *band, complementary)
    seen = {}
    lengths = [40, 20, 10, 7, 5, 3, 2, 1]
    for step in range(6):
        found = hidden_counts(masking, make_batch([lengths] * 60), context(60, step=step), None)[0]
        for place, n in enumerate(lengths):
            seen.setdefault(n, set()).update(found[:, place].tolist())
    low, high = Fraction(str(band[0])), Fraction(str(band[1]))
    for n, counts in seen.items():
        least = max(math.ceil(low * n), 0 if complementary else 1)
        assert counts == set(range(least, max(math.floor(high * n), least) + 1))


@pytest.mark.parametrize(("n", "band"), [(50, (0.3, 0.8)), (100, (0.07, 0.29)), (150, (0.0, 0.42)), (900, (0.13, 1.0))])
def test_an_exact_band_has_its_ends_whatever_the_rounding(make_batch, context, n, band):
    """In float32 0.3 * 50 is more than 15, in float64 0.29 * 100 is less than 29."""
    found = hidden_counts(Masking("exact", "linear", True, *band), make_batch([[n]] * 1000), context(1000), None)
    assert int(found.min()) == max(math.ceil(Fraction(str(band[0])) * n), 1)
    assert int(found.max()) == math.floor(Fraction(str(band[1])) * n)


@pytest.mark.parametrize("noise", ["linear", "cosine"])
@pytest.mark.parametrize("band", [(0.3, 0.8), (0.1, 0.2), (0.6, 1.0)])
def test_a_bernoulli_band_holds_at_long_lengths(make_batch, context, noise, band):
    low, high = band
    batch = make_batch([[6000]] * 48)
    for size in (None, 3000):
        masking = Masking("bernoulli", noise, True, *band, complementary=True)
        groups = 6000 if size is None else size
        shares = hidden_counts(masking, batch, context(48), size)[0] / groups
        slack = 5 * 0.5 / math.sqrt(groups)
        assert low - slack < float(shares.min()) < low + 0.2 * (high - low)
        assert high + slack > float(shares.max()) > high - 0.2 * (high - low)


def test_a_cosine_band_is_uniform_in_time_between_the_times_of_its_ends(make_batch, context):
    """The median rate is that of the middle time: not the middle rate."""
    masking = Masking("bernoulli", "cosine", True, 0.0, 0.36)
    shares = hidden_counts(masking, make_batch([[4000]] * 101), context(101), None)[0, :, 0] / 4000
    end = 2 / math.pi * math.asin(0.6)
    assert float(Cosine().rate(torch.tensor(end))) == pytest.approx(0.36)
    middle = math.sin(math.pi / 4 * end) ** 2
    assert middle < 0.12
    assert float(shares.median()) == pytest.approx(middle, abs=0.02)
    assert float(shares.max()) == pytest.approx(0.36, abs=0.03)


@pytest.mark.parametrize(("masking", "size"), maskings([None, 1, 3]), ids=str)
def test_noise_of_a_row_does_not_depend_on_its_batch(masking, size, make_batch, context):
    batch = make_batch([[30], [10, 20], [5, 5, 5, 5], [24], [1, 29], [7, 7]], scored=0.8)
    whole = act(masking).corrupt(batch, context(6), size)
    for rows in ([0], [4, 5], [5, 2], [1, 3, 0]):
        part = act(masking).corrupt(pick(batch, rows), context(6), size)
        for name_ in ("masked", "weights", "tokens"):
            expected = halves(getattr(whole, name_), masking)[:, rows]
            assert torch.equal(halves(getattr(part, name_), masking), expected)


@pytest.mark.parametrize("masking", [masking for (masking,) in maskings()], ids=name)
def test_blocks_as_long_as_the_longest_document_are_no_blocks(masking, make_batch, context):
    batch = make_batch([[9, 5], [14], [3, 4, 5], [1, 2, 1, 2]], width=17, scored=0.8)
    plain = act(masking).corrupt(batch, context(4))
    for size in (14, 15, 99):
        blocks = act(masking).corrupt(batch, context(4), size)
        for field in ("tokens", "masked", "weights"):
            assert torch.equal(getattr(blocks, field), getattr(plain, field))
    assert not torch.equal(act(masking).corrupt(batch, context(4), 4).masked, plain.masked)


@pytest.mark.parametrize("stratified", [True, False], ids=["stratified", "independent"])
def test_blocks_of_a_row_have_times_of_their_own(make_batch, context, stratified):
    """Each block's time is uniform; neighbours' are not tied, unless to spread them more evenly than chance would."""
    rows, blocks, size, steps = 20, 13, 8, 40
    masking, batch = Masking(stratified=stratified), make_batch([[blocks * size]] * rows)
    found = torch.cat([hidden_counts(masking, batch, context(rows, step=s), size)[0] for s in range(steps)]).double()
    assert found.shape == (rows * steps, blocks)
    assert float((found == found[:, :1]).double().mean()) < 0.3  # one time for a row would make all equal
    marginal = torch.stack([(found == k).double().mean(0) for k in range(1, size + 1)])
    assert float((marginal - 1 / size).abs().max()) < (0.02 if stratified else 0.06)
    spread, chance = float(found.mean(1).var()), (size**2 - 1) / 12 / blocks  # of uniform counts, independent
    if stratified:
        assert spread < chance / 4
    else:
        assert spread == pytest.approx(chance, rel=0.25)
        ties = torch.corrcoef(found.T) - torch.eye(blocks)
        assert float(ties.abs().max()) < 5 / math.sqrt(rows * steps)


def test_objective_passes_its_block_size_on(peaky, make_batch, context):
    """A block of one token is hidden with certainty, so that one-token blocks hide the whole text."""
    batch = make_batch([[8], [8]])
    out = act(Denoising(blocks=BlockSizeSchedule(1))).loss(peaky, batch, context(2))
    assert int(out.predicted) == 16
    assert int(act(Denoising()).loss(peaky, batch, context(2)).predicted) < 16


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([None, 1, 2, 5]))
def test_hide_takes_the_asked_number_by_the_order_of_the_uniforms(make_batch, seed, size):
    rng = torch.Generator().manual_seed(seed)
    batch = make_batch([[7, 4], [3, 1, 6], [11]], width=12, scored=0.7, seed=seed)
    group = groups_of(batch, size)
    counts = count_in_groups(batch.scored, group)
    asked = (torch.rand(counts.shape, generator=rng) * (counts + 1)).long().minimum(counts)
    uniforms = torch.rand(group.shape, generator=rng, dtype=torch.float64)
    hidden = hide(batch.scored, group, asked, uniforms)
    for row, number in product(range(3), range(counts.shape[1])):
        places = [i for i in range(12) if batch.scored[row, i] and group[row, i] == number]
        places.sort(key=lambda i: float(uniforms[row, i]))
        chosen = set(places[: int(asked[row, number])])
        assert {i for i in range(12) if hidden[row, i] and group[row, i] == number} == chosen
    assert int(hidden.sum()) == int(asked.sum())


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_stratified_draws_hide_every_count_once(make_batch, n):
    """In groups of n tokens, over n draws; the order is of each group its own."""
    batch = make_batch([[n, n], [2 * n]] * 8)
    orders = set()
    for size in (n, None):
        group = groups_of(batch, size)
        draws = list(stratified_draws(batch, draws=n if size else 2 * n, seed=5, block_size=size))
        counts = torch.stack([count_in_groups(hidden, group) for hidden, _ in draws])
        scored = count_in_groups(batch.scored, group)
        for row, number in scored.nonzero().tolist():
            found, tokens = counts[:, row, number].tolist(), int(scored[row, number])
            assert sorted(found) == sorted(list(range(1, tokens + 1)) * (len(draws) // tokens))
            orders.add(tuple(found))
        for hidden, weights in draws:
            expected = (scored / count_in_groups(hidden, group).clamp(min=1)).gather(1, group)
            torch.testing.assert_close(weights[hidden], expected[hidden].double())
    assert len(orders) > (2 if n > 2 else 1)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("draws", [1, 2, 3])
def test_stratified_draws_are_unbiased(make_batch, n, draws):
    """With fewer draws than counts too: a token's weighted loss is on average that of all counts, at all places."""
    rows = 3000
    batch = make_batch([[n]] * rows)
    places, total = torch.zeros(n, dtype=torch.float64), []
    for hidden, weights in stratified_draws(batch, draws=draws, seed=1):
        count = hidden.sum(1, keepdim=True)
        total.append((hidden * weights * loss_of(count, n)).sum(1) / n)
        places += (hidden * weights).sum(0) / rows / draws
    each = torch.stack(total).mean(0)
    expected = sum(float(loss_of(torch.tensor(k), n)) for k in range(1, n + 1)) / n
    error = float(each.std()) / math.sqrt(rows)
    assert error < 0.05 * expected
    assert float(each.mean()) == pytest.approx(expected, abs=4 * error + 1e-9)
    assert float((places - 1).abs().max()) < 5 * math.sqrt(n) / math.sqrt(rows)
    if draws % n == 0:
        assert error < 1e-9


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("rates", [(0.0, 1.0), (0.25, 0.75)])
def test_complementary_draws_look_at_every_scored_token_once_in_a_pair(make_batch, size, rates):
    batch = make_batch([[8, 4], [12], [5, 3, 4]] * 20, width=12, scored=0.8)
    draws = list(stratified_draws(batch, draws=6, seed=3, block_size=size, rates=rates, complementary=True))
    assert len(draws) == 6
    for (first, _), (second, _) in zip(draws[0::2], draws[1::2], strict=True):
        assert not bool((first & second).any())
        assert torch.equal(first | second, batch.scored)
    assert len({tuple(hidden.flatten().tolist()) for hidden, _ in draws}) == 6


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("rates", "pairs"), [((0.0, 1.0), True), ((0.25, 0.75), True), ((0.25, 0.75), False)])
def test_draws_within_a_band_weigh_every_token_the_same_in_the_mean(make_batch, n, rates, pairs):
    rows = 3000
    batch, sums = make_batch([[n]] * rows), torch.zeros(n, dtype=torch.float64)
    for hidden, weights in stratified_draws(batch, draws=4, seed=1, rates=rates, complementary=pairs):
        sums += (hidden * weights).sum(0) / rows / 4
        shares = hidden.sum(1) / n
        if rates != (0.0, 1.0) and n >= 4:
            assert bool(((shares >= 0.25) & (shares <= 0.75)).all())
    assert float((sums - 1).abs().max()) < 5 * math.sqrt(n) / math.sqrt(rows)


def test_complements_make_a_score_vary_less_within_a_band_only(make_batch):
    """The noise of which tokens are looked at: the loss is another one at each place, whatever else is hidden.

    Without a band two draws spread over the counts vary less than one and its complement, which weighs one token 8.
    """
    batch = make_batch([[8]] * 500)
    loss = torch.arange(8) + 1.0
    spread = {}
    for rates, pairs in product([(0.0, 1.0), (0.25, 0.75)], [False, True]):
        drawn = stratified_draws(batch, draws=2, seed=0, rates=rates, complementary=pairs)
        spread[rates, pairs] = float(torch.stack([(h * w * loss).sum(1) for h, w in drawn]).mean(0).var())
    plain, paired, banded, both = spread.values()
    assert paired > plain > 1.2 * banded > 4 * both


@pytest.mark.parametrize("band", [(0.5, 0.5), (0.6, 0.4), (-0.1, 1.0), (0.0, 1.1)])
def test_bands_that_cannot_be_are_refused(band):
    with pytest.raises(ValueError, match="mask_rate"):
        Masking(mask_rate_min=band[0], mask_rate_max=band[1])


def test_a_few_cases_hold_every_pair_of_options():
    options = (FORMS, (True, False), BANDS, (False, True), BLOCKS)
    found = pairwise(*options)
    assert len(found) < 20
    assert set().union(*map(pairs_of, found)) == set().union(*map(pairs_of, product(*options)))
