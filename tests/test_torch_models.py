"""Checkpoints of the original Nano-LLaDA and of minimind: their logits here, against a forward pass written out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.data.tokenizer import Tokenizer, train_bpe
from nano_llada.interop.torch_models import Hints, guessed_heads, import_torch_model
from tiny import run_cli

HIDDEN, LAYERS, HEADS, MLP, VOCAB = 32, 2, 4, 40, 300
ARGS = {  # what the original saves beside the weights, as far as it is read
    "num_attention_heads": HEADS,
    "rope_theta": 5e4,
    "rms_norm_eps": 1e-3,
    "hidden_act": "silu",
    "inference_rope_scaling": False,
    "max_position_embeddings": 32768,
    "seq_len": 640,
}
PRETRAINED = ARGS | {"mask_schedule": "iid_t", "iid_mask_eps": 1e-3}  # as scripts.train.diffusion leaves them


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["user assistant system hello there, how are you?\n你好，世界！"] * 3, vocab_size=VOCAB)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed)) * 0.3


def original(vocab: int = VOCAB) -> dict[str, Tensor]:
    """A state dict of the original's architecture: no gains, no norms, an untied head."""
    weights = {"token_emb.weight": draw(vocab, HIDDEN) * 7, "lm_head.weight": draw(vocab, HIDDEN, seed=1)}
    for layer in range(LAYERS):
        for seed, name in enumerate(("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj")):
            weights[f"blocks.{layer}.{name}.weight"] = draw(HIDDEN, HIDDEN, seed=10 * layer + seed)
        for seed, name in enumerate(("mlp.gate_proj", "mlp.up_proj")):
            weights[f"blocks.{layer}.{name}.weight"] = draw(MLP, HIDDEN, seed=10 * layer + seed + 4)
        weights[f"blocks.{layer}.mlp.down_proj.weight"] = draw(HIDDEN, MLP, seed=10 * layer + 6)
    return weights


