"""A server in a thread of the test's process, over random models of each kind that are sure of what they write."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import torch

from nano_llada.checkpoint.files import Checkpoint
from nano_llada.config.card import ModelCard
from nano_llada.config.model import ModelConfig
from nano_llada.config.serving import ServingOptions
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.language_model import LanguageModel
from nano_llada.model.transformer import Transformer
from nano_llada.serve.app import Server, make_server
from nano_llada.serve.keys import Keys
from nano_llada.serve.models import Models
from nano_llada.serve.run import make_listener, open_socket

LETTERS = "abcdefghijklmnopqrstuvwxyz .,?!\n_你好一二三有红色的球小猫"
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_length": 160}
CARDS: Mapping[str, ModelCard] = {
    "ar": ModelCard("ar", "sft", answer_length=24),
    "canvas": ModelCard("diffusion", "sft", answer_length=12),
    "block": ModelCard("diffusion", "sft", block_size=4, answer_length=16),
    "editing": ModelCard("diffusion", "sft", block_size=4, answer_length=16, edits=True),
    "tri": ModelCard("both", "sft", block_size=4, answer_length=16, infills=True),
}


def random_writer(name: str, tokenizer: Tokenizer, seed: int = 5, **shape: int) -> LanguageModel:
    """Weights in double precision, so that no two choices are so close that the batch decides."""
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab.size, **(SHAPE | shape)))
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(16.0 if part.startswith("head") else 10.0)
            elif part.endswith("q_norm.weight"):
                weight.mul_(3.0)
        rare = [token for token in range(tokenizer.vocab.size) if tokenizer.is_byte(token)]
        model.head.weight[rare] *= 0.4
    return LanguageModel(Checkpoint(model.eval().double(), tokenizer, CARDS[name], Path(name)))


def writers(names: Collection[str] = tuple(CARDS)) -> dict[str, LanguageModel]:
    """One random model of each kind, by the kind's name."""
    tokenizer = train_characters([LETTERS, "system user assistant tool\n"])
    return {name: random_writer(name, tokenizer) for name in names}


@functools.cache
def http() -> httpx2.Client:
    """A client for all tests: one of its own for each request would read certificates each time."""
    return httpx2.Client(verify=False, timeout=60)


def client_of(server: Live, key: str = "none") -> openai.OpenAI:
    """The official client."""
    web = openai.DefaultHttpxClient(verify=False)
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60, http_client=web)


@dataclass
class Live:
    """A server that listens."""

    url: str
    server: Server
    models: Models


@contextmanager
def live(
    given: Mapping[str, LanguageModel],
    options: ServingOptions | None = None,
    keys: Keys | None = None,
    hosts: Collection[str] | None = None,
) -> Iterator[Live]:
    """A server on a free port of this machine, in a thread."""
    options = options or ServingOptions()
    socket = open_socket("127.0.0.1", 0)
    with Models(given, options) as models:
        server = make_server(models, options, keys, hosts)
        listener = make_listener(server, options)
        thread = threading.Thread(target=listener.run, args=([socket],))
        thread.start()
        try:
            yield Live(f"http://127.0.0.1:{socket.getsockname()[1]}", server, models)
        finally:
            listener.should_exit = True
            thread.join()


def slow_down(server: Live, seconds: float) -> list[int]:
    """Make every pass of the first model take longer; the passes are counted in the list."""
    engine, passes = next(iter(server.models)).worker._engine, [0]
    original = engine.step

    def step():
        time.sleep(seconds)
        passes[0] += 1
        return original()

    engine.step = step
    return passes
