"""Models to and from `transformers`: the same logits, the same bits after a round trip, and every complaint."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend

from mixed import mixed
from nano_llada.checkpoint.files import load_checkpoint, model_weights, save_model
from nano_llada.config.card import ModelCard
from nano_llada.config.model import LongRope, ModelConfig, YarnScaling
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.data.chat import encode_prompt
from nano_llada.data.rows import Message
from nano_llada.data.tokenizer import EOS, MASK, TURN_END, TURN_START, Tokenizer, train_bpe
from nano_llada.decode.types import Request, collect
from nano_llada.interop.export import export_adapter
from nano_llada.interop.export import export_transformers as export_model
from nano_llada.interop.layout import LLADA, tensor_layout
from nano_llada.interop.shapes import linear
from nano_llada.interop.transformers import import_model as import_folder
from nano_llada.language_model import LanguageModel, make_sampler
from nano_llada.model.transformer import Transformer
from nano_llada.session.run import execute
from tiny import Place, run_cli, tiny_run

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")


def import_model(folder: Path) -> tuple[Transformer, Tokenizer]:
    found = import_folder(folder)
    return found.model, found.tokenizer


FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
TEXTS = ["user assistant system hello there, how are you?\n你好，世界！"] * 3
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHAPE = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,  # transformers 5 takes these and writes rope_parameters, 4 writes what it was given
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "head_dim": 6,
}
OURS = ModelConfig(
    vocab_size=300, hidden_size=24, num_layers=2, num_heads=4, num_kv_heads=2, max_length=64, intermediate_size=40
)
STRETCHED = YarnScaling(factor=3.0, original_length=16, beta_fast=2.5, beta_slow=0.5)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, vocab_size=300)


def scramble(model: torch.nn.Module) -> None:
    """Weights large enough to tell errors from rounding, and gains that differ from one."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5 if parameter.dim() == 1 else 0.0, 0.2, generator=rng)


def foreign(folder: Path, tokenizer: Tokenizer, family: str = "llama", *, shard: str = "1GB", **changes):
    """A tiny model made and saved by transformers."""
    extra = {"sliding_window": None} if family == "mistral" else {}
    values = {"vocab_size": tokenizer.vocab.size} | SHAPE | extra | changes
    if family == "qwen2":
        del values["head_dim"]
    config = getattr(transformers, f"{FAMILIES[family]}Config")(**values)
    model = getattr(transformers, f"{FAMILIES[family]}ForCausalLM")(config).eval()
    scramble(model)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save(folder)
    return model


def own(folder: Path, tokenizer: Tokenizer, config: ModelConfig, track: str = "ar") -> Transformer:
    """A tiny checkpoint of ours."""
    model = Transformer(config).eval()
    scramble(model)
    folder.mkdir()
    save_model(folder, model_weights(model), config, tokenizer, ModelCard(track))
    return model


def largest_difference(ours: Transformer, theirs, size: int = 300) -> float:
    tokens = torch.randint(size, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine = ours(tokens, AttentionPattern("causal"))
        difference = mine - theirs(tokens).logits[..., : mine.shape[-1]]  # rows of no token are not imported
    return float(difference.abs().max())


def edit(path: Path, changes: dict) -> None:
    """Change entries of a JSON file; those set to ... are taken out."""
    plain = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in plain.items() if value is not ...}), encoding="utf-8")


def complaint(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 4},
        {"head_dim": 10, "rope_scaling": YARN | {"beta_fast": 3.0, "beta_slow": 0.5}},
        {"tie_word_embeddings": True, "rope_scaling": YARN | {"factor": None}, "vocab_size": 320},
        {"rope_scaling": LLAMA3},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    ],
    ids=["gqa", "tied", "wide-yarn", "padded", "llama3", "linear"],
)
def test_imported_logits(tmp_path, tokenizer, family, changes):
    if family == "qwen2":
        changes = {name: value for name, value in changes.items() if name != "head_dim"}  # it has none
    theirs = foreign(tmp_path, tokenizer, family, **changes)
    ours, _ = import_model(tmp_path)
    assert ours.config.qkv_bias == (family == "qwen2")
    assert ours.config.qk_norm == (family == "qwen3")
    assert ours.config.vocab_size == tokenizer.vocab.size == 300
    assert not ours.training
    assert largest_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("kind", ["Qwen3", "Llama", "Qwen2"])
@pytest.mark.parametrize(
    "changes",
    [
        {"norm_eps": 1e-5, "rope_theta": 5e5},
        {"tie_embeddings": True, "num_kv_heads": None},
        {"head_size": 10, "yarn": STRETCHED, "max_length": 48},
        {"num_kv_heads": 1, "intermediate_size": None, "vocab_size": 310},
        {"yarn": replace(STRETCHED, factor=1.5)},  # transformers 4.51 would make it max_length / original_length
        {"long_rope": LongRope(4.0, 16, 1.0, 4.0)},
        {"long_rope": linear(2.5, 64)},
    ],
    ids=["gqa", "tied", "wide-yarn", "padded", "factor", "llama3", "linear"],
)
def test_export_and_back(tmp_path, tokenizer, monkeypatch, kind, changes):
    if kind == "Qwen2":
        changes = {name: value for name, value in changes.items() if name != "head_size"}
    config = replace(OURS, qk_norm=kind == "Qwen3", qkv_bias=kind == "Qwen2", **changes)
    ours = own(tmp_path / "ours", tokenizer, config)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)  # neither direction may need it
        export_model(tmp_path / "ours", tmp_path / "out")
        back, back_tokenizer = import_model(tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers 4 reads no file without it
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ == f"{kind}ForCausalLM"
    assert theirs.dtype == torch.float32
    assert largest_difference(ours, theirs) < 1e-5
    assert back_tokenizer.hash == tokenizer.hash
    resolved = {"num_kv_heads": config.kv_heads, "head_size": config.head_width, "intermediate_size": config.mlp_width}
    assert back.config == replace(config, **resolved, vocab_size=300)
    kept = {name: t[:300] if name in ("embed.weight", "head.weight") else t for name, t in ours.state_dict().items()}
    assert back.state_dict().keys() == kept.keys()
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in kept.items())


