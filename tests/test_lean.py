"""The forward pass of decoding equals training's, whatever the window; a row's logits ignore its company."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest
import torch

from nano_llada.config.model import YarnScaling
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.model import lean as lean_module
from nano_llada.model.lean import LeanModel, Window, block_causal, causal, full
from nano_llada.model.quantised import (
    LARGEST,
    dequantise,
    dequantise_state,
    integer_products_work,
    quantise,
    quantise_state,
    split,
)
from nano_llada.model.transformer import Transformer

SHAPES = [
    {},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1, "qk_norm": False},
    {"tie_embeddings": True},
    {"head_size": 16, "yarn": YarnScaling(factor=4.0, original_length=16)},
    {"hidden_size": 48, "num_heads": 3, "intermediate_size": 100},  # nothing is a multiple of a vector
]
LENGTH, BLOCK = 21, 4


def random_tokens(count: int, seed: int = 0) -> list[int]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(6, 24, (count,), generator=rng).tolist()


def pattern_of(kind: str, length: int) -> AttentionPattern:
    if kind == "block_causal":
        return AttentionPattern(kind, key_blocks=torch.arange(length)[None] // BLOCK)
    return AttentionPattern(kind)


def window_of(kind: str, slot: int, start: int, tokens: list[int]) -> Window:
    everything = range(len(tokens))
    if kind == "causal":
        return causal(slot, start, tokens, everything)
    if kind == "full":
        return full(slot, start, tokens, everything)
    return block_causal(slot, start, tokens, everything, BLOCK)


@pytest.fixture(scope="module", params=range(len(SHAPES)))
def pair(request, make_model) -> tuple[Transformer, LeanModel]:
    model = make_model(seed=request.param, **SHAPES[request.param])
    return model, LeanModel.prepare(model)


@torch.no_grad()
def reference(model: Transformer, kind: str, tokens: list[int]) -> torch.Tensor:
    return model(torch.tensor([tokens]), pattern_of(kind, len(tokens)))[0]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ["causal", "full", "block_causal"])
def test_a_whole_text_equals_the_transformer(pair, kind):
    model, lean = pair
    tokens = random_tokens(LENGTH)
    expected = reference(model, kind, tokens)
    assert_close(lean.forward([window_of(kind, 0, 0, tokens)], lean.new_store(1, LENGTH)), expected)
    others = [reference(model, other, tokens) for other in ("causal", "full", "block_causal") if other != kind]
    assert all((other - expected).abs().max() > 1e-2 for other in others)  # the pattern matters


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
def test_cached_windows_equal_the_whole_text_to_the_last_bit(pair, width):
    model, lean = pair
    tokens = random_tokens(LENGTH)
    store, found = lean.new_store(2, LENGTH), []
    for start in range(0, LENGTH, width):
        found.append(lean.forward([window_of("causal", 1, start, tokens[start : start + width])], store))
    whole = lean.forward([window_of("causal", 0, 0, tokens)], lean.new_store(1, LENGTH))
    assert lean.exact
    assert torch.equal(torch.cat(found), whole)
    assert_close(whole, reference(model, "causal", tokens))


def test_blocks_one_at_a_time_equal_all_at_once(pair):
    model, lean = pair
    tokens, store = random_tokens(LENGTH), lean.new_store(1, LENGTH)
    found = [
        lean.forward([window_of("full", 0, start, tokens[start : start + BLOCK])], store)
        for start in range(0, LENGTH, BLOCK)
    ]
    assert_close(torch.cat(found), reference(model, "block_causal", tokens))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_rows_of_any_kind_and_place_do_not_change_each_other(peaky, precision):
    lean = LeanModel.prepare(peaky, precision)
    assert lean.exact
    texts = {slot: random_tokens(40, seed=slot) for slot in range(6)}
    held = {0: 17, 1: 17, 2: 30, 3: 0, 4: 8, 5: 8}

    def windows(slots: list[int]) -> list[Window]:
        made = {
            0: causal(0, 17, texts[0][17:18], [0]),
            1: causal(1, 17, texts[1][17:18], [0]),
            2: causal(2, 30, texts[2][30:35], [0, 4]),
            3: full(3, 0, texts[3], range(5, 9)),
            4: full(4, 8, texts[4][8:16], range(8)),
            5: block_causal(5, 8, texts[5][8:15], [6, 0], BLOCK),
        }
        return [made[slot] for slot in slots]

    def alone(slot: int) -> torch.Tensor:
        store = lean.new_store(6, 40)
        if held[slot]:
            lean.forward([causal(slot, 0, texts[slot][: held[slot]], [])], store)
        return lean.forward(windows([slot]), store)

    single = {slot: alone(slot) for slot in range(6)}
    for order in ([0, 1, 2, 3, 4, 5], [5, 1, 0, 3], [2, 4], [4, 5, 0, 1]):
        store = lean.new_store(6, 40)
        for slot in (0, 1, 2, 4, 5):
            lean.forward([causal(slot, 0, texts[slot][: held[slot]], [])], store)
        found = lean.forward(windows(order), store)
        assert torch.equal(found, torch.cat([single[slot] for slot in order]))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_row_is_the_same_among_any_number_of_rows(peaky, precision):
    lean = LeanModel.prepare(peaky, precision)
    counts = (1, 2, 3, 5, 17, 40)
    store = lean.new_store(max(counts), 8)
    prompts = [random_tokens(4, seed=row) for row in range(max(counts))]
    first = lean.forward([causal(row, 0, prompt, [3]) for row, prompt in enumerate(prompts)], store)
    for count in counts:
        step = [causal(row, 3, [prompts[row][3]], [0]) for row in range(count)]
        assert torch.equal(lean.forward(step, store), first[:count])


def test_greedy_tokens_equal_those_of_the_transformer(peaky):
    lean, store = LeanModel.prepare(peaky), None
    for seed in range(4):
        text = random_tokens(6, seed)
        store, written, new = lean.new_store(1, 40), list(text), text
        while len(written) < 40:
            logits = lean.forward([causal(0, len(written) - len(new), new, [len(new) - 1])], store)
            new = logits.argmax(-1).tolist()
            written += new
        expected = list(text)
        while len(expected) < 40:
            expected.append(int(reference(peaky, "causal", expected)[-1].argmax()))
        assert written == expected
        assert len(set(written[6:])) > 1


def test_a_slot_is_used_again_without_a_trace(model):
    lean = LeanModel.prepare(model)
    store = lean.new_store(2, 32)
    lean.forward([full(0, 0, random_tokens(32, 1), []), causal(1, 0, random_tokens(9, 2), [])], store)
    tokens = random_tokens(7, 3)
    again = lean.forward([causal(0, 0, tokens, range(7))], store)
    assert torch.equal(again, lean.forward([causal(0, 0, tokens, range(7))], lean.new_store(1, 32)))


def test_a_shared_prefix_is_copied_once(model):
    lean = LeanModel.prepare(model)
    store = lean.new_store(3, 32)
    prefix, rest = random_tokens(12, 4), random_tokens(5, 5)
    lean.forward([causal(2, 0, prefix, [])], store)
    store.copy(2, 0, 12)
    found = lean.forward([causal(0, 12, rest, range(5))], store)
    whole = lean.forward([causal(1, 0, prefix + rest, range(12, 17))], store)
    assert torch.equal(found, whole)
    assert (
        store.size == 2 * 2 * 3 * 2 * 64 * 8 * 4
    )  # both, layers, slots, heads, places in multiples of 64, width, bytes


@torch.no_grad()
def test_a_canvas_window_sees_what_was_computed_around_it(model):
    lean = LeanModel.prepare(model)
    tokens = random_tokens(20)
    store, cache = lean.new_store(1, 20), model.new_cache(1, 20)
    lean.forward([full(0, 0, tokens, [])], store)
    model(torch.tensor([tokens]), AttentionPattern("full"), cache=cache)
    changed = random_tokens(6, 9)
    found = lean.forward([full(0, 8, changed, range(6), visible=20)], store)
    cache.place([8], [6], visible=20)
    slots = torch.arange(8, 14)[None]
    pattern = AttentionPattern("full", torch.zeros(1, 20, dtype=torch.int64), query_slots=slots)
    assert_close(found, model(torch.tensor([changed]), pattern, positions=slots, cache=cache)[0])
    blind = lean.forward([full(0, 8, changed, range(6))], store)
    assert (blind - found).abs().max() > 1e-2


@torch.no_grad()
def test_drafting_masks_leave_the_causal_token_as_it_is(model):
    lean = LeanModel.prepare(model)
    tokens, masks = random_tokens(10), [0, 0, 0]
    store = lean.new_store(1, 32)
    lean.forward([causal(0, 0, tokens[:9], [])], store)
    reach = (10, 13, 13, 13)
    found = lean.forward([Window(0, 9, [tokens[9], *masks], reach, range(4))], store)
    plain = lean.forward([causal(0, 0, tokens, [9])], store)
    assert torch.equal(found[:1], plain)
    blocks = torch.tensor([[*range(10), 10, 10, 10]])
    expected = model(torch.tensor([[*tokens, *masks]]), AttentionPattern("block_causal", key_blocks=blocks))[0]
    assert_close(found, expected[9:])


@torch.no_grad()
def test_alternative_drafts_do_not_see_each_other(model):
    lean = LeanModel.prepare(model)
    prefix, first, second = random_tokens(8), [7, 8], [9, 10]
    among = torch.eye(2, dtype=torch.bool).repeat_interleave(2, 0).repeat_interleave(2, 1).tril()
    store = lean.new_store(2, 32)
    lean.forward([causal(0, 0, prefix, []), causal(1, 0, prefix, [])], store)
    window = Window(0, 8, first + second, (12,) * 4, range(4), positions=(8, 9, 8, 9), among=among)
    found = lean.forward([window], store)
    for part, draft in ((found[:2], first), (found[2:], second)):
        assert_close(part, lean.forward([causal(1, 8, draft, range(2))], store))


def test_positions_behind_the_trained_context_are_rotated_too(make_model):
    model = make_model(max_length=16)
    lean, tokens = LeanModel.prepare(model), random_tokens(40)
    found = lean.forward([causal(0, 0, tokens, range(40))], lean.new_store(1, 40))
    assert_close(found, reference(model, "causal", tokens))


def test_only_wanted_logits_are_computed_in_their_order(model):
    lean, tokens = LeanModel.prepare(model), random_tokens(9)
    whole = lean.forward([full(0, 0, tokens, range(9))], lean.new_store(1, 9))
    some = lean.forward([full(0, 0, tokens, [7, 2, 2])], lean.new_store(1, 9))
    assert torch.equal(some, whole[[7, 2, 2]])
    assert lean.forward([full(0, 0, tokens, [])], lean.new_store(1, 9)).shape == (0, 24)


def test_later_training_does_not_change_a_prepared_model(make_model):
    model, tokens = make_model(), random_tokens(5)
    lean = LeanModel.prepare(model)
    before = lean.forward([causal(0, 0, tokens, range(5))], lean.new_store(1, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(lean.forward([causal(0, 0, tokens, range(5))], lean.new_store(1, 5)), before)


def test_many_rows_are_multiplied_in_parts(model, monkeypatch):
    tokens = random_tokens(40)
    expected = LeanModel.prepare(model)
    whole = expected.forward([causal(0, 0, tokens, range(40))], expected.new_store(1, 40))
    monkeypatch.setattr(lean_module, "WIDEST", 8)
    monkeypatch.setattr(lean_module, "PROBED", (1, 2, 3, 4, 7, 8))
    monkeypatch.setattr(lean_module, "SMALL", 0)  # packed, although small
    parts = LeanModel.prepare(model)
    assert_close(parts.forward([causal(0, 0, tokens, range(40))], parts.new_store(1, 40)), whole)


def test_large_matrices_are_probed_for_the_fewest_rows():
    features, inputs = 512, 1408
    fewest = lean_module.fewest_rows(lean_module.PackedProduct, features, inputs)
    assert fewest is not None
    rng = torch.Generator().manual_seed(3)
    weight, rows = torch.randn(features, inputs, generator=rng), torch.randn(70, inputs, generator=rng)
    product = lean_module.PackedProduct(weight, fewest)
    expected = product(rows)
    for count in (1, 2, 3, 6, 31, 64):
        assert torch.equal(product(rows[:count]), expected[:count])
    torch.testing.assert_close(expected, rows @ weight.T, atol=1e-3, rtol=1e-4)


def test_the_fastest_kernel_for_one_row_is_a_choice(peaky):
    fast, exact = LeanModel.prepare(peaky, batch_invariant=False), LeanModel.prepare(peaky)
    assert not fast.exact
    tokens = random_tokens(12)
    for start in range(12):
        pair = [m.forward([causal(0, 0, tokens[: start + 1], [start])], m.new_store(1, 16)) for m in (fast, exact)]
        assert_close(*pair)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (causal(0, 30, [6] * 3, [0]), "holds 32 tokens a row, 33 are needed"),
        (full(0, 0, [6], [0], visible=40), "holds 32 tokens a row, 40 are needed"),
        (causal(2, 0, [6], [0]), "slot 2 does not exist: the store has 2"),
        (causal(0, 0, [], []), "window of slot 0 has no tokens"),
        (causal(0, 0, [6], [1]), r"wanted tokens must be among the 1 of the window, got \[1\]"),
        (Window(0, 0, [6, 7], (1,), [0]), "2 tokens need as many reaches"),
        (Window(0, 0, [6, 7], (1, 2), [0], positions=(0,)), "2 tokens but 1 positions"),
    ],
)
def test_impossible_windows_are_refused(model, window, message):
    lean = LeanModel.prepare(model)
    with pytest.raises(UserError, match=message):
        lean.forward([window], lean.new_store(2, 32))


def test_a_pass_takes_one_window_a_slot_and_at_least_one(model):
    lean = LeanModel.prepare(model)
    with pytest.raises(UserError, match="same slot"):
        lean.forward([causal(0, 0, [6], [0]), causal(0, 1, [7], [0])], lean.new_store(2, 8))
    with pytest.raises(UserError, match="at least one window"):
        lean.forward([], lean.new_store(2, 8))


def test_bf16_is_refused_where_the_processor_lacks_it(model, monkeypatch):
    monkeypatch.setattr(lean_module, "multiplies_bf16", lambda: False)
    with pytest.raises(UserError, match="no bfloat16 units"):
        LeanModel.prepare(model, "bf16")
    monkeypatch.setattr(lean_module, "multiplies_bf16", lambda: True)
    lean, tokens = LeanModel.prepare(model, "bf16"), random_tokens(9)
    found = lean.forward([causal(0, 0, tokens, range(9))], lean.new_store(1, 9))
    expected = reference(model, "causal", tokens)
    assert 1e-5 < (found - expected).abs().max() / expected.abs().max() < 0.05


# int8


def test_weights_are_off_by_at_most_half_a_step():
    weight = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    quantised, scale = quantise(weight)
    assert quantised.dtype == torch.int8
    assert quantised.abs().max() == 127
    assert ((dequantise(quantised, scale) - weight).abs() <= scale[:, None] * 0.5001).all()
    torch.testing.assert_close(scale[:3], weight[:3].abs().amax(1) / 127)


def test_activations_are_fourteen_bit_numbers():
    rows = torch.randn(6, 70, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[1e-3], [1], [50], [0], [1], [1]]
    )
    digits, step = split(rows)
    assert digits.dtype == torch.uint8
    assert digits.max() < 128
    upper, lower = (digits.double() - 64).chunk(2)
    assert ((upper * 128 + lower) * step - rows).abs().max() <= 50 * 5 / LARGEST
    assert (((upper * 128 + lower) * step - rows).abs() <= step * 0.51).all()
    torch.testing.assert_close(step[:3], rows[:3].abs().amax(1, keepdim=True) / LARGEST)


@pytest.mark.parametrize("tied", [True, False])
def test_int8_is_the_model_of_the_rounded_weights(make_model, tied):
    model = make_model(tie_embeddings=tied, num_kv_heads=2)
    lean, tokens = LeanModel.prepare(model, "int8"), random_tokens(LENGTH)
    state = model.state_dict()
    rounded = make_model(tie_embeddings=tied, num_kv_heads=2)
    rounded.load_state_dict(dequantise_state(quantise_state(state)))
    found = lean.forward([causal(0, 0, tokens, range(LENGTH))], lean.new_store(1, LENGTH))
    expected = reference(rounded, "causal", tokens)
    original = reference(model, "causal", tokens)
    rounding = (expected - original).abs().max()
    assert (found - expected).abs().max() < 0.2 * rounding  # activations hardly add to the error of the weights
    assert rounding < 0.1 * original.abs().max()


def test_int8_without_integer_products_multiplies_the_same_weights(model, monkeypatch):
    tokens = random_tokens(LENGTH)
    assert integer_products_work()
    usual = LeanModel.prepare(model, "int8")
    monkeypatch.setattr(lean_module, "integer_products_work", lambda: False)
    other = LeanModel.prepare(model, "int8")
    assert (usual.kernel, other.kernel) == ("integer", "packed")
    results = [m.forward([full(0, 0, tokens, range(LENGTH))], m.new_store(1, LENGTH)) for m in (usual, other)]
    assert 0 < (results[0] - results[1]).abs().max() < 1e-2 * results[1].abs().max()


# the benchmark


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    found = importlib.import_module("benchmarks.decode")
    monkeypatch.setattr(found, "NEW", 12)
    return found


def test_the_benchmark_writes_a_row_for_every_case_and_precision(benchmark, tmp_path):
    out = tmp_path / "results.jsonl"
    small = ["--batches", "1", "2", "--blocks", "4", "--many", "2", "--repeats", "1"]
    benchmark.main(["--shape", "tiny", *small, "--out", str(out)])
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    cases = {(row["mode"], row["batch"], row["width"], row["dtype"]) for row in rows}
    expected = [("ar", 1, 1), ("ar", 2, 1), ("block", 1, 4), ("block", 2, 32)]
    assert cases == {(*case, way) for case in expected for way in benchmark.WAYS}
    for row in rows:
        assert row["tokens_per_second"] == pytest.approx(row["batch"] * row["width"] / row["ms"] * 1e3, rel=0.05)
        assert row["share_of_limit"] > 0
        assert {"shape", "threads", "ms_low", "bandwidth", "products", "processor"} <= row.keys()


def test_the_benchmark_writes_what_greedy_decoding_writes(benchmark, make_model):
    lean = LeanModel.prepare(make_model(peak=16.0, vocab_size=160, max_length=192))
    alone, together = benchmark.write_texts(lean, 1), benchmark.write_texts(lean, 3)
    assert together[0] == alone[0]
    assert [len(text) for text in together] == [benchmark.NEW] * 3
    assert together[0] != together[1]


@pytest.mark.usefixtures("benchmark")
def test_llama_cpp_gets_tensors_of_our_shapes(make_model):
    model = make_model(num_kv_heads=2)
    shapes = dict(importlib.import_module("benchmarks.llama_cpp").shapes(model.config))
    assert sum(math.prod(shape) for shape in shapes.values()) == sum(p.numel() for p in model.parameters())
