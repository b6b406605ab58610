"""What several tests need: a small vocabulary, small models, a maker of batches, a model that does as it is told."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mixed import trained
from nano_llada.config.model import ModelConfig
from nano_llada.core.batch import StepContext, TokenBatch, Vocabulary
from nano_llada.core.device import matmul_rate
from nano_llada.core.pattern import AttentionPattern
from nano_llada.model.cache import KVCache
from nano_llada.model.lean import KeyValueStore, Window
from nano_llada.model.transformer import Transformer

# the files that take longest, first: with two workers no long one is left for the end
LONG = """
golden align_runs cli page eval_command llada2_experiments block_speed experiments readme state run scripts_options
engine evaluation_experiment stories_check preferences resume masking_options preference corruption policy
editing_experiment
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(LONG.split())}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_configure(config):
    torch.set_num_threads(1)  # many threads on a busy machine make the suite ten times slower


def sketch(figure: Figure, target: object, **how: object) -> None:
    """`savefig` without drawing: a PNG that is made in memory, as those of every run and report are, is a stand-in."""
    if isinstance(target, io.BytesIO) and how.get("format") == "png":
        target.write(b"\x89PNG a stand-in for " + ", ".join(axes.get_title() for axes in figure.axes).encode())
    else:
        savefig(figure, target, **how)


savefig = Figure.savefig