def test_import_of_a_shared_head_keeps_it_shared(tmp_path, tokenizer):
    foreign(tmp_path, tokenizer, tie_word_embeddings=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    save_file(weights, tmp_path / "model.safetensors")
    model, _ = import_model(tmp_path)
    assert model.head.weight is model.embed.weight
    weights["lm_head.weight"] += 1
    save_file(weights, tmp_path / "model.safetensors")
    message = f"{tmp_path}: tie_word_embeddings is true, but lm_head.weight is not the embedding"
    assert complaint(import_model, tmp_path) == message


def test_sharded_and_half_precision(tmp_path, tokenizer):
    theirs = foreign(tmp_path, tokenizer, shard="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert largest_difference(import_model(tmp_path)[0], theirs) < 1e-5
    theirs.bfloat16().save_pretrained(tmp_path)
    model, _ = import_model(tmp_path)
    assert model.embed.weight.dtype == torch.float32
    assert torch.equal(model.embed.weight, theirs.model.embed_tokens.weight.float())


@pytest.mark.parametrize("kind", [{"type": "yarn"}, {"rope_type": "yarn"}])
@pytest.mark.parametrize("names", [4, 5])
def test_names_of_transformers_4_and_5(tmp_path, tokenizer, kind, names):
    foreign(tmp_path, tokenizer, rope_scaling=YARN)
    wanted, _ = import_model(tmp_path)
    scaling = kind | {"factor": 4.0, "original_max_position_embeddings": 16}
    old = {"rope_parameters": ..., "rope_theta": 500, "rope_scaling": scaling}
    new = {"rope_parameters": scaling | {"rope_theta": 500}, "rope_theta": ..., "rope_scaling": ...}
    edit(tmp_path / "config.json", old if names == 4 else new)
    assert import_model(tmp_path)[0].config == wanted.config
    assert wanted.config.yarn == YarnScaling(factor=4.0, original_length=16)


def test_defaults_of_absent_fields(tmp_path, tokenizer):
    foreign(tmp_path, tokenizer, num_key_value_heads=4)
    absent = ("num_key_value_heads", "head_dim", "rms_norm_eps", "rope_parameters", "rope_theta", "tie_word_embeddings")
    edit(tmp_path / "config.json", dict.fromkeys(absent, ...))
    config = import_model(tmp_path)[0].config
    assert (config.kv_heads, config.head_width, config.norm_eps, config.rope_theta) == (4, 6, 1e-6, 10_000.0)
    assert not config.tie_embeddings
    foreign(tmp_path, tokenizer, "qwen3", head_dim=128)
    edit(tmp_path / "config.json", {"head_dim": ...})
    assert import_model(tmp_path)[0].config.head_width == 128


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("padding", [0, 9])
def test_new_mask_starts_at_the_mean(tmp_path, tokenizer, tied, padding):
    theirs = foreign(tmp_path, tokenizer, tie_word_embeddings=tied, vocab_size=260 + padding)
    bytewise = Backend.from_str((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    plain = json.loads(bytewise.to_str())
    letters = [token for token in plain["model"]["vocab"] if not token.startswith("<|")][:257]
    names = [EOS, TURN_START, TURN_END]
    plain["model"] |= {"vocab": {token: i for i, token in enumerate(names + letters)}, "merges": []}
    plain["added_tokens"] = [plain["added_tokens"][i] | {"id": i, "content": name} for i, name in enumerate(names)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain), encoding="utf-8")
    ours, found = import_model(tmp_path)
    assert (found.vocab.mask, found.vocab.size, ours.config.vocab_size) == (260, 261, 261)
    for mine, matrix in (ours.embed, theirs.model.embed_tokens), (ours.head, theirs.lm_head):
        assert mine.weight.shape == (261, 24)
        assert torch.allclose(mine.weight[260], matrix.weight[:260].mean(0), atol=1e-7)
        assert torch.equal(mine.weight[:260], matrix.weight[:260])
    assert (ours.head.weight is ours.embed.weight) == tied


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_exported_chat(tmp_path, tokenizer, family):
    own(tmp_path / "ours", tokenizer, replace(OURS, qk_norm=family == "qwen3"))
    export_model(tmp_path / "ours", tmp_path / "out")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [
        ("system", "Be kind."),
        ("user", "hello there"),
        ("assistant", ""),
        ("user", "你好， 世界！ ñ\n\n def f():\t1 "),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    wanted = encode_prompt(tokenizer, [Message(role, content) for role, content in turns])
    options = {"add_generation_prompt": True, "return_dict": False}
    assert list(loaded.apply_chat_template(messages, tokenize=True, **options)) == wanted
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == tokenizer.decode(wanted)
    assert loaded(text).input_ids == wanted
    assert (loaded.eos_token, loaded.pad_token, loaded.mask_token) == (TURN_END, EOS, MASK)
    vocab = tokenizer.vocab
    settings = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    assert settings.eos_token_id == [vocab.turn_end, vocab.eos]
    assert (settings.pad_token_id, settings.bos_token_id) == (vocab.eos, vocab.turn_start)


ONLY = "this backbone can only take"
KIND = "this backbone can be default, yarn, llama3, linear"
FAMILY = "this backbone can be llama, mistral, qwen2, qwen3, llada, sdar, nano_llada"
SHIFTED = "its output at a place predicts the next place (shifted logits)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3_moe"}, f"model_type is 'qwen3_moe': it is a mixture of experts; {FAMILY}"),
        ({"model_type": "dream"}, f"model_type is 'dream': {SHIFTED}; {FAMILY}"),
        ({"model_type": ...}, f"model_type is None; {FAMILY}"),
        ({"attention_bias": True}, f"attention_bias is True; {ONLY} False"),
        ({"mlp_bias": True}, f"mlp_bias is True; {ONLY} False"),
        ({"hidden_act": "gelu"}, f"hidden_act is 'gelu'; {ONLY} 'silu'"),
        ({"use_sliding_window": True}, f"use_sliding_window is True; {ONLY} False"),
        ({"partial_rotary_factor": 0.5}, f"partial_rotary_factor is 0.5; {ONLY} 1.0"),
        ({"quantization_config": {"bits": 4}}, f"quantization_config is {{'bits': 4}}; {ONLY} None"),
        ({"layer_types": ["sliding_attention"]}, f"layer_types has 'sliding_attention'; {ONLY} 'full_attention'"),
        ({"model_type": "mistral", "sliding_window": 9}, f"sliding_window is 9; {ONLY} None"),
        ({"model_type": "mistral"}, f"sliding_window is 4096; {ONLY} None"),
        ({"hidden_size": "24"}, "hidden_size is '24'; it must be a positive whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be a positive whole number"),
        ({"rms_norm_eps": True}, "rms_norm_eps is True; it must be a positive number"),
        ({"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"rope_parameters": 3}, "rope_parameters is 3; it must be an object"),
        ({"rope_scaling": {"type": "dynamic"}}, f"rope_scaling: rope_type is 'dynamic'; {KIND}"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling lacks factor"),
    ],
)
def test_refused_fields(tmp_path, tokenizer, changes, message):
    tokenizer.save(tmp_path)
    base = {"model_type": "llama", "vocab_size": 300, **SHAPE}
    (tmp_path / "config.json").write_text(json.dumps(base), encoding="utf-8")
    edit(tmp_path / "config.json", changes)
    assert complaint(import_model, tmp_path) == f"{tmp_path / 'config.json'}: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_type": "longrope"}, f"rope_type is 'longrope'; {KIND}"),
        ({"full_attention": {}}, "full_attention is {}; this backbone has nothing like it"),
        ({"partial_rotary_factor": 0.25}, f"partial_rotary_factor is 0.25; {ONLY} 1.0"),
        ({"mscale": 1.0}, f"mscale is 1.0; {ONLY} None"),
        ({"mscale_all_dim": 1.0}, f"mscale_all_dim is 1.0; {ONLY} None"),
        ({"truncate": False}, f"truncate is False; {ONLY} True"),
        ({"factor": 0.5}, "factor is 0.5; it stretches a context, so it must be at least 1"),
        ({"attention_factor": 2.0, "factor": 1}, f"attention_factor is 2.0; {ONLY} 1.0"),
        ({"rope_theta": -1}, "rope_theta is -1; it must be a positive number"),
    ],
)
def test_refused_rope(tmp_path, changes, message):
    base = {"model_type": "qwen3", "vocab_size": 300, **SHAPE, "rope_parameters": YARN | changes}
    (tmp_path / "config.json").write_text(json.dumps(base), encoding="utf-8")
    assert complaint(import_model, tmp_path) == f"{tmp_path / 'config.json'}: rope_parameters: {message}"


