"""Low-rank adapters: what is trained, what is stored, what is merged, and that the base never changes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nano_llada.checkpoint.files import ADAPTER, WEIGHTS, load_checkpoint, load_unmerged, read_description
from nano_llada.checkpoint.manager import RunCheckpoints
from nano_llada.checkpoint.merge import merge_checkpoints
from nano_llada.config.adapter import Adapter
from nano_llada.config.train import TrainConfig
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.model.functional import LowRank, adapted_normed_linear, adapted_swiglu_linear
from nano_llada.model.lean import LeanModel, full
from nano_llada.model.lora import adapter_weights, add_adapters, plain_weights
from nano_llada.model.transformer import Transformer
from nano_llada.objectives.cross_entropy import head_cross_entropy
from nano_llada.session.run import assemble, execute
from nano_llada.training import parallel
from tiny import Place, make_place, read_lines, tiny_run, write_rows

LORA = {"lora_rank": 3, "learning_rate": 1e-2, "steps": 4, "schedule": "constant", "warmup_steps": 0, "save_every": 2}

TWO = {"steps": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """A pretrained model to adapt."""
    place = make_place(tmp_path_factory.mktemp("lora"))
    assert execute(tiny_run(place, name="base")).state == "finished"
    return place


def test_a_divided_model_has_no_adapters(place, monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 2)
    config = tiny_run(place, name="divided", init_from=place.runs / "base", parallel="fsdp", lora_rank=2)
    with pytest.raises(UserError, match="train --lora-rank with --parallel ddp"):
        execute(config)
    assert not config.folder.exists()


def newest(run: Path) -> Path:
    return sorted(run.glob("step-*"))[-1]


def random_adapters(model: Transformer, **changes) -> Adapter:
    adapter = Adapter(**({"rank": 3, "alpha": 5.0} | changes))
    add_adapters(model, adapter, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_b"):
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    return adapter


@pytest.mark.parametrize("shape", [{}, {"num_kv_heads": 2, "qk_norm": False, "qkv_bias": True, "tie_embeddings": True}])
def test_equation(make_model, shape):
    """W x + alpha / rank * B A x, which starts at W x, and is what the merged matrices compute."""
    model, tokens = make_model(**shape), torch.randint(6, 24, (2, 20), generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pattern = AttentionPattern("full")
    with torch.no_grad():
        wanted = model(tokens, pattern)
    add_adapters(model, Adapter(3, 5.0), torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model(tokens, pattern), wanted, atol=1e-5)
        for name, weight in model.named_parameters():
            if name.endswith("lora_b"):
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
        changed = model(tokens, pattern)
        assert not torch.allclose(changed, wanted, atol=0.1)
        plain = make_model(**shape)
        plain.load_state_dict(plain_weights(model))
        assert torch.allclose(plain(tokens, pattern), changed, atol=1e-4)
        lean = LeanModel.prepare(model)
        store = lean.new_store(1, 32)
        row = tokens[0].tolist()
        assert torch.allclose(lean.forward([full(0, 0, row, range(20))], store), changed[0], atol=1e-4)
    a, b = (model.blocks[1].attention.qkv.get_parameter(f"lora_{n}") for n in "ab")
    stated = before["blocks.1.attention.qkv.weight"] + 5.0 / 3 * b @ a
    assert torch.allclose(plain.blocks[1].attention.qkv.weight, stated, atol=1e-6)
    model(tokens, pattern).square().sum().backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == set(adapter_weights(model))
    assert len(trained) == 2 * 4 * 2  # two layers, four matrices, A and B
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items() if name in before)


def test_products_with_adapters_have_the_gradients_of_the_plain_formula():
    """One operation for norm or SwiGLU and both products, which keeps their inputs alone, against autograd's own."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    x, gain, wide, weight = draw(2, 3, 8), draw(8), draw(2, 3, 16), draw(5, 8)
    a, b, upstream = draw(3, 8), draw(5, 3), draw(2, 3, 5)

    def plain(values: torch.Tensor, low: LowRank) -> torch.Tensor:
        return values @ weight.T + low.scale * (values @ low.a.T) @ low.b.T

    def normed(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * gain

    def swiglu(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x[..., :8]) * x[..., 8:]

    for ours, theirs, given in (
        (lambda x, low: adapted_normed_linear(x, gain, weight, low, 1e-5), lambda x, low: plain(normed(x), low), x),
        (lambda x, low: adapted_swiglu_linear(x, weight, low), lambda x, low: plain(swiglu(x), low), wide),
    ):
        found = []
        for way in (ours, theirs):
            inputs = [tensor.clone().requires_grad_() for tensor in (given, a, b)]
            out = way(inputs[0], LowRank(inputs[1], inputs[2], 0.7))
            out.backward(upstream)
            found.append([out.detach(), *(tensor.grad for tensor in inputs)])
        assert all(torch.allclose(mine, other) for mine, other in zip(*found, strict=True))
        assert all(bool(mine.abs().sum() > 1) for mine in found[0])


def test_adapters_keep_less_for_the_backward_pass_than_all_weights_do(make_model):
    """Inputs of the products are made again, as without adapters; a frozen head has no gradient."""
    tokens = torch.randint(6, 24, (4, 32), generator=torch.Generator().manual_seed(0))
    kept = {}
    for name in ("full", "lora"):
        model = make_model(num_kv_heads=2).train()
        if name == "lora":
            random_adapters(model)
        sizes: dict[int, int] = {}
        weights = {tensor.data_ptr() for tensor in model.state_dict().values()}

        def keep(tensor, sizes=sizes, weights=weights):
            if tensor.untyped_storage().data_ptr() not in weights:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features = model.features(tokens, AttentionPattern("causal")).flatten(0, 1)
            total, _ = head_cross_entropy(features, model.head.weight, tokens.flatten(), torch.ones(tokens.numel()))
        kept[name] = sum(sizes.values())
        total.backward()
        assert (model.head.weight.grad is None) == (name == "lora")
    narrow = 3 * 4 * 2 * tokens.numel() * 4  # x A^T of four matrices of two layers
    assert kept["lora"] <= kept["full"] + narrow
    assert kept["lora"] > narrow


def test_a_reference_of_adapters_is_what_is_below_them(place):
    """DPO with adapters holds one set of weights: the reference shares those that are frozen."""
    rows = [{"prompt": f"What has Tom? {i}", "chosen": "A ball.", "rejected": "No."} for i in range(20)]
    pairs = write_rows(place.root / "shared.jsonl", rows)
    start = tiny_run(place, "sft", "ar", name="shared-start", init_from=place.runs / "base", **LORA | TWO)
    assert execute(start).state == "finished"
    run = tiny_run(place, "dpo", "ar", name="shared", data=(pairs,), init_from=start.folder, **LORA | TWO)
    seen = []

    def spy(*given, **more):
        seen.append(assemble(*given, **more)[0])
        before = {name: tensor.clone() for name, tensor in seen[0].reference.state_dict().items()}
        assert all(torch.equal(t, before[n]) for n, t in load_checkpoint(start.folder).model.state_dict().items())
        seen.append(before)
        return seen[0], seen[0].observer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nano_llada.session.run.assemble", spy)
        assert execute(run).state == "finished"
    trainer, before = seen
    shared = dict(trainer.reference.named_parameters())
    assert shared["blocks.0.down.weight"].data_ptr() == trainer.model.blocks[0].down.weight.data_ptr()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.reference.state_dict().items())
    losses = [line["loss"] for line in read_lines(run.folder / "metrics.jsonl") if "loss" in line]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)


