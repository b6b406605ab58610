"""The experiments of LLaDA 2.0 from a small world to their READMEs: the ablation, and preference optimisation."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from experiments import dpo, dpo_measure, dpo_report, llada2_ablation
from experiments.grid import Result
from experiments.llada2_ablation import SKILLS
from experiments.llada2_report import verdict, write_report
from experiments.options import Dpo, Llada2Ablation

from nano_llada.checkpoint.files import find_checkpoint, load_checkpoint
from nano_llada.config.data import DataConfig
from nano_llada.config.decoding import Autoregressive, Block, Diffusion
from nano_llada.config.model import ModelConfig
from nano_llada.core.batch import TokenBatch
from nano_llada.core.errors import UserError
from nano_llada.evaluation import suite
from nano_llada.evaluation.record import Record, read_records
from nano_llada.session.observer import RunObserver
from nano_llada.session.run import complete
from nano_llada.world.files import write_preferences, write_world
from tiny import SHAPE, read_lines, write_rows

pytestmark = pytest.mark.untraced  # experiments/ is not in the package whose coverage is measured

CURVES = ("wsd", "direct", "mdlm", "bdlm-4", "bdlm-32")
VARIANTS = tuple(v for v in llada2_ablation.VARIANTS if v.name in (*CURVES, "best", "merged", "complementary"))
STEPS = {"ar_steps": 1, "ar_sft_steps": 1, "pretrain_steps": 1, "sft_steps": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a small world and pairs, in which each model is made once, by the first test that needs it."""
    root = tmp_path_factory.mktemp("llada2")
    write_world(root / "models" / "world", documents_count=60, chats_count=60, skills=SKILLS, seed=0)
    write_preferences(root / "models" / "world", count=60, skills=SKILLS, seed=1)
    return root


@pytest.fixture(autouse=True)
def tiny_models(root, monkeypatch):
    monkeypatch.setattr(llada2_ablation, "ModelConfig", lambda **_: ModelConfig(**SHAPE))
    for module in (llada2_ablation, dpo):
        monkeypatch.setattr(module, "DataConfig", functools.partial(DataConfig, cache=root / "cache"))
    monkeypatch.setattr(llada2_ablation, "VARIANTS", VARIANTS)
    monkeypatch.setattr(dpo, "Llada2Ablation", functools.partial(Llada2Ablation, **STEPS))


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def ablation(root, tmp_path) -> Llada2Ablation:
    return Llada2Ablation(runs=root / "models", docs=tmp_path / "docs", seeds=(0,), items=1, threads=1, **STEPS)


# --- the ablation -----------------------------------------------------------------------------------------------------