def test_refused_folders(tmp_path, tokenizer):
    def now() -> str:
        return complaint(import_model, tmp_path).replace(str(tmp_path), "F")

    assert now() == "no config.json in F; give a local folder with a model of transformers"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", **SHAPE}), encoding="utf-8")
    assert now() == "F/config.json lacks vocab_size"
    edit(config, {"vocab_size": 299})
    assert now() == "no tokenizer.json in F"
    names = {EOS: 0, "<s>": 1}
    foreign_names = json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": names, "unk_token": EOS}})
    (tmp_path / "tokenizer.json").write_text(foreign_names, encoding="utf-8")
    assert now() == f"the tokenizer turns the characters {EOS} in a text into that token; use another"
    tokenizer.save(tmp_path)
    assert now() == (
        "F: tokenizer.json has ids up to 299, but config.json a vocab_size of 299; they are not of the same model"
    )
    edit(config, {"vocab_size": 300})
    assert now() == "no weights in F: neither model.safetensors nor model.safetensors.index.json"
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    assert now() == (
        "F/pytorch_model.bin is a pickle file, and unpickling can run anything; save the model with transformers as "
        "model.safetensors and import that"
    )
    index = tmp_path / "model.safetensors.index.json"
    for places in ["x", {"a": "../a.safetensors"}, {"a": 1}]:
        index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
        assert now() == f"F/{index.name}: weight_map must name a file of the same folder for each tensor"
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}), encoding="utf-8")
    assert now() == "F/a.safetensors is missing"


