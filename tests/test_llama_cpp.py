"""GGUF files through llama.cpp itself and through the gguf package: logits, texts, tokens, and every complaint."""

from __future__ import annotations

import json
import struct
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixed import mixed
from nano_llada.checkpoint.files import load_checkpoint, model_weights, save_model
from nano_llada.config.card import ModelCard
from nano_llada.config.model import LongRope, ModelConfig, YarnScaling
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer, train_bpe
from nano_llada.interop.export import export_gguf
from nano_llada.interop.gguf_files import import_gguf
from nano_llada.interop.shapes import linear
from nano_llada.language_model import LanguageModel
from nano_llada.model.transformer import Transformer
from tiny import run_cli

gguf = pytest.importorskip("gguf")
OURS = ModelConfig(
    vocab_size=400, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, max_length=64, intermediate_size=96
)
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3-wide": {"head_size": 20, "tie_embeddings": True, "rope_theta": 5e5},
    "qwen3-yarn": {"yarn": YarnScaling(3.0, 16)},
    "llama": {"qk_norm": False, "head_size": 20},
    "llama-3": {"qk_norm": False, "long_rope": LongRope(3.0, 64, 1.0, 4.0), "tie_embeddings": True},
    "llama-linear": {"qk_norm": False, "long_rope": linear(2.5, 64), "num_kv_heads": None},
    "qwen2": {"qk_norm": False, "qkv_bias": True, "norm_eps": 1e-5},
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(mixed(), vocab_size=400)


def own(folder: Path, tokenizer: Tokenizer, config: ModelConfig, card: ModelCard) -> Transformer:
    """A tiny random checkpoint whose logits tell errors from rounding."""
    model, rng = Transformer(config).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5 if parameter.dim() == 1 else 0.0, 0.2, generator=rng)
    folder.mkdir()
    save_model(folder, model_weights(model), config, tokenizer, card)
    return model


