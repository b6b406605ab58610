"""The Python API, used as somebody in a notebook or a script would."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import nano_llada
from nano_llada.core.random import generator
from tiny import family, read_lines, tiny_run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return family(tmp_path_factory.getbasetemp())


def load(done, name: str) -> nano_llada.LanguageModel:
    return nano_llada.load(done.runs / name)


def test_importing_loads_nothing():
    code = "import sys, nano_llada; dir(nano_llada); print('torch' in sys.modules, nano_llada.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", nano_llada.__version__]


def test_every_public_name_is_there_and_no_other():
    assert all(getattr(nano_llada, name) is not None for name in nano_llada.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        nano_llada.lode  # noqa: B018


@pytest.mark.parametrize("kind", [str, Path])
def test_strings_and_paths_both_work(done, kind):
    model = nano_llada.load(kind(done.runs / "ar-sft"))
    assert isinstance(model.model, torch.nn.Module)
    assert model.tokenizer.decode(model.tokenizer.encode("Tom has")) == "Tom has"
    assert (model.card.track, model.card.stage) == ("ar", "sft")
    assert "ar-sft" in repr(model)


def test_one_prompt_gives_a_text_and_several_give_a_list(done):
    model = load(done, "diffusion-sft")
    alone = [model.generate(prompt, max_new_tokens=8) for prompt in ("What has Tom?", "1加1?")]
    together = model.generate(["What has Tom?", "1加1?"], max_new_tokens=8)
    assert [(one.text, one.forwards) for one in alone] == [(one.text, one.forwards) for one in together]
    assert str(alone[0]) == alone[0].text
    assert alone[0].tokens_per_forward == alone[0].tokens / alone[0].forwards


def test_options_a_model_does_not_have_are_refused_by_name(done):
    with pytest.raises(nano_llada.UserError, match="threshold"):
        load(done, "ar-sft").generate("Tom", threshold=0.9)
    with pytest.raises(nano_llada.UserError, match="temperature"):
        load(done, "ar-sft").generate("Tom", temprature=0.9)


def test_chat_takes_a_text_or_messages_as_everybody_writes_them(done):
    model = load(done, "ar-sft")
    plain = model.chat("What has Tom?", max_new_tokens=6)
    assert plain.text == model.chat([{"role": "user", "content": "What has Tom?"}], max_new_tokens=6).text
    assert plain.text == model.generate("What has Tom?", chat=True, max_new_tokens=6).text
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "What has Tom?"},
    ]
    assert model.chat(turns, max_new_tokens=6).prompt == "What has Tom?"
    for wrong in ([], [{"role": "boss", "content": "x"}], [{"role": "user"}]):
        with pytest.raises(nano_llada.UserError, match="message"):
            model.chat(wrong)


def test_infill_keeps_the_text_around_the_gaps(done):
    text = load(done, "diffusion").infill("Tom ___ a ___ ball.", length=[3, 2])
    assert text.startswith("Tom ")
    assert text.endswith(" ball.")
    with pytest.raises(nano_llada.UserError, match="infilling needs a diffusion model"):
        load(done, "ar").infill("Tom ___ ball.")


def test_score_of_an_ar_model_is_exact(done):
    model = load(done, "ar")
    found = model.score("Tom has a ball.")
    tokens = torch.tensor([[model.tokenizer.vocab.eos, *model.tokenizer.encode("Tom has a ball.")]])
    with torch.no_grad():
        logits = model.model(tokens, nano_llada.AttentionPattern("causal")).double().log_softmax(-1)
    expected = -sum(float(logits[0, i, tokens[0, i + 1]]) for i in range(tokens.shape[1] - 1))
    assert found.exact
    assert found.nats == pytest.approx(expected, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(expected / math.log(2) / 15, rel=1e-5)
    first, rest = model.score("Tom has"), model.score(" a ball.", given="Tom has")
    assert first.nats + rest.nats == pytest.approx(found.nats, rel=1e-5)


def test_score_of_a_diffusion_model_is_a_bound_with_its_error(done):
    model = load(done, "diffusion")
    found = [model.score("Tom has a ball.", draws=16, seed=seed) for seed in range(6)]
    assert not found[0].exact
    mean = sum(one.nats for one in found) / len(found)
    assert all(abs(one.nats - mean) < 6 * one.standard_error for one in found)
    assert found[0] == model.score("Tom has a ball.", draws=16, seed=0)


def test_a_saved_model_is_the_same_model(done, tmp_path):
    model = load(done, "diffusion-sft")
    model.save(tmp_path / "copy")
    again = nano_llada.load(tmp_path / "copy")
    assert again.card == model.card
    assert again.generate("What has Tom?").text == model.generate("What has Tom?").text
    with pytest.raises(nano_llada.UserError, match="exists already"):
        model.save(str(tmp_path / "copy"))


def test_train_returns_a_run_that_can_be_looked_at_and_loaded(done, tmp_path):
    config = replace(tiny_run(done, name="api"), runs=str(tmp_path / "runs"))  # a string works as well as a path
    run = nano_llada.train(config)
    assert (run.outcome.state, run.outcome.step, run.folder) == ("finished", 3, tmp_path / "runs" / "api")
    assert [line["step"] for line in run.metrics() if "loss" in line] == [1, 2, 3]
    assert run.load().card.run == "api"
    assert read_lines(run.folder / "metrics.jsonl") == run.metrics()
    with pytest.raises(nano_llada.UserError, match="exists"):
        nano_llada.train(config)


@dataclass(frozen=True)
class Weighted(nano_llada.ObjectiveConfig):
    """An objective of this file's own: next-token loss times a factor."""

    factor: float = 2.0
    track = "ar"

    def loss(self, model, batch, ctx):
        from nano_llada.objectives import make_objective

        out = make_objective(nano_llada.NextToken()).loss(model, batch, ctx)
        return replace(out, total=self.factor * out.total)


