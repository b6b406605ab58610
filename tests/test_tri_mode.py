"""Tri-mode training: two streams in one pass, the clean one causal, are an AR model and a block denoiser at once."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nano_llada
from built import act
from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.decoding import DecodingOptions, decoding_for
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, Masking, NextToken, TokenEditing, TriMode
from nano_llada.config.run import default_run
from nano_llada.core.batch import TokenBatch
from nano_llada.core.pattern import AttentionPattern
from nano_llada.decode.engine import BatchSampler
from nano_llada.decode.types import Request, collect
from nano_llada.diffusion.masking import drawn_blocks, groups_of
from nano_llada.diffusion.suffix import suffix_first, with_suffixes_first
from nano_llada.evaluation.drafting import DraftCost, best_drafts
from nano_llada.objectives.denoising import Reading, filling, noisy_features, without_first
from nano_llada.objectives.likelihood import exact_nll
from nano_llada.session.run import execute
from tiny import make_place, read_lines, run_cli, tiny_arguments, tiny_run, write_rows

CPU = torch.device("cpu")


def seen(docs, blocks, i: int, j: int) -> bool:
    """The equation: whether output i of the (2L) outputs depends on input j; the first half is noisy."""
    width = len(docs)
    a, b = i % width, j % width
    if docs[a] != docs[b] or docs[a] < 0:
        return i == j  # padding sees itself
    from_noisy, to_noisy = i < width, j < width
    if from_noisy:
        return blocks[a] == blocks[b] if to_noisy else blocks[b] < blocks[a]
    return not to_noisy and b <= a


def test_the_pattern_is_its_equation(make_batch, context):
    batch = make_batch([[5, 7, 3], [16], [1, 9]], width=16)
    numbers = drawn_blocks(batch, context(3, step=4), 4, 0.5)
    pattern = AttentionPattern.numbered("two_stream_causal", batch.doc_ids, numbers)
    dense = pattern.dense(32, 32, CPU)
    assert dense is not None
    for row in range(3):
        docs, blocks = batch.doc_ids[row].tolist(), numbers[row].tolist()
        expected = [[seen(docs, blocks, i, j) for j in range(32)] for i in range(32)]
        assert dense[row, 0].tolist() == expected


def test_blocks_begin_anywhere_and_depend_on_seed_step_and_row_alone(make_batch, context):
    batch = make_batch([[40]] * 300)
    numbers = drawn_blocks(batch, context(300), 8, 0.5)
    assert bool((numbers[:, 1:] >= numbers[:, :-1]).all())
    whole = drawn_blocks(batch, context(300), 8, 0.0)
    first = (whole == whole[:, :1]).sum(1)  # tokens of the first block
    assert first.bincount(minlength=9)[1:].tolist() == pytest.approx([300 / 8] * 8, abs=25)
    lengths = (numbers == numbers[:, 20:21]).sum(1)
    assert {1, 2, 3, 8} <= set(lengths.tolist()) <= set(range(1, 9))
    assert (lengths == 8).float().mean() == pytest.approx(0.5 + 0.5 / 8, abs=0.1)
    part = batch.select(slice(100, 130))
    assert torch.equal(drawn_blocks(part, context(300), 8, 0.5), numbers[100:130])
    assert not torch.equal(drawn_blocks(batch, context(300, step=1), 8, 0.5), numbers)


def test_noisy_tokens_change_no_clean_output(make_model, make_batch, context):
    model = make_model(seed=3, num_kv_heads=2)
    batch = make_batch([[9, 7], [16]], width=16)
    reading = Reading("next", causal=True, numbers=drawn_blocks(batch, context(2), 4, 0.5))
    nowhere, everywhere = torch.zeros_like(batch.scored), torch.ones_like(batch.scored)
    with torch.no_grad():
        for noisy in (torch.full_like(batch.tokens, 0), batch.tokens.roll(3, 1)):
            one, _ = noisy_features(model, batch.tokens, batch, nowhere, None, reading, everywhere)
            other, _ = noisy_features(model, noisy, batch, nowhere, None, reading, everywhere)
            assert torch.equal(one, other)


def test_the_clean_stream_is_a_causal_model(make_model, make_batch, context):
    model = make_model(seed=4, num_kv_heads=2)
    batch = make_batch([[9, 7], [12, 4]], width=16)
    reading = Reading("self", causal=True, numbers=drawn_blocks(batch, context(2), 4, 0.5))
    everywhere = torch.ones_like(batch.scored)
    with torch.no_grad():
        both, _ = noisy_features(
            model, batch.tokens.roll(1, 1), batch, torch.zeros_like(batch.scored), None, reading, everywhere
        )
        plain = model.features(
            batch.tokens, AttentionPattern.packed("causal", batch.doc_ids), positions=batch.positions
        )
    torch.testing.assert_close(both, plain.flatten(0, 1), atol=1e-5, rtol=0)


def decoded(model, noisy, batch: TokenBatch, numbers, reading):
    """Features that predict each token when blocks are decoded one by one: a causal clean prefix, then the block."""
    found = torch.zeros(*noisy.shape, model.config.hidden_size)
    for row in range(len(noisy)):
        for doc in range(int(batch.doc_ids[row].max()) + 1):
            places = (batch.doc_ids[row] == doc).nonzero()[:, 0].tolist()
            blocks = numbers[row, places].tolist()
            for number in sorted(set(blocks)):
                inside = [place for place, block in zip(places, blocks, strict=True) if block == number]
                begin = places.index(inside[0])
                cache = model.new_cache(1, len(places))
                before = torch.zeros(0, model.config.hidden_size)
                if begin:
                    clean = batch.tokens[row, places[:begin]][None]
                    before = model.features(clean, AttentionPattern("causal"), cache=cache)[0]
                block = model.features(noisy[row, inside][None], AttentionPattern("full"), cache=cache)[0]
                if reading == "next":  # the clean token before the block predicts its first
                    first = before[-1:] if begin else torch.zeros(1, model.config.hidden_size)
                    block = torch.cat([first, block[:-1]])
                found[row, inside] = block
    return found


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(1, 9),
    documents=st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=3), min_size=1, max_size=2),
    reading=st.sampled_from(["self", "next"]),
    seed=st.integers(0, 99),
)
def test_all_blocks_at_once_equal_decoding_one_block_after_another(
    make_model, make_batch, context, size, documents, reading, seed
):
    model = make_model(seed=seed % 3, num_kv_heads=2)
    batch = without_first(make_batch(documents, width=27, scored=0.8))
    ctx = context(len(documents), step=seed)
    numbers = drawn_blocks(batch, ctx, size, 0.5)
    noisy = act(Masking()).corrupt(batch, ctx, None, numbers)
    with torch.no_grad():
        features, computed = noisy_features(
            model, noisy.tokens, batch, noisy.masked, None, Reading(reading, True, numbers)
        )
        expected = decoded(model, noisy.tokens, batch, numbers, reading)[noisy.masked]
    assert computed == 2 * batch.tokens.numel()
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [None, 4])
def test_a_denoiser_that_predicts_the_next_token_is_read_one_place_before(make_model, make_batch, context, size):
    model = make_model(seed=2)
    batch = without_first(make_batch([[9, 7], [16]], width=16))
    noisy = act(Masking()).corrupt(batch, context(2), size)
    everywhere = torch.ones_like(batch.scored)
    with torch.no_grad():
        found, _ = noisy_features(model, noisy.tokens, batch, noisy.masked, size, Reading("next"))
        own, _ = noisy_features(model, noisy.tokens, batch, everywhere, size)
    own = own.view(2, 16, -1).roll(1, 1)
    begins = (batch.positions % size == 0) if size else batch.positions == 0
    inside = noisy.masked & ~begins
    assert torch.equal(found[inside[noisy.masked]], own[inside])
    assert bool((noisy.masked & begins).any()) == bool(size)  # and those come from the clean text: tested above
    assert not bool((noisy.masked & (batch.positions == 0)).any())


@pytest.mark.parametrize("normalise_by", ["token", "document"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_the_loss_is_the_weighted_mean_of_its_parts(make_model, make_batch, context, weight, normalise_by):
    model, ctx = make_model(seed=5), context(4)
    batch = make_batch([[9, 7], [16], [3, 13], [16]], scored=0.8)
    objective = TriMode(ar_weight=weight, normalise_by=normalise_by, blocks=BlockSizeSchedule(4))
    out = act(objective).loss(model, batch, ctx)
    ar, mask = (out.metrics[name] for name in ("ar_loss", "mask_loss"))
    assert float(ar[1]) == float(mask[1]) == float(out.count)
    expected = (weight * ar[0] + mask[0]) / (1 + weight)
    assert float(out.total.detach()) == pytest.approx(float(expected), rel=1e-5)
    if normalise_by == "token":
        alone = act(NextToken()).loss(model, batch, ctx)
        assert float(ar[0]) == pytest.approx(float(alone.total), rel=1e-5)
        assert int(out.count) == int(alone.count)  # the very objective of an AR model


def test_the_parts_add_up_over_micro_batches(make_model, make_batch, context):
    model, ctx = make_model(seed=5), context(4)
    batch, objective = make_batch([[9, 7], [16], [3, 13], [2, 5]], width=16, scored=0.6), act(TriMode())
    whole = objective.loss(model, batch, ctx)
    parts = [objective.loss(model, batch.select(slice(i, i + 1)), ctx) for i in range(4)]
    assert sum(float(part.total) for part in parts) == pytest.approx(float(whole.total), rel=1e-5)
    assert sum(int(part.count) for part in parts) == int(whole.count)


def test_the_mask_part_is_block_diffusion_on_the_same_masks(make_model, make_batch, context):
    """With `self`, blocks of one size from the start and a block-causal clean text it would be LLaDA 2.0's eq. 1: the
    masks, weights and counts are those; with a single block per text even the features are."""
    model, ctx = make_model(seed=6), context(2)
    batch = without_first(make_batch([[9, 7], [16]]))
    tri = act(TriMode(predicts="self", blocks=BlockSizeSchedule())).loss(model, batch, ctx)
    plain = act(Denoising()).loss(model, batch, ctx)
    assert float(tri.metrics["mask_loss"][0]) == pytest.approx(float(plain.total), rel=1e-5)
    assert int(tri.count) == int(plain.count)


def test_filling_is_masked_but_neither_counts_nor_is_learnt_left_to_right(make_model, make_batch, context, vocab):
    model, ctx = make_model(seed=5), context(2)
    batch = make_batch([[12], [12]])
    tokens = batch.tokens.clone()
    tokens[:, 6], tokens[:, 7:] = vocab.turn_end, vocab.eos
    batch = replace(batch, tokens=tokens)
    filled = filling(batch, vocab)
    assert filled[0].tolist() == [False] * 7 + [True] * 5
    out = act(TriMode()).loss(model, batch, ctx)
    short = replace(batch, scored=batch.scored & ~filled)
    assert int(out.count) == int(act(NextToken()).loss(model, short, ctx).count) == 12
    assert float(out.metrics["ar_loss"][0]) == pytest.approx(
        float(act(NextToken()).loss(model, short, ctx).total), rel=1e-5
    )
    hidden = sum(float(out.metrics[name][1]) for name in ("masked_text_loss", "masked_eos_loss"))
    assert float(out.metrics["masked_eos_loss"][1]) > 0
    assert hidden > 0


def test_every_option_of_a_denoiser_works_beside_the_next_token_loss(make_model, make_batch, context):
    model, ctx = make_model(seed=5), context(4)
    objective = TriMode(
        corruption=Masking(complementary=True),
        editing=TokenEditing(replace_rate=0.3, draft_rate=0.5),
        confidence_weight=0.1,
        random_length=0.5,
        suffix_share=0.5,
        predicts="self",
        blocks=BlockSizeSchedule(8),
    )
    batch = make_batch([[20, 12], [32], [32], [16, 16]], scored=0.9)
    whole = act(objective).loss(model, batch, ctx)
    parts = [act(objective).loss(model, batch.select(slice(i, i + 1)), ctx) for i in range(4)]
    assert sum(float(part.total.detach()) for part in parts) == pytest.approx(float(whole.total.detach()), rel=1e-4)
    assert {name for name, (_, n) in whole.metrics.items() if float(n)} >= {"edit_loss", "ar_loss", "mask_loss"}
    assert "right_entropy" in whole.metrics
    whole.total.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_groups_follow_the_numbers(make_batch, context):
    batch = make_batch([[5, 4]])
    numbers = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1, 2]])
    assert groups_of(batch, None, numbers).tolist() == [[0, 0, 1, 1, 1, 2, 3, 3, 4]]


def test_a_share_of_the_documents_has_what_follows_a_gap_in_front(make_batch, context, vocab):
    batch = make_batch([[30, 10], [40], [11, 29]] * 40, width=40)
    tokens = batch.tokens.clone()
    tokens[batch.positions == 0] = vocab.eos
    batch = replace(batch, tokens=tokens, scored=batch.scored & (batch.positions > 0))
    ctx = context(120)
    moved = with_suffixes_first(batch, 0.5, ctx)
    changed = 0
    for row in range(120):
        for doc in range(int(batch.doc_ids[row].max()) + 1):
            places = batch.doc_ids[row] == doc
            before, after = batch.tokens[row, places].tolist(), moved.tokens[row, places].tolist()
            flags = moved.scored[row, places].tolist()
            if before == after:
                assert flags == batch.scored[row, places].tolist()
                continue
            changed += 1
            end = after.index(vocab.turn_end)
            suffix, rest = after[2:end], after[end + 1 : -1]
            assert after[:2] == [vocab.eos, vocab.turn_start]
            assert after[-1] == vocab.eos
            assert before == [vocab.eos, *rest, *suffix, *before[-3:]]  # prefix, gap, suffix: the text again
            assert flags == [False] * (end + 1) + [True] * (len(after) - end - 1)
    assert changed == pytest.approx(0.5 * 40 * 3, abs=15)  # documents of 10 and 11 tokens are too short
    assert torch.equal(with_suffixes_first(batch.select(slice(60, 70)), 0.5, ctx).tokens, moved.tokens[60:70])
    with pytest.raises(ValueError, match="format 'chat'"):
        replace(default_run("sft", "tri"), objective=TriMode(suffix_share=0.1))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An AR run, and from it a pretrained and a fine-tuned tri-mode run of each reading."""
    place = make_place(tmp_path_factory.mktemp("tri"))
    assert execute(tiny_run(place, name="ar")).state == "finished"
    ar = place.runs / "ar"
    with_gaps = {"init_from": ar, "block_size": 4, "suffix_share": 0.2}
    assert run_cli(tiny_arguments(place, "pretrain", "tri", name="next", **with_gaps)) == 0
    changed = tiny_arguments(place, "pretrain", "tri", name="self", init_from=ar, predicts="self", block_size=4)
    assert run_cli(changed) == 0
    assert run_cli(tiny_arguments(place, "sft", "tri", name="sft", init_from=place.runs / "next", block_size=4)) == 0
    return place