def test_targets(make_model):
    model = make_model()
    random_adapters(model, targets=("down",))
    assert set(adapter_weights(model)) == {f"blocks.{i}.down.lora_{n}" for i in (0, 1) for n in "ab"}


@pytest.mark.parametrize(("stage", "track"), [("sft", "ar"), ("sft", "diffusion"), ("pretrain", "diffusion")])
def test_run(place, stage, track):
    base = newest(place.runs / "base") / WEIGHTS
    before = base.read_bytes()
    name = f"{stage}-{track}"
    run = tiny_run(place, stage, track, name=name, init_from=place.runs / "base", **LORA)
    assert execute(run).state == "finished"
    assert base.read_bytes() == before
    folder = newest(place.runs / name)
    assert not (folder / WEIGHTS).exists()
    stored = load_file(folder / ADAPTER)
    assert sum(t.numel() for n, t in stored.items() if "lora" in n) < 3000
    assert ("embed.mask" in stored) == (track == "diffusion")
    state = load_file(folder / "training.safetensors")
    assert state
    assert all("lora_" in entry for entry in state)  # no state of a frozen weight
    start, now = load_checkpoint(place.runs / "base").model, load_checkpoint(folder).model
    changed = {n for n, t in now.state_dict().items() if not torch.equal(t, start.state_dict()[n])}
    matrices = {n for n in now.state_dict() if n.split(".")[-2] in ("qkv", "out", "gate_up", "down")}
    assert changed == matrices | ({"embed.weight"} if track == "diffusion" else set())
    if track == "diffusion":
        differs = (now.embed.weight != start.embed.weight).any(1).nonzero()[:, 0].tolist()
        assert differs == [load_checkpoint(folder).tokenizer.vocab.mask]