def test_an_objective_of_ones_own_trains_and_resumes_under_its_name(done, tmp_path):
    config = replace(tiny_run(done, name="own"), runs=tmp_path, objective=Weighted(3.0))
    run = nano_llada.train(config)
    plain = nano_llada.train(replace(tiny_run(done, name="plain"), runs=tmp_path))
    first, other = run.metrics()[0]["loss"], plain.metrics()[0]["loss"]
    assert first == pytest.approx(3 * other)
    assert run.load().card.objective.endswith("test_api.py:Weighted")
    assert nano_llada.train(config, resume=True).outcome.state == "finished"


class Square(nano_llada.Noise):
    """alpha(t) = 1 - t^2."""

    def rate(self, t):
        return t**2

    def weight(self, t):
        return 2 / t

    def time(self, rate):
        return math.sqrt(rate)


def test_a_noise_schedule_of_ones_own_is_handed_over_as_a_class(done, tmp_path):
    objective = nano_llada.Denoising(nano_llada.Masking(mask_count="bernoulli", noise=Square))
    config = replace(tiny_run(done, "pretrain", "diffusion", name="square"), runs=tmp_path, objective=objective)
    assert config.objective.corruption.noise.endswith("test_api.py:Square")
    assert nano_llada.train(config).outcome.state == "finished"
    with pytest.raises(ValueError, match="unknown noise 'cosin'"):
        nano_llada.Masking(mask_count="bernoulli", noise="cosin")


def test_own_schedules_weigh_a_token_one_on_average_also_in_the_complement():
    noise = Square()
    rate = torch.rand(200_000, dtype=torch.float64, generator=generator("square"))
    t = rate.clamp(1e-6, 1 - 1e-6)
    assert float((noise.weight(t) * noise.rate(t)).mean()) == pytest.approx(1, abs=0.01)
    assert float((noise.complement_weight(t) * (1 - noise.rate(t))).mean()) == pytest.approx(1, abs=0.01)