def test_the_ablation_from_nothing_to_its_readme(ablation, monkeypatch):
    folder = ablation.docs / "llada2-ablation"
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.config.name.startswith("sft-row-32"))
        assert llada2_ablation.run(ablation) is False
    assert [row["variant"] for row in read_lines(folder / "results.jsonl")] == ["wsd"]
    assert llada2_ablation.run(ablation) is True
    rows = read_lines(folder / "results.jsonl")
    assert [(row["variant"], row["seed"]) for row in rows] == [(variant.name, 0) for variant in VARIANTS]
    for row in rows:
        m = row["metrics"]
        assert m["questions"] == 12
        assert m["bits_per_byte"] > 0
        assert m.keys() >= {f"exact_match_{what}" for what in (*SKILLS, "zh", "en")}
    one = {row["variant"]: row["metrics"]["bits_per_byte"] for row in rows}
    assert one["wsd"] == one["best"] == one["merged"] == one["complementary"]  # one pretraining
    assert one["direct"] == one["mdlm"]
    assert len(set(one.values())) == 4
    runs = {path.name for path in (ablation.runs / "seed-0").iterdir()} - {"answers"}
    assert runs == {stage.name for v in VARIANTS for stage in llada2_ablation.stages(ablation, v, 0)}
    for row in rows:
        kept = list(read_records(ablation.runs / "seed-0" / "answers" / f"{row['variant']}-1.jsonl"))
        assert sum(record.values["right"] for record in kept) / len(kept) == row["metrics"]["exact_match"]
    assert "- **complementary** against wsd: exact match " in text_of(folder)
    assert "**cap-2** cannot be compared" in text_of(folder)  # it is none of the test's variants
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"| {variant.name} | 1 | " in text for variant in VARIANTS)
    for name in ("curves.png", "frontier.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(llada2_ablation, "_measure", None)  # nothing is measured again
    assert llada2_ablation.run(ablation) is True


def test_variants_ask_for_one_change_each_and_equal_tokens(ablation):
    plans = {v.name: llada2_ablation.stages(ablation, v, 0) for v in VARIANTS}
    assert all(plan[:2] == plans["wsd"][:2] for plan in plans.values())
    assert plans["best"] == plans["merged"] == plans["wsd"]
    assert plans["complementary"][:3] == plans["wsd"][:3]
    twins = plans["complementary"][3]
    assert twins.objective.corruption.complementary
    assert 2 * twins.train.batch_size == plans["wsd"][3].train.batch_size
    assert [plan[2].objective.blocks.block_size for plan in plans.values()] == [32, None, 32, 32, 32, None, 4, 32]
    assert plans["direct"][3].objective == plans["wsd"][3].objective
    assert plans["mdlm"][3].objective.block_size is None


def test_the_last_the_best_and_the_merged_weights_are_told_apart(tmp_path):
    for name in ("step-000001", "step-000002", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": "step-000001"}), encoding="utf-8")
    chosen = {use: llada2_ablation._chosen(tmp_path, use).name for use in ("last", "best", "merged")}
    assert chosen == {"last": "step-000002", "best": "step-000001", "merged": "merged"}


def test_the_report_of_models_that_answer_rightly(tmp_path):
    m = {"exact_match": 0.5, "questions": 480, "tpf": 2.0, "bits_per_byte": 1.5}
    results = [Result("llada2-ablation", "wsd", seed, "", "", "command", m) for seed in (0, 1)]
    write_report(results, tmp_path, {"wsd": [{"step": 1, "loss": 1.0}]}, [])
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| wsd | 2 | 50.0% [46.8%, 53.2%] | 50.0%, 50.0% | 2.000 | 1.500 |" in text


def answered(variant: str, seed: int, right: int, of: int = 40) -> list[Record]:
    """Answers to some questions in both languages, the first of which are right, in two passes of 3 tokens each."""
    return [
        Record(
            variant, "", "generation", "copy", language, str(i), {"right": i < right, "tokens": 6, "forwards": 2}, seed
        )
        for i in range(of)
        for language in ("zh", "en")
    ]


@pytest.mark.parametrize(
    ("rights", "word"),
    [
        ((32, 34), "it helps"),
        ((8, 12), "it hurts"),
        ((21, 20), "no difference shown"),
        ((36, 19), "no difference shown"),  # sure enough, but one seed says otherwise
    ],
)
def test_the_report_says_in_words_what_helps(rights, word):
    records = [record for seed in (0, 1, 2) for record in answered("wsd", seed, 20)]
    ours = [record for seed, right in enumerate(rights) for record in answered("x", seed, right)]
    told = verdict([*records, *ours], "wsd", "x")
    assert f"**{word}**" in told
    assert f"{100 * (sum(rights) / 80 - 0.5):+.1f} points" in told
    assert f"(seeds {', '.join(f'{100 * (right / 40 - 0.5):+.1f}' for right in rights)})" in told
    assert "TPF +0.00 [+0.00, +0.00], p = 1.000" in told
    assert "no seed has both" in verdict(records, "wsd", "x")


# --- preference optimisation ------------------------------------------------------------------------------------------


@pytest.fixture
def options(root, tmp_path, monkeypatch) -> Dpo:
    monkeypatch.setattr(dpo_measure, "MEASURED_PAIRS", 2)
    for module in (dpo, dpo_measure):
        monkeypatch.setattr(module, "WATCHED_PAIRS", 2)
    monkeypatch.setattr(dpo_measure, "GRADIENTS", 3)
    folders = {"models": root / "models", "runs": tmp_path / "runs", "docs": tmp_path / "docs"}
    return Dpo(**folders, steps=2, own_steps=1, items=1, threads=1)


def test_dpo_of_both_tracks_on_the_world_and_on_pairs_of_ones_own(options, root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "wants_stop", lambda observer: observer.config.name == "diffusion-world")
        assert dpo.run(options) is False
    assert [row["variant"] for row in read_lines(options.docs / "dpo" / "results.jsonl")] == ["ar"]
    plan = llada2_ablation.stages(Llada2Ablation(runs=root / "models", **STEPS), VARIANTS[0], 0)
    pairs = [{"prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"no {i + 1}"} for i in range(12)]
    own = {"data": write_rows(root / "pairs.jsonl", pairs), "validation": write_rows(root / "held.jsonl", pairs[:4])}
    own |= {"own_ar": plan[1].folder, "own_diffusion": plan[3].folder, "own_draws": 3, "own_limit": 2}
    asked = [{"question": f"{i}?", "answer": "no way"} for i in range(4)]
    several = [{"question": f"{i}?", "choices": ["a", "b"], "answer": 0} for i in range(4)]
    own |= {"own_questions": (str(write_rows(root / "exam.jsonl", asked)),)}
    own |= {"own_choices": (str(write_rows(root / "several.jsonl", several)),)}
    assert dpo.run(replace(options, **own)) is True
    rows = {row["variant"]: row["metrics"] for row in read_lines(options.docs / "dpo" / "results.jsonl")}
    assert list(rows) == ["ar", "diffusion", "ar-own", "diffusion-own"]
    for name, m in rows.items():
        assert m["reward_accuracy_before"] == 0.5
        assert 0 <= m["reward_accuracy_after"] <= 1
        assert all(0 <= m[f"exact_match_{when}"] <= 1 for when in ("before", "after"))
        exam = {f"choices_{when}": m.get(f"choices_{when}") for when in ("before", "after")}
        assert set(exam.values()) <= ({0.0, 0.5, 1.0} if name.endswith("own") else {None})
        assert [step for step, _ in m["curve"]] == ([0, 1] if name.endswith("own") else [0, 1, 2])
        assert m["pairs"] == 2
        assert m["whole_accuracy_after"] in ({0.0, 0.5, 1.0} if name.endswith("own") else {m["reward_accuracy_after"]})
        assert m["length_accuracy"] == (0.5 if name.endswith("own") else pytest.approx(m["length_accuracy"]))
        noisy = name.startswith("diffusion")
        assert (m["score_variance_shared"] > 0) == noisy
        assert m["score_variance_independent"] >= m["score_variance_shared"]
        assert ("gradient_variance_shared" in m) == noisy
    commands = [row["command"] for row in read_lines(options.docs / "dpo" / "results.jsonl")]
    assert "--steps 2 --learning-rate 2e-05 --draws 2 --items 1" in commands[0]
    own = "--data pairs.jsonl --validation held.jsonl --own-ar ar-sft --own-diffusion "
    assert own in commands[2]
    assert "--own-steps 1 --own-learning-rate 0.0001 --own-diffusion-learning-rate 3e-05 --own-draws 3" in commands[2]
    assert commands[2].endswith("--own-questions exam.jsonl --own-choices several.jsonl --own-limit 2")
    runs = ("ar-world", "diffusion-world", "ar-own", "diffusion-own")
    configs = [json.loads((options.runs / name / "config.json").read_text(encoding="utf-8")) for name in runs]
    starts = [config["init_from"] for config in configs]
    scales = [(config["objective"]["beta"], config["objective"]["length_normalised"]) for config in configs]
    assert scales == [(0.1, False), (0.1, False), (3.0, True), (3.0, True)]
    wanted = [(2, 2e-5), (2, 2e-5), (1, 1e-4), (1, 3e-5)]
    assert [(config["train"]["steps"], config["train"]["learning_rate"]) for config in configs] == wanted
    assert [Path(start) for start in starts] == [plan[1].folder, plan[3].folder] * 2
    text = (options.docs / "dpo" / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} | 0.500 | " in text for name in rows)
    assert all((options.docs / "dpo" / name).read_bytes().startswith(b"\x89PNG") for name in ("curves.png", "own.png"))


def test_a_plot_is_kept_whose_lines_hold_no_curve(tmp_path):
    old = Result("dpo", "ar", 0, "abc", "cpu", "command", {"reward_accuracy_before": 0.5, "reward_accuracy_after": 0.9})
    (tmp_path / "curves.png").write_bytes(b"drawn before")
    dpo_report.write_report([old], tmp_path)
    assert (tmp_path / "curves.png").read_bytes() == b"drawn before"
    assert "| ar | 0.500 | 0.900 |" in text_of(tmp_path)
    assert "curves.png" in text_of(tmp_path)
    dpo_report.write_report([old], tmp_path / "new")
    assert "png" not in text_of(tmp_path / "new")  # there is nothing to draw
    new = replace(old, variant="diffusion", metrics={**old.metrics, "curve": [(0, 0.5), (2, 0.8)]})
    dpo_report.write_report([old, new], tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_whose_answer_is_longer_does_not_depend_on_the_fill():
    tokens = torch.tensor([[9, 5, 5, 5, 0, 0], [9, 5, 2, 0, 0, 0], [9, 5, 0, 0, 0, 0], [9, 5, 5, 0, 0, 0]] * 2)
    tokens[6:, 3:5] = 5  # of the last pair the worse answer
    scored = torch.ones_like(tokens, dtype=torch.bool)
    scored[:, 0] = False  # the prompt
    batch = TokenBatch(tokens, scored, torch.zeros_like(tokens), torch.zeros_like(tokens), torch.arange(8))
    assert dpo_measure.length_accuracy([batch], eos=0) == 0.5  # longer, shorter, longer, shorter...
    equal = batch.select(slice(4, 5)), batch.select(slice(4, 5))
    pair = TokenBatch(*(torch.cat([getattr(one, name) for one in equal]) for name in vars(batch)))
    assert dpo_measure.length_accuracy([pair, batch.select(slice(0, 2))], eos=0) == 0.75


def test_the_variance_of_gradients_is_measured_without_the_noise_of_their_mean(monkeypatch):
    class Planted:
        def __init__(self, noise: float, signal: float) -> None:
            self.noise, self.signal, self.rng = noise, signal, torch.Generator().manual_seed(0)

        def loss(self, model, batch, ctx):
            wanted = self.signal + self.noise * torch.randn(model.weight.shape, generator=self.rng)
            return SimpleNamespace(total=(model.weight * wanted).sum(), count=torch.tensor(1.0))

    model = torch.nn.Linear(100, 50, bias=False)
    point = SimpleNamespace(model=model, tokenizer=SimpleNamespace(vocab=None))
    batch = SimpleNamespace(tokens=torch.zeros(2, 2))
    monkeypatch.setattr(dpo_measure, "GRADIENTS", 12)
    measured = [dpo_measure.gradient_variance(Planted(noise, 1.0), point, point, batch) for noise in (0.0, 1.0, 3.0)]
    assert measured == pytest.approx([0.0, 1.0, 9.0], rel=0.2)


def test_pairs_of_ones_own_need_models_and_pairs_held_out(options, tmp_path, monkeypatch):
    monkeypatch.setattr(dpo, "_small_world_models", lambda *_: None)
    assert dpo.run(options) is False
    with pytest.raises(UserError, match="--data needs --validation, --own-ar and --own-diffusion"):
        dpo.run(replace(options, data=tmp_path / "pairs.jsonl"))


def made(root: Path, number: int) -> Path:
    """The run of the first variant's stage, finished."""
    plan = llada2_ablation.stages(Llada2Ablation(runs=root / "models", threads=1, **STEPS), VARIANTS[0], 0)
    for stage in plan[: number + 1]:
        assert complete([stage])
    return plan[number].folder


def decodings_of(folder: Path, monkeypatch) -> list[object]:
    asked, make = [], suite.make_sampler
    monkeypatch.setattr(suite, "make_sampler", lambda *words: asked.append(words[-1]) or make(*words))
    llada2_ablation.answers(load_checkpoint(folder), Llada2Ablation(items=1))
    return asked


def test_models_are_measured_in_the_blocks_that_they_were_trained_in(root, ablation, monkeypatch):
    tuned = made(root, 3)
    assert find_checkpoint(tuned, "last").name == "step-000002"
    assert decodings_of(tuned, monkeypatch) == [Block(16, block_size=32, threshold=0.95)]


def test_an_ar_model_is_measured_by_writing_left_to_right(root, ablation, monkeypatch):
    (decoding,) = decodings_of(made(root, 1), monkeypatch)
    assert not isinstance(decoding, Diffusion)
    assert isinstance(decoding, Autoregressive)
