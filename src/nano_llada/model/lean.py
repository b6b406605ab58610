"""The forward pass of decoding: the same function as `Transformer`, without anything that only training needs.

What a decoding step costs on a CPU is reading every weight once, plus the overhead of each small operation. So here

* weights are laid out once for the kernels that read them (`Product`);
* a pass takes `Window`s: of each row only the tokens that are new. All windows lie end to end in one matrix, without
  padding, and go through each product together;
* keys and values are written to preallocated slots by index (`KeyValueStore`); rows join and leave between passes;
* positions, masks and indices are made once a pass and shared by all layers (`_Plan`);
* the last layer's output is computed only where logits are read.

A row's logits do not depend on the other rows of a pass, nor on how many tokens it computes at once, to the last bit,
where `exact` is true. Matrix kernels sum in another order for a single row than for many: products are given at least
as many rows as `fewest_rows` found to be necessary, and attention as many queries as `fewest_queries` did, over a
number of keys that is a multiple of 64. Masked keys add exact zeros. On a GPU `exact` is false: kernels there are not
chosen with this in mind.

Which precision: at 30M parameters int8 is the fastest at every width, since weights are what is read; at 1M it is
slower than fp32, since the few operations that split activations cost more than reading so few weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nano_llada.config.model import ModelConfig
from nano_llada.core.errors import UserError
from nano_llada.model.lora import plain_weights
from nano_llada.model.quantised import (
    SCALE,
    QuantisedProduct,
    dequantise,
    integer_products_work,
    quantise_state,
)
from nano_llada.model.transformer import Transformer, rotary_frequencies

Precision = Literal["fp32", "bf16", "int8"]
KEYS = 64  # keys are read in multiples of this, so that vector kernels never meet a remainder
QUERIES = 4  # as many rows of a product, or queries of an attention call, may be needed for exact results
WIDEST = 512  # rows of one product: more are computed in parts, since kernels change their blocking with the size
SMALL = 2**18  # entries of a matrix up to which the overhead of a call matters more than the layout
PACKED_FOR = 32  # rows for which oneDNN chooses its weight layout; layouts for 8 to 128 were equally fast
PROBED = (1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 65, 129, 512)  # rows for which `fewest_rows` compares results
ELEMENTS = 2**15  # elementwise operations on more are split between threads at places that vector kernels do not like


@dataclass(frozen=True)
class Window:
    """The tokens of one row that a pass computes, and which places of the row each of them sees.

    Token i goes to place ``start + i`` of the row's slot and sees the first ``reach[i]`` places, whatever was written
    there last. Use `causal`, `full` or `block_causal`; or give `reach`, e.g. for one causal token followed by masks
    that see each other: ``(start + 1, start + 1 + k, ...)``.

    Attributes:
        slot: where the row's keys and values are.
        start: place of the first token; the places before it hold what was computed earlier.
        tokens: the tokens.
        reach: for each token the number of places it sees.
        wanted: indices into `tokens` whose logits are read.
        positions: for each token its position in the text; default: its place.
        among: (w, w) bool, which token of this window sees which; replaces `reach` for the places of the window. For
            drafts after several alternative prefixes, which must not see each other.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    reach: Sequence[int]
    wanted: Sequence[int]
    positions: Sequence[int] | None = None
    among: Tensor | None = None

    @property
    def places(self) -> range:
        """Where its tokens go in the row."""
        return range(self.start, self.start + len(self.tokens))


def causal(slot: int, start: int, tokens: Sequence[int], wanted: Sequence[int]) -> Window:
    """Every token sees what comes before it and itself: AR decoding, prefill, verification of drafts."""
    return Window(slot, start, tokens, range(start + 1, start + len(tokens) + 1), wanted)


def full(slot: int, start: int, tokens: Sequence[int], wanted: Sequence[int], visible: int = 0) -> Window:
    """Every token sees all others and everything before; with `visible`, at least that many places.

    A canvas, a block of masks, or with `visible` a part of a canvas whose other places were computed earlier.
    """
    return Window(slot, start, tokens, (max(start + len(tokens), visible),) * len(tokens), wanted)