@contextmanager
def served(path: Path, *, denoiser: bool = False, context: int = 64) -> Iterator[Any]:
    """llama.cpp's own server on a file, in exact arithmetic: gives a function of endpoint and request."""
    xllamacpp = pytest.importorskip("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.verbosity, settings.warmup = str(path), context, -1, False
    settings.cpuparams.n_threads, settings.n_batch, settings.n_ubatch = 1, context, context
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to 16 bits
    if denoiser:  # the server writes left to right alone, but gives the input of the head at every token
        settings.embedding = True
        settings.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
    server = xllamacpp.Server(settings)
    address = server.listening_address

    def ask(endpoint: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{address}/{endpoint}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    yield ask
    del server  # which stops it


def log_probabilities(ask: Any, tokens: list[int]) -> torch.Tensor:
    (letter,) = ask("tokenize", {"content": "a"})["tokens"]
    # it lists nothing after a token that is half a character, or an end: have it write a letter, which changes no logit
    body = {"prompt": tokens, "n_predict": 1, "temperature": 0, "n_probs": 400, "logit_bias": [[letter, 1000]]}
    found = ask("completion", body)["completion_probabilities"][0]["top_logprobs"]
    assert len(found) == 400
    return torch.tensor([entry["logprob"] for entry in sorted(found, key=lambda entry: entry["id"])])


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def some_tokens(count: int = 40) -> torch.Tensor:
    return torch.randint(16, 400, (1, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_ar_logits_in_llama_cpp_and_back(tmp_path, tokenizer, shape):
    config = replace(OURS, **SHAPES[shape])
    model, tokens = own(tmp_path / "ours", tokenizer, config, ModelCard("ar", stage="sft")), some_tokens()
    exported = export_gguf(tmp_path / "ours", tmp_path / "out", "f32")
    assert exported.remarks == ()
    path = tmp_path / "out" / "model-f32.gguf"
    with torch.no_grad():
        wanted = model(tokens, AttentionPattern("causal"))[0, -1].log_softmax(-1)
    with served(path) as ask:
        assert relative(log_probabilities(ask, tokens[0].tolist()), wanted) < 1e-5
    back = import_gguf(path, stage="sft")
    assert all(torch.equal(tensor, back.model.state_dict()[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        again = back.model(tokens, AttentionPattern("causal"))[0, -1].log_softmax(-1)
    assert relative(again, wanted) < 1e-6  # Llama 3's rule is found again from its table
    assert (back.card.track, back.card.stage) == ("ar", "sft")


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"qk_norm": False}, {"yarn": YarnScaling(3.0, 16)}])
def test_denoisers_in_llama_cpp_and_back(tmp_path, tokenizer, changes):
    config = replace(OURS, **changes)
    model, tokens = own(tmp_path / "ours", tokenizer, config, ModelCard("diffusion")), some_tokens()
    export_gguf(tmp_path / "ours", tmp_path / "out", "f32")
    path = tmp_path / "out" / "model-f32.gguf"
    with torch.no_grad():
        wanted = model(tokens, AttentionPattern("full"))[0]
    with served(path, denoiser=True) as ask:
        features = ask("embeddings", {"content": tokens[0].tolist(), "embd_normalize": -1})[0]["embedding"]
        assert relative(torch.tensor(features) @ model.head.weight.detach().T, wanted) < 1e-5
    fields = gguf.GGUFReader(path).fields
    arch = fields["general.architecture"].contents()
    assert arch == ("llada-moe" if config.qk_norm else "llada")
    assert fields[f"{arch}.attention.causal"].contents() is False
    assert fields["diffusion.shift_logits"].contents() is False
    assert fields["tokenizer.ggml.mask_token_id"].contents() == tokenizer.vocab.mask
    back = import_gguf(path)
    assert back.card == ModelCard("diffusion", run="model-f32", step=0)
    assert back.model.config.tie_embeddings == config.tie_embeddings
    assert all(torch.equal(tensor, back.model.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("kind", "bound"), [("f16", 2e-3), ("q8_0", 4e-2)])
def test_trained_models_in_every_precision(tmp_path, trained_place, kind, bound):
    run = trained_place.runs / "ar"
    assert run_cli(["export", run, "--out", tmp_path / "out", "--to", "gguf", "--type", kind]) == 0
    path, ours = tmp_path / "out" / f"model-{kind}.gguf", LanguageModel.load(run)
    back = import_gguf(path)
    tokens = some_tokens()
    with torch.no_grad():
        wanted, rounded = (
            m(tokens, AttentionPattern("causal"))[0, -1].log_softmax(-1) for m in (ours.model, back.model)
        )
    assert 0 < relative(rounded, wanted) < bound
    for name, tensor in model_weights(ours.model).items():
        assert float((model_weights(back.model)[name] - tensor).abs().max()) <= 0.01 * float(tensor.abs().max())
    assert "model-" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_trained_models_write_the_same_tokens(tmp_path, trained_place):
    export_gguf(trained_place.runs / "ar", tmp_path / "out", "f32")
    ours = LanguageModel.load(trained_place.runs / "ar")
    forbidden = [[token, False] for token in ours.tokenizer.vocab.unwritable]
    found = set()
    with served(tmp_path / "out" / "model-f32.gguf") as ask:
        for text in ("Tom has", "汤姆有", "What has Amy?", "Bob"):
            prompt = ours.encode(text, chat=False)
            body = {"prompt": list(prompt), "n_predict": 20, "temperature": 0, "return_tokens": True}
            answer = ask("completion", body | {"logit_bias": forbidden})
            mine = ours.generate(text, chat=False, max_new_tokens=20)
            written = [token for token in answer["tokens"] if token not in ours.tokenizer.vocab.ends]
            assert ours.tokenizer.decode(written) == mine.text
            assert answer["content"] == mine.text
            found.add(mine.text)
    assert len(found) > 2
    assert max(map(len, found)) > 10


@pytest.mark.parametrize("cut", ["gpt-2", "smollm"])
def test_a_thousand_texts_have_the_same_tokens(tmp_path, tokenizer, cut):
    if cut == "smollm":
        from tokenizers import Tokenizer as Backend

        plain = json.loads(tokenizer.to_json())
        digits = {"type": "Digits", "individual_digits": True}
        plain["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, plain["pre_tokenizer"]]}
        tokenizer = Tokenizer(Backend.from_str(json.dumps(plain)))
    own(tmp_path / "ours", tokenizer, OURS, ModelCard("ar"))
    assert export_gguf(tmp_path / "ours", tmp_path / "out", "f32").remarks == ()
    path, texts = tmp_path / "out" / "model-f32.gguf", mixed()
    assert gguf.GGUFReader(path).fields["tokenizer.ggml.pre"].contents() == cut
    wanted = tokenizer.encode_many(texts)
    assert import_gguf(path).tokenizer.encode_many(texts) == wanted
    with served(path) as ask:
        assert tokenized(ask, texts) == wanted


def tokenized(ask: Any, texts: list[str], between: int = 3) -> list[list[int]]:
    """Tokens of texts in llama.cpp, in one request: a token that no text has stands between them."""
    body = {"content": [part for text in texts for part in (text, between)], "parse_special": False}
    found: list[list[int]] = [[]]
    for token in ask("tokenize", body | {"add_special": False})["tokens"]:
        if token == between:
            found.append([])
        else:
            found[-1].append(token)
    assert found.pop() == []
    return found


def test_the_bundled_model_in_llama_cpp(tmp_path):
    """A tri-mode model in eight bits is there the AR model that it also is: the same tokens of texts, and texts."""
    assert run_cli(["export", "story", "--out", tmp_path / "out", "--to", "gguf", "--type", "f32"]) == 0
    ours, path = LanguageModel.load("story"), tmp_path / "out" / "model-f32.gguf"
    assert ours.card.track == "both"
    texts, found, vocab = mixed(), [], ours.tokenizer.vocab
    with served(path, context=256) as ask:
        assert tokenized(ask, texts, vocab.mask) == ours.tokenizer.encode_many(texts)
        for text in ("Tell me a story about a cat.", "讲一个小狗的故事。", "你好"):
            prompt = list(ours.encode(text, chat=True))
            body = {"prompt": prompt, "n_predict": 40, "temperature": 0, "return_tokens": True}
            answer = ask("completion", body | {"logit_bias": [[token, False] for token in vocab.unwritable]})
            mine = ours.generate(text, decode="ar", max_new_tokens=40).text
            assert ours.tokenizer.decode([token for token in answer["tokens"] if token not in vocab.ends]) == mine
            found.append(mine)
    assert len({text[:20] for text in found}) == 3
    assert import_gguf(path, stage="sft").card.track == "ar"


def test_what_llama_cpp_cannot_say_of_the_bundled_tokenizers_is_named(tmp_path):
    tokenizer = Tokenizer.load(BUNDLED_TOKENIZER)
    shape = replace(OURS, vocab_size=tokenizer.vocab.size)
    own(tmp_path / "ours", tokenizer, shape, ModelCard("ar"))
    (remark,) = export_gguf(tmp_path / "ours", tmp_path / "out", "f32").remarks
    assert "before merging: at 136 words of its own and at each Chinese character, then ByteLevel." in remark
    texts = mixed()
    with served(tmp_path / "out" / "model-f32.gguf") as ask:
        assert tokenized(ask, texts, tokenizer.vocab.mask) == tokenizer.encode_many(texts)  # other texts may differ


def complaint(call: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_refused_exports(tmp_path, tokenizer):
    cases = {
        "block": (ModelCard("diffusion", block_size=4), {}, "was trained in blocks of 4"),
        "bias": (ModelCard("diffusion"), {"qkv_bias": True}, "has biases, which llama.cpp has in AR models"),
        "wide": (ModelCard("ar"), SHAPES["qwen2"] | {"head_size": 20}, "(4 x 20 is not 64)"),
        "yarn": (ModelCard("ar"), {"yarn": YarnScaling(3.0, 16, 8.0)}, "beta_fast 32 and beta_slow 1"),
        "rope": (ModelCard("ar"), {"long_rope": LongRope(3.0, 64)}, "long_rope for Llama models only"),
    }
    for name, (card, changes, message) in cases.items():
        own(tmp_path / name, tokenizer, replace(OURS, **changes), card)
        assert message in complaint(export_gguf, tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    model = own(tmp_path / "large", tokenizer, OURS, ModelCard("ar"))
    with torch.no_grad():
        model.embed.weight[0, 0] = 1e6
    save_model(tmp_path / "large", model_weights(model), OURS, tokenizer, ModelCard("ar"))
    assert "numbers that float16 cannot" in complaint(export_gguf, tmp_path / "large", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*cases, "large"])  # nothing half written


def test_words_of_chinese_are_said_to_be_cut_otherwise(tmp_path):
    words = train_bpe(mixed(), vocab_size=400, chinese_words=["图书馆"])
    own(tmp_path / "ours", words, OURS, ModelCard("ar"))
    (remark,) = export_gguf(tmp_path / "ours", tmp_path / "out", "f32").remarks
    assert "no name for how this tokenizer cuts texts" in remark
    narrow = replace(OURS, hidden_size=48, intermediate_size=40)
    own(tmp_path / "narrow", words, narrow, ModelCard("ar"))
    remarks = export_gguf(tmp_path / "narrow", tmp_path / "narrow-out", "q8_0").remarks
    assert any("is stored as f16: its rows of 40 are not a multiple of 32" in remark for remark in remarks)


@pytest.fixture(scope="module")
def good(tmp_path_factory, tokenizer) -> Path:
    root = tmp_path_factory.mktemp("good")
    own(root / "ours", tokenizer, OURS, ModelCard("ar"))
    export_gguf(root / "ours", root / "out", "f32")
    return root / "out" / "model-f32.gguf"


def rewritten(good: Path, path: Path, changes: dict[str, Any], arch: str = "qwen3", drop: str = "", **tensors: Any):
    """The file again with other metadata and tensors."""
    reader = gguf.GGUFReader(good)
    writer = gguf.GGUFWriter(str(path), arch)
    for name, field in reader.fields.items():
        if name.startswith(("GGUF.", "general.arch")):
            continue
        value, kinds = changes.get(name, field.contents()), field.types
        if value is not None:
            writer.add_key_value(name, value, kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)
    for tensor in reader.tensors:
        if tensor.name != drop:
            writer.add_tensor(tensor.name, tensors.pop(tensor.name, np.array(tensor.data)))
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_refused_files(tmp_path, good):
    def now(changes: dict[str, Any] | None = None, **other: Any) -> str:
        path = rewritten(good, tmp_path / "bad.gguf", changes or {}, **other)
        return complaint(import_gguf, path).removeprefix(str(path)).lstrip(": ")

    assert now(arch="gemma").startswith("general.architecture is 'gemma'; this backbone can be llama, qwen2")
    assert now({"tokenizer.ggml.model": "llama"}).startswith("its tokenizer is of the kind 'llama', only gpt2 (BPE)")
    assert now({"tokenizer.ggml.pre": "tekken"}).startswith("tokenizer.ggml.pre is 'tekken'; texts can be cut as gpt-2")
    assert now({"tokenizer.ggml.merges": None}).startswith("its tokens, their types or its merges are missing")
    assert now({"qwen3.block_count": None}) == "lacks qwen3.block_count"
    assert now({"qwen3.block_count": 0}) == "qwen3.block_count is 0; it must be a positive whole number"
    assert now({"qwen3.block_count": 4000}).endswith("tensors, too few for the 4000 layers of its metadata")
    assert now({"qwen3.rope.dimension_count": 8}) == ("qwen3.rope.dimension_count is 8; this backbone can only take 16")
    assert "lack blk.1.ffn_up.weight" in now(drop="blk.1.ffn_up.weight")
    extra = {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    assert "have blk.0.attn_sinks.weight, which this backbone does not" in now(**extra)
    wrong = {"blk.0.attn_k.weight": np.ones((64, 64), np.float32)}
    assert "blk.0.attn_k.weight is (64, 64), its metadata makes it (32, 64)" in now(**wrong)
    infinite = {"output_norm.weight": np.full(64, np.inf, np.float32)}
    assert "of norm.weight are not finite" in now(**infinite)
    assert "is not a table of Llama 3.1's rule" in now(**{"rope_freqs.weight": np.arange(1, 9, dtype=np.float32)})


def test_damaged_files_are_refused_and_nothing_is_written(tmp_path, good, capsys):
    data = good.read_bytes()
    cases = {
        "empty": b"",
        "text": b"hello" * 10,
        "cut in the header": data[:100],
        "cut in the tensors": data[: len(data) // 2],
        "huge count of entries": data[:16] + struct.pack("<Q", 2**62) + data[24:],
        "huge count of tensors": data[:8] + struct.pack("<Q", 2**62) + data[16:],
        "huge text": data[:24] + struct.pack("<Q", 2**60) + data[32:],
    }
    rng = np.random.default_rng(0)
    for number in range(12):
        bad = bytearray(data)
        for place in rng.integers(0, 3000, 6):
            bad[place] = rng.integers(0, 256)
        cases[f"bits {number}"] = bytes(bad)
    for name, content in cases.items():
        path = tmp_path / "bad.gguf"
        path.write_bytes(content)
        status = run_cli(["import", path, "--out", tmp_path / "out"])
        shown = capsys.readouterr()
        if name.startswith("bits") and status == 0:  # a changed letter of a name that nothing reads
            load_checkpoint(tmp_path / "out")
            (tmp_path / "out").rename(tmp_path / f"fine {number}")
            continue
        assert status == 2, name
        assert "Traceback" not in shown.err
        assert "bad.gguf" in shown.err
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".*"))
    assert complaint(import_gguf, tmp_path / "nowhere.gguf").startswith(f"{tmp_path / 'nowhere.gguf'} cannot be read")