def test_commands_train_a_tri_mode_model_and_record_what_it_is(place):
    for name, predicts, stage in (("next", "next", "pretrain"), ("self", "self", "pretrain"), ("sft", "next", "sft")):
        card = load_checkpoint(place.runs / name).card
        assert (card.track, card.predicts, card.stage, card.block_size) == ("both", predicts, stage, 4)
        assert card.autoregressive
        assert card.denoising
        assert card.answer_length is None
        assert card.infills == (predicts == "next")  # learnt in pretraining, kept in fine-tuning
        measured = [line for line in read_lines(place.runs / name / "metrics.jsonl") if "validation_loss" in line][-1]
        ar, mask = measured["validation_ar_loss"], measured["validation_mask_loss"]
        assert measured["validation_loss"] == pytest.approx((ar + mask) / 2, rel=1e-5)
        log = (place.runs / name / "log.txt").read_text(encoding="utf-8")
        assert f"{stage} tri" in log
        assert f", next token {ar:.4f}, masked {mask:.4f}" in log


def test_a_checkpoint_that_is_read_the_other_way_is_an_error(place, capsys):
    code = run_cli(tiny_arguments(place, "sft", "tri", name="wrong", init_from=place.runs / "self"))
    assert code == 2
    assert "give --predicts self" in capsys.readouterr().err
    code = run_cli(tiny_arguments(place, "sft", "diffusion", name="wrong", init_from=place.runs / "next"))
    assert code == 2
    assert "give --predicts next" in capsys.readouterr().err
    assert not (place.runs / "wrong").exists()


