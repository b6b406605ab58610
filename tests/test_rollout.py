"""Drawn batches: a function of seed, step and weights; what of them is learnt, what is only seen, what is kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_llada.config.objectives import BoundScore, ExactScore, Policy, Rollouts
from nano_llada.core.batch import PolicyBatch, StepContext
from nano_llada.core.device import Machine
from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_prompt
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.decode.types import Request, collect
from nano_llada.language_model import make_sampler
from nano_llada.objectives.policy import PolicyLoss
from nano_llada.session.questions import Question, read_questions
from nano_llada.session.rollout import RolloutBatches, group_advantages
from tiny import read_lines, write_rows

KINDS = {"ar": ExactScore(), "whole": BoundScore(2), "blocks": BoundScore(2, 4)}
each_kind = pytest.mark.parametrize("score", KINDS.values(), ids=KINDS)
ROOM, EOS, END = 8, 0, 2
ASKED = [{"prompt": f"what is {i * 3} and {'x' * i}?", "response": str(i)} for i in range(6)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_characters(["what is 0123456789 x and user assistant system?!\n"])


@pytest.fixture(scope="module")
def random_model(make_model, tokenizer):
    model = make_model(seed=3, peak=12.0, vocab_size=tokenizer.vocab.size, max_length=64)
    with torch.no_grad():
        model.head.weight[[EOS, END]] *= 2  # now and then an answer ends early
    return model


def questions_of(rows, tokenizer, folder: Path, longest: int = 64) -> list[Question]:
    sources = resolve((str(write_rows(folder / "questions.jsonl", rows)),))
    return read_questions(sources, tokenizer, BadRows("stop"), longest)


def told(question: str, answer: str, row: Mapping[str, Any]) -> float:
    """A reward that tells answers apart."""
    return float(sum(answer.encode()) % 11)


@pytest.fixture
def make(random_model, tokenizer, tmp_path):
    """Batches of tiny questions, by default two groups of four answers; `folder` is where they are written down."""

    def start(
        score, *, model=None, rows=ASKED, folder="run", size=8, seed=0, reward=told, dtype=torch.float32, **options
    ) -> RolloutBatches:
        rollouts = Rollouts(**({"group_size": 4, "max_new_tokens": ROOM, "threshold": 0.5} | options))
        objective = PolicyLoss(Policy(score, rollouts))
        questions = questions_of(rows, tokenizer, tmp_path)
        (tmp_path / folder).mkdir(exist_ok=True)
        return RolloutBatches(
            lambda: random_model if model is None else model,
            tokenizer,
            objective,
            questions,
            reward,
            rows=size,
            seed=seed,
            folder=tmp_path / folder,
            machine=Machine(torch.device("cpu"), dtype, "test"),
        )

    return start


def same(left: PolicyBatch, right: PolicyBatch) -> bool:
    return all(torch.equal(value, getattr(right, name)) for name, value in vars(left).items())


def answers(batch: PolicyBatch) -> list[list[int]]:
    return [tokens[scored].tolist() for tokens, scored in zip(batch.tokens, batch.scored, strict=True)]


@each_kind
@pytest.mark.parametrize("reuse", [1, 2])
def test_a_batch_is_a_function_of_seed_step_and_weights(make, random_model, score, reuse):
    before = torch.get_rng_state()
    one, again = make(score, reuse=reuse), make(score, reuse=reuse, folder="again")
    batches = [one.batch(step) for step in range(3 * reuse)]
    assert same(again.batch(2 * reuse), batches[-1])  # whatever was drawn before, or nothing
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(batches[0], batches[reuse])
    assert not same(make(score, reuse=reuse, seed=1, folder="seed").batch(0), batches[0])
    other = copy.deepcopy(random_model)
    with torch.no_grad():
        other.head.weight.mul_(0.9)
    assert not same(make(score, reuse=reuse, model=other, folder="weights").batch(0), batches[0])
    if reuse > 1:
        assert all(same(batches[i], batches[i + 1]) for i in (0, 2, 4))


@each_kind
def test_a_question_asked_again_is_answered_anew(make, score):
    batches = make(score, rows=ASKED[:1], size=4)
    first, second = batches.batch(0), batches.batch(1)
    assert not set(map(tuple, answers(first))) & set(map(tuple, answers(second)))


@each_kind
def test_answers_in_a_group_differ_and_rewards_are_compared_in_it(make, score):
    batch = make(score).batch(0)
    for group in (answers(batch)[:4], answers(batch)[4:]):
        assert len({tuple(answer) for answer in group}) > 2
    assert torch.equal(batch.advantages, group_advantages(batch.rewards, 4))
    assert float(batch.advantages.view(2, 4).sum(1).abs().max()) < 1e-9
    assert batch.advantages.abs().max() > 1
    assert batch.rows.tolist() == list(range(8))


@each_kind
def test_answers_do_not_depend_on_the_other_questions_of_the_batch(make, score):
    one = make(score)
    first, second = (names[0] for names in (one.document_names(0)[0], one.document_names(0)[4]))
    rows = [row if i == second else {"prompt": f"is {'x' * (18 + i)}?", "response": "0"} for i, row in enumerate(ASKED)]
    other = make(score, rows=rows, folder="other")
    left, right = one.batch(0), other.batch(0)
    assert answers(left)[4:] == answers(right)[4:]
    assert left.rewards[4:].tolist() == right.rewards[4:].tolist()
    assert left.tokens.shape != right.tokens.shape
    assert one.questions[first] != other.questions[first]


@each_kind
def test_answers_are_drawn_without_dropout(make, make_model, random_model, tokenizer, score):
    shaky = make_model(vocab_size=tokenizer.vocab.size, max_length=64, dropout=0.5)
    shaky.load_state_dict(random_model.state_dict())
    shaky.train()
    assert same(make(score, model=shaky).batch(0), make(score, folder="firm").batch(0))


@pytest.mark.parametrize(("size", "steps"), [(4, 9), (10, 6), (16, 3)])
@pytest.mark.parametrize("reuse", [1, 2])
def test_every_question_is_asked_once_an_epoch(make, size, steps, reuse):
    batches = make(ExactScore(), size=size, group_size=2, reuse=reuse)
    names = [[numbers[0] for numbers in batches.document_names(step)] for step in range(steps * reuse)]
    assert all(row[0::2] == row[1::2] and len(row) == size for row in names)  # a group is about one question
    assert all(names[i] == names[i - i % reuse] for i in range(len(names)))
    places = [number for row in names[::reuse] for number in row[::2]]
    epochs = [places[first : first + 6] for first in range(0, len(places), 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert batches.rows_per_epoch == 6 * 2 * reuse  # rows that steps take until everything was asked once
    batch = batches.batch(0)
    for row, number in enumerate(names[0]):
        prompt = batches.questions[number].tokens
        assert tuple(batch.tokens[row, : len(prompt)].tolist()) == prompt
        assert not batch.scored[row, : len(prompt)].any()


@pytest.fixture
def scripted(make, table_model, tokenizer):
    """Batches of a model that writes certain tokens."""

    def start(score, wanted: list[int], **options) -> tuple[RolloutBatches, int]:
        first = len(make(score).questions[0].tokens)
        table = torch.zeros(64, tokenizer.vocab.size)
        left = first - 1 if isinstance(score, ExactScore) else first  # an AR model predicts the token that follows
        for place, token in enumerate(wanted):
            table[left + place, token] = 60.0
        return make(score, model=table_model(table), rows=ASKED[:1], size=4, **options), first

    return start


A, B, C = (300 - 20 + i for i in range(3))
WRITTEN = [
    ([A, B, END, C, C, C, C, C], [A, B, END]),
    ([A, B, EOS, C, C, C, C, C], [A, B, EOS]),  # what was written is learnt, not what should have been
    ([END, *[C] * 7], [END]),
    ([A] * 7 + [END], [A] * 7 + [END]),
    ([A, B] * 4, [A, B] * 4),  # no end: none is learnt
]


@each_kind
@pytest.mark.parametrize(("wanted", "learnt"), WRITTEN, ids=str)
def test_the_end_is_learnt_only_where_the_model_wrote_one(scripted, tokenizer, score, wanted, learnt):
    assert (tokenizer.vocab.eos, tokenizer.vocab.turn_end) == (EOS, END)
    seen = []
    batches, first = scripted(score, wanted, reward=lambda *said: float(len(seen.append(said) or "")))
    batch = batches.batch(0)
    assert answers(batch) == [learnt] * 4
    assert batch.scored.nonzero()[:, 1].view(4, -1).tolist() == [list(range(first, first + len(learnt)))] * 4
    text = tokenizer.decode([token for token in learnt if token not in (EOS, END)])
    assert seen == [("what is 0 and ?", text, ASKED[0])] * 4
    width = first + (len(learnt) if isinstance(score, ExactScore) else ROOM)
    assert batch.tokens.shape == (4, width)
    assert batch.tokens[:, first + len(learnt) :].unique().tolist() in ([], [EOS])  # the fill of a denoiser's row
    assert (batch.doc_ids == 0).all()
    assert torch.equal(batch.positions, torch.arange(width).expand(4, -1))


@each_kind
def test_fill_is_seen_and_padding_is_not(make, score):
    """A denoiser was shown as many places as it may write in; questions of another length are padded."""
    batches = make(score, size=24)
    batch = batches.batch(0)
    for row, (number,) in enumerate(batches.document_names(0)):
        begin = len(batches.questions[number].tokens)
        end = begin + (len(answers(batch)[row]) if isinstance(score, ExactScore) else ROOM)
        assert (batch.doc_ids[row, :end] == 0).all()
        assert (batch.doc_ids[row, end:] == -1).all()
        assert not batch.scored[row, end:].any()
        assert (batch.tokens[row, begin + len(answers(batch)[row]) :] == EOS).all()
    assert (batch.doc_ids == -1).any()
    assert len({len(answer) for answer in answers(batch)}) > 1


@pytest.mark.parametrize("edit_threshold", [None, 0.0])
def test_what_is_learnt_is_the_last_version_of_an_edited_answer(make, tokenizer, edit_threshold):
    batches = make(BoundScore(1, 4), size=24, threshold=0.0, edit_threshold=edit_threshold)
    sampler = make_sampler(batches.model, tokenizer.vocab, batches._decoding())
    done = collect(sampler.stream([Request(q.tokens) for q in batches.questions]), 6, sampler.ends)
    assert any(completion.edits for completion in done) == (edit_threshold is not None)
    texts: list[str] = []
    batches.reward = lambda question, answer, row: float(len(texts.append(answer) or answer))
    ends = (EOS, END)
    for answer, text in zip(answers(batches.batch(0)), texts, strict=True):
        assert tokenizer.decode([token for token in answer if token not in ends]) == text
        assert not set(answer[:-1]) & set(ends)
        assert len(answer) == ROOM or answer[-1] in ends


@pytest.mark.parametrize("score", [BoundScore(1), BoundScore(1, 64)], ids=["whole", "blocks"])
def test_certainty_of_the_likeliest_keeps_the_variety_of_drawing(scripted, tokenizer, score):
    """One token has six chances in ten, eight others share the rest: never certain, so tokens are written one by one.

    Judged by what was drawn, a place waits until the likely token comes up; judged by the likeliest, it does not.
    """
    batches, _ = scripted(score, [])
    table = torch.full((64, tokenizer.vocab.size), -60.0)
    table[:, A], table[:, A + 1 : A + 9] = math.log(0.6), math.log(0.05)
    batches.model.rule = lambda tokens, positions: table[positions]
    requests = [Request(batches.questions[0].tokens, seed=seed) for seed in range(32)]
    others = {}
    for certainty in ("chosen", "likeliest"):
        decoding = replace(batches._decoding(), certainty=certainty, threshold=0.9)
        assert batches._decoding().certainty == "likeliest"
        sampler = make_sampler(batches.model, tokenizer.vocab, decoding)
        done = [tuple(c.tokens) for c in collect(sampler.stream(requests), 32, sampler.ends)]
        others[certainty] = sum(token != A for tokens in done for token in tokens) / (32 * ROOM)
        assert (len(set(done)) > 24) == (certainty == "likeliest")
    assert others["likeliest"] == pytest.approx(0.4, abs=0.1)
    assert others["chosen"] < 0.12


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_used_again_remember_how_likely_they_were(make, random_model, tokenizer, score, dtype):
    """While the weights stand still the ratio stays 1, in the precision of training."""
    batches = make(score, reuse=3, dtype=dtype)
    assert not make(score, folder="once").batch(0).old_scores.any()
    batch = batches.batch(3)
    assert (batch.old_scores < -1).all()
    for step in (4, 5):
        ctx = StepContext(tokenizer.vocab, 0, step, 9, 8)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16), torch.no_grad():
            parts = [batches.objective.loss(random_model, batch.select(slice(i, i + 4)), ctx) for i in (0, 4)]
        for part in parts:
            assert float(part.metrics["ratio"][0]) == pytest.approx(4, abs=1e-5)


@each_kind
def test_answers_of_an_interrupted_set_are_read_again(make, random_model, score, tmp_path):
    whole = make(score, reuse=3)
    expected = [whole.batch(step) for step in (0, 3, 6)]
    other = copy.deepcopy(random_model)
    with torch.no_grad():
        other.head.weight.mul_(0.5)  # answers that it would draw now are others
    for step in (4, 5, 7):
        assert same(make(score, reuse=3, model=other).batch(step), expected[step // 3])
    path = tmp_path / "run" / "rollouts.jsonl"
    before = path.read_text(encoding="utf-8")
    path.write_text("\n".join(before.split("\n")[1:]), encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{path} has 7 answers of step 1, not 8: it cannot be resumed$"):
        make(score, reuse=3).batch(1)
    path.unlink()
    with pytest.raises(UserError, match=r"has 0 answers of step 4, not 8: it cannot be resumed$"):
        make(score, reuse=3).batch(5)


@each_kind
def test_answers_are_written_down(make, tokenizer, score, tmp_path):
    batches = make(score, reuse=2)
    drawn = [batches.batch(step) for step in range(4)]
    lines = read_lines(tmp_path / "run" / "rollouts.jsonl")
    assert [line["step"] for line in lines] == [1] * 8 + [3] * 8  # steps of the log, which counts from 1
    assert [line["question"] for line in lines] == [n for step in (0, 2) for (n,) in batches.document_names(step)]
    for line, (batch, row) in zip(lines, [(drawn[i], row) for i in (0, 2) for row in range(8)], strict=True):
        assert line["prompt"] == batches.questions[line["question"]].text
        assert line["tokens"] == answers(batch)[row]
        assert line["answer"] == tokenizer.decode(line["tokens"], specials=False)
        assert line["reward"] == told("", line["answer"], {}) == float(batch.rewards[row])
        assert line["advantage"] == float(batch.advantages[row])
        assert line["old_score"] == float(batch.old_scores[row])


def test_a_reward_that_fails_names_the_row(make, tmp_path):
    def failing(question: str, answer: str, row: Mapping[str, Any]) -> float:
        raise UserError("the reward failed")

    batches = make(ExactScore(), reward=failing)
    line = batches.document_names(0)[0][0] + 1
    with pytest.raises(UserError, match=rf"^{tmp_path}/questions.jsonl:{line}: the reward failed$"):
        batches.batch(0)


REWARD = st.integers(-(10**6), 10**6).map(lambda number: number / 1000)
REWARDS = st.integers(2, 5).flatmap(
    lambda size: st.lists(st.lists(REWARD, min_size=size, max_size=size), min_size=1, max_size=3)
)


@given(groups=REWARDS, scale=st.sampled_from([0.1, 3.0, 1e4]), shift=st.sampled_from([-5.5, 0.0, 7.0]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_advantages_have_mean_zero_and_deviation_one_in_every_group(groups, scale, shift):
    rewards = torch.tensor(groups, dtype=torch.float64)
    found = group_advantages(rewards.flatten(), rewards.shape[1]).view_as(rewards)
    for group, advantages in zip(rewards, found, strict=True):
        if len(set(group.tolist())) == 1:
            assert advantages.tolist() == [0.0] * len(group)
            continue
        assert float(advantages.mean()) == pytest.approx(0, abs=1e-6)
        assert float(advantages.std(correction=0)) == pytest.approx(1, abs=1e-6)
        assert torch.equal(advantages.argsort(stable=True), group.argsort(stable=True))
    other = group_advantages((scale * rewards + shift).flatten(), rewards.shape[1]).view_as(found)
    torch.testing.assert_close(other, found, rtol=1e-4, atol=1e-4)  # rewards in other units teach the same


@pytest.mark.parametrize("rewards", [[0.0] * 4, [0.1] * 6, [0.1] * 3, [-7e5] * 5, [1 / 3] * 7, [0.3, 0.1 + 0.2]])
def test_equal_rewards_teach_nothing(rewards):
    """Exactly nothing, also where the mean of equal numbers is another number."""
    found = group_advantages(torch.tensor([*rewards, *range(len(rewards))]).double(), len(rewards))
    assert found[: len(rewards)].tolist() == [0.0] * len(rewards)
    assert float(found[len(rewards) :].abs().max()) >= 1


CHAT = [("system", "be brief"), ("user", "what is x?"), ("assistant", "0"), ("user", "and 1?"), ("assistant", "no")]
TALK = {"messages": [{"role": role, "content": content} for role, content in CHAT], "name": "talk"}


def test_a_question_is_everything_before_the_last_answer(tokenizer, tmp_path):
    one, two = questions_of([TALK, ASKED[1]], tokenizer, tmp_path, 128)
    assert (one.text, two.text) == ("and 1?", ASKED[1]["prompt"])
    assert (one.row, two.row) == (TALK, ASKED[1])
    assert [question.where.line for question in (one, two)] == [1, 2]
    said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in CHAT[:-1])
    assert tokenizer.decode(one.tokens) == f"{said}<|im_start|>assistant\n"


def test_questions_that_are_too_long_are_left_out_with_a_word(tokenizer, tmp_path, capsys):
    rows = [*ASKED[:2], {"prompt": "x" * 50, "response": "1"}, *ASKED[2:]]
    lengths = [len(question.tokens) for question in questions_of(rows, tokenizer, tmp_path, 500)]
    assert capsys.readouterr().out == ""
    longest = max(length for i, length in enumerate(lengths) if i != 2)
    for limit, kept in ((longest, 6), (longest - 1, 5)):
        questions = questions_of(rows, tokenizer, tmp_path, limit)
        assert [len(question.tokens) for question in questions] == [length for length in lengths if length <= limit]
        assert len(questions) == kept
        assert f"{7 - kept} of 7 questions are longer than {limit} tokens and are left out" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^no questions of at most 5 tokens in .*questions.jsonl$"):
        questions_of(rows, tokenizer, tmp_path, 5)


def test_a_conversation_that_ends_with_the_user_is_the_question(tokenizer, tmp_path):
    """It was asked its first turn, and judged against the answer to its last."""
    said = [("user", "what is 3"), ("assistant", "3"), ("user", "and 6"), ("assistant", "6")]
    turns = [{"role": role, "content": content} for role, content in said]
    rows = [{"messages": turns[:3], "ground_truth": "6"}, {"messages": turns}, {"prompt": turns[:3], "answer": "6"}]
    rows.append({"history": [["what is 3", "3"]], "question": "and 6", "answer": "6"})
    wanted = tuple(encode_prompt(tokenizer, [Message(role, content) for role, content in said[:3]]))
    sources = resolve((str(write_rows(tmp_path / "asked.jsonl", rows)),))
    for question in read_questions(sources, tokenizer, BadRows("stop"), 200, verified=True):
        assert (question.text, question.tokens) == ("and 6", wanted)


def test_bad_rows_stop_or_are_skipped_and_counted(tokenizer, tmp_path):
    verifier = {"verifier": {"kind": "exact", "expected": ["1"], "count": 0}}
    good, unanswered = ASKED[1] | verifier, {"prompt": ASKED[1]["prompt"]}
    path = write_rows(tmp_path / "bad.jsonl", [good, unanswered, {"text": "x"}, good, good | {"verifier": {}}])
    sources = resolve((str(path),))
    with pytest.raises(UserError, match=rf"^{path}:3: no question \(messages, or one of "):
        read_questions(sources, tokenizer, BadRows("stop"), 64)
    with pytest.raises(UserError, match=rf"^{path}:2: no right answer: .*; or give a reward function with --reward"):
        read_questions(sources, tokenizer, BadRows("stop"), 64, verified=True)
    for verified, lines in ((False, [1, 2, 4, 5]), (True, [1, 4])):
        bad = BadRows("skip")
        found = read_questions(sources, tokenizer, bad, 64, verified=verified)
        assert [question.where.line for question in found] == lines
        assert bad.count == 5 - len(lines)
    write_rows(path, [{"text": "x"}])
    with pytest.raises(UserError, match=r"^no questions of at most 64 tokens in .*bad.jsonl\nbad rows skipped: 1\n"):
        read_questions(sources, tokenizer, BadRows("skip"), 64)
