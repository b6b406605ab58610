"""Models that edit: what they are trained on, the rule that changes what stands, and that it always comes to an end."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from built import act
from nano_llada.config.decoding import MODES, Block
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, Masking, TokenEditing
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Request, collect

REQUESTS = [
    Request((6, 7, 8)),
    Request((9, 20, 11, 12, 13, 9, 23, 8, 9, 10, 11), seed=1),
    Request((14, 15), seed=2, max_new_tokens=4),
    Request(tuple(range(6, 14)), seed=3),
]


def write(model, vocab, config, requests=REQUESTS):
    events = list(BatchSampler(model, vocab, config).stream(requests))
    return events, collect(events, len(requests), vocab.ends)


def plain(done):
    return [(c.tokens, c.order, c.forwards, c.finish, c.edits, c.draft) for c in done]


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("complementary", [False, True])
def test_wrong_tokens_are_visible_scored_and_ordinary(make_batch, context, vocab, block, complementary):
    batch = make_batch([[9, 5], [14], [3, 4, 5]] * 20, width=15, scored=0.7)
    before = act(Masking(complementary=complementary)).corrupt(batch, context(60), block)
    editing = TokenEditing(replace_rate=0.5, edit_weight=0.7, keep_weight=0.2, excluded_tokens=(6, 7))
    noisy = act(editing).replace(before, context(60))
    assert torch.equal(noisy.masked, before.masked)
    assert torch.equal(noisy.weights[noisy.masked], before.weights[noisy.masked])
    assert not bool((noisy.wrong & (noisy.masked | ~noisy.batch.scored)).any())
    visible = noisy.batch.scored & ~noisy.masked
    share = float(noisy.wrong.sum() / visible.sum())
    assert 0.4 < share < 0.5  # a drawn token is now and then the right one
    assert torch.equal(noisy.wrong, noisy.tokens.ne(noisy.batch.tokens) & ~noisy.masked)
    put = set(noisy.tokens[noisy.wrong].tolist())
    assert put <= set(range(8, vocab.size))
    assert len(put) > 10
    assert torch.equal(noisy.learnt, noisy.batch.scored)
    assert noisy.weights[noisy.wrong].unique().tolist() == pytest.approx([0.7])
    assert noisy.weights[visible & ~noisy.wrong].unique().tolist() == pytest.approx([0.2])
    assert float(noisy.weights[~noisy.batch.scored].sum()) == 0
    quiet = act(replace(editing, keep_weight=0.0)).replace(before, context(60))
    assert torch.equal(quiet.learnt, quiet.masked | quiet.wrong)


def test_without_editing_nothing_changes(model, make_batch, context):
    batch = make_batch([[9, 5], [14]], width=15)
    for blocks in (BlockSizeSchedule(), BlockSizeSchedule(4)):
        plain_loss = act(Denoising(blocks=blocks)).loss(model, batch, context(2))
        edited = act(Denoising(blocks=blocks, editing=TokenEditing(edit_weight=5.0))).loss(model, batch, context(2))
        assert torch.equal(plain_loss.total, edited.total)
        wrong = act(Denoising(blocks=blocks, editing=TokenEditing(replace_rate=0.5))).loss(model, batch, context(2))
        assert float(wrong.total.detach()) != float(plain_loss.total.detach())
        assert int(wrong.metrics["edit_loss"][1]) > 0


def test_right_tokens_are_learnt_also_where_none_is_wrong(make_batch, context):
    batch = make_batch([[9, 5], [14]], width=15, scored=0.7)
    before = act(Masking()).corrupt(batch, context(2))
    noisy = act(TokenEditing(keep_weight=0.3)).replace(before, context(2))
    visible = batch.scored & ~before.masked
    assert bool(visible.any())
    assert torch.equal(noisy.tokens, before.tokens)
    assert torch.equal(noisy.learnt, batch.scored)
    assert torch.equal(noisy.weights, before.weights + 0.3 * visible)


def test_wrong_tokens_do_not_depend_on_the_batch(make_batch, context):
    batch = make_batch([[9], [7], [8], [5]])
    whole = act(TokenEditing(0.5)).replace(act(Masking()).corrupt(batch, context(4)), context(4))
    for row in range(4):
        part = batch.select(slice(row, row + 1))
        alone = act(TokenEditing(0.5)).replace(act(Masking()).corrupt(part, context(4)), context(4))
        assert torch.equal(alone.tokens[0], whole.tokens[row])
    other = act(TokenEditing(0.5)).replace(act(Masking()).corrupt(batch, context(4, step=1)), context(4, step=1))
    assert not torch.equal(other.tokens, whole.tokens)


@pytest.mark.parametrize("block", [None, 4])
def test_drafts_are_the_models_own_choices_and_what_stays_hidden_weighs_more(peaky, make_batch, context, vocab, block):
    from nano_llada.objectives.denoising import noisy_features

    batch = make_batch([[12], [9], [11], [12]] * 8)
    editing = TokenEditing(draft_rate=0.5, keep_weight=0.1)
    objective = Denoising(blocks=BlockSizeSchedule(block), editing=editing)
    before = act(Masking()).corrupt(batch, context(32), block)
    noisy, computed = act(objective)._drafted(peaky, before, context(32), block)
    features, _ = noisy_features(peaky, before.tokens, batch, before.masked, block)
    logits = peaky.head(features)
    logits[:, list(vocab.unwritable)] = -torch.inf
    best = before.tokens.masked_scatter(before.masked, logits.argmax(-1))
    drafted = before.masked & ~noisy.masked
    rows = drafted.any(1)
    assert 6 < int(rows.sum()) < 26
    chosen = act(editing).drafted_rows(before, context(32))
    assert not bool((rows & ~chosen).any())
    assert computed == int(chosen.sum()) * batch.tokens.shape[1] * (2 if block else 1)
    assert torch.equal(noisy.tokens[drafted], best[drafted])
    assert not bool((noisy.masked & ~before.masked).any())
    assert torch.equal(noisy.wrong, drafted & (best != batch.tokens))
    assert bool(noisy.wrong.any())
    for row in range(32):  # the weights of what is hidden still add up to those of all hidden tokens
        for group in before.group[row].unique():
            inside = before.group[row] == group
            hidden = noisy.masked[row] & inside
            if bool(hidden.any()):
                total = float(before.weights[row][before.masked[row] & inside].sum())
                assert float(noisy.weights[row][hidden].sum()) == pytest.approx(total, rel=1e-5)


def test_drafting_costs_one_pass_without_gradient(model, make_batch, context, watch):
    batch, seen = make_batch([[9], [7]]), watch(model)
    act(Denoising(editing=TokenEditing(draft_rate=1.0))).loss(model, batch, context(2)).total.backward()
    seen.stop()
    assert len(seen.tokens) == 2
    model.zero_grad()


@pytest.mark.parametrize(
    "options", [{"replace_rate": 1.1}, {"draft_rate": -0.1}, {"edit_weight": -1.0}, {"keep_weight": -1}]
)
def test_rates_and_weights_that_cannot_be(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TokenEditing(**options)


# --- writing ----------------------------------------------------------------------------------------------------------

SURE = 9.0


def oracle(text: list[int], vocab, first: int):
    """A model that knows the text: whatever stands, it predicts the right token, from place `first` on."""

    def rule(tokens: Tensor, positions: Tensor) -> Tensor:
        wanted = torch.tensor(text + [vocab.turn_end] * 64)[positions]
        return torch.nn.functional.one_hot(wanted, vocab.size).float() * SURE

    return rule


def test_an_oracle_edits_nothing_that_is_right(table_model, vocab):
    text = [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    model = table_model(oracle(text, vocab, 3))
    for threshold, edit in MODES.values():
        config = Block(max_new_tokens=20, block_size=4, threshold=threshold, edit_threshold=edit)
        events, (done,) = write(model, vocab, config, [Request((6, 7, 8))])
        assert (done.tokens, done.edits, done.draft) == (text[3:], 0, text[3:])
        assert all(writes[0].changes == [] for writes in events)


def test_a_planted_wrong_token_is_restored_in_one_step(table_model, vocab):
    """The first look of each block is wrong at one place; every later look knows better."""
    text, looks = [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], {}

    def rule(tokens: Tensor, positions: Tensor) -> Tensor:
        wanted = torch.tensor(text + [vocab.turn_end] * 64)[positions].clone()
        hidden = tokens == vocab.mask
        wanted[hidden & (positions % 4 == 1)] = 23
        looks[len(looks)] = tokens
        return torch.nn.functional.one_hot(wanted, vocab.size).float() * SURE

    config = Block(max_new_tokens=20, block_size=4, threshold=0.7, edit_threshold=0.5)
    events, (done,) = write(table_model(rule), vocab, config, [Request((6, 7, 8))])
    assert done.tokens == text[3:]
    assert [w.changes for (w,) in events if w.changes] == [[(2, 23, 11)], [(6, 23, 15)]]
    assert done.edits == 2
    assert done.draft == [9, 10, 23, 12, 13, 14, 23, 16]
    unedited = write(table_model(rule), vocab, replace(config, edit_threshold=None), [Request((6, 7, 8))])[1][0]
    assert unedited.tokens == done.draft
    assert all((3 + place) // 4 >= 0 and place >= 0 for (w,) in events for place, _, _ in w.changes)  # not the prompt


def test_a_cycle_ends(table_model, vocab):
    """A model that always wants another token than the one that stands would edit for ever."""

    def rule(tokens: Tensor, positions: Tensor) -> Tensor:
        wanted = torch.where(tokens == 10, 11, 10)
        return torch.nn.functional.one_hot(wanted, vocab.size).float() * SURE

    config = Block(max_new_tokens=8, block_size=4, threshold=0.5, edit_threshold=0.0)
    events, (done,) = write(table_model(rule), vocab, config, [Request((6, 7, 8, 9))])
    assert done.edits > 0
    assert len(events) <= 2 * (1 + 3)  # 10s, 11s, 10s again: the state repeats
    counter = {"calls": 0}

    def restless(tokens: Tensor, positions: Tensor) -> Tensor:
        counter["calls"] += 1
        wanted = torch.full_like(tokens, 6 + counter["calls"] % 17)
        return torch.nn.functional.one_hot(wanted, vocab.size).float() * SURE

    events, _ = write(table_model(restless), vocab, replace(config, max_post_steps=5), [Request((6, 7, 8, 9))])
    assert len(events) == 2 * (1 + 5)


def test_threshold_one_is_no_editing_at_all(peaky, vocab):
    base = Block(max_new_tokens=21, block_size=4, threshold=0.6, min_new_tokens=8)
    assert plain(write(peaky, vocab, replace(base, edit_threshold=1.0))[1]) == plain(write(peaky, vocab, base)[1])


EDITING = {
    "q": Block(max_new_tokens=21, block_size=4, threshold=0.7, edit_threshold=0.5, min_new_tokens=8),
    "s": Block(max_new_tokens=21, block_size=4, threshold=0.5, edit_threshold=0.0, min_new_tokens=8, max_post_steps=4),
    "drawn": Block(
        max_new_tokens=17, block_size=8, threshold=0.3, edit_threshold=0.4, temperature=0.9, max_post_steps=5
    ),
    "reread": Block(
        max_new_tokens=21, block_size=4, threshold=0.2, edit_threshold=0.3, reread_threshold=0.3, min_new_tokens=8
    ),
    "window": Block(
        max_new_tokens=21, block_size=4, threshold=0.5, edit_threshold=0.3, edit_blocks=2, min_new_tokens=8
    ),
    "long window": Block(
        max_new_tokens=21, block_size=3, threshold=0.4, edit_threshold=0.2, edit_blocks=9, max_post_steps=3
    ),
}
each = pytest.mark.parametrize("config", EDITING.values(), ids=EDITING)


@each
def test_cached_and_uncached_edit_the_same(peaky, vocab, config):
    _, cached = write(peaky, vocab, config)
    assert plain(cached) == plain(write(peaky, vocab, replace(config, cached=False))[1])
    assert sum(c.edits for c in cached) > 3
    if config.edit_blocks:
        assert plain(cached) != plain(write(peaky, vocab, replace(config, edit_blocks=0))[1])
    if config.reread_threshold < 1:
        always = write(peaky, vocab, replace(config, reread_threshold=1.0))[1]
        assert sum(c.forwards for c in cached) < sum(c.forwards for c in always)


@each
def test_a_batch_edits_what_its_rows_edit_alone(peaky, vocab, config):
    events, together = write(peaky, vocab, config)
    assert plain(together) == [plain(write(peaky, vocab, config, [request])[1])[0] for request in REQUESTS]
    for writes in events:
        for w in writes:
            assert all(place >= 0 and before != now for place, before, now in w.changes)
            tokens = {*dict(w.writes).values(), *(now for _, _, now in w.changes)}
            assert not tokens & set(vocab.unwritable)


def test_finished_blocks_are_edited_within_the_window_only(peaky, vocab):
    config = EDITING["long window"]
    for blocks in (1, 2):
        events, _ = write(peaky, vocab, replace(config, edit_blocks=blocks), [REQUESTS[0]])
        far, current = 0, 0
        for (w,) in events:
            current = max([current, *((3 + place) // 3 for place, _ in w.writes)])
            far = max([far, *(current - (3 + place) // 3 for place, _, _ in w.changes)])
        assert 1 <= far <= blocks


@pytest.mark.untraced
def test_writing_always_comes_to_an_end(table_model, vocab):
    """1,600 texts under 80 random settings, by models whose opinion depends wildly on what stands."""
    rng = random.Random(0)
    for case in range(80):
        table = torch.randn(997, vocab.size, generator=torch.Generator().manual_seed(case)) * rng.choice([1, 4, 12])

        def rule(tokens: Tensor, positions: Tensor, table: Tensor = table) -> Tensor:
            state = (tokens * (positions * 31 + 7)).sum(1, keepdim=True)
            return table[(state * 13 + positions * 101 + tokens * 17) % 997]

        config = Block(
            max_new_tokens=rng.randint(1, 12),
            block_size=rng.randint(1, 9),
            threshold=rng.random(),
            edit_threshold=rng.random() * rng.choice([0, 1]),  # below 1
            max_post_steps=rng.randint(1, 4),
            edit_blocks=rng.randint(0, 3),
            reread_threshold=rng.choice([1.0, rng.random()]),
            cached=False,
            temperature=rng.choice([0.0, 0.0, 1.0]),
        )
        prompts = [tuple(rng.randint(6, 23) for _ in range(rng.randint(1, 6))) for _ in range(20)]
        _, done = write(table_model(rule), vocab, config, [Request(p, seed=i) for i, p in enumerate(prompts)])
        for prompt, completion in zip(prompts, done, strict=True):
            blocks = (
                (len(prompt) + config.max_new_tokens - 1) // config.block_size - len(prompt) // config.block_size + 1
            )
            assert completion.forwards <= config.max_new_tokens + blocks * (config.max_post_steps + 1)


def test_what_the_last_look_was_sure_of_is_not_read_again(table_model, vocab):
    """All is written in one look; the model is sure of everything (98 %) but of the token at place 5 (60 %).

    And but of what stands behind the end, which matters to nobody.
    """
    text = [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]

    def rule(tokens: Tensor, positions: Tensor) -> Tensor:
        wanted = torch.tensor(text + [vocab.turn_end] * 64)[positions]
        chance = torch.where((positions == 5) | (positions == len(text) + 1), 0.6, 0.98)[..., None]
        hot = torch.nn.functional.one_hot(wanted, vocab.size)
        return (hot * chance + (1 - hot) * (1 - chance) / (vocab.size - 1)).log()

    config = Block(max_new_tokens=20, block_size=4, threshold=0.5, edit_threshold=0.0)
    looks = {}
    for limit in (1.0, 0.9, 0.5):
        events, (done,) = write(table_model(rule), vocab, replace(config, reread_threshold=limit), [Request((6, 7, 8))])
        assert done.tokens == text[3:]
        looks[limit] = len(events)
    assert looks == {1.0: 6, 0.9: 4, 0.5: 3}  # three blocks: each twice, the second one twice, each once


def test_what_was_changed_is_read_again_however_sure(table_model, vocab):
    """Two tokens are written wrongly, with certainty, and put right by the look that fills the block."""

    def rule(tokens: Tensor, positions: Tensor) -> Tensor:
        wanted = torch.where(positions == 5, 10, 12).expand_as(tokens).clone()
        wanted[(tokens == vocab.mask).sum(1) == 4] = 23  # nothing is written yet
        hot = torch.nn.functional.one_hot(wanted, vocab.size).float() * SURE
        unsure = (tokens == vocab.mask) & (positions > 5)
        return torch.where(unsure[..., None] & (wanted == 23)[..., None], hot * 0.0, hot)

    config = Block(max_new_tokens=4, block_size=4, threshold=0.9, edit_threshold=0.0, reread_threshold=0.0)
    events, (done,) = write(table_model(rule), vocab, config, [Request((6, 7, 8, 9))])
    assert done.tokens == [12, 10, 12, 12]
    assert done.edits == 2
    assert [bool(w.changes) for (w,) in events] == [False, True, False]


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="reread_threshold has no effect without an edit_threshold"):
        Block(reread_threshold=0.5)
    with pytest.raises(ValueError, match="reread_threshold must be in"):
        Block(edit_threshold=0.5, reread_threshold=1.5)
    with pytest.raises(ValueError, match="does not measure"):
        Block(edit_threshold=0.5, reread_threshold=0.5, temperature=1.0, certainty="likeliest")
    with pytest.raises(ValueError, match="edit_threshold must be in"):
        Block(edit_threshold=1.5)
    with pytest.raises(ValueError, match="edit_blocks 2 has no effect without an edit_threshold"):
        Block(edit_blocks=2)
    with pytest.raises(ValueError, match="cannot be used with editing"):
        Block(edit_threshold=0.5, repetition_penalty=1.2)
    with pytest.raises(ValueError, match="max_post_steps must be at least 1"):
        Block(max_post_steps=0)