def test_refused_tensors(tmp_path, tokenizer):
    foreign(tmp_path, tokenizer)
    path = tmp_path / "model.safetensors"
    good = load_file(path)
    gone = ("model.layers.1.mlp.up_proj.weight", "model.norm.weight")
    save_file({name: tensor for name, tensor in good.items() if name not in gone}, path)
    assert complaint(import_model, tmp_path) == f"the weights in {tmp_path} lack {', '.join(gone)}"
    save_file(good | {"model.b": torch.ones(1), "model.a": torch.ones(1)}, path)
    message = f"the weights in {tmp_path} have model.a, model.b, which this backbone does not"
    assert complaint(import_model, tmp_path) == message
    save_file(good | {"model.layers.0.self_attn.k_proj.weight": torch.ones(24, 24)}, path)
    message = f"{tmp_path}: model.layers.0.self_attn.k_proj.weight is (24, 24), config.json makes it (12, 24)"
    assert complaint(import_model, tmp_path) == message
    path.write_bytes(b"not tensors")
    assert re.match(f"{re.escape(str(path))} is corrupt or not a safetensors file: ", complaint(import_model, tmp_path))


def test_refused_exports(tmp_path, tokenizer):
    out = tmp_path / "out"
    own(tmp_path / "both", tokenizer, replace(OURS, qkv_bias=True))
    assert complaint(export_model, tmp_path / "both", out) == (
        f"{tmp_path / 'both'}: no AR class of transformers has both qk_norm and biases of queries only"
    )
    own(tmp_path / "odd", tokenizer, replace(OURS, hidden_size=22, head_size=6, qk_norm=False))
    assert complaint(export_model, tmp_path / "odd", out) == (
        f"{tmp_path / 'odd'}: LlamaForCausalLM needs a hidden_size (22) that is a multiple of num_heads (4), whatever "
        "the head_size; only models with qk_norm may differ"
    )
    assert complaint(export_model, tmp_path / "nowhere", out).startswith(
        f"no checkpoint at {tmp_path / 'nowhere'}: there is no such file or folder"
    )
    assert not out.exists()
    own(tmp_path / "fine", tokenizer, replace(OURS, hidden_size=22, head_size=6, dropout=0.1))
    (tmp_path / "file").write_text("", encoding="utf-8")
    message = complaint(export_model, tmp_path / "fine", tmp_path / "file" / "out")
    assert message.startswith(f"cannot write the checkpoint {tmp_path / 'file' / 'out'}: ")
    export_model(tmp_path / "fine", out)
    assert complaint(export_model, tmp_path / "fine", out) == f"{out} exists already; give the name of a new folder"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert largest_difference(load_checkpoint(tmp_path / "fine").model, theirs) < 1e-5


# diffusion models


def loaded(folder: Path):
    """An exported diffusion model, as anybody loads it."""
    return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)


def written(model: LanguageModel, prompt: tuple[int, ...], **options) -> list[int]:
    """The tokens that our decoding writes, up to the end token."""
    sampler = make_sampler(model.model, model.tokenizer.vocab, model.decoding(**options))
    (done,) = collect(sampler.stream([Request(prompt)], None), 1, ())
    tokens = list(done.tokens)
    ends = [i for i, token in enumerate(tokens) if token in model.tokenizer.vocab.ends]
    return tokens[: ends[0] + 1] if ends else tokens


def relative_difference(ours: LanguageModel, theirs, size: int) -> float:
    tokens = torch.randint(size, (2, 40), generator=torch.Generator().manual_seed(1))
    pattern = AttentionPattern("full")
    if (block := ours.card.block_size) is not None:
        places = torch.arange(40)[None].expand(2, -1)
        pattern = AttentionPattern.blocks("block_causal", torch.zeros_like(tokens), places, block)
    with torch.no_grad():
        mine = ours.model(tokens, pattern)
        return float((mine - theirs(tokens).logits).abs().max() / mine.abs().max())


SHAPES = {
    "qwen3": {},
    "llama-tied": {"qk_norm": False, "tie_embeddings": True, "yarn": STRETCHED},
    "biases-llama3": {"qkv_bias": True, "long_rope": LongRope(3.0, 32, 1.0, 4.0), "head_size": 10},
    "linear": {"long_rope": linear(2.0, 64)},
}


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_exported_denoisers(tmp_path, tokenizer, shape, block):
    config = replace(OURS, hidden_size=32, **SHAPES[shape])
    own(tmp_path / "ours", tokenizer, config, "diffusion")
    edit(tmp_path / "ours" / "model.json", {"card": {"track": "diffusion", "block_size": block, "stage": "sft"}})
    export_model(tmp_path / "ours", tmp_path / "out")
    ours, theirs = LanguageModel.load(tmp_path / "ours"), loaded(tmp_path / "out")
    assert relative_difference(ours, theirs, 300) < 1e-5
    prompt, options = ours.encode("hello", chat=False), {"max_new_tokens": 21}
    assert theirs.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist() == written(
        ours, prompt, **options
    )
    back = import_folder(tmp_path / "out")
    assert (back.card.track, back.card.block_size, back.card.stage) == ("diffusion", block, "sft")
    assert all(torch.equal(t, back.model.state_dict()[n]) for n, t in ours.model.state_dict().items())