def test_likelihoods_of_a_tri_mode_model_are_those_of_its_causal_weights(place, make_batch):
    from nano_llada.evaluation.likelihood import row_nll

    checkpoint = load_checkpoint(place.runs / "next")
    batch = make_batch([[12], [9]])
    found = row_nll(checkpoint, batch, draws=3, seed=0)
    assert torch.equal(found.mean, exact_nll(checkpoint.model, batch).mean)
    assert bool((found.standard_error == 0).all())


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="uniform"):
        TriMode(loss_weight="uniform")


# --- using one --------------------------------------------------------------------------------------------------------


def json_of(capsys, *words):
    capsys.readouterr()
    assert run_cli(words) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_generate_writes_in_each_way(place, capsys):
    folder, say = place.runs / "sft", ("What has Tom?", "1加1?")
    common = ("generate", folder, *say, "--json-lines", "--max-new-tokens", 12)
    told = {way: json_of(capsys, *common, "--decode", way) for way in ("ar", "speculative", "block")}
    usual = json_of(capsys, *common)
    for texts in told.values():
        assert len(texts) == 2
        assert all(text["tokens_per_forward"] == text["tokens"] / text["forwards"] for text in texts)
    for one, other, plain in zip(told["ar"], told["speculative"], usual, strict=True):
        assert one["text"] == other["text"] == plain["text"]
        assert other["forwards"] == plain["forwards"] <= one["forwards"]
    assert run_cli(("generate", folder, say[0], "--show-steps", "--decode", "block")) == 0
    assert "tokens a pass" in capsys.readouterr().out
    assert run_cli(("generate", folder, say[0], "--threshold", 0.5)) == 2
    assert "decode block" in capsys.readouterr().err
    model = nano_llada.load(folder)
    assert str(model.generate(say[0], max_new_tokens=12, decode="ar")) == told["ar"][0]["text"]


