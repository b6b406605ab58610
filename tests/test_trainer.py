"""The loop: it learns, sums are exact, it stops when it should, and a resumed run cannot be told from a whole one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from built import act
from nano_llada.config.objectives import Denoising, Masking, NextToken
from nano_llada.config.train import TrainConfig
from nano_llada.core.batch import LossOutput, TokenBatch
from nano_llada.core.device import Machine
from nano_llada.core.errors import UserError
from nano_llada.training.optim import Optimizer, orthogonalise
from nano_llada.training.schedule import learning_rate_scale
from nano_llada.training.trainer import BrokenLoss, StepReport, Trainer

CPU = Machine(torch.device("cpu"), torch.float32, "test")


class Counting:
    """Rows that count upwards from a random token, and batches of unequal documents: all a function of the step."""

    def __init__(self, rows: int = 8, length: int = 12) -> None:
        self.rows, self.length = rows, length

    def batch(self, step: int) -> TokenBatch:
        rng = torch.Generator().manual_seed(step)
        start = torch.randint(18, (self.rows, 1), generator=rng)
        place = torch.arange(self.length).expand(self.rows, -1)
        lengths = torch.randint(4, self.length + 1, (self.rows, 1), generator=rng)
        docs = torch.where(place < lengths, 0, -1)
        tokens = ((start + place) % 18 + 6).masked_fill(docs < 0, 1)
        return TokenBatch(tokens, docs == 0, docs, place, torch.arange(self.rows))

    def document_names(self, step: int) -> list[list[int]]:
        return [[100 * step + row, 7] for row in range(self.rows)]


@dataclass
class Watcher:
    """An observer that remembers everything, and saves as `session.run` does: the model file holds the average."""

    reports: list[StepReport] = field(default_factory=list)
    measured: list[tuple[int, float, bool]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    saves: dict[int, tuple] = field(default_factory=dict)
    stop_at: int = -1
    trainer: Trainer | None = None

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)

    def on_validation(self, step: int, metrics: dict[str, float], improved: bool) -> None:
        self.measured.append((step, metrics["validation_loss"], improved))
        self.metrics.append(dict(metrics))

    def save(self, step: int) -> None:
        with self.trainer.averaged():
            tensors, plain = self.trainer.state()
            weights = {name: value.clone() for name, value in self.trainer.model.state_dict().items()}
            self.saves[step] = (weights, {name: value.clone() for name, value in tensors.items()}, plain)

    def wants_stop(self) -> bool:
        return self.trainer.step == self.stop_at


@pytest.fixture
def make(make_model, vocab):
    """A trainer and its watcher."""

    def start(objective=None, *, steps: int = 4, validation=(), batches=None, model=None, dropout=0.0, **options):
        config = TrainConfig(**({"warmup_steps": 1, "eval_every": 0, "save_every": 0} | options))
        watcher = Watcher()
        watcher.trainer = Trainer(
            config,
            model or make_model(peak=4.0, dropout=dropout),
            vocab,
            act(objective or NextToken()),
            batches or Counting(),
            CPU,
            total_steps=steps,
            validation=list(validation),
            observer=watcher,
        )
        return watcher.trainer, watcher

    return start


@dataclass
class Scripted:
    """An objective whose losses are known: `valid` in order, or `train` by step."""

    valid: list[float] = field(default_factory=list)
    train: dict[int, float] = field(default_factory=dict)
    gradient: float = 0.0
    gradients: dict[int, float] = field(default_factory=dict)  # by step, instead of `gradient`

    def loss(self, model, batch, ctx) -> LossOutput:
        value = self.train.get(ctx.step, 5.0) if model.training else self.valid.pop(0)
        weight, gradient = model.norm.weight, self.gradients.get(ctx.step, self.gradient)
        total = weight.sum() * 0 + value + gradient * (weight.sum() - weight.sum().detach())
        return LossOutput(total, torch.tensor(1), torch.tensor(0), 0)


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("objective", "optimizer", "limit"),
    [(NextToken(), "adamw", 0.5), (NextToken(), "muon", 0.5), (Denoising(), "adamw", 1.5), (Denoising(), "muon", 1.5)],
)
def test_learns_to_count(make, objective, optimizer, limit):
    trainer, watcher = make(
        objective, steps=120, learning_rate=5e-3, optimizer=optimizer, validation=[Counting().batch(-1)]
    )
    assert trainer.run() == "finished"
    assert watcher.reports[0].loss > 2.5
    assert sum(report.loss for report in watcher.reports[-10:]) / 10 < limit
    assert watcher.measured[-1][1] < limit + 0.2


@pytest.mark.parametrize("objective", [NextToken(), Denoising(), Denoising(normalise_by="document")])
def test_micro_batches_change_neither_loss_nor_gradients(make, make_model, objective):
    results = []
    for size in (None, 1, 2, 3):
        trainer, watcher = make(objective, steps=1, micro_batch_size=size, clip_norm=0.0, model=make_model(peak=16.0))
        grads: list[Tensor] = []
        trainer.optimizer.step = lambda rate, t=trainer, g=grads: g.extend(p.grad.clone() for p in t.model.parameters())
        trainer.run()
        results.append((watcher.reports[0], grads))
    whole, reference = results[0]
    assert whole.grad_norm > 0.1
    for report, grads in results[1:]:
        assert report.loss == pytest.approx(whole.loss, rel=1e-5)
        assert report.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
        assert (report.tokens, report.predicted, report.positions) == (whole.tokens, whole.predicted, 96)
        assert report.metrics == pytest.approx(whole.metrics, rel=1e-5)
        torch.testing.assert_close(grads, reference, atol=1e-6, rtol=1e-4)
    counts = {int(Counting().batch(0).select(slice(i, i + 3)).scored.sum()) for i in (0, 3, 6)}
    assert len(counts) > 1  # or a mean of means would pass


def test_gradient_is_that_of_the_mean_and_clipped_to_the_norm(make, make_model, context):
    for limit in (0.0, 1e3, 0.05):
        model = make_model(peak=16.0)
        trainer, watcher = make(steps=1, clip_norm=limit, model=model)
        out = act(NextToken()).loss(model, Counting().batch(0), context(8))
        (out.total / out.count).backward()
        expected = [p.grad.clone() for p in model.parameters()]
        norm = float(torch.cat([g.flatten() for g in expected]).norm())
        model.zero_grad()
        grads: list[Tensor] = []
        trainer.optimizer.step = lambda rate, m=model, g=grads: g.extend(p.grad.clone() for p in m.parameters())
        trainer.run()
        assert watcher.reports[0].grad_norm == pytest.approx(norm, rel=1e-4)  # as it was before clipping
        scale = min(1.0, limit / norm) if limit else 1.0
        assert (scale < 0.5) == (limit == 0.05)
        torch.testing.assert_close(grads, [g * scale for g in expected], atol=1e-6, rtol=1e-3)


SCHEDULES = {
    "wsd": [0.5, 1, 1, 1, 1, 1, 1, 0.7, 0.4, 0.1],
    "constant": [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "cosine": [0.5, 1, *(0.1 + 0.45 * (1 + math.cos(math.pi * i / 7)) for i in range(8))],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_by_hand(name):
    options = {"total": 10, "warmup": 2, "decay_share": 0.3, "floor": 0.1}
    assert [learning_rate_scale(name, step, **options) for step in range(10)] == pytest.approx(SCHEDULES[name])


def test_the_schedule_reaches_the_optimizer_and_warm_up_is_at_most_a_tenth(make):
    trainer, watcher = make(steps=20, learning_rate=0.01, warmup_steps=50, decay_share=0.1, min_lr_ratio=0.2)
    used: list[float] = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda rate: (used.append(rate), step(rate))
    trainer.run()
    assert used == pytest.approx([0.005, *[0.01] * 17, 0.006, 0.002])
    assert [report.learning_rate for report in watcher.reports] == used


def test_moving_average_by_hand_is_validated_and_leaves_the_weights_alone(make, context, vocab):
    held_out = Counting().batch(-1)
    trainer, watcher = make(steps=6, ema_decay=0.4, learning_rate=0.02, eval_every=6, validation=[held_out])
    average = weights(trainer)
    for step in range(6):
        trainer.total_steps = step + 1
        trainer.run()
        decay = min(0.4, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, 0.31, 0.36, 0.4
        average = [decay * a + (1 - decay) * p for a, p in zip(average, weights(trainer), strict=True)]
    raw = weights(trainer)
    torch.testing.assert_close(list(trainer.ema.values()), average)
    with trainer.averaged():
        assert equal(weights(trainer), list(trainer.ema.values()))
        assert not equal(weights(trainer), raw)
        out = act(NextToken()).loss(trainer.model.eval(), held_out, context(8))
    assert equal(weights(trainer), raw)
    assert watcher.measured[-1][1] == pytest.approx((out.total / out.count).item(), rel=1e-6)


def test_early_stopping_waits_for_patience_and_ignores_less_than_min_delta(make):
    script = Scripted(valid=[3.0, 2.0, 1.95, 1.85, 1.8, 1.78, 1.76, 1.0])
    trainer, watcher = make(script, steps=50, eval_every=2, patience=3, min_delta=0.1, validation=[Counting().batch(0)])
    assert trainer.run() == "stopped early"
    assert [step for step, _, _ in watcher.measured] == [2, 4, 6, 8, 10, 12, 14]
    assert [improved for _, _, improved in watcher.measured] == [True, True, False, True, False, False, False]
    assert trainer.best_loss == pytest.approx(1.85)
    assert sorted(watcher.saves) == [2, 4, 8, 14]  # every best, and the end


def test_saves_when_due_and_at_the_end_and_measures_at_the_end(make):
    trainer, watcher = make(Scripted(valid=[1.0]), steps=7, save_every=3, validation=[Counting().batch(0)])
    assert trainer.run() == "finished"
    assert sorted(watcher.saves) == [3, 6, 7]
    assert [step for step, _, _ in watcher.measured] == [7]


def test_an_interruption_saves_and_says_so(make):
    trainer, watcher = make(steps=9)
    watcher.stop_at = 4
    assert trainer.run() == "interrupted"
    assert list(watcher.saves) == [4]
    watcher.stop_at = 9
    assert trainer.run() == "finished"  # asked at the last step, there is nothing left to interrupt


@pytest.mark.parametrize("masking", [Masking(), Masking("bernoulli", stratified=False)])
def test_validation_meets_the_same_noise_every_time(make, masking):
    held_out = [Counting().batch(-1), Counting().batch(-2)]
    trainer, watcher = make(
        Denoising(masking), steps=3, eval_every=1, learning_rate=1e-30, validation=held_out, dropout=0.3
    )
    trainer.run()
    assert len({report.loss for report in watcher.reports}) == 3
    assert len({loss for _, loss, _ in watcher.measured}) == 1
    assert set(watcher.metrics[0]) == {"validation_loss", "validation_masked_text_loss", "validation_masked_eos_loss"}
    other, second = make(Denoising(masking), steps=1, seed=5, learning_rate=1e-30, validation=held_out)
    other.run()
    assert second.measured[0][1] == watcher.measured[0][1]  # and in every run


def test_validation_weighs_batches_by_their_counts(make, context):
    held_out = [Counting(2).batch(-1), Counting(7).batch(-2)]
    trainer, watcher = make(steps=1, learning_rate=1e-30, validation=held_out)
    trainer.run()
    outs = [act(NextToken()).loss(trainer.model, batch, context(1)) for batch in held_out]
    expected = sum(float(out.total.detach()) for out in outs) / sum(int(out.count) for out in outs)
    assert watcher.measured[0][1] == pytest.approx(expected, rel=1e-6)


def test_validation_holds_no_more_rows_at_once_than_training(make):
    trainer, _ = make(steps=1, micro_batch_size=2, validation=[Counting().batch(-1)])
    rows, loss = [], trainer.objective.loss
    trainer.objective = type(
        "Spy", (), {"loss": lambda _, m, batch, c: (rows.append(len(batch.tokens)), loss(m, batch, c))[1]}
    )()
    trainer.run()
    assert len(rows) > 4
    assert max(rows) == 2


@pytest.mark.parametrize("broken", [{"train": {3: math.nan}}, {"train": {3: math.inf}}, {"gradient": math.nan}])
def test_a_loss_that_is_no_number_ends_the_run_and_touches_nothing(make, broken):
    trainer, watcher = make(Scripted(**broken), steps=9, save_every=1)
    at = 4 if "train" in broken else 1
    before = []
    trainer.observer.on_step = lambda report: before.append(weights(trainer))
    start = weights(trainer)
    with pytest.raises(BrokenLoss, match=rf"not a number at step {at} \(loss ") as caught:
        trainer.run()
    assert (caught.value.step, caught.value.documents) == (at, trainer.batches.document_names(at - 1))
    assert sorted(watcher.saves) == list(range(1, at))
    assert equal(weights(trainer), before[-1] if before else start)
    assert trainer.step == at - 1


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    "broken",
    [
        {"train": {3: math.nan, 4: math.inf, 6: math.nan}},
        {"gradients": {3: math.nan, 4: -math.inf, 6: math.nan}},
        {"gradients": {3: 1e3, 4: 1e4, 6: 1e3}},
    ],
)
def test_steps_that_are_left_out_change_nothing_and_are_counted(make, make_model, broken, optimizer, ema):
    objective = Scripted(gradient=0.1, **broken)
    options = {"steps": 8, "skip_steps": 2, "skip_norm": 100.0, "optimizer": optimizer, "ema_decay": ema}
    trainer, watcher = make(objective, save_every=1, **options)
    assert trainer.run() == "finished"
    assert [report.step for report in watcher.reports if report.left_out] == [4, 5, 7]
    assert (trainer.left_out, trainer.left_out_in_a_row) == (3, 0)
    for name in watcher.saves[3][0]:
        assert all(torch.equal(watcher.saves[3][0][name], watcher.saves[step][0][name]) for step in (4, 5)), name
    for name in watcher.saves[3][1]:  # moments, their step counts, averages
        assert all(torch.equal(watcher.saves[3][1][name], watcher.saves[step][1][name]) for step in (4, 5)), name
    assert not torch.equal(watcher.saves[5][0]["norm.weight"], watcher.saves[6][0]["norm.weight"])
    # a run that is resumed between two of them knows how many there were
    saved, tensors, plain = watcher.saves[4]
    model = make_model(peak=4.0)
    model.load_state_dict(saved)
    again, seen = make(objective, model=model, **options)
    again.load(tensors, plain)
    assert (again.left_out, again.left_out_in_a_row) == (1, 1)
    again.run()
    assert [report.step for report in seen.reports if report.left_out] == [5, 7]
    assert again.left_out == 3
    assert equal(weights(again), weights(trainer))


def test_more_steps_in_a_row_than_may_be_left_out_end_the_run(make):
    for broken, message in (
        ({"train": {3: math.nan, 4: math.nan, 5: math.inf}}, r"the loss is not a number at step 6 \(loss inf, "),
        ({"gradients": {3: 9.0, 4: 9.0, 5: 9.0}}, r"the gradient is too long at step 6 \(loss 5.0, gradient norm "),
    ):
        trainer, _ = make(Scripted(**broken), steps=9, skip_steps=2, skip_norm=5.0)
        with pytest.raises(BrokenLoss, match=message):
            trainer.run()
        assert (trainer.step, trainer.left_out) == (5, 2)
    trainer, _ = make(Scripted(gradients={3: 9.0}), steps=9, skip_steps=2)  # long gradients are clipped, not left out
    trainer.run()
    assert trainer.left_out == 0


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_is_bit_for_bit_the_whole_one(make, make_model, ema, optimizer):
    options = {"ema_decay": ema, "optimizer": optimizer, "eval_every": 2, "patience": 9, "min_delta": 50.0}
    options |= {
        "steps": 8,
        "save_every": 4,
        "validation": [Counting().batch(-1)],
        "dropout": 0.2,
        "micro_batch_size": 3,
    }
    whole, seen = make(Denoising(), **options)
    whole.run()
    saved_weights, tensors, plain = seen.saves[4]
    model = make_model(seed=99, dropout=0.2)
    model.load_state_dict(saved_weights)
    torch.manual_seed(123)  # the process's own random state must not matter
    resumed, again = make(Denoising(), **(options | {"model": model}))
    resumed.load(tensors, plain)
    assert resumed.step == 4
    assert resumed.run() == "finished"
    assert equal(weights(resumed), weights(whole))
    assert equal(list(resumed.ema.values()), list(whole.ema.values()))
    assert [r.loss for r in again.reports] == [r.loss for r in seen.reports[4:]]
    assert again.measured == seen.measured[2:]
    assert (resumed.best_loss, resumed.tokens, resumed.without_improvement) == (whole.best_loss, whole.tokens, 3)
    assert again.saves[8][2] == seen.saves[8][2]


def test_dropout_acts_and_is_a_function_of_seed_and_step(make):
    losses = []
    for seed, noise in ((0, 1), (0, 2), (3, 1)):
        trainer, watcher = make(steps=2, dropout=0.4, seed=seed)
        torch.manual_seed(noise)
        trainer.run()
        losses.append([report.loss for report in watcher.reports])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    same = Counting()
    same.batch = lambda step: Counting().batch(0)
    trainer, watcher = make(steps=2, dropout=0.4, learning_rate=1e-30, batches=same)
    trainer.run()
    assert watcher.reports[0].loss != watcher.reports[1].loss


def gradients(model, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=rng)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_state_goes_round(make_model, name):
    config = TrainConfig(optimizer=name)
    first, second = make_model(), make_model(seed=7)
    one = Optimizer(first, config)
    for step in range(3):
        gradients(first, step)
        one.step(0.01)
    state = {key: value.clone() for key, value in one.state().items()}
    kinds = {key.split(".")[1] for key in state}
    assert kinds == {"step", "exp_avg", "exp_avg_sq"} | ({"momentum"} if name == "muon" else set())
    second.load_state_dict(first.state_dict())
    two = Optimizer(second, config)
    two.load(state)
    for model, optimizer in ((first, one), (second, two)):
        gradients(model, 9)
        optimizer.step(0.01)
        assert all(parameter.grad is None for parameter in model.parameters())
    assert equal(list(first.parameters()), list(second.parameters()))
    missing = next(key for key in state if "qkv" in key)
    with pytest.raises(UserError, match=rf"lacks .*{missing}.*cannot be resumed"):
        two.load({key: value for key, value in state.items() if key != missing})


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_matrices_decay_and_gains_do_not(make_model, name):
    model = make_model()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = Optimizer(model, TrainConfig(optimizer=name, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.5)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[key] * (0.95 if parameter.dim() > 1 else 1.0))


def test_muon_orthogonalises_queries_keys_and_values_each_for_itself(make_model):
    model, rng = make_model(num_kv_heads=2), torch.Generator().manual_seed(1)
    weight, gradient = model.blocks[0].attention.qkv.weight, torch.randn(64, 32, generator=rng)
    before, weight.grad = weight.detach().clone(), gradient.clone()
    Optimizer(model, TrainConfig(optimizer="muon", weight_decay=0.0)).step(0.1)
    changes = (before - weight.detach()).split([32, 16, 16])
    for change, part in zip(changes, gradient.split([32, 16, 16]), strict=True):
        torch.testing.assert_close(change, 0.2 * 0.1 * 32**0.5 * orthogonalise(part[None])[0], atol=1e-5, rtol=1e-3)
        values = torch.linalg.svdvals(orthogonalise(part[None])[0])
        assert float(values.max()) < 1.3
        assert float(values.median()) > 0.5


NONSENSE = [
    *[{"batch_size": 0}, {"micro_batch_size": 0}, {"steps": 0}, {"learning_rate": 0.0}, {"ema_decay": 1.0}],
    *[
        {"keep_last": 0},
        {"log_every": 0},
        {"patience": 2, "eval_every": 0},
        {"clip_norm": -1.0},
        {"decay_share": 1.5},
        {"skip_norm": 9.0},
    ],
    *[{"min_lr_ratio": -0.1}, {"warmup_steps": -1}, {"beta2": 1.0}, {"weight_decay": -0.1}, {"epochs": 0.0}],
]


@pytest.mark.parametrize("options", NONSENSE, ids=lambda options: next(iter(options)))
def test_options_that_make_no_sense_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TrainConfig(**options)