@pytest.fixture(scope="session", autouse=True)
def quick_runs() -> Iterator[None]:
    """Runs without what takes longer than training them: measuring the machine, and drawing the curve.

    Tests of these two ask for `drawn` and for `measured`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nano_llada.core.device.matmul_rate", lambda machine, seconds=0.0: 1e11)
        patch.setattr(Figure, "savefig", sketch)
        yield


@pytest.fixture
def drawn(monkeypatch) -> None:
    """Every plot is drawn."""
    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def measured(monkeypatch) -> None:
    """The machine's rate is measured."""
    monkeypatch.setattr("nano_llada.core.device.matmul_rate", matmul_rate)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Tracing for coverage doubles the time of pure Python: sweeps repeat what other tests have shown to be run."""
    tracer = sys.gettrace() if item.get_closest_marker("untraced") else None
    if tracer is not None:
        sys.settrace(None)
    yield
    if tracer is not None:
        sys.settrace(tracer)


class TableModel(nn.Module):
    """Logits that depend on the position alone: `table` (positions, V), or a function of (tokens, positions)."""

    def __init__(self, table, max_length: int = 64) -> None:
        super().__init__()
        self.rule = table if callable(table) else lambda tokens, positions: table[positions]
        size = self.rule(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)).shape[-1]
        self.config = ModelConfig(vocab_size=size, hidden_size=2, num_layers=1, num_heads=1, max_length=max_length)
        self.embed = nn.Embedding(1, 1)
        self.head = nn.Linear(size, size, bias=False)
        nn.init.eye_(self.head.weight)

    def features(self, tokens, pattern, *, positions=None, select=None) -> Tensor:
        if positions is None:
            positions = torch.arange(tokens.shape[1])[None]
        rows = self.rule(tokens, positions.expand_as(tokens))
        return rows if select is None else rows[select]

    def forward(self, tokens, pattern, *, positions=None, select=None, cache=None) -> Tensor:
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.head(self.features(tokens, pattern, positions=positions, select=select))

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        return KVCache(self.config, batch, capacity, torch.device("cpu"), torch.float32)

    def derived(self, key, make) -> TablePasses:
        return TablePasses(self)

    def forget(self) -> None:
        pass


class TablePasses:
    """What `LeanModel` is for a Transformer."""

    def __init__(self, model: TableModel) -> None:
        self.model, self.config = model, model.config

    def new_store(self, slots: int, capacity: int) -> KeyValueStore:
        return KeyValueStore(self.config, slots, capacity, torch.device("cpu"))

    @torch.inference_mode()
    def forward(self, windows: Sequence[Window], store: KeyValueStore) -> Tensor:
        parts = []
        for window in windows:
            positions = window.places if window.positions is None else window.positions
            logits = self.model(torch.tensor([window.tokens]), None, positions=torch.tensor([[*positions]]))[0]
            parts.append(logits[list(window.wanted)])
        return torch.cat(parts).clone()


@pytest.fixture(scope="session")
def vocab() -> Vocabulary:
    return Vocabulary(size=24, mask=0, eos=1, turn_start=2, turn_end=3, reserved=(4, 5))


@pytest.fixture(scope="session")
def make_model(vocab):
    """A random model in which context matters; `peak` multiplies the head, so that it is sure of some tokens."""

    def make(seed: int = 0, peak: float = 1.0, **shape) -> Transformer:
        default = {"vocab_size": vocab.size, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_length": 64}
        model = Transformer(ModelConfig(**(default | {"intermediate_size": 64} | shape)))
        model.initialise(torch.Generator().manual_seed(seed))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1:
                    weight.mul_(peak if name.startswith("head") else 10.0)
                elif name.endswith("q_norm.weight"):
                    weight.mul_(3.0)  # attention that picks, so that places differ
        return model.eval()

    return make


@pytest.fixture(scope="session")
def model(make_model) -> Transformer:
    return make_model(num_kv_heads=2)


@pytest.fixture(scope="session")
def peaky(make_model) -> Transformer:
    return make_model(seed=11, peak=16.0, num_kv_heads=2)


@pytest.fixture(scope="session")
def trained_place(tmp_path_factory):
    """The finished runs of `mixed.trained`."""
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def table_model():
    return TableModel


@pytest.fixture(scope="session")
def watch():
    """Records every call of a model: `tokens` holds its inputs, (rows, length) each."""

    def start(model: nn.Module) -> SimpleNamespace:
        seen = SimpleNamespace(tokens=[])
        original = model.features

        def record(tokens, *args, **kwargs):
            seen.tokens.append(tokens.clone())
            return original(tokens, *args, **kwargs)

        model.features = record  # every way of using a model ends there
        seen.stop = lambda: delattr(model, "features")
        return seen

    return start


@pytest.fixture(scope="session")
def make_batch(vocab):
    """Rows of packed documents, e.g. ``[[3, 5], [8]]``; a position is scored with probability `scored`."""

    def make(rows, *, width: int | None = None, scored: float = 1.0, seed: int = 0) -> TokenBatch:
        rng = torch.Generator().manual_seed(seed)
        shape = (len(rows), width or max(map(sum, rows)))
        tokens = torch.randint(6, vocab.size, shape, generator=rng)
        doc_ids, positions = torch.full(shape, -1), torch.zeros(shape, dtype=torch.int64)
        for i, lengths in enumerate(rows):
            left = 0
            for number, length in enumerate(lengths):
                doc_ids[i, left : left + length] = number
                positions[i, left : left + length] = torch.arange(length)
                left += length
        flags = (torch.rand(shape, generator=rng) < scored) & (doc_ids >= 0)
        return TokenBatch(
            tokens.masked_fill(doc_ids < 0, vocab.eos), flags, doc_ids, positions, torch.arange(len(rows))
        )

    return make


@pytest.fixture(scope="session")
def context(vocab):
    """A StepContext for `rows` rows."""

    def make(rows: int, *, step: int = 0, seed: int = 0, vocab: Vocabulary = vocab) -> StepContext:
        return StepContext(vocab, seed, step, total_steps=100, global_rows=rows)

    return make


@pytest.fixture(scope="session")
def enumerate_bound(vocab):
    """The diffusion bound of one row in nats, by a forward pass over every set of masks (arXiv:2502.09992, eq. 6)."""

    @torch.no_grad()
    def bound(model, tokens: Tensor, scored: Tensor) -> float:
        places = scored.nonzero()[:, 0].tolist()
        subsets = [chosen for count in range(1, len(places) + 1) for chosen in combinations(places, count)]
        masked = torch.zeros(len(subsets), len(tokens), dtype=torch.bool)
        for i, chosen in enumerate(subsets):
            masked[i, list(chosen)] = True
        logits = model(tokens.masked_fill(masked, vocab.mask), AttentionPattern("full")).double()
        nll = -logits.log_softmax(-1)[:, range(len(tokens)), tokens]
        # k ~ U{1..n}, each of the (n choose k) sets alike, weight n / k: the n cancels
        weights = torch.tensor([1 / (len(chosen) * comb(len(places), len(chosen))) for chosen in subsets])
        return float(((nll * masked).sum(1) * weights).sum())

    return bound