@pytest.mark.parametrize("run", ["full", "block"])
def test_trained_denoisers_write_the_same_tokens(tmp_path, trained_place, run):
    export_model(trained_place.runs / run, tmp_path / "out")
    ours, theirs = LanguageModel.load(trained_place.runs / run), loaded(tmp_path / "out")
    assert relative_difference(ours, theirs, 400) < 1e-5
    texts = ("Tom has", "汤姆有", "What has Amy?")
    prompts = [ours.encode(text, chat=chat) for text in texts for chat in (False, True)]
    settings = [{}, {"threshold": 0.4}] + ([{"steps": 5}] if run == "full" else [])
    found = set()
    for options in settings:
        for prompt in prompts:
            mine = written(ours, prompt, max_new_tokens=20, **options)
            out = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, **options)
            assert out[0, len(prompt) :].tolist() == mine
            found.add(tuple(mine))
    assert len(found) > 2  # the texts are not all alike
    longest = max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    rows = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
    seen = torch.tensor([[0] * pad + [1] * len(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
    together = theirs.generate(rows, seen, max_new_tokens=20)
    for row, prompt in zip(together.tolist(), prompts, strict=True):
        mine = written(ours, prompt, max_new_tokens=20)
        assert row[longest : longest + len(mine)] == mine
        assert set(row[longest + len(mine) :]) <= {ours.tokenizer.vocab.eos}  # padding
    with pytest.raises(ValueError, match="generate of this model has no num_beams"):
        theirs.generate(rows, num_beams=2)


WAYS = [
    {"decode": "ar"},
    {"decode": "block", "threshold": 0.5},
    {"decode": "block", "block_size": 3, "threshold": 0.0},
    {"decode": "speculative"},
    {"decode": "speculative", "drafts": 1},
    {},
]


@pytest.mark.parametrize("predicts", ["next", "self"])
def test_exported_tri_mode_models_write_the_same_tokens_in_every_way(tmp_path, tokenizer, predicts):
    own(tmp_path / "ours", tokenizer, replace(OURS, hidden_size=32), "both")
    card = {"track": "both", "block_size": 4, "stage": "sft", "predicts": predicts, "drafts": 3}
    edit(tmp_path / "ours" / "model.json", {"card": card})
    export_model(tmp_path / "ours", tmp_path / "out")
    ours, theirs = LanguageModel.load(tmp_path / "ours"), loaded(tmp_path / "out")
    assert largest_difference(ours.model, theirs) < 1e-4  # left to right
    found, drafted = set(), 0
    with pytest.MonkeyPatch.context() as patch:
        inner, passes = type(theirs)._logits, []
        patch.setattr(type(theirs), "_logits", lambda *given: passes.append(1) or inner(*given))
        for options in WAYS:
            for text in ("hello", "你好", "how are you"):
                prompt, passes[:] = ours.encode(text, chat=False), []
                mine = written(ours, prompt, max_new_tokens=18, **options)
                out = theirs.generate(torch.tensor([prompt]), max_new_tokens=18, **options)
                assert out[0, len(prompt) :].tolist() == mine, options
                found.add((options.get("decode"), tuple(mine)))
                drafted += options.get("decode", "speculative") == "speculative" and len(passes) < len(mine)
    assert len(found) > 8
    assert drafted or predicts == "self"
    prompt = torch.tensor([ours.encode("hello", chat=False)])
    drawn = [
        theirs.generate(prompt, max_new_tokens=9, temperature=1.0, generator=torch.Generator().manual_seed(1), **way)
        for way in ({"decode": "ar"}, {"decode": "speculative"})
    ]
    assert torch.equal(*drawn)
    with pytest.raises(ValueError, match="decode is 'steps'; this model can be speculative, ar, block"):
        theirs.generate(prompt, decode="steps")
    back = import_folder(tmp_path / "out")
    kept = {name: getattr(back.card, name) for name in card}
    assert kept == card
    edit(tmp_path / "out" / "config.json", {"predicts": "both"})
    assert "config.json: predicts is 'both'; it can be self, next" in complaint(import_folder, tmp_path / "out")


def test_a_trained_tri_mode_model_elsewhere(tmp_path, trained_place):
    """With its own code it writes in every way, and without code it is the AR model that it also is."""
    export_model(trained_place.runs / "tri", tmp_path / "out")
    assert run_cli(["export", trained_place.runs / "tri", "--out", tmp_path / "causal", "--causal"]) == 0
    ours, theirs = LanguageModel.load(trained_place.runs / "tri"), loaded(tmp_path / "out")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "causal")
    assert type(plain).__name__ == "Qwen3ForCausalLM"
    assert largest_difference(ours.model, theirs, 400) < 1e-4
    assert largest_difference(ours.model, plain, 400) < 1e-4
    prompts = [ours.encode(text, chat=False) for text in ("Tom has", "汤姆有", "Amy")]
    texts = set()
    for prompt in prompts:
        row = torch.tensor([prompt])
        for options in WAYS:
            mine = written(ours, prompt, max_new_tokens=16, **options)
            assert theirs.generate(row, max_new_tokens=16, **options)[0, len(prompt) :].tolist() == mine
        ar = plain.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=16, do_sample=False)
        assert ar[0, len(prompt) :].tolist() == written(ours, prompt, max_new_tokens=16, decode="ar")
        texts.add(tuple(ar[0].tolist()))
    assert len(texts) == 3
    with pytest.raises(UserError, match="it does not read left to right"):
        export_model(trained_place.runs / "block", tmp_path / "no", causal=True)
    labels = torch.randint(16, 400, (2, 12), generator=torch.Generator().manual_seed(2))
    out = theirs(labels, labels=labels)
    following = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert torch.allclose(out.loss, following)


@pytest.mark.parametrize("block", [None, 4])
def test_denoisers_that_predict_the_next_token(tmp_path, tokenizer, block):
    own(tmp_path / "ours", tokenizer, replace(OURS, hidden_size=32), "diffusion")
    card = {"track": "diffusion", "block_size": block, "predicts": "next"}
    edit(tmp_path / "ours" / "model.json", {"card": card})
    export_model(tmp_path / "ours", tmp_path / "out")
    ours, theirs = LanguageModel.load(tmp_path / "ours"), loaded(tmp_path / "out")
    prompt, options = ours.encode("hello", chat=False), {"max_new_tokens": 21, "threshold": 0.3}
    found = theirs.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()
    assert found == written(ours, prompt, **options)
    theirs.config.predicts = "self"
    assert found != theirs.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()  # the test can tell


def test_exported_code_learns_samples_and_is_saved_again(tmp_path, trained_place):
    export_model(trained_place.runs / "full", tmp_path / "out")
    theirs = loaded(tmp_path / "out")
    tokens = torch.randint(16, 400, (2, 12), generator=torch.Generator().manual_seed(2))
    labels = tokens.masked_fill(torch.arange(12) % 2 == 0, -100)
    theirs(tokens, labels=labels).loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in theirs.parameters())
    drawn = [
        theirs.generate(tokens[:1], max_new_tokens=16, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    padded = torch.cat([tokens, tokens.new_zeros(2, 3)], 1)
    seen = torch.cat([torch.ones_like(tokens), tokens.new_zeros(2, 3)], 1)
    with torch.no_grad():
        assert torch.allclose(theirs(padded, seen).logits[:, :12], theirs(tokens).logits, atol=1e-5)
    theirs.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "modeling_nano_llada.py").is_file()
    again = loaded(tmp_path / "again")
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in theirs.state_dict().items())
    shutil.copy(tmp_path / "out" / "tokenizer.json", tmp_path / "again")
    back = import_folder(tmp_path / "again")
    assert torch.equal(back.model.head.weight, LanguageModel.load(trained_place.runs / "full").model.head.weight)