def test_compare_and_eval_measure_every_way(place, tmp_path, capsys):
    folder = place.runs / "sft"
    words = ("--prompts", "What has Tom?", "--timed", 1, "--max-new-tokens", 8, "--out", tmp_path / "compare")
    assert run_cli(("compare", folder, place.runs / "ar", *words)) == 0
    found = {(r["model"], r["decoder"]) for r in read_lines(tmp_path / "compare" / "records.jsonl")}
    ways = {decoder for model, decoder in found if "both" in model}
    assert {"decode=ar", "decode=speculative", "decode=block", "decode=block,threshold=0.9"} <= ways
    questions = write_rows(tmp_path / "q.jsonl", [{"prompt": "1加1?", "answer": "2", "language": "zh"}])
    decoders = ("--decoders", "decode=ar", "decode=speculative,drafts=3", "decode=block,threshold=0.5")
    words = ("--suites", "generation", "--questions", questions, "--out", tmp_path / "eval", *decoders)
    assert run_cli(("eval", folder, *words)) == 0
    records = read_lines(tmp_path / "eval" / "records.jsonl")
    answers = {r["decoder"]: r["detail"]["answer"] for r in records}
    assert answers.keys() == set(decoders[1:])
    assert answers["decode=ar"] == answers["decode=speculative,drafts=3"]