def rotated(x: Tensor, theta: float, yarn: bool) -> Tensor:
    """(B, L, heads, D), with the halves of a head turned against each other."""
    length, width = x.shape[1], x.shape[3]
    turns = theta ** (-torch.arange(0, width, 2).double() / width)
    if yarn:  # factor 16 from 2048, without a scale on the vectors

        def dimension(rotations: float) -> float:
            return width * math.log(2048 / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low, high = max(math.floor(dimension(32)), 0), min(math.ceil(dimension(1)), width // 2 - 1)
        ramp = ((torch.arange(width // 2).double() - low) / max(high - low, 0.001)).clamp(0, 1)
        turns = turns * (1 - ramp + ramp / 16)
    angles = torch.arange(length).double()[:, None] * turns
    cos, sin = (f(torch.cat([angles, angles], 1))[:, None].float() for f in (torch.cos, torch.sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def original_logits(
    weights: dict[str, Tensor], tokens: Tensor, causal: bool, args: dict[str, Any], heads: int = HEADS
) -> Tensor:
    """The original's forward pass, from PEERS' description: norms without gains, of embeddings, and after rotation."""

    def norm(x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=args["rms_norm_eps"])

    x = norm(weights["token_emb.weight"][tokens])
    for layer in range(LAYERS):
        block = {n.removeprefix(f"blocks.{layer}."): w for n, w in weights.items() if n.startswith(f"blocks.{layer}.")}
        split = [(norm(x) @ block[f"attn.c_{n}.weight"].T).unflatten(-1, (heads, -1)) for n in "qkv"]
        q, k = (norm(rotated(y, args["rope_theta"], args["inference_rope_scaling"])) for y in split[:2])
        mixed = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, split[2])), is_causal=causal)
        x = x + mixed.transpose(1, 2).flatten(2) @ block["attn.c_proj.weight"].T
        gate, up = (norm(x) @ block[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ block["mlp.down_proj.weight"].T
    return norm(x) @ weights["lm_head.weight"].T


def ours(model, tokens: Tensor, causal: bool) -> Tensor:
    with torch.no_grad():
        return model(tokens, AttentionPattern("causal" if causal else "full"))


def sample(length: int = 50, vocab: int = VOCAB) -> Tensor:
    return torch.randint(vocab, (2, length), generator=torch.Generator().manual_seed(3))


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def complaint(path: Path, tokenizer: Tokenizer, **hints) -> str:
    with pytest.raises(UserError) as caught:
        import_torch_model(path, tokenizer, Hints(**hints))
    return str(caught.value)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("yarn", [False, True])
def test_logits_of_the_original(tmp_path, tokenizer, causal, yarn):
    args = PRETRAINED | {"inference_rope_scaling": yarn, "rope_theta": 1e6 if yarn else 5e4}
    weights = original()
    path = save(tmp_path / "run.pt", {"model_state_dict": weights, "optimizer_state_dict": {}, "step": 9, "args": args})
    found = import_torch_model(path, tokenizer, Hints())
    tokens = sample(200)
    theirs = original_logits(weights, tokens, causal, args)
    assert theirs.std() > 0.5
    assert (ours(found.model, tokens, causal) - theirs).abs().max() < 2e-5
    other = original_logits(weights, tokens, causal, args | {"inference_rope_scaling": not yarn})
    assert (ours(found.model, tokens, causal) - other).abs().max() > 1e-2  # the test can tell
    assert (found.card.track, found.card.stage, found.card.step, found.card.run) == ("diffusion", "pretrain", 9, "run")
    assert found.model.config.max_length == 640
    assert found.remarks == ()
    assert not found.model.training


def test_another_number_of_heads_is_another_model(tmp_path, tokenizer):
    weights = original()
    path = save(tmp_path / "a.pt", weights)
    tokens = sample()
    for heads in (2, 4, 8):
        model = import_torch_model(path, tokenizer, Hints(num_heads=heads, track="diffusion", rope_theta=5e4)).model
        theirs = original_logits(weights, tokens, False, ARGS | {"rms_norm_eps": 1e-5}, heads)
        assert (ours(model, tokens, False) - theirs).abs().max() < 2e-5
    assert (theirs - original_logits(weights, tokens, False, ARGS, 4)).abs().max() > 1e-2


def test_heads_are_never_guessed(tmp_path, tokenizer):
    bare = save(tmp_path / "bare.pt", original())
    assert "does not state how many attention heads its model has, and the shapes" in complaint(bare, tokenizer)
    full = save(tmp_path / "full.pt", {"model_state_dict": original(), "args": PRETRAINED})
    assert f"--num-heads is 8, but the file says {HEADS} heads" in complaint(full, tokenizer, num_heads=8)
    assert import_torch_model(full, tokenizer, Hints(num_heads=HEADS)).model.config.num_heads == HEADS
    for heads in (0, -4, 3, 64):
        assert "heads" in complaint(bare, tokenizer, num_heads=heads, track="ar")
    # the original's fine-tuning ignores its own option: it says 8 and trains 16
    assert (guessed_heads(512), guessed_heads(768), guessed_heads(HIDDEN)) == (16, 16, 1)
    tuned = ARGS | {"iid_mask_eps": 1e-3, "load_from": "weights/x.pt", "epochs": 3}
    path = save(tmp_path / "sft.pt", {"model_state_dict": original(), "args": tuned})
    message = complaint(path, tokenizer)
    assert "a script that took 1, whatever the pretrained model had (its option says 4)" in message
    card = import_torch_model(path, tokenizer, Hints(num_heads=4)).card
    assert (card.track, card.stage) == ("diffusion", "sft")
    agreeing = save(tmp_path / "ok.pt", {"model_state_dict": original(), "args": tuned | {"num_attention_heads": 1}})
    assert import_torch_model(agreeing, tokenizer, Hints()).model.config.num_heads == 1


def test_a_state_dict_is_read_with_the_options_beside_it(tmp_path, tokenizer):
    args = ARGS | {"tokenizer_json": None, "epochs": 1}
    save(tmp_path / "base.pt", {"model_state_dict": {}, "args": args, "step": 12})
    path = save(tmp_path / "base_state_dict.pt", original())
    found = import_torch_model(path, tokenizer, Hints())
    assert (found.card.track, found.card.stage, found.card.step) == ("ar", "pretrain", 12)
    assert found.model.config.norm_eps == 1e-3
    assert found.remarks == (f"the options of the run were read from {tmp_path / 'base.pt'}",)
    assert (ours(found.model, sample(), True) - original_logits(original(), sample(), True, args)).abs().max() < 2e-5


def test_what_is_assumed_is_said(tmp_path, tokenizer):
    path = save(tmp_path / "bare.pt", {f"_orig_mod.model.{name}": weight for name, weight in original().items()})
    assert "--track ar or --track diffusion" in complaint(path, tokenizer, num_heads=4)
    remarks = " ".join(import_torch_model(path, tokenizer, Hints(num_heads=4, track="ar")).remarks)
    for said in ("RoPE base: 1e+06 is assumed; --rope-theta", "norm epsilon: 1e-05 is assumed; --norm-eps"):
        assert said in remarks
    assert "RoPE scaling: none is assumed; --rope-scaling" in remarks
    assert "stage: pretrain is assumed; --stage" in remarks
    told = Hints(num_heads=4, track="ar", stage="sft", rope_theta=1e4, norm_eps=1e-6, rope_scaling=False)
    assert import_torch_model(path, tokenizer, told).remarks == ()
    full = save(tmp_path / "full.pt", {"model_state_dict": original(), "args": PRETRAINED})
    assert (
        "says that its track is diffusion, not ar" in import_torch_model(full, tokenizer, Hints(track="ar")).remarks[0]
    )
    assert "--rope-theta is 7, but the file says RoPE base 50000.0" in complaint(full, tokenizer, rope_theta=7.0)
    assert "says that RoPE scaling is off" in complaint(full, tokenizer, rope_scaling=True)


def test_the_vocabulary_follows_the_tokenizer(tmp_path, tokenizer):
    larger = save(tmp_path / "larger.pt", {"model_state_dict": original(VOCAB + 5), "args": PRETRAINED})
    found = import_torch_model(larger, tokenizer, Hints())
    assert found.model.config.vocab_size == VOCAB
    assert "5 rows of the vocabulary belong to no token" in found.remarks[0]
    smaller = save(tmp_path / "smaller.pt", {"model_state_dict": original(VOCAB - 1), "args": PRETRAINED})
    assert "embeddings of 299 tokens, the tokenizer 300" in complaint(smaller, tokenizer)


def minimind(generation: int, heads: int = 4, kv_heads: int = 2, vocab: int = VOCAB) -> dict[str, Tensor]:
    """A state dict in minimind's layout: generation 2 as Llama, 3 as Qwen3; tied, and saved twice."""
    width = HIDDEN // heads
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (kv_heads * width, HIDDEN),
        "self_attn.v_proj": (kv_heads * width, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (MLP, HIDDEN),
        "mlp.up_proj": (MLP, HIDDEN),
        "mlp.down_proj": (HIDDEN, MLP),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    if generation == 3:
        shapes |= {"self_attn.q_norm": (width,), "self_attn.k_norm": (width,)}
    weights = {"model.embed_tokens.weight": draw(vocab, HIDDEN) * 2, "model.norm.weight": draw(HIDDEN) + 1}
    for layer in range(LAYERS):
        for seed, (name, shape) in enumerate(shapes.items()):
            weights[f"model.layers.{layer}.{name}.weight"] = draw(*shape, seed=20 * layer + seed) + (len(shape) == 1)
    return weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}


def minimind_logits(weights: dict[str, Tensor], tokens: Tensor, heads: int, eps: float) -> Tensor:
    """minimind's forward pass, written out."""

    def norm(x: Tensor, name: str) -> Tensor:
        gain = weights.get(f"{name}.weight")
        return x if gain is None else F.rms_norm(x, x.shape[-1:], gain, eps)

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm")
        q, k, v = (
            (h @ weights[f"{at}.self_attn.{n}_proj.weight"].T).unflatten(-1, (-1, HIDDEN // heads)) for n in "qkv"
        )
        q, k = (rotated(norm(y, f"{at}.self_attn.{n}_norm"), 1e6, False) for y, n in ((q, "q"), (k, "k")))
        k, v = (y.repeat_interleave(heads // y.shape[2], 2) for y in (k, v))
        mixed = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)), is_causal=True)
        x = x + mixed.transpose(1, 2).flatten(2) @ weights[f"{at}.self_attn.o_proj.weight"].T
        h = norm(x, f"{at}.post_attention_layernorm")
        gate, up = (h @ weights[f"{at}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ weights[f"{at}.mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ weights["lm_head.weight"].T


@pytest.mark.parametrize("generation", [2, 3])
@pytest.mark.parametrize("wrapped", [False, True])
def test_logits_of_minimind(tmp_path, tokenizer, generation, wrapped):
    weights = minimind(generation)
    path = save(tmp_path / "full_sft_32.pth", {"model": weights, "optimizer": {}, "step": 3} if wrapped else weights)
    told = {"num_heads": 4} if generation == 2 else {}
    found = import_torch_model(path, tokenizer, Hints(**told))
    tokens = sample()
    theirs = minimind_logits(weights, tokens, 4, 1e-5 if generation == 2 else 1e-6)
    assert theirs.std() > 0.3
    assert (ours(found.model, tokens, True) - theirs).abs().max() < 2e-5
    config = found.model.config
    assert (config.num_heads, config.kv_heads, config.qk_norm, config.tie_embeddings) == (4, 2, generation == 3, True)
    assert found.card.track == "ar"
    assert "norm epsilon" in " ".join(found.remarks)


def test_minimind_s_heads_and_half_precision(tmp_path, tokenizer):
    path = save(tmp_path / "a.pth", {name: weight.half() for name, weight in minimind(2).items()})
    assert "does not state how many attention heads" in complaint(path, tokenizer)
    model = import_torch_model(path, tokenizer, Hints(num_heads=8)).model
    assert (model.config.num_heads, model.config.kv_heads, model.config.head_width) == (8, 4, 4)
    assert model.embed.weight.dtype == torch.float32
    third = save(tmp_path / "b.pth", minimind(3, heads=8, kv_heads=4))
    assert import_torch_model(third, tokenizer, Hints()).model.config.num_heads == 8  # a gain is as wide as a head
    assert "--num-heads is 4, but the file says 8 heads" in complaint(third, tokenizer, num_heads=4)
    apart = minimind(3)
    apart["lm_head.weight"] = apart["lm_head.weight"] + 1
    found = import_torch_model(save(tmp_path / "c.pth", apart), tokenizer, Hints())
    assert not found.model.config.tie_embeddings
    assert (ours(found.model, sample(), True) - minimind_logits(apart, sample(), 4, 1e-6)).abs().max() < 1e-4


def test_a_model_without_a_mask_token_gets_its_mean(tmp_path, tokenizer):
    text = tokenizer._backend.to_str()
    assert tokenizer.vocab.mask != VOCAB - 1
    without = Tokenizer(type(tokenizer._backend).from_str(text.replace("<|mask|>", "<|other|>")))
    assert (without.vocab.mask, without.vocab.size) == (VOCAB, VOCAB + 1)
    weights = minimind(3)
    model = import_torch_model(save(tmp_path / "a.pth", weights), without, Hints()).model
    assert model.config.vocab_size == VOCAB + 1
    assert torch.allclose(model.embed.weight[VOCAB], weights["model.embed_tokens.weight"].mean(0), atol=1e-6)


def nested(depth: int = 300) -> list:
    """Deeper than Python prints."""
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w, a: w.pop("blocks.1.attn.c_v.weight"), "lacks model.layers.1.self_attn.v_proj.weight"),
        (lambda w, a: w.update({"blocks.0.attn.c_q.bias": draw(HIDDEN)}), "has the tensor 'blocks.0.attn.c_q.bias'"),
        (lambda w, a: w.update({"blocks.3.attn.c_q.weight": draw(4, 4)}), "has the layers 0, 1, 3"),
        (lambda w, a: w.update({f"blocks.{10**12}.attn.c_q.weight": draw(4, 4)}), "which are not 0, 1, 2"),
        (lambda w, a: w.update({"blocks.1.attn.c_k.weight": draw(8, HIDDEN)}), "beside the other tensors it must be"),
        (lambda w, a: w.update({"lm_head.weight": torch.ones(VOCAB, HIDDEN).long()}), "holds torch.int64, not weights"),
        (lambda w, a: w.update({"token_emb.weight": draw(HIDDEN)}), "has no matrix model.embed_tokens.weight"),
        (lambda w, a: w.update({"model.token_emb.weight": draw(4, 4), "module.token_emb.weight": draw(4, 4)}), "two"),
        (lambda w, a: a.update(hidden_act="gelu"), "hidden_act is 'gelu'; this backbone can only take 'silu'"),
        (lambda w, a: a.update(rope_theta="x" * 10**6), "the RoPE base must be a positive number, got 'xxx"),
        (lambda w, a: a.update(rope_theta=math.nan), "the RoPE base must be a positive number, got nan"),
        (lambda w, a: a.update(rms_norm_eps=-1), "the norm epsilon must be a positive number, got -1"),
        (lambda w, a: a.update(num_attention_heads="4"), "must be a whole number of at least 1, got '4'"),
        (lambda w, a: a.update(num_attention_heads=10**9), "heads do not share 32 rows"),
        (lambda w, a: a.update(inference_rope_scaling=True, rope_theta=50.0), "computed in another way there"),
        (lambda w, a: w.clear(), "its tensors are: none"),
        (lambda w, a: a.update(num_attention_heads=10**10000), "got '<a number of 33220 bits>'"),
        (lambda w, a: a.update(hidden_act=nested()), "hidden_act is '<a list>'"),
        (lambda w, a: w["lm_head.weight"].fill_(math.inf), "lm_head.weight holds values that are not finite"),
    ],
)
def test_complaints(tmp_path, tokenizer, change, reason):
    weights, args = original(), dict(PRETRAINED)
    change(weights, args)
    path = save(tmp_path / "a.pt", {"model_state_dict": weights, "args": args})
    message = complaint(path, tokenizer)
    assert reason in message
    assert len(message) < 500


def test_the_command(tmp_path, tokenizer, capsys):
    tokenizer.save(tmp_path / "tokenizer")
    path = save(tmp_path / "run_best.pt", {"model_state_dict": original(), "args": PRETRAINED, "step": 5})
    out = tmp_path / "out"
    assert run_cli(["import", path, "--out", out]) == 2
    assert "holds no tokenizer, and there is no tokenizer.json in" in capsys.readouterr().err
    assert run_cli(["import", path, "--out", out, "--tokenizer", tmp_path / "tokenizer"]) == 0
    checkpoint = load_checkpoint(out)
    assert (checkpoint.card.track, checkpoint.card.step, checkpoint.tokenizer.hash) == ("diffusion", 5, tokenizer.hash)
    theirs = original_logits(original(), sample(), False, PRETRAINED)
    assert (ours(checkpoint.model, sample(), False) - theirs).abs().max() < 2e-5
    assert run_cli(["generate", out, "--prompt", "hello", "--max-new-tokens", "4"]) == 0
    assert run_cli(["import", tmp_path, "--out", tmp_path / "b", "--num-heads", "4"]) == 2
    assert "--num-heads is for .pt files" in capsys.readouterr().err
    bare = save(tmp_path / "tokenizer" / "bare.pt", original())  # beside its tokenizer
    assert run_cli(["import", bare, "--out", tmp_path / "b", "--num-heads", "4", "--track", "ar"]) == 0
    assert "norm epsilon: 1e-05 is assumed" in capsys.readouterr().out


def test_real_files_of_the_original_s_size(tmp_path, tokenizer):
    """512 wide, as by default: 8 heads where the file says so, although the original would take 16."""
    weights = {
        "token_emb.weight": draw(VOCAB, 512),
        "lm_head.weight": draw(VOCAB, 512, seed=1),
        **{f"blocks.0.attn.c_{n}.weight": draw(512, 512, seed=i) for i, n in enumerate(("q", "k", "v", "proj"))},
        **{f"blocks.0.mlp.{n}_proj.weight": draw(1408, 512, seed=i) for i, n in enumerate(("gate", "up"))},
        "blocks.0.mlp.down_proj.weight": draw(512, 1408),
    }
    args = PRETRAINED | {"num_attention_heads": 8}
    path = save(tmp_path / "a.pt", {"model_state_dict": weights, "args": args})
    model = import_torch_model(path, tokenizer, Hints()).model
    assert (model.config.num_heads, model.config.head_width, model.config.mlp_width) == (8, 64, 1408)