@pytest.mark.parametrize("kind", ["llada", "sdar"])
def test_public_diffusion_models(tmp_path, kind):
    """Llama and Qwen3 with another mask are what LLaDA and SDAR compute."""
    names = {EOS: "<|endoftext|>", MASK: {"llada": "<|mdm_mask|>", "sdar": "<|MASK|>"}[kind]}
    tokenizer = train_bpe(TEXTS, vocab_size=300)
    theirs = foreign(tmp_path, tokenizer, {"llada": "llama", "sdar": "qwen3"}[kind], num_key_value_heads=4)
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(text.replace(MASK, names[MASK]), encoding="utf-8")
    ids = {"mask_token_id": tokenizer.vocab.mask, "eos_token_id": tokenizer.vocab.eos}
    if kind == "sdar":
        edit(tmp_path / "config.json", {"model_type": "sdar", "architectures": ["SDARForCausalLM"], **ids})
    else:
        weights = load_file(tmp_path / "model.safetensors")
        renamed = {}
        for ours, parts in tensor_layout(OURS).items():
            if ours.endswith(("q_norm.weight", "k_norm.weight")):
                continue
            place = {name: part for name, part in tensor_layout(replace(OURS, qk_norm=False), LLADA).items()}[ours]
            renamed |= {new: weights[old] for (old, _), (new, _) in zip(parts, place, strict=True)}
        save_file(renamed, tmp_path / "model.safetensors")
        stated = {"d_model": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 40}
        stated |= {"max_sequence_length": 64, "vocab_size": 300, "rope_theta": 500.0, "rms_norm_eps": 1e-5}
        stated |= {"block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "weight_tying": False}
        stated |= {"include_bias": False, "head_dim": 6, "multi_query_attention": None, **ids}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llada", **stated}), encoding="utf-8")
    found = import_folder(tmp_path, "sft")
    assert (found.card.track, found.card.stage) == ("diffusion", "sft")
    assert found.card.block_size == (4 if kind == "sdar" else None)
    assert found.tokenizer.vocab.mask == tokenizer.vocab.mask
    assert found.remarks == (f"the tokenizer's {names[MASK]} is called {MASK} here",)
    tokens = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        free = torch.zeros(2, 1, 20, 20)
        mine = found.model(tokens, AttentionPattern("full"))
        assert float((mine - theirs(tokens, attention_mask=free).logits).abs().max() / mine.abs().max()) < 1e-5
    if kind == "llada":
        edit(tmp_path / "config.json", {"alibi": True})
        message = f"{tmp_path / 'config.json'}: alibi is True; this backbone can only take False"
        assert complaint(import_model, tmp_path) == message


@pytest.mark.parametrize("cut", ["plain", "digits", "words"])
def test_a_thousand_texts_have_the_same_tokens(tmp_path, cut):
    words = ["图书馆", "北京大学"] if cut == "words" else None
    tokenizer = train_bpe([*TEXTS, *mixed()], vocab_size=500, chinese_words=words)
    if cut == "digits":
        plain = json.loads(tokenizer.to_json())
        digits = {"type": "Digits", "individual_digits": True}
        plain["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, plain["pre_tokenizer"]]}
        tokenizer = Tokenizer(Backend.from_str(json.dumps(plain)))
    own(tmp_path / "ours", tokenizer, replace(OURS, vocab_size=500))
    export_model(tmp_path / "ours", tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", split_special_tokens=True)
    texts = mixed()
    wanted = tokenizer.encode_many(texts)
    assert theirs(texts, add_special_tokens=False).input_ids == wanted
    assert import_folder(tmp_path / "out").tokenizer.encode_many(texts) == wanted


def test_llama_marks(tmp_path, tokenizer):
    """A tokenizer with other marks gets ours: by role where it has one, else as new tokens."""
    plain = json.loads(tokenizer.to_json())
    text = json.dumps(plain).replace(EOS, "<|end_of_text|>").replace(TURN_END, "<|eot_id|>")
    text = text.replace(TURN_START, "<|start_header_id|>").replace(MASK, "<|nothing|>")
    foreign(tmp_path, tokenizer)
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    found = import_folder(tmp_path)
    vocab = found.tokenizer.vocab
    assert (vocab.eos, vocab.turn_end) == (tokenizer.vocab.eos, tokenizer.vocab.turn_end)
    assert {vocab.turn_start, vocab.mask} == {300, 301}
    assert len(found.remarks) == 3
    mean = found.model.embed.weight[:300].mean(0)
    assert torch.allclose(found.model.embed.weight[300:], mean.expand(2, -1), atol=1e-7)
    texts = mixed(100)
    assert found.tokenizer.encode_many(texts) == tokenizer.encode_many(texts)


# adapters


@pytest.fixture(scope="module")
def adapted(trained_place) -> Place:
    """Runs that train adapters alone: of the AR model, and of a denoiser that starts from it."""
    common = {"init_from": trained_place.runs / "ar", "lora_rank": 3, "steps": 8, "learning_rate": 2e-2}
    runs = [
        tiny_run(trained_place, "sft", "ar", name="lora-ar", **common),
        tiny_run(trained_place, "sft", "diffusion", name="lora-tri", **common, lora_targets=("qkv", "gate_up", "out")),
    ]
    for run in runs:
        assert execute(run).state == "finished"
    return trained_place


@pytest.mark.parametrize("run", ["lora-ar", "lora-tri"])
def test_peft_loads_adapters(tmp_path, adapted, run):
    peft = pytest.importorskip("peft")
    folder = adapted.runs / run
    assert run_cli(["export", folder, "--out", tmp_path / "adapter", "--to", "peft", "--base", "my/base"]) == 0
    assert run_cli(["export", folder, "--out", tmp_path / "base", "--no-adapters"]) == 0
    assert run_cli(["export", folder, "--out", tmp_path / "merged"]) == 0
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    ours = LanguageModel.load(folder)
    diffusion = ours.card.denoising
    load = loaded if diffusion else transformers.AutoModelForCausalLM.from_pretrained
    theirs = peft.PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
    tokens = torch.randint(16, 400, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine = ours.model(tokens, AttentionPattern("full" if diffusion else "causal"))
        base = load(tmp_path / "base")(tokens).logits
        for other in (theirs(tokens).logits, load(tmp_path / "merged")(tokens).logits):
            assert float((mine - other).abs().max() / mine.abs().max()) < 1e-5
    assert float((mine - base).abs().max() / mine.abs().max()) > 1e-2  # the adapters do something
    assert (
        json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "my/base"
    )
    message = complaint(export_adapter, adapted.runs / "ar", tmp_path / "out", "")
    assert message.endswith("holds all weights and no adapters: it was trained without --lora-rank")


@pytest.fixture(scope="module")
def foreign_adapter(tmp_path_factory, tokenizer):
    """A Llama with adapters of some matrices, made and saved by peft itself."""
    peft = pytest.importorskip("peft")
    root = tmp_path_factory.mktemp("peft")
    base = foreign(root / "base", tokenizer)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config).eval()
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=rng)
    model.save_pretrained(root / "adapter")
    return root, model


def test_adapters_of_peft_are_merged(tmp_path, foreign_adapter):
    root, theirs = foreign_adapter
    words = ["import", root / "adapter", "--base", root / "base", "--stage", "sft"]
    assert run_cli([*words, "--out", tmp_path / "ours"]) == 0
    merged = load_checkpoint(tmp_path / "ours")
    assert (merged.card.track, merged.card.stage, merged.card.run) == ("ar", "sft", "adapter")
    assert largest_difference(merged.model, theirs) < 1e-5
    assert largest_difference(import_model(root / "base")[0], theirs) > 0.1  # they do something
    assert run_cli(["import", root / "base", "--out", tmp_path / "base"]) == 0  # the same from a checkpoint of ours
    assert run_cli([*words[:3], tmp_path / "base", "--out", tmp_path / "again"]) == 0
    again = load_checkpoint(tmp_path / "again").model
    assert all(torch.equal(tensor, again.state_dict()[n]) for n, tensor in merged.model.state_dict().items())
    shutil.copytree(root / "adapter", tmp_path / "named")  # or from the folder that they name
    edit(
        tmp_path / "named" / "adapter_config.json", {"base_model_name_or_path": str(root / "base"), "use_rslora": True}
    )
    assert run_cli(["import", tmp_path / "named", "--out", tmp_path / "scaled"]) == 0
    start, changed = load_checkpoint(tmp_path / "base").model, load_checkpoint(tmp_path / "scaled").model
    weight = "blocks.1.down.weight"
    differences = [model.state_dict()[weight] - start.state_dict()[weight] for model in (changed, merged.model)]
    assert torch.allclose(differences[0], differences[1] * 3**0.5, atol=1e-5)  # alpha / sqrt(r)


@pytest.mark.parametrize("run", ["lora-ar", "lora-tri"])
def test_our_own_adapters_come_back(tmp_path, adapted, run):
    folder = adapted.runs / run
    assert run_cli(["export", folder, "--out", tmp_path / "adapter", "--to", "peft"]) == 0
    assert run_cli(["export", folder, "--out", tmp_path / "base", "--no-adapters"]) == 0
    words = ["import", tmp_path / "adapter", "--base", tmp_path / "base", "--out", tmp_path / "back"]
    assert run_cli(words) == 0
    ours, back = (LanguageModel.load(path) for path in (folder, tmp_path / "back"))
    assert (back.card.track, back.card.stage) == (ours.card.track, ours.card.stage if run != "lora-ar" else "pretrain")
    for name, tensor in ours.model.state_dict().items():
        assert torch.allclose(tensor, back.model.state_dict()[name], atol=1e-6), name


def test_hostile_adapters_are_refused_and_nothing_is_written(tmp_path, foreign_adapter, capsys):
    root, _ = foreign_adapter
    weights = load_file(root / "adapter" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    there = sorted(path.name for path in tmp_path.iterdir())

    def now(changes: dict | None = None, tensors: dict | bytes | None = None) -> str:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(root / "adapter", tmp_path / "bad")
        edit(tmp_path / "bad" / "adapter_config.json", changes or {})
        path = tmp_path / "bad" / "adapter_model.safetensors"
        if isinstance(tensors, bytes):
            path.write_bytes(tensors)
        elif tensors is not None:
            save_file({n: t for n, t in (weights | tensors).items() if t is not None}, path)
        assert run_cli(["import", tmp_path / "bad", "--base", root / "base", "--out", tmp_path / "out"]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*there, "bad"])
        return said

    assert "peft_type is 'IA3'; only LORA is read" in now({"peft_type": "IA3"})
    assert "use_dora is True; only plain LoRA is read" in now({"use_dora": True})
    assert "rank_pattern is {'q_proj': 9}; only plain LoRA" in now({"rank_pattern": {"q_proj": 9}})
    assert "modules_to_save is ['lm_head']" in now({"modules_to_save": ["lm_head"]})
    assert "bias is 'all'" in now({"bias": "all"})
    assert "init_lora_weights is 'pissa', which also changes the base" in now({"init_lora_weights": "pissa"})
    assert "r is 0; it must be a number from 1" in now({"r": 0})
    assert "r is True" in now({"r": True})
    assert "lora_alpha is inf" in now({"lora_alpha": float("inf")})
    assert "lora_A of model.layers.0.mlp.down_proj is (3, 40), must be (4, 40)" in now({"r": 4})
    assert "q_proj' has only one of lora_A and lora_B" in now(None, {name: None})
    assert "has '../../evil', which is no part of plain LoRA" in now(None, {"../../evil": torch.ones(1)})
    far = {f"base_model.model.model.layers.9.x.lora_{part}.weight": torch.ones(3, 3) for part in "AB"}
    assert "adapters of 'model.layers.9.x', a matrix that the base does not have" in now(None, far)
    assert "are not finite" in now(None, {name: weights[name] * torch.nan})
    assert "int64, not floating-point numbers" in now(None, {name: torch.ones(3, 24, dtype=torch.int64)})
    assert "is corrupt or not a safetensors file" in now(None, struct.pack("<Q", 2**60) + b"{}")
    (tmp_path / "bad" / "adapter_model.safetensors").unlink()
    (tmp_path / "bad" / "adapter_model.bin").write_bytes(b"\x80\x04never read")
    words = ["import", tmp_path / "bad", "--out", tmp_path / "out"]
    assert run_cli([*words, "--base", root / "base"]) == 2
    assert "adapter_model.bin is a pickle file, and unpickling can run anything" in capsys.readouterr().err
    edit(tmp_path / "bad" / "adapter_config.json", {"base_model_name_or_path": "../\x1b[31m"})
    assert run_cli(words) == 2
    assert "adapters of '../\\x1b[31m', which is no folder here: give it as --base" in capsys.readouterr().err
    assert run_cli(["import", root / "base", "--base", root / "base", "--out", tmp_path / "out"]) == 2
    assert "--base is for folders with adapters of peft" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_from_a_foreign_model_to_a_foreign_program(tmp_path, trained_place):
    """Import, a curriculum of blocks, fine-tuning by adapters, export: every step by its command or as a run."""
    foreign(tmp_path / "qwen", Tokenizer.load(trained_place.tokenizer), "qwen3", vocab_size=400)
    assert run_cli(["import", tmp_path / "qwen", "--out", tmp_path / "start"]) == 0
    common = {"runs": tmp_path / "runs", "steps": 6, "learning_rate": 1e-2}
    curriculum = {"blocks": {"block_size": 4, "block_warmup": [1, 2], "block_decay": [8, 4]}}
    first = {"init_from": tmp_path / "start", **curriculum, **common}
    assert execute(tiny_run(trained_place, "pretrain", "diffusion", name="blocks", **first)).state == "finished"
    second = {"init_from": tmp_path / "runs" / "blocks", "blocks": {"block_size": 4}, "lora_rank": 2, **common}
    assert execute(tiny_run(trained_place, "sft", "diffusion", name="answers", **second)).state == "finished"
    assert run_cli(["export", tmp_path / "runs" / "answers", "--out", tmp_path / "out", "--licence", "mit"]) == 0
    ours, theirs = LanguageModel.load(tmp_path / "runs" / "answers"), loaded(tmp_path / "out")
    assert relative_difference(ours, theirs, 400) < 1e-5
    for asked in ("What has Tom?", "1加1?", "Eve"):
        prompt = ours.encode(asked, chat=True)
        out = theirs.generate(torch.tensor([prompt]), max_new_tokens=12)[0, len(prompt) :].tolist()
        assert out == written(ours, prompt, max_new_tokens=12)
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert page.startswith('---\nlibrary_name: "transformers"\n')
    assert 'license: "mit"\n' in page
    assert "denoising blocks of 4 tokens" in page
    assert "- chat.jsonl\n" in page  # the name of the data, without the folders of this machine
    assert str(tmp_path) not in page
