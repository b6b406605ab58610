"""The engine: requests of all kinds come and go, and the text of each is what it is alone.

    python -m tests.test_engine 10000 [float64 | lean | float32]

runs that many random mixes; the test 400, and 100 over the lean forward pass.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from nano_llada.config.decoding import Autoregressive, Block, Decoding, Diffusion, EngineOptions, Speculative
from nano_llada.config.model import ModelConfig
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.decode.engine import BatchSampler, Engine, EngineFull
from nano_llada.decode.forward import rectangles
from nano_llada.decode.lean import lean_passes
from nano_llada.decode.rows import make_row
from nano_llada.decode.types import Edit, Event, Request, Trace, collect, gather
from nano_llada.model.transformer import Transformer

WORDS = Vocabulary(size=24, mask=0, eos=1, turn_start=2, turn_end=3, reserved=(4, 5))


# --- random mixes -----------------------------------------------------------------------------------------------------


def tiny_model(seed: int, dtype: torch.dtype) -> Transformer:
    """Two layers in which context matters, with a head that is sure of some tokens."""
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 32}
    model = Transformer(ModelConfig(vocab_size=WORDS.size, max_length=64, **shape))
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(12.0 if name.startswith("head") else 10.0)
    return model.eval().to(dtype)


def some_decoding(rng: random.Random) -> Decoding:
    """Any kind, with options that are often at work together."""
    common = {"max_new_tokens": rng.randint(1, 12), "seed": rng.choice([0, 0, 1])}
    common["min_new_tokens"] = rng.choice([0, min(4, common["max_new_tokens"])])
    if rng.random() < 0.4:
        common |= {"temperature": rng.choice([0.6, 1.0]), "top_p": rng.choice([1.0, 0.9])}
    if rng.random() < 0.2:
        common["repetition_penalty"] = 1.3
    kind = rng.choice(["ar", "drafts", "drafts", "canvas", "cached", "rule", "block", "block", "causal", "editing"])
    reading = {"predicts": rng.choice(["self", "next"])}
    if kind == "ar":
        return Autoregressive(**common)
    if kind == "drafts":
        return Speculative(drafts=rng.choice([0, 1, 2, 4]), **reading, **common)
    certainty = rng.choice(["chosen", "likeliest"])
    if kind == "canvas":
        how = [{"strategy": rng.choice(["random", "margin", "entropy"]), "steps": rng.randint(1, 9)}]
        how += [{"threshold": 0.4, "certainty": certainty}, {"guidance": 0.5}, {"end_confidence": 0.3}]
        return Diffusion(block_length=rng.choice([None, 3, 5]), **rng.choice(how), **common)
    if kind == "cached":
        return Diffusion(block_length=rng.randint(2, 5), cache=rng.choice(["prefix", "dual"]), threshold=0.5, **common)
    if kind == "rule":
        rule = rng.choice([{"rule": "factor", "rule_bound": 1.2}, {"rule": "entropy_bound", "rule_bound": 0.5}])
        return rng.choice([Diffusion(**rule, **common), Block(block_size=4, **rule, **common)])
    size = rng.choice([1, 3, 4, 4, 8])
    if kind in ("block", "causal"):
        common |= {"threshold": 0.5, "certainty": certainty, "cached": rng.random() < 0.8, "causal": kind == "causal"}
        return Block(block_size=size, **reading, **common)
    common.pop("repetition_penalty", None)
    edit = {"edit_threshold": rng.choice([0.0, 0.3]), "edit_blocks": rng.choice([0, 1]), "max_post_steps": 3}
    return Block(block_size=size, threshold=0.4, **edit, **common)


class Pool:
    """Random requests with what they write alone. Every other one continues an earlier one, as a next turn does.

    The lean forward pass promises not to depend on the batch to the last bit; of the other, which does not, the models
    are in double precision, where no two choices are so close that the shape of a matrix product decides.
    """

    def __init__(self, seed: int, count: int, how: str) -> None:
        rng = random.Random(seed)
        model = tiny_model(seed, torch.float64 if how == "float64" else torch.float32)
        self.model, self.backend = model, lean_passes if how == "lean" else rectangles
        self.alone: list[tuple[Request, list[Edit], list[int], str]] = []
        self.parents: list[int] = []  # which one a request continues, or its own number
        while len(self.alone) < count:
            decoding = some_decoding(rng)
            start: tuple[int, ...] = ()
            parent = rng.randrange(len(self.alone) + 1)
            if parent < len(self.alone) and rng.random() < 0.7:
                before, _, tokens, _ = self.alone[parent]
                start = (*before.prompt, *tokens)[:40]
                if before.decoding is not None and rng.random() < 0.7:
                    decoding = before.decoding
            self.parents.append(parent if start else len(self.alone))
            prompt = (*start, *(rng.randint(6, 23) for _ in range(rng.randint(1, 9))))
            gap = isinstance(decoding, Diffusion) and rng.random() < 0.3
            suffix = tuple(rng.randint(6, 23) for _ in range(3)) if gap else ()
            request = Request(prompt, suffix, rng.randint(0, 9), fill=gap, decoding=decoding)
            events = [
                event
                for events in BatchSampler(self.model, WORDS, decoding, backend=self.backend).stream([request])
                for event in events
            ]
            (done,) = collect([events], 1, WORDS.ends)
            self.alone.append((request, [edit for event in events for edit in event.edits], done.tokens, done.finish))

    def some(self, rng: random.Random) -> list[tuple[Request, list[Edit], list[int], str]]:
        """Requests of a mix; many are the same as, or continue, one before."""
        numbers: list[int] = []
        for _ in range(rng.randint(2, 8)):
            near = [
                i
                for i, parent in enumerate(self.parents)
                if {i, parent} & {*numbers, *map(self.parents.__getitem__, numbers)}
            ]
            numbers.append(rng.choice(near) if near and rng.random() < 0.7 else rng.randrange(len(self.alone)))
        return [self.alone[i] for i in numbers]


def mix(pool: Pool, rng: random.Random) -> tuple[int, int]:
    """Write some requests of a pool that come and go at random.

    Gives how many were written to their end, and how many reused what was computed for another.
    """
    chosen = pool.some(rng)
    least = max(make_row(request, WORDS, request.decoding, 64).size for request, *_ in chosen)
    budget = rng.choice([None, rng.randint(least, 3 * least)])
    options = EngineOptions(rng.randint(1, 5), budget, rng.choice([None, 1, 4, 7]), None, rng.random() < 0.7)
    engine = Engine(pool.model, WORDS, Autoregressive(), options, pool.backend)
    reused: list[int] = []
    reuse = engine.slots._reuse
    engine.slots._reuse = lambda row: reused.append(reuse(row)) or reused[-1]  # type: ignore[method-assign]
    arrivals = sorted((rng.choice([0, rng.randint(0, 50)]), i) for i in range(len(chosen)))
    doomed = {i: rng.randint(0, 40) for i in range(len(chosen)) if rng.random() < 0.25}  # cancelled at this pass
    handles: dict[int, int] = {}
    seen: dict[int, list[Event]] = {}
    for number in range(2000):
        while arrivals and arrivals[0][0] <= number:
            i = arrivals.pop(0)[1]
            handles[engine.add(chosen[i][0])] = i
        for handle, i in handles.items():
            if doomed.get(i) == number:
                engine.cancel(handle)
        for event in engine.step():
            assert not any(before.finished for before in seen.get(event.request, []))
            seen.setdefault(event.request, []).append(event)
        assert engine.active <= options.max_rows
        assert budget is None or engine.backend.rows * engine.backend.capacity <= budget
        if not arrivals and not engine.busy:
            break
    assert len(seen) == len(chosen)
    whole = 0
    for handle, events in seen.items():
        request, edits, tokens, finish = chosen[handles[handle]]
        mine = [edit for event in events for edit in event.edits]
        assert events[-1].finished
        if events[-1].finish_reason == "cancelled":
            assert handles[handle] in doomed
            assert mine == edits[: len(mine)], request
        else:
            (done,) = collect([[replace(event, request=0) for event in events]], 1, WORDS.ends)
            assert (mine, done.tokens, done.finish) == (edits, tokens, finish), request
            whole += 1
    return whole, sum(length > 0 for length in reused)


@pytest.mark.untraced
@pytest.mark.slow
@pytest.mark.parametrize("how", ["float64", "lean"])
def test_no_text_depends_on_its_company(how):
    whole = reused = 0
    for seed in range(2):
        pool, rng = Pool(seed, 40, how), random.Random(seed)
        if how == "lean" and not lean_passes.prepared(pool.model).exact:
            pytest.skip("the kernels of this machine are not exact")
        for _ in range(50):
            written, again = mix(pool, rng)
            whole, reused = whole + written, reused + again
    assert whole > 375
    assert reused > 37


# --- coming and going -------------------------------------------------------------------------------------------------


SIX = Autoregressive(max_new_tokens=6, min_new_tokens=6)


def start(model, vocab, decoding=None, **options) -> Engine:
    return Engine(model, vocab, decoding or SIX, EngineOptions(**options), rectangles)


def ran(engine: Engine) -> Iterator[list[Event]]:
    for number, events in enumerate(engine.run()):
        assert number < 1000
        yield events


def test_a_request_joins_and_another_takes_the_room_of_a_cancelled_one(peaky, vocab):
    engine = start(peaky, vocab, max_rows=2)
    handles = [engine.add(Request((6, 7, 8))) for _ in range(3)]
    assert {event.request for event in engine.step()} == {0, 1}
    assert (engine.active, engine.waiting) == (2, 1)
    engine.cancel(handles[0])
    assert (engine.active, engine.waiting) == (1, 1)  # free at once
    events = engine.step()
    assert [(e.request, e.finish_reason, bool(e.edits)) for e in events if e.request == 0] == [(0, "cancelled", False)]
    assert {event.request for event in events} == {0, 1, 2}
    engine.cancel(handles[0])  # of no effect
    engine.cancel(engine.add(Request((6,))))  # while it waits
    found = dict(gather(ran(engine), vocab.ends))
    assert found[3].finish == "cancelled"
    assert engine.add(Request((6,))) == 4
    assert not engine.busy or engine.waiting


def test_a_large_request_is_not_overtaken_for_ever(peaky, vocab):
    """It waits until there is room, and small ones that came later wait behind it."""
    engine = start(peaky, vocab, max_rows=8, budget=60)
    small = [engine.add(Request((6, 7, 8, 9))) for _ in range(3)]  # 10 tokens each
    large = engine.add(Request((6,) * 44))  # 50 tokens: alone
    late = [engine.add(Request((7, 8, 9, 10))) for _ in range(3)]
    began: list[int] = []
    for events in ran(engine):
        began += [event.request for event in events if event.request not in began]
        assert engine.backend.rows * engine.backend.capacity <= 60
    assert began == [*small, large, *late]


def test_a_full_queue_and_a_request_that_never_fits_are_refused(peaky, vocab):
    engine = start(peaky, vocab, max_rows=1, max_waiting=1, budget=20)
    engine.add(Request((6,)))
    with pytest.raises(EngineFull, match="1 requests are waiting, which is the limit"):
        engine.add(Request((6,)))
    engine.step()
    engine.add(Request((6,)))
    with pytest.raises(UserError, match="the request needs 26 tokens, the engine's budget is 20"):
        engine.add(Request((6,) * 20))
    for options in ({"max_rows": 0}, {"budget": 0}, {"prefill_chunk": 0}, {"max_waiting": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            EngineOptions(**options)


def test_a_rule_that_fails_ends_its_own_request_alone(peaky, vocab):
    engine = start(peaky, vocab)

    def broken(handle: int, tokens: object) -> bool:
        raise UserError(f"the stop test of {handle}")

    engine.add(Request((6, 7, 8)))
    failing = engine.add(Request((6, 7, 8)), broken)
    with pytest.raises(UserError, match="the stop test of 1"):
        engine.step()
    assert engine.active == 1
    first = engine.step()
    assert [(e.request, e.finish_reason, e.forwards) for e in first] == [
        (0, None, 1),
        (failing, "failed", 1),
        (0, None, 2),
    ]
    done = dict(gather([first, *ran(engine)], vocab.ends))
    (alone,) = collect(BatchSampler(peaky, vocab, SIX).stream([Request((6, 7, 8))]), 1, vocab.ends)
    assert done[0].tokens == alone.tokens


def test_long_prompts_are_read_in_parts_while_others_are_written(peaky, vocab, watch):
    for decoding in (SIX, Block(max_new_tokens=6, block_size=4, threshold=1.0, min_new_tokens=6)):
        requests = [Request((6, 7, 8)), Request(tuple(range(6, 24)) * 2), Request((9,) * 11)]
        alone = collect(BatchSampler(peaky, vocab, decoding).stream(requests), 3, vocab.ends)
        engine = start(peaky, vocab, decoding, prefill_chunk=8)
        for request in requests:
            engine.add(request)
        seen = watch(peaky)
        events = list(ran(engine))
        seen.stop()
        done = collect(events, 3, vocab.ends)
        assert [one.tokens for one in done] == [one.tokens for one in alone]
        assert done[1].forwards > alone[1].forwards
        assert max(tokens.shape[1] for tokens in seen.tokens) <= 12  # 8, and the block that is written
        wrote = [{event.request for event in some if event.writes} for some in events]
        first = [min(number for number, who in enumerate(wrote) if request in who) for request in range(3)]
        assert first[0] == 0 < first[1] <= first[2]  # the oldest prompt is read first
        assert all(0 in who for who in wrote[:4])


@pytest.mark.parametrize(
    "decoding",
    [
        Autoregressive(max_new_tokens=9, min_new_tokens=9),
        Block(max_new_tokens=9, block_size=4, threshold=0.6, min_new_tokens=9),
        Block(max_new_tokens=9, block_size=4, threshold=0.5, edit_threshold=0.3),
    ],
)
def test_a_next_turn_reuses_what_was_computed(peaky, vocab, watch, decoding):
    engine = start(peaky, vocab, decoding, max_rows=2)
    first = Request(tuple(range(6, 18)))
    engine.add(first)
    (answer,) = (done for _, done in gather(ran(engine), vocab.ends))
    second = Request((*first.prompt, *answer.tokens, 20, 21, 22))
    other = Request((*first.prompt[:9], 23, 22, 21), seed=3)
    for request in (second, other):
        alone = collect(BatchSampler(peaky, vocab, decoding).stream([request]), 1, vocab.ends)[0]
        seen = watch(peaky)
        engine.add(request)
        ((_, done),) = gather(ran(engine), vocab.ends)
        seen.stop()
        assert (done.tokens, done.forwards, done.edits) == (alone.tokens, alone.forwards, alone.edits)
        held = 8 if request is other else len(first.prompt) + (len(answer.tokens) - 1) // 4 * 4 - 4
        block = decoding.block_size if isinstance(decoding, Block) else 1
        assert seen.tokens[0].shape[1] <= len(request.prompt) + block - held < len(request.prompt)


def test_prefixes_give_way_the_longest_unused_first(peaky, vocab, watch):
    engine = start(peaky, vocab, max_rows=3)
    prompts = [tuple(range(6 + i, 16 + i)) for i in range(4)]

    def first_width(prompt) -> int:
        seen = watch(peaky)
        engine.add(Request(prompt))
        list(ran(engine))
        seen.stop()
        return seen.tokens[0].shape[1]

    assert [first_width(prompt) for prompt in prompts[:3]] == [10, 10, 10]
    assert first_width(prompts[0]) == 1  # kept, and now used last, which drops the second for its own room
    assert first_width(prompts[3]) == 10
    assert first_width(prompts[0]) == 1
    assert first_width(prompts[1]) == 10
    engine = start(peaky, vocab, max_rows=3, keep_prefixes=False)
    assert [first_width(prompts[0]), first_width(prompts[0])] == [10, 10]


def test_prefixes_move_with_the_cache_when_rows_must_be_longer(peaky, vocab, watch):
    engine = start(peaky, vocab, max_rows=3, budget=60)
    first = Request(tuple(range(6, 18)))
    engine.add(first)
    ((_, done),) = gather(ran(engine), vocab.ends)
    assert (engine.backend.rows, engine.backend.capacity) == (3, 18)
    engine.add(Request((9,) * 22))
    engine.step()
    assert (engine.backend.rows, engine.backend.capacity) == (2, 28)
    again = Request((*first.prompt, *done.tokens, 20))
    alone = collect(BatchSampler(peaky, vocab, SIX).stream([again]), 1, vocab.ends)[0]
    seen = watch(peaky)
    handle = engine.add(again)
    found = dict(gather(ran(engine), vocab.ends))
    seen.stop()
    assert max(tokens.shape[1] for tokens in seen.tokens) == 2  # the last token of the answer, and the new one
    assert found[handle].tokens == alone.tokens


def test_kinds_of_rows_share_a_pass(peaky, vocab, watch):
    kinds = [
        Autoregressive(9),
        Diffusion(9, steps=3),
        Block(9, block_size=4, threshold=0.9),
        Diffusion(9, guidance=0.5),
    ]
    engine = start(peaky, vocab)
    for decoding in kinds:
        engine.add(Request((6, 7, 8), decoding=decoding))
    seen = watch(peaky)
    engine.step()
    seen.stop()
    assert [tokens.shape for tokens in seen.tokens] == [(4, 12), (1, 12)]  # and the guided one without its prompt


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_tell_the_text_and_what_is_final_stays(peaky, vocab):
    kinds = [
        Autoregressive(12),
        Diffusion(12, steps=5, min_new_tokens=12),
        Block(20, block_size=4, threshold=0.5, min_new_tokens=20),
        Block(20, block_size=4, threshold=0.5, edit_threshold=0.1, edit_blocks=1, min_new_tokens=20),
    ]
    for decoding in kinds:
        request = Request((6, 7, 8))
        steps = list(BatchSampler(peaky, vocab, decoding).stream([request]))
        text: list[int | None] = []
        final: list[bool] = []
        changed = 0
        for (event,) in steps:
            for edit in event.edits:
                end = edit.start + len(edit.removed)
                assert tuple(text[edit.start : end]) == edit.removed
                assert edit.removed == edit.inserted or not any(final[edit.start : end])
                changed += edit.removed != edit.inserted and None not in edit.removed and bool(edit.removed)
                text[edit.start : end], final[edit.start : end] = edit.inserted, [edit.final] * len(edit.inserted)
        (done,) = collect(steps, 1, vocab.ends)
        assert text[: len(done.tokens)] == done.tokens
        assert all(final[: len(done.tokens)])
        assert (changed > 0) == (isinstance(decoding, Block) and decoding.edits)
        assert changed == done.edits
        assert [event.forwards for (event,) in steps] == list(range(1, len(steps) + 1))


def test_a_trace_follows_inserting_and_deleting():
    trace = Trace()
    trace.apply(Event(0, (Edit(0, (), (None, 9, None), False), Edit(0, (None,), (7,), False)), 1))
    trace.apply(Event(0, (Edit(1, (), (8, 8), False), Edit(0, (7,), (6,), False)), 2))
    assert [cell.token for cell in trace.cells] == [6, 8, 8, 9, None]
    trace.apply(Event(0, (Edit(2, (8,), (), False), Edit(3, (None,), (5,), True), Edit(4, (), (3,), True)), 3, "stop"))
    done = trace.completion((3,), 1.0, 1.0)
    assert (done.tokens, done.order, done.draft) == ([6, 8, 5], [1, 1, 2], [7, 8, 5])  # 9 was given
    assert (done.edits, done.end, done.finish, done.reached) == (4, 3, "stop", 5)  # 8, 8 in, 7 to 6, 8 out
    with pytest.raises(ValueError, match="does not fit the text"):
        trace.apply(Event(0, (Edit(0, (7,), (8,), True),), 4))


def main(arguments: list[str]) -> int:
    """Run many mixes and say how many."""
    count, how = int(arguments[0]), arguments[1] if len(arguments) > 1 else "float64"
    torch.set_num_threads(1)
    begin, whole, reused, failed = time.time(), 0, 0, 0
    for number in range(count):
        if number % 200 == 0:
            pool, rng = Pool(number, 120, how), random.Random(number)
        try:
            written, again = mix(pool, rng)
            whole, reused = whole + written, reused + again
        except AssertionError as error:
            failed += 1
            print(f"mix {number}: {str(error)[:500]}", flush=True)
        if number % 1000 == 999:
            told = f"{whole} texts, {reused} with a reused prefix, {failed} failed"
            print(f"{number + 1} mixes, {told}, {time.time() - begin:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
