"""What llama.cpp needs for a token with a model of the same shape: random weights as GGUF, run by `xllamacpp`.

Only benchmarks use it: ``pip install xllamacpp gguf``.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nano_llada.config.model import ModelConfig

NEW, REPEATS = 128, 3
PROMPT = "the quick brown fox jumps over t"  # 32 characters, a token each


def milliseconds_per_token(config: ModelConfig, kind: str, threads: int, clock: str = "wall") -> float:
    """Median over some texts of 128 tokens after a prompt of 32; `kind` is a GGUF type such as F32, F16 or Q8_0.

    With clock "cpu" the processor time of the whole call, the prompt included, over the tokens written.
    """
    import xllamacpp

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_model(path, config, kind)
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.n_predict = str(path), 512, NEW
        settings.cpuparams.n_threads, settings.verbosity = threads, -1
        server, times = xllamacpp.Server(settings), []
        body = {"prompt": PROMPT, "n_predict": NEW, "max_tokens": NEW, "temperature": 0, "ignore_eos": True}
        for _ in range(REPEATS):
            begin = time.process_time()
            answer = server.handle_completions(body)
            spent = time.process_time() - begin
            plain = json.loads(answer) if isinstance(answer, str) else answer
            times.append(1e3 * spent / NEW if clock == "cpu" else plain["timings"]["predicted_per_token_ms"])
        return statistics.median(times)


def write_model(path: Path, config: ModelConfig, kind: str) -> None:
    """A model file of architecture qwen3, whose tensors are those of ours by other names."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "qwen3")
    writer.add_context_length(1024)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    add_vocabulary(writer, config.vocab_size)
    quantised = gguf.GGMLQuantizationType[kind]
    rng = np.random.default_rng(0)
    for name, shape in shapes(config):
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            continue
        weight = (rng.standard_normal(shape) * 0.02).astype(np.float32)
        if quantised == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, weight)
        else:
            writer.add_tensor(name, gguf.quants.quantize(weight, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: Any, size: int) -> None:
    """Bytes as single tokens, one merge, which no prompt needs, and unused tokens up to `size`."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    # GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(hidden))]
    names = ["<end>", *alphabet, "ZZ"]
    names += [f"<unused{i}>" for i in range(size - len(names))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([3, *[1] * (len(alphabet) + 1), *[5] * (size - len(alphabet) - 2)])
    writer.add_token_merges(["Z Z"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors."""
    hidden, queries, keys = config.hidden_size, config.num_heads, config.kv_heads
    width, mlp = config.head_width, config.mlp_width
    yield from [("token_embd.weight", (config.vocab_size, hidden)), ("output.weight", (config.vocab_size, hidden))]
    yield "output_norm.weight", (hidden,)
    for layer in range(config.num_layers):
        block = f"blk.{layer}."
        yield from ((f"{block}{name}_norm.weight", (hidden,)) for name in ("attn", "ffn"))
        yield from ((f"{block}attn_{name}_norm.weight", (width,)) for name in ("q", "k"))
        yield f"{block}attn_q.weight", (queries * width, hidden)
        yield from ((f"{block}attn_{name}.weight", (keys * width, hidden)) for name in ("k", "v"))
        yield f"{block}attn_output.weight", (hidden, queries * width)
        yield from ((f"{block}ffn_{name}.weight", (mlp, hidden)) for name in ("gate", "up"))
        yield f"{block}ffn_down.weight", (hidden, mlp)
