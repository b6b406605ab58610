"""Decoding rules: which places they unmask, by their equations, and rules of one's own."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Block, DecodingOptions, Diffusion, decoding_for
from nano_llada.core.errors import UserError
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.rules import Progress, Rule, make_rule, pick
from nano_llada.decode.types import Request, Trace, collect
from nano_llada.language_model import LanguageModel

OWN = '''"""A rule of one's own."""

from nano_llada.decode.rules import Rule


class Leftmost(Rule):
    """The two leftmost masked places."""

    def pick(self, scores, progress):
        return range(min(2, len(scores)))


class Wrong(Rule):
    def pick(self, scores, progress):
        return [len(scores)]


class Lazy(Rule):
    may_wait = True

    def pick(self, scores, progress):
        return []


class Timid(Rule):
    def pick(self, scores, progress):
        return []
'''


def progress(step: int = 0, passes: int = 9, quota: int = 1) -> Progress:
    return Progress(step, passes, quota, torch.Generator().manual_seed(0))


def test_factor_is_the_largest_number_that_fulfils_the_inequality():
    rng = random.Random(0)
    sizes = set()
    for _ in range(300):
        scores = [1 - rng.random() ** 4 for _ in range(rng.randint(1, 9))]
        bound = rng.choice([0.0, 0.5, 1.0, 2.0])
        ranking = sorted(scores, reverse=True)
        fitting = [n for n in range(1, len(scores) + 1) if (n + 1) * (1 - ranking[n - 1]) < bound]
        found = pick(make_rule(Diffusion(rule="factor", rule_bound=bound)), scores, progress())
        assert sorted((scores[i] for i in found), reverse=True) == ranking[: max(fitting, default=1)]
        sizes.add(len(found))
    assert len(sizes) > 4


def test_entropy_bound_is_the_largest_set_of_low_entropies_within_the_bound():
    rng = random.Random(1)
    sizes = set()
    for _ in range(300):
        entropies = [rng.random() * rng.choice([0.1, 2.0]) for _ in range(rng.randint(1, 8))]
        bound = rng.choice([0.0, 0.1, 0.5, 2.0])
        order = sorted(entropies)
        fitting = [n for n in range(1, len(order) + 1) if sum(order[:n]) - max(order[:n]) <= bound + 1e-12]
        scores = [math.exp(-h) for h in entropies]
        found = pick(make_rule(Diffusion(rule="entropy_bound", rule_bound=bound)), scores, progress())
        assert sorted(entropies[i] for i in found) == order[: max(fitting)]
        sizes.add(len(found))
    assert len(sizes) > 4


@pytest.mark.parametrize("kind", ["canvas", "block"])
@pytest.mark.parametrize("rule", ["factor", "entropy_bound"])
def test_a_higher_bound_writes_more_tokens_per_pass(peaky, vocab, kind, rule):
    passes = []
    for bound in (0.0, 1.5, 50.0):
        options = {"max_new_tokens": 16, "min_new_tokens": 16, "rule": rule, "rule_bound": bound}
        config = Block(block_size=8, **options) if kind == "block" else Diffusion(block_length=8, **options)
        requests = [Request((6, 7, 8, 9, 10, 11, 12, 13), seed=i) for i in range(2)]
        done = collect(BatchSampler(peaky, vocab, config).stream(requests), 2, vocab.ends)
        passes.append(done[0].forwards)
        assert len(done[0].tokens) == 16
    assert passes[0] == 16 > passes[1] > passes[2] == 2


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    return lambda name: f"{tmp_path / 'own.py'}:{name}"


@pytest.mark.parametrize("kind", [Diffusion, Block])
def test_a_rule_of_ones_own_decides(peaky, vocab, own, kind):
    config = kind(max_new_tokens=7, min_new_tokens=7, rule=own("Leftmost"))
    (done,) = collect(BatchSampler(peaky, vocab, config).stream([Request((6, 7, 8))]), 1, vocab.ends)
    assert done.order == [0, 0, 1, 1, 2, 2, 3]


def test_a_rule_is_named_by_its_class_in_python(peaky, vocab, own):
    leftmost = make_rule(Diffusion(rule=own("Leftmost"))).__class__
    assert issubclass(leftmost, Rule)
    assert Diffusion(rule=leftmost).rule == own("Leftmost")
    language_model = LanguageModel(Checkpoint(peaky, None, ModelCard("diffusion"), Path()))
    assert language_model.decoding(rule=leftmost, max_new_tokens=7) == Diffusion(7, rule=own("Leftmost"))


def test_rules_are_options_of_the_command_line():
    options = DecodingOptions(rule="factor", rule_bound=1.0)
    assert decoding_for(ModelCard("diffusion"), options) == Diffusion(rule="factor", rule_bound=1.0)
    in_blocks = decoding_for(ModelCard("diffusion", block_size=8), options)
    assert in_blocks == Block(block_size=8, rule="factor", rule_bound=1.0)
    with pytest.raises(UserError, match="rule, rule_bound: for diffusion models only"):
        decoding_for(ModelCard("ar"), options)


def test_a_rule_that_picks_nothing_still_ends(peaky, vocab, own):
    for name, forwards in (("Timid", 6), ("Lazy", 11)):  # at most as many passes as planned without a token
        config = Diffusion(max_new_tokens=6, min_new_tokens=6, rule=own(name))
        (done,) = collect(BatchSampler(peaky, vocab, config).stream([Request((6, 7, 8))]), 1, vocab.ends)
        assert (len(done.tokens), done.forwards) == (6, forwards)


def test_wrong_rules_are_refused(peaky, vocab, own, tmp_path):
    with pytest.raises(UserError, match="decoding rule Wrong picked 4 of 4 masked places"):
        list(BatchSampler(peaky, vocab, Diffusion(max_new_tokens=4, rule=own("Wrong"))).stream([Request((6,))]))
    with pytest.raises(UserError, match="does not define Missing"):
        make_rule(Diffusion(rule=own("Missing")))
    (tmp_path / "other.py").write_text("class Other: ...\n", encoding="utf-8")
    with pytest.raises(UserError, match="must be a class that derives from"):
        make_rule(Diffusion(rule=f"{tmp_path / 'other.py'}:Other"))
    config = Block(rule="entropy_bound", rule_bound=0.1, edit_threshold=0.5)
    with pytest.raises(UserError, match="editing compares probabilities"):
        list(BatchSampler(peaky, vocab, config).stream([Request((6,))]))


NONSENSE = [
    ({"rule": "magic"}, "unknown rule 'magic': use entropy_bound, factor, or FILE.py:NAME"),
    ({"rule": "factor"}, "rule factor needs a rule_bound"),
    ({"rule_bound": 1.0}, "rule_bound has no effect without a rule"),
    ({"rule": "factor", "rule_bound": -1.0}, "rule_bound must be at least 0"),
]


@pytest.mark.parametrize(("options", "message"), NONSENSE)
def test_options_of_rules(options, message):
    for kind in (Diffusion, Block):
        with pytest.raises(ValueError, match=message):
            kind(**options)
    if options.get("rule") == "factor":
        with pytest.raises(ValueError, match="leave out"):
            Diffusion(rule="factor", rule_bound=1.0, threshold=0.9)
        with pytest.raises(ValueError, match="leave out steps"):
            Diffusion(rule="factor", rule_bound=1.0, steps=3)


# --- masking again (ReMDM) --------------------------------------------------------------------------------------------


def test_the_share_to_mask_again_is_that_of_the_noise_schedule():
    for passes in (2, 5, 8):
        for step in range(passes):
            t, s = 1 - step / passes, 1 - (step + 1) / passes
            most = min(1.0, s / (1 - t)) if step else 0.0  # (1 - alpha_s) / alpha_t, nothing being written at t = 1
            assert progress(step, passes).again(0.4) == pytest.approx(0.4 * most)
    assert progress(8, 9).again(1.0) == 0  # the last pass masks nothing


def written_after_each_pass(model, vocab, config, count: int) -> tuple[list[list[int]], int]:
    """Of each of `count` texts the number of written places after each pass, and how often one was masked again."""
    sampler = BatchSampler(model, vocab, config)
    counts: list[list[int]] = [[] for _ in range(count)]
    traces, again = [Trace() for _ in range(count)], 0
    for events in sampler.stream([Request((6, 7, 8), seed=i) for i in range(count)]):
        for event in events:
            traces[event.request].apply(event)
            again += sum(edit.inserted == (None,) and edit.removed != (None,) for edit in event.edits)
            if event.forwards:
                counts[event.request].append(sum(cell.token is not None for cell in traces[event.request].cells))
    assert all(cell.token is not None for trace in traces for cell in trace.cells)
    return counts, again


def test_masking_again_at_random_keeps_the_marginals_of_the_forward_process(peaky, vocab):
    passes, places, texts = 5, 20, 60
    config = Diffusion(places, min_new_tokens=places, strategy="random", steps=passes, remask=0.7, seed=3)
    counts, again = written_after_each_pass(peaky, vocab, config, texts)
    assert again > texts * 5
    for step in range(passes):
        found = [one[step] if len(one) > step else places for one in counts]
        share = (step + 1) / passes  # 1 - s
        error = (share * (1 - share) / (places * texts)) ** 0.5
        assert sum(found) / (places * texts) == pytest.approx(share, abs=4 * error + 1e-9)


def test_the_least_confident_are_masked_again_and_as_many_more_are_unmasked(peaky, vocab):
    config = Diffusion(12, min_new_tokens=12, steps=4, remask=1.0)
    counts, again = written_after_each_pass(peaky, vocab, config, 3)
    assert counts == [[3, 6, 9, 12]] * 3
    assert again >= 3
    rule = make_rule(config)
    assert sorted(rule.remask([0.9, 0.2, 0.8, 0.3], progress(2, 6, quota=1), 5)) == [0, 1, 2, 3]
    assert list(rule.remask([0.9, 0.2, 0.8, 0.3], progress(2, 6, quota=1), 3)) == [1, 3]
    assert list(rule.remask([0.9, 0.2, 0.8, 0.3], progress(3, 6, quota=3), 3)) == []


def test_without_a_share_nothing_is_masked_again(peaky, vocab):
    for strategy in ("random", "margin"):
        config = Diffusion(9, min_new_tokens=9, strategy=strategy, steps=4)
        assert written_after_each_pass(peaky, vocab, config, 4)[1] == 0


def test_what_is_masked_again_is_final_only_at_the_end(peaky, vocab):
    config = Diffusion(10, min_new_tokens=10, steps=4, remask=1.0)
    events = [one for some in BatchSampler(peaky, vocab, config).stream([Request((6, 7))]) for one in some]
    finals = [(i, edit) for i, event in enumerate(events) for edit in event.edits if edit.final]
    assert [i for i, _ in finals] == [len(events) - 1]
    assert finals[0][1].removed == finals[0][1].inserted
    (done,) = collect([[event] for event in events], 1, vocab.ends)
    assert list(finals[0][1].inserted) == done.tokens


@pytest.mark.parametrize("options", [{"threshold": 0.5}, {"rule": "factor", "rule_bound": 1.0}])
def test_masking_again_needs_planned_passes(options):
    with pytest.raises(ValueError, match="use steps"):
        Diffusion(remask=0.5, **options)