def test_drafts_measures_and_stores_the_best_number(place, tmp_path, capsys):
    out = tmp_path / "tuned"
    words = ("What has Tom?", "--most", 2, "--max-new-tokens", 8, "--out", out)
    assert run_cli(("drafts", place.runs / "sft", *words)) == 0
    told = capsys.readouterr().out
    assert "tokens per pass" in told
    best = int(re.search(r"best: (\d) drafts", told).group(1))
    card = load_checkpoint(out).card
    assert card == replace(load_checkpoint(place.runs / "sft").card, drafts=best)
    assert decoding_for(card, DecodingOptions()).drafts == best
    assert run_cli(("drafts", place.runs / "ar", "Tom has")) == 2
    assert "was not trained for it" in capsys.readouterr().err


def test_the_best_number_of_drafts_has_most_tokens_for_the_cost_of_a_pass():
    measured = ((0, 100, 1.0), (1, 60, 0.8), (2, 45, 0.8), (4, 40, 2.0))
    costs = [DraftCost(drafts, 100, forwards, seconds) for drafts, forwards, seconds in measured]
    assert [cost.tokens_per_pass for cost in costs] == pytest.approx([1, 1 / 0.6, 1 / 0.45, 2.5])
    assert best_drafts(costs) == 1  # 100 tokens in 0.8 s, as with 2: the smaller one


def test_infilling_sees_what_follows_where_it_was_learnt_and_is_refused_elsewhere(place, capsys):
    for way in ("speculative", "ar", "block"):
        words = ("infill", place.runs / "next", "Tom ___ a red ___.", "--length", 2, 3, "--decode", way)
        assert run_cli(words) == 0
        assert re.fullmatch(r"Tom .{2} a red .{3}\.\n", capsys.readouterr().out)
    model = nano_llada.load(place.runs / "next")
    one = model.infill("Tom has___ red.", length=4)
    asked = model.tokenizer.encode(" red.")
    prompt = suffix_first(asked, [model.tokenizer.vocab.eos, *model.tokenizer.encode("Tom has")], model.tokenizer.vocab)
    done = collect(
        BatchSampler(model.model, model.tokenizer.vocab, model.decoding(max_new_tokens=4, min_new_tokens=4)).stream(
            [Request(tuple(prompt))]
        ),
        1,
        model.tokenizer.vocab.ends,
    )
    assert one == f"Tom has{model.tokenizer.decode(done[0].tokens)} red."  # what follows was in front
    assert run_cli(("infill", place.runs / "self", "Tom ___ a hat.")) == 2
    assert "pretrained with a suffix_share" in capsys.readouterr().err
    assert run_cli(("infill", place.runs / "next", f"Tom {'___' * 1} {'hat ' * 80}", "--length", 200)) == 2
    assert "the model's context is 256" in capsys.readouterr().err