def test_resumed_run_is_the_same(place):
    straight = tiny_run(place, "sft", "ar", name="straight", init_from=place.runs / "base", ema_decay=0.5, **LORA)
    assert execute(straight).state == "finished"
    short = tiny_run(
        place, "sft", "ar", name="two", init_from=place.runs / "base", ema_decay=0.5, **LORA | {"steps": 2}
    )
    assert execute(short).state == "finished"
    longer = tiny_run(place, "sft", "ar", name="two", init_from=place.runs / "base", ema_decay=0.5, **LORA)
    assert execute(longer, resume=True).state == "finished"
    one, two = (load_file(newest(place.runs / name) / ADAPTER) for name in ("straight", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_adapters_of_adapters_and_their_mean(place):
    first = tiny_run(place, "sft", "ar", name="first", init_from=place.runs / "base", **LORA)
    execute(first)
    second = tiny_run(place, "sft", "ar", name="second", init_from=place.runs / "first", **LORA | {"lora_rank": 2})
    execute(second)
    folder = newest(place.runs / "second")
    assert read_description(folder).adapter.base == "../../first/step-000004"
    loaded = load_unmerged(folder).model
    assert torch.equal(loaded.embed.weight, load_checkpoint(place.runs / "base").model.embed.weight)
    folders = sorted((place.runs / "second").glob("step-*"))
    merged = merge_checkpoints(folders, place.root / "mean")
    both = [load_checkpoint(folder).model.state_dict() for folder in folders]
    mean = load_checkpoint(merged).model.state_dict()
    assert len(both) == 2
    assert all(torch.allclose(mean[n], (both[0][n] + both[1][n]) / 2, atol=1e-6) for n in mean)


def test_preferences_and_rewards(place):
    rows = [{"prompt": f"What has Tom? {i}", "chosen": "A ball.", "rejected": "No."} for i in range(20)]
    pairs = write_rows(place.root / "pairs.jsonl", rows)
    asked = [[{"role": "user", "content": f"{i}+1?"}, {"role": "assistant", "content": f"{i + 1}"}] for i in range(20)]
    questions = write_rows(place.root / "questions.jsonl", [{"messages": turns} for turns in asked])
    for track in ("ar", "diffusion"):
        start = place.runs / f"sft-{track}"
        two = {"init_from": start, **LORA, "steps": 2}
        fill = {"eos_fill": 16} if track == "diffusion" else {}
        runs = [tiny_run(place, "dpo", track, name=f"dpo-{track}", data=(pairs,), **two, **fill)]
        options = {"data": (questions,), "rollouts": {"group_size": 2, "max_new_tokens": 4}}
        runs.append(tiny_run(place, "rl", track, name=f"rl-{track}", **two, **options))
        for run in runs:
            assert execute(run).state == "finished"
            folder = newest(run.folder)
            assert not (folder / WEIGHTS).exists()
            assert all("lora_" in name for name in load_file(folder / "training.safetensors"))


def complaint(call, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_refused(place, tmp_path):
    assert "adapts a model that exists: give it with --init-from" in complaint(
        execute, tiny_run(place, name="nothing", lora_rank=2)
    )
    assert not (place.runs / "nothing").exists()
    with pytest.raises(ValueError, match="muon is for whole matrices"):
        TrainConfig(lora_rank=2, optimizer="muon")
    with pytest.raises(ValueError, match="no effect without a lora_rank"):
        TrainConfig(lora_alpha=2.0)
    with pytest.raises(ValueError, match="lora_targets 'q_proj' is not one of qkv, out, gate_up, down"):
        TrainConfig(lora_rank=2, lora_targets=("q_proj",))
    with pytest.raises(ValueError, match="at least one kind of matrix, and each once"):
        TrainConfig(lora_rank=2, lora_targets=())


def test_damaged_adapters_and_changed_bases(make_model, tmp_path, place):
    execute(tiny_run(place, "sft", "ar", name="safe", init_from=place.runs / "base", **LORA))
    folder = newest(place.runs / "safe")
    (folder / "checksums.json").unlink()
    good, described = load_file(folder / ADAPTER), json.loads((folder / "model.json").read_text(encoding="utf-8"))

    def now(weights=good, **adapter) -> str:
        save_file(weights, folder / ADAPTER)
        text = json.dumps(described | {"adapter": described["adapter"] | adapter})
        (folder / "model.json").write_text(text, encoding="utf-8")
        return complaint(load_checkpoint, folder)

    name = "blocks.0.down.lora_a"
    assert f"{name} is missing" in now({n: t for n, t in good.items() if n != name})
    assert f"{name} is (1, 1), the model's is (3, 64)" in now(good | {name: torch.ones(1, 1)})
    assert "own is (1,), the model's is None" in now(good | {"own": torch.ones(1)})
    assert f"numbers of {name} are not finite" in now(good | {name: good[name] * torch.nan})
    assert "embed.mask is (3,), not an embedding" in now(good | {"embed.mask": torch.ones(3)})
    assert "which is missing: put that checkpoint back" in now(base="../nowhere")
    assert "whose weights have changed since" in now(base_hash="0")
    assert "rank must be at least 1, got 0" in now(rank=0)
    assert "whose weights have changed since" in now(base=".", base_hash="0")
    save_file(good, folder / ADAPTER)
    (folder / "model.json").write_text(json.dumps(described), encoding="utf-8")
    load_checkpoint(folder)
    model = make_model()
    with pytest.raises(UserError):
        RunCheckpoints(tmp_path, 1, 1).resume(model)
