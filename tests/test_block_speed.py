"""The speed of block decoding: the experiment from the ablation's models to its README, and both benchmarks."""

from __future__ import annotations

import functools
import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from experiments import block_speed, llada2_ablation
from experiments.block_speed import Exam, Round, answer_all, take_turns
from experiments.block_speed_report import as_right, ratio, summary, verdict
from experiments.options import BlockSpeed, Llada2Ablation

from nano_llada.config.data import DataConfig
from nano_llada.config.model import ModelConfig
from nano_llada.config.train import TrainConfig
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Completion, Request
from nano_llada.demo.run import held_out_questions
from nano_llada.evaluation.answers import exact_match
from nano_llada.session.observer import RunObserver
from nano_llada.session.run import BUNDLED_TOKENIZER
from nano_llada.world.files import write_world
from planted import wrote
from tiny import SHAPE, read_lines

pytestmark = pytest.mark.untraced  # experiments/ is not in the package whose coverage is measured

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"tokens_per_second", "tokens_per_second_ar", "exact_match", "exact_match_ar", "tpf", "threshold"}
KEYS |= {"block_size", "batch_size", "ratio_low", "ratio_high", "difference_low", "difference_high"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder in which the models are made once, tiny, a few steps each, by the first test that needs them."""
    root = tmp_path_factory.mktemp("speed")
    write_world(root / "models" / "world", documents_count=60, chats_count=60, skills=llada2_ablation.SKILLS, seed=0)
    return root


@pytest.fixture
def options(root, tmp_path, monkeypatch) -> BlockSpeed:
    steps = {"ar_steps": 1, "ar_sft_steps": 1, "pretrain_steps": 1, "sft_steps": 1}
    monkeypatch.setattr(block_speed, "Llada2Ablation", functools.partial(Llada2Ablation, **steps))
    monkeypatch.setattr(llada2_ablation, "ModelConfig", lambda **_: ModelConfig(**SHAPE))
    monkeypatch.setattr(llada2_ablation, "DataConfig", functools.partial(DataConfig, cache=root / "cache"))
    # after a few steps at the real rate a tiny model answers everything with an end, which has no speed
    slowly = lambda **given: TrainConfig(**given | {"learning_rate": 1e-6})  # noqa: E731
    monkeypatch.setattr(llada2_ablation, "TrainConfig", slowly)
    monkeypatch.setattr(block_speed, "SIZES", (8, 4))
    monkeypatch.setattr(block_speed, "THRESHOLDS", (0.0, 0.9))
    monkeypatch.setattr(block_speed, "BATCH_SIZES", (1, 5))
    folders = {"models": root / "models", "runs": root / "runs", "docs": tmp_path / "docs"}
    return BlockSpeed(**folders, steps=2, ar_steps=3, items=1, repeats=2, threads=1)


def test_from_the_ablations_models_to_a_readme(options, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.config.name == "blocks")
        assert block_speed.run(options) is False
    assert block_speed.run(replace(options, train_only=True)) is True
    assert not options.docs.exists()
    assert block_speed.run(options) is True
    folder = options.docs / "block-speed"
    rows = read_lines(folder / "results.jsonl")
    wanted = [(batch, size, threshold) for batch in (1, 5) for size in (4, 8) for threshold in (0.0, 0.9)]
    metrics = [row["metrics"] for row in rows]
    assert [(m["batch_size"], m["block_size"], m["threshold"]) for m in metrics] == wanted
    assert [row["variant"] for row in rows[:2]] == ["block-4-threshold-0-batch-1", "block-4-threshold-0.9-batch-1"]
    assert len({row["variant"] for row in rows}) == len(rows)
    for row, found in zip(rows, metrics, strict=True):
        assert found.keys() == KEYS
        assert (row["experiment"], row["seed"]) == ("block-speed", 0)
        difference = found["exact_match"] - found["exact_match_ar"]
        assert found["difference_low"] <= difference + 1e-9
        assert difference - 1e-9 <= found["difference_high"]
        assert 0 < found["ratio_low"] <= ratio(found) <= found["ratio_high"]
        assert found["tpf"] <= found["block_size"]
        assert "--steps 2 --ar-steps 3 --items 1 --repeats 2 --threads 1" in row["command"]
    assert all(m["tpf"] > 1 for m in metrics if m["threshold"] == 0.0)  # a block a pass
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "the same 12 held-out questions" in text
    assert "fine-tuned for 3 steps more, and its model with blocks of 32, for 2 more" in text
    assert text.count("\n| 8 | 0.9 | ") == 2
    for batch in (1, 5):
        told = summary([m for m in metrics if m["batch_size"] == batch])
        assert f"## Batch size {batch}\n\n{told}\n" in text
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")

    (folder / "README.md").unlink()
    monkeypatch.setattr(block_speed, "take_turns", None)  # nothing is measured again
    assert block_speed.run(options) is True
    assert (folder / "README.md").read_text(encoding="utf-8") == text


def test_each_track_gets_its_own_steps_and_every_size_its_turn(options):
    autoregressive, in_blocks = block_speed.stages(replace(options, steps=12, ar_steps=5))
    assert [stage.name for stage in autoregressive] == ["ar", "ar-sft", "ar"]
    assert autoregressive[:2] == in_blocks[:2]
    ar, (*_, tuned, first, large, small) = autoregressive[-1], in_blocks
    starts = [stage.init_from for stage in (ar, first, large, small)]
    assert starts == [autoregressive[1].folder, tuned.folder, first.folder, first.folder]
    assert [stage.train.steps for stage in (ar, first, large, small)] == [5, 12, 2, 2]
    assert [stage.objective.block_size for stage in (tuned, first, large, small)] == [32, 32, 8, 4]
    assert replace(first.objective, blocks=small.objective.blocks) == small.objective
    assert len({stage.folder for stage in (*autoregressive, *in_blocks)}) == 8


def test_options_that_cannot_be(options, monkeypatch):
    with pytest.raises(UserError, match="repeats must be at least 1, got 0"):
        block_speed.run(replace(options, repeats=0))
    silent = Round([Completion([], "stop", 1, 0.1, 0.1)], 0.1)
    monkeypatch.setattr(block_speed, "take_turns", lambda *_: [(silent, silent)])
    with pytest.raises(UserError, match=r"runs/ar.* answers every question with nothing"):
        block_speed.run(options)


def test_exact_match_is_that_of_the_question_and_prompts_are_in_order_of_length():
    tokenizer = Tokenizer.load(BUNDLED_TOKENIZER)
    exam = Exam.of(tokenizer, held_out_questions(("copy", "reading"), 2))
    lengths = [len(request.prompt) for request in exam.requests]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 1
    right = [Completion(tokenizer.encode(q.answer), "stop", 1, 0.1, 0.1) for q in exam.questions]
    assert exact_match(exam.answers(right)) == 1.0
    assert exact_match(exam.answers([Completion([], "stop", 1, 0.1, 0.1), *right[1:]])) == 7 / 8


class Parrot:
    """Writes the prompt's first token, as often as that says and two a pass, and an end; remembers who was asked."""

    ends = (0,)

    def __init__(self, name: str, asked: list[tuple[str, int]]) -> None:
        self.name, self.asked = name, asked

    def stream(self, requests, stop=None):
        self.asked.append((self.name, len(requests)))
        for place in range(0, 8, 2):
            events = []
            for number, request in enumerate(requests):
                tokens = [request.prompt[0] if p < request.prompt[0] else 0 for p in (place, place + 1)]
                if place <= request.prompt[0]:
                    passes = place // 2 + 1
                    events.append(wrote(number, (place, place + 1), tokens, last=0 in tokens, forwards=passes))
            yield events


def test_decoders_take_turns_and_tokens_count_up_to_the_end():
    asked: list[tuple[str, int]] = []
    requests = [Request((length,)) for length in (1, 2, 3)]
    rounds = take_turns(Parrot("ar", asked), Parrot("block", asked), requests, 2, 2)
    once = [("ar", 2), ("ar", 1), ("block", 2), ("block", 1)]
    assert asked == [("ar", 2), ("block", 2), *once, *once]
    assert len(rounds) == 2
    for found in (one for pair in rounds for one in pair):
        assert [completion.tokens for completion in found.completions] == [[1], [2, 2], [3, 3, 3]]
        assert found.tokens_per_forward == 6 / (1 + 2 + 2)
        assert found.rate == 6 / found.seconds
    assert sum(c.seconds for c in answer_all(Parrot("ar", asked), requests, 1).completions) > 0


def metrics(speed: float, low: float, high: float, right: float) -> dict[str, float]:
    """Of one setting, with an AR decoder of 100 tokens/s that is right 9 times in 10."""
    found = {"tokens_per_second": 100 * speed, "tokens_per_second_ar": 100.0, "ratio_low": low, "ratio_high": high}
    sizes = {"block_size": 8, "threshold": 0.9, "batch_size": 1, "tpf": 2.0}
    return found | sizes | {"exact_match": right, "exact_match_ar": 0.9}


WINS, WRONG = metrics(1.5, 1.2, 1.6, 0.89), metrics(2.0, 1.9, 2.1, 0.88)
SLOWER, UNDECIDED = metrics(0.8, 0.7, 0.9, 0.95), metrics(1.1, 0.9, 1.2, 0.9)


def test_a_setting_wins_if_it_is_faster_and_loses_a_point_at_most():
    assert [as_right(m) for m in (WINS, WRONG, SLOWER, UNDECIDED)] == [True, False, True, True]
    assert verdict(WINS) == "**wins by 50%**"
    assert verdict(WRONG) == "faster, but less often right"
    assert verdict(SLOWER) == "slower"
    assert verdict(UNDECIDED) == "no difference in speed"


def test_the_summary_says_who_wins_or_that_nobody_does():
    told = summary([WRONG, WINS, SLOWER, metrics(1.2, 1.1, 1.3, 0.9)])
    assert told.startswith("2 of 4 settings win; the fastest is block size 8 at threshold 0.9: 1.50 (1.20-1.60) times")
    assert "exact match 89.0% against 90.0%" in told
    told = summary([WRONG, SLOWER, UNDECIDED])
    assert told.startswith("None of 3 settings wins. The fastest that is right as often as AR is block size 8")
    assert "1.10 (0.90-1.20) times" in told
    assert summary([WRONG]).startswith(
        "None of 1 settings wins, nor is one right as often as AR; the rightest is block"
    )


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_the_benchmark_of_decoding_compares_caches_at_equal_passes(benchmark, tmp_path, capsys):
    out = tmp_path / "results.jsonl"
    words = "--shape tiny --batch-sizes 1 2 --thresholds 1 0 --forwards 4 --repeats 2 --threads 1 --out"
    benchmark("block_decoding").main([*words.split(), str(out)])
    rows = read_lines(out)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    editing = [row for row in rows if row["benchmark"] == "block-editing"]
    assert [row["batch_size"] for row in editing] == [1, 2]
    for row in editing:
        assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["edits"] > 0  # otherwise nothing of what editing costs is measured
    rows = [row for row in rows if row not in editing]
    for batch in (1, 2):
        mine = [row for row in rows if row["batch_size"] == batch]
        block = [(row.get("threshold"), row.get("steps"), row["cache"], row["forwards"]) for row in mine]
        assert block == [
            (1.0, None, "none", 8),
            (1.0, None, "exact", 8),
            (0.0, None, "none", 2),
            (0.0, None, "exact", 2),
            (None, 4, "none", 4),
            (None, 4, "prefix", 4),
            (None, 4, "dual", 4),
        ]
    for row in rows:
        assert row["tokens_per_second"] > 0
        assert row["ar_tokens_per_second"] > 0
        assert 0 < row["ratio_ar_low"] <= row["ratio_ar"] <= row["ratio_ar_high"]
        assert ("ratio" in row) == (row["cache"] != "none")


def test_a_cache_that_writes_other_tokens_is_caught(benchmark):
    check = benchmark("block_decoding").check
    one, other = Completion([7, 8], "length", 2, 0.1, 0.1), Completion([7, 9], "length", 2, 0.1, 0.1)
    check({"ar": [one], "none": [one], "exact": [one]}, 2)
    check({"ar": [one], "none": [one], "dual": [other]}, 2)  # an approximate cache may
    with pytest.raises(AssertionError, match="exact cache wrote other tokens"):
        check({"ar": [one], "none": [one], "exact": [other]}, 2)
    with pytest.raises(AssertionError, match="other numbers of passes"):
        check({"none": [one], "dual": [replace(one, forwards=1)]}, 2)
    with pytest.raises(AssertionError, match="ar did not write 3"):
        check({"ar": [one]}, 3)


def test_the_benchmark_of_training_counts_the_positions_of_every_objective(benchmark, tmp_path):
    training, out = benchmark("block_training"), tmp_path / "results.jsonl"
    training.main(["--shapes", "tiny", "--repeats", "2", "--no-memory", "--threads", "1", "--out", str(out)])
    rows = {row["objective"]: row for row in read_lines(out)}
    assert rows.keys() == training.OBJECTIVES.keys()
    tokens = 2 * 96
    positions = {name: row["positions"] // tokens for name, row in rows.items()}
    streams = dict.fromkeys(training.OBJECTIVES, 2) | {"ar": 1, "mdlm": 1, "bdlm-32-complementary": 4}
    assert positions == streams
    for name, row in rows.items():
        assert row["tokens"] == tokens
        assert row["seconds_per_step"] > 0
        assert name == "ar" or 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


def test_peak_memory_is_a_row_of_its_own(benchmark, tmp_path):
    benchmark("block_training").memory(tmp_path / "results.jsonl", 1, "tiny", "bdlm-4")
    (row,) = read_lines(tmp_path / "results.jsonl")
    assert (row["benchmark"], row["objective"]) == ("block-training-memory", "bdlm-4")
    assert row["peak_gb"] > 0.05


def test_made_up_rows_are_packed_documents(benchmark, vocab):
    batch = benchmark("block_training").Rows(96, 3, vocab).batch(5)
    assert int(batch.doc_ids.min()) == 0
    assert int(batch.doc_ids[:, -1].min()) > 0  # several in each row
    begins = batch.positions == 0
    assert bool((begins[:, 1:] == (batch.doc_ids[:, 1:] != batch.doc_ids[:, :-1])).all())
    assert 4 <= int(batch.tokens.min()) <= int(batch.tokens.max()) < vocab.size