def block_causal(slot: int, start: int, tokens: Sequence[int], wanted: Sequence[int], block_size: int) -> Window:
    """Every token sees its own block and earlier ones; blocks are counted from the beginning of the row."""
    end = start + len(tokens)
    reach = [min((place // block_size + 1) * block_size, end) for place in range(start, end)]
    return Window(slot, start, tokens, reach, wanted)


class KeyValueStore:
    """Keys and values of all rows, each (layers, slots, kv_heads, capacity, head_width)."""

    def __init__(self, config: ModelConfig, slots: int, capacity: int, device: torch.device) -> None:
        self.slots, self.capacity = slots, capacity
        rounded = -(-capacity // KEYS) * KEYS  # whole groups of keys are read, also at the end
        shape = (config.num_layers, slots, config.kv_heads, rounded, config.head_width)
        self.keys, self.values = torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    @property
    def size(self) -> int:
        """Bytes."""
        return 2 * self.keys.numel() * self.keys.element_size()

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Let the row in `target` begin with the first `count` places of `source`: a shared prefix."""
        for store in (self.keys, self.values):
            store[:, target, :, :count] = store[:, source, :, :count]


class Product(Protocol):
    """A matrix product with prepared weights: (N, K) float32 to (N, F) float32."""

    def __call__(self, x: Tensor) -> Tensor: ...


class PlainProduct:
    """`F.linear`, in the type of its weights: for GPUs, and where oneDNN is not available."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._weight.dtype), self._weight).float()


class TransposedProduct:
    """Weights stored (K, F): least overhead per call, for matrices that are read in microseconds."""

    def __init__(self, weight: Tensor, fewest: int = 1) -> None:
        self._weight, self._fewest = weight.T.clone(memory_format=torch.contiguous_format), fewest

    def __call__(self, x: Tensor) -> Tensor:
        return in_parts(self._multiply, x, self._fewest)

    def _multiply(self, x: Tensor) -> Tensor:
        return torch.mm(x.to(self._weight.dtype), self._weight).float()


class PackedProduct:
    """Weights in oneDNN's blocked layout: the fastest that was found for 4 to 64 rows, if results may not depend on
    the number of rows also for fewer.
    """

    def __init__(self, weight: Tensor, fewest: int = 1) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR)
        self._dtype, self._fewest = weight.dtype, fewest

    def __call__(self, x: Tensor) -> Tensor:
        return in_parts(self._multiply, x, self._fewest)

    def _multiply(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x.to(self._dtype), self._packed, None, "none", [], "")
        return out.float()


class SingleRowProduct:
    """Another kernel for one row than for more. Faster, but the two differ in the last bits."""

    def __init__(self, single: Product, several: Product) -> None:
        self._single, self._several = single, several

    def __call__(self, x: Tensor) -> Tensor:
        return self._single(x) if x.shape[0] == 1 else self._several(x)


def in_parts(multiply: Callable[[Tensor], Tensor], x: Tensor, fewest: int) -> Tensor:
    """Multiply x (N, K) with at least `fewest` rows at once, and at most `WIDEST`."""
    count = x.shape[0]
    if count > WIDEST:
        return torch.cat([in_parts(multiply, part, fewest) for part in x.split(WIDEST)])
    if count < fewest:
        return multiply(torch.cat([x] * -(-fewest // count)))[:count]
    return multiply(x)


def fewest_rows(make: Callable[[Tensor], Product], features: int, inputs: int) -> int | None:
    """How many rows a product needs at least, so that a row's result is the same for every number of rows.

    Measured with random weights (F, K): kernels are chosen by shape, not by content. None: more than four, or there is
    no such number.

    What was found on a processor with AVX-512, PyTorch 2.13, one and two threads: `F.linear` sums in three different
    orders (1 row; 2 to 15; 16 and more); a product with the transposed matrix in two (1; 2 and more), but in up to four
    where K is 1408; packed weights in one, or two (1; 2 and more) where K is 1408 or 1536.
    """
    rng = torch.Generator().manual_seed(0)
    product = make(torch.randn(features, inputs, generator=rng))
    rows = torch.randn(WIDEST, inputs, generator=rng)
    expected = product(rows)
    differs = [count for count in PROBED if not torch.equal(product(rows[:count].clone()), expected[:count])]
    fewest = max(differs, default=0) + 1
    return fewest if fewest <= QUERIES else None


@cache
def _fewest_of(
    kind: type[TransposedProduct] | type[PackedProduct], dtype: torch.dtype, features: int, inputs: int, threads: int
) -> int | None:
    """`fewest_rows` of a kind of product, measured once: a machine does not change."""
    return fewest_rows(lambda weight: kind(weight.to(dtype)), features, inputs)


@cache
def fewest_queries(heads: int, kv_heads: int, width: int, device: torch.device, threads: int) -> int | None:
    """How many queries an attention call needs at least, so that a query's result is the same for every number of
    queries, keys and rows. Measured, once for each shape and number of threads; None: more than four, or no number.

    What was found on a processor with AVX-512, PyTorch 2.13: two where heads are 32 wide, three where they are 64 wide.
    """
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(2, heads, 33, width, generator=rng).to(device)
    k, v = (torch.randn(2, kv_heads, 3 * KEYS, width, generator=rng).to(device) for _ in range(2))

    def first(rows: int, queries: int, keys: int) -> Tensor:
        hidden = torch.arange(keys, device=device) >= torch.tensor([[40]] * queries, device=device)
        mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf).expand(rows, 1, -1, -1)
        parts = (q[:rows, :, :queries], k[:rows, :, :keys], v[:rows, :, :keys])
        return F.scaled_dot_product_attention(*parts, attn_mask=mask, enable_gqa=heads != kv_heads)[0, :, 0]

    expected = first(2, 33, 3 * KEYS)

    def alike(queries: int) -> bool:
        cases = [(1, queries, KEYS), (2, queries, 2 * KEYS), (1, queries, 3 * KEYS), (2, queries, 3 * KEYS)]
        return all(torch.equal(first(*case), expected) for case in cases)

    differs = [queries for queries in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 31, 32) if not alike(queries)]
    fewest = max(differs, default=0) + 1
    return fewest if fewest <= QUERIES else None


class _Group:
    """Windows of equal width in consecutive slots, which one attention call serves."""

    def __init__(self, first: int, windows: Sequence[Window], store: KeyValueStore, queries: int) -> None:
        self.first, self.rows, self.width = first, len(windows), len(windows[0].tokens)
        self.count = self.rows * self.width
        self.times = -(-queries // self.width)  # how often the queries are repeated, only to be enough
        farthest = max(max(*window.reach, window.start + self.width) for window in windows)
        keys = -(-farthest // KEYS) * KEYS
        slots = slice(windows[0].slot, windows[0].slot + self.rows)
        self.keys = store.keys[:, slots, :, :keys].unbind(0)  # of each layer (rows, kv_heads, keys, D)
        self.values = store.values[:, slots, :, :keys].unbind(0)
        self.mask = self._mask(windows, keys, store.keys.device)

    def _mask(self, windows: Sequence[Window], keys: int, device: torch.device) -> Tensor:
        """(rows, 1, queries or 1, keys), 0 or -inf."""
        uniform = all(window.among is None and min(window.reach) == max(window.reach) for window in windows)
        reach = [[window.reach[0]] if uniform else [*window.reach] * self.times for window in windows]
        hidden = torch.arange(keys, device=device) >= torch.tensor(reach, device=device)[:, :, None]
        for row, window in enumerate(windows):
            if window.among is not None:
                hidden[row, : self.width, window.start : window.start + self.width] = ~window.among.to(device)
        return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)[:, None]

    def attend(self, q: Tensor, layer: int) -> Tensor:
        """All (N, heads, D) queries of the pass to what those of this group gather, (count, heads * D)."""
        heads = q.shape[1]
        mine = q.narrow(0, self.first, self.count).view(self.rows, self.width, heads, -1)
        if self.times > 1:
            mine = torch.cat([mine] * self.times, dim=1)
        keys, values = self.keys[layer], self.values[layer]
        y = F.scaled_dot_product_attention(
            mine.transpose(1, 2), keys, values, attn_mask=self.mask, enable_gqa=heads != keys.shape[1]
        )
        return y.narrow(2, 0, self.width).transpose(1, 2).reshape(self.count, -1)


class _Plan:
    """What all layers need to know about a pass: positions, where keys and values go, and who sees what."""

    def __init__(
        self, windows: Sequence[Window], store: KeyValueStore, angles: tuple[Tensor, Tensor], queries: int
    ) -> None:
        device = store.keys.device
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for window in windows:
            wanted += [len(tokens) + i for i in window.wanted]
            positions += window.places if window.positions is None else window.positions
            tokens += window.tokens
        self.tokens, where = torch.tensor([tokens, positions], device=device)
        self.cos, self.sin = (table.index_select(0, where)[:, None] for table in angles)
        # None: logits are wanted everywhere, in order
        self.wanted = None if wanted == list(range(len(tokens))) else torch.tensor(wanted, device=device).long()
        self.groups = [_Group(first, run, store, queries) for first, run in _runs(windows)]
        if len(windows) == 1:
            slot, places = windows[0].slot, slice(windows[0].start, windows[0].start + len(tokens))
            self._new = [tensor[:, slot, :, places].unbind(0) for tensor in (store.keys, store.values)]
        else:
            slots = [window.slot for window in windows for _ in window.tokens]
            flat = [place for window in windows for place in window.places]
            self._new, self._store = [], (store.keys, store.values)
            self._slots, self._places = torch.tensor([slots, flat], device=device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put new keys and values, (N, kv_heads, D), where the windows say."""
        if self._new:
            for views, new in zip(self._new, (keys, values), strict=True):
                views[layer].copy_(new.transpose(0, 1))
        else:
            for store, new in zip(self._store, (keys, values), strict=True):
                store[layer].transpose(1, 2)[self._slots, self._places] = new


def _runs(windows: Sequence[Window]) -> list[tuple[int, list[Window]]]:
    """Neighbouring windows that one attention call can serve, with the index of their first token."""
    runs: list[tuple[int, list[Window]]] = []
    first = 0
    for window in windows:
        before = runs[-1][1][-1] if runs else None
        if before and before.slot + 1 == window.slot and len(before.tokens) == len(window.tokens):
            runs[-1][1].append(window)
        else:
            runs.append((first, [window]))
        first += len(window.tokens)
    return runs


class _Layer:
    """One Transformer block: attention and SwiGLU, each after a norm and added to the residual stream."""

    def __init__(
        self, config: ModelConfig, number: int, vectors: Mapping[str, Tensor], product: Callable[[str], Product]
    ) -> None:
        self._number, self._eps, self._width = number, config.norm_eps, config.head_width
        self._heads, self._kv_heads = config.num_heads, config.kv_heads
        prefix = f"blocks.{number}."
        self._attention_gain, self._mlp_gain = (
            gain_of(vectors[f"{prefix}{n}_norm.weight"]) for n in ("attention", "mlp")
        )
        self._qk_gain: Tensor | None = None
        if config.qk_norm:
            gains = [gain_of(vectors[f"{prefix}attention.{n}_norm.weight"]) for n in ("q", "k")]
            self._qk_gain = torch.cat([gains[0].expand(self._heads, -1), gains[1].expand(self._kv_heads, -1)])
        self._qkv_bias = vectors.get(f"{prefix}attention.qkv.bias")
        self._qkv, self._out = product(f"{prefix}attention.qkv.weight"), product(f"{prefix}attention.out.weight")
        self._gate_up, self._down = product(f"{prefix}gate_up.weight"), product(f"{prefix}down.weight")

    def __call__(self, x: Tensor, plan: _Plan, chosen: Tensor | None) -> Tensor:
        """(N, H) to the same; with `chosen` (M,), only those rows."""
        heads, kv_heads = self._heads, self._kv_heads
        qkv = self._qkv(normed(x, self._attention_gain, self._eps))
        if self._qkv_bias is not None:
            qkv = qkv.add_(self._qkv_bias)
        qkv = qkv.view(-1, heads + 2 * kv_heads, self._width)
        qk = qkv.narrow(1, 0, heads + kv_heads)
        if self._qk_gain is not None:
            qk = normed(qk, self._qk_gain, self._eps)
        qk = rotated(qk, plan.cos, plan.sin)
        plan.write(self._number, qk.narrow(1, heads, kv_heads), qkv.narrow(1, heads + kv_heads, kv_heads))
        if chosen is not None and not chosen.shape[0]:
            return x[:0]  # a part of a prompt: only keys and values were needed
        q = qk.narrow(1, 0, heads)
        parts = [group.attend(q, self._number) for group in plan.groups]
        gathered = parts[0] if len(parts) == 1 else torch.cat(parts)
        if chosen is not None:
            x, gathered = x.index_select(0, chosen), gathered.index_select(0, chosen)
        x = self._out(gathered).add_(x)
        return self._down(swiglu(self._gate_up(normed(x, self._mlp_gain, self._eps)))).add_(x)


class LeanModel:
    """A model prepared for decoding. See the module's description; `forward` is the whole interface of a pass.

    Attributes:
        config: the shape of the model.
        precision: what its weights are stored in.
        exact: whether a row's logits were found to be independent of the other rows of a pass.
        kernel: which products were chosen, for logs.
    """

    def __init__(
        self,
        config: ModelConfig,
        state: Mapping[str, Tensor],
        precision: Precision,
        device: torch.device,
        batch_invariant: bool = True,
    ) -> None:
        self.config, self.precision, self.device = config, precision, device
        vectors = {name: tensor.to(device).clone() for name, tensor in state.items() if tensor.dim() == 1}
        maker = _ProductMaker(state, precision, device, batch_invariant)
        self._layers = [_Layer(config, i, vectors, maker.make) for i in range(config.num_layers)]
        self._norm = gain_of(vectors["norm.weight"])
        self._head = maker.make("embed.weight" if config.tie_embeddings else "head.weight")
        self._embed, self._embed_scale = state["embed.weight"].to(device), vectors.get("embed.weight" + SCALE)
        queries = fewest_queries(config.num_heads, config.kv_heads, config.head_width, device, torch.get_num_threads())
        self._queries = queries or 1
        self.exact = maker.exact and queries is not None
        self.kernel = maker.kernel
        self._angles = _angle_tables(config, config.max_length, device)

    @classmethod
    def prepare(cls, model: Transformer, precision: Precision = "fp32", batch_invariant: bool = True) -> LeanModel:
        """From a model in training's layout. The weights are copied: later training does not change the result.

        With `batch_invariant=False` a single row takes the fastest kernel there is for one, in fp32 and bf16: a text
        written alone may then differ from the same text written in a batch, where two tokens are equally likely up to
        rounding.

        Raises:
            UserError: for bf16 on a processor that does not multiply it natively.
        """
        state = {name: tensor.detach().float() for name, tensor in plain_weights(model).items()}
        if model.config.tie_embeddings:
            state.pop("head.weight", None)
        if precision == "int8":
            state = quantise_state(state)
        else:  # others are copied when they are laid out
            state["embed.weight"] = state["embed.weight"].clone()
        return cls(model.config, state, precision, model.embed.weight.device, batch_invariant)

    @classmethod
    def from_quantised(cls, config: ModelConfig, state: Mapping[str, Tensor], device: str = "cpu") -> LeanModel:
        """From int8 weights (F, K) and scales (F,) by name, as `quantise_state` makes them."""
        return cls(config, state, "int8", torch.device(device))

    def new_store(self, slots: int, capacity: int) -> KeyValueStore:
        """An empty store for at most `slots` rows of at most `capacity` tokens."""
        return KeyValueStore(self.config, slots, capacity, self.device)

    @torch.inference_mode()
    def forward(self, windows: Sequence[Window], store: KeyValueStore) -> Tensor:
        """Logits (M, V) float32 at the wanted tokens of all windows, in order.

        Keys and values of all tokens are written to the store. They count as held for a row as soon as its next window
        starts behind them, and are overwritten if it does not.

        Raises:
            UserError: if a window does not fit into the store or is inconsistent.
        """
        if not windows:
            raise UserError("a forward pass needs at least one window")
        for window in windows:
            _check(window, store)
        if len({window.slot for window in windows}) < len(windows):
            raise UserError("two windows of a pass have the same slot: give a row one window a pass")
        self._grow_tables(windows)
        plan = _Plan(windows, store, self._angles, self._queries)
        x = self._embedded(plan.tokens)
        for layer in self._layers:
            # after the last layer only the wanted rows are read; of the others only keys and values matter
            x = layer(x, plan, plan.wanted if layer is self._layers[-1] else None)
        if not x.shape[0]:
            return x.new_zeros(0, self.config.vocab_size)
        return self._head(normed(x, self._norm, self.config.norm_eps))

    def _embedded(self, tokens: Tensor) -> Tensor:
        rows = self._embed.index_select(0, tokens)
        if self._embed_scale is None:
            return rows.float()
        return rows.float().mul_(self._embed_scale.index_select(0, tokens)[:, None])

    def _grow_tables(self, windows: Sequence[Window]) -> None:
        """A store may hold more than the context that the model was trained with."""
        end = max(window.start + len(window.tokens) for window in windows)
        end = max(end, *(max(window.positions) + 1 for window in windows if window.positions), 0)
        if end > len(self._angles[0]):
            self._angles = _angle_tables(self.config, 2 * end, self.device)


class _ProductMaker:
    """Chooses the kernel of every product of a model."""

    def __init__(
        self, state: Mapping[str, Tensor], precision: Precision, device: torch.device, batch_invariant: bool
    ) -> None:
        self._state, self._device, self._quantised = state, device, precision == "int8"
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._invariant = batch_invariant
        cpu = device.type == "cpu"
        if precision == "bf16" and cpu and not multiplies_bf16():
            raise UserError("this processor has no bfloat16 units, which makes bf16 slower than fp32: use fp32 or int8")
        self._packs = cpu and torch.backends.mkldnn.is_available()
        self._integers = self._quantised and cpu and integer_products_work()
        self.exact = self._integers or (self._packs and batch_invariant)
        self.kernel = "integer" if self._integers else "packed" if self._packs else "plain"

    @torch.inference_mode()
    def make(self, name: str) -> Product:
        """The product with a named matrix."""
        weight = self._state[name].to(self._device)
        if self._quantised:
            scale = self._state[name + SCALE].to(self._device)
            if self._integers:
                return QuantisedProduct(weight, scale)
            weight = dequantise(weight, scale)
        weight = weight.to(self._dtype)
        if not self._packs:
            return PlainProduct(weight.clone())
        product = self._pack(weight)
        return product if self._invariant else SingleRowProduct(TransposedProduct(weight), product)

    def _pack(self, weight: Tensor) -> Product:
        kind = TransposedProduct if weight.numel() <= SMALL else PackedProduct
        features, inputs = weight.shape
        fewest = _fewest_of(kind, self._dtype, features, inputs, torch.get_num_threads())
        self.exact = self.exact and fewest is not None
        return kind(weight, fewest or 1)


def multiplies_bf16() -> bool:
    """Whether the CPU has units for bfloat16 products."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = [getattr(torch.cpu, name) for name in checks if hasattr(torch.cpu, name)]
    return any(check() for check in found)


def normed(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """``x / rms(x) * g``, (..., D) to (..., D); `gain` (D,) is g times the root of D, which saves an operation."""
    square_sum = torch.sum(x * x, -1, keepdim=True)
    scaled: Tensor = x * square_sum.add_(eps * x.shape[-1]).rsqrt_()
    return scaled.mul_(gain)


def gain_of(weight: Tensor) -> Tensor:
    """A norm's weight (D,) as `normed` takes it."""
    return weight.mul(weight.shape[-1] ** 0.5)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of each head, (N, heads, D), by angles (N, 1, D); of the first half `sin` is negative."""
    swapped = x.roll(x.shape[-1] // 2, -1)
    return (x * cos).add_(swapped.mul_(sin))


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` of (N, 2F) holding both side by side; overwrites the gates."""
    gate, up = gate_up.chunk(2, dim=-1)
    # exp is not the same to the last bit in a vector and in a remainder, so threads may not choose where to split
    apart = gate.numel() > ELEMENTS and torch.get_num_threads() > 1
    for part in gate.split(max(ELEMENTS // gate.shape[1], 1)) if apart else (gate,):
        F.silu(part, inplace=True)
    product: Tensor = gate * up
    return product


def _angle_tables(config: ModelConfig, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin (count, D) for `rotated`."""
    frequencies, scale = rotary_frequencies(config)
    angles = torch.arange(count)[:, None].float() * frequencies
    cos, sin = angles.cos() * scale, angles.sin() * scale
    return torch.cat([cos, cos], dim=-1).to(device), torch.cat([-sin, sin], dim=-1).to(device)


def _check(window: Window, store: KeyValueStore) -> None:
    count, end = len(window.tokens), window.start + len(window.tokens)
    if not count:
        raise UserError(f"the window of slot {window.slot} has no tokens")
    if not 0 <= window.slot < store.slots:
        raise UserError(f"slot {window.slot} does not exist: the store has {store.slots}")
    if window.start < 0 or max(end, *window.reach) > store.capacity:
        raise UserError(f"the store holds {store.capacity} tokens a row, {max(end, *window.reach)} are needed")
    if len(window.reach) != count or min(window.reach) < 1:
        raise UserError(f"{count} tokens need as many reaches of at least 1, got {list(window.reach)}")
    if any(not 0 <= i < count for i in window.wanted):
        raise UserError(f"wanted tokens must be among the {count} of the window, got {list(window.wanted)}")
    if window.positions is not None and len(window.positions) != count:
        raise UserError(f"{count} tokens but {len(window.positions)} positions")
