"""A masked diffusion language model of nano-llada for the `transformers` library, in one file.

    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True,
                                         return_tensors="pt", return_dict=True)
    print(tokenizer.decode(model.generate(chat["input_ids"])[0], skip_special_tokens=True))

The network is a Llama/Qwen3-shaped Transformer. What makes it a diffusion model is who sees whom, and how it writes: it
predicts the tokens behind all masks at once, and `generate` unmasks those that it is surest of. A model of three modes
also reads left to right: it is a causal language model, and its masks draft what that is going to write.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


class NanoLLaDAConfig(PretrainedConfig):
    """Shape of the network, ids of the special tokens, and how the model was trained to write."""

    model_type = "nano_llada"

    def __init__(
        self,
        vocab_size: int = 6400,
        hidden_size: int = 512,
        num_hidden_layers: int = 8,
        num_attention_heads: int = 8,
        num_key_value_heads: int = 8,
        head_dim: int = 64,
        intermediate_size: int = 1408,
        max_position_embeddings: int = 512,
        rms_norm_eps: float = 1e-6,
        rope_parameters: dict[str, Any] | None = None,
        qk_norm: bool = True,
        qkv_bias: bool = False,
        block_size: int | None = None,
        answer_length: int | None = None,
        track: str = "diffusion",
        predicts: str = "self",
        decode: str | None = None,
        drafts: int | None = None,
        mask_token_id: int = 3,
        unwritable_token_ids: tuple[int, ...] = (),
        **others: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.num_key_value_heads, self.head_dim = num_key_value_heads, head_dim
        self.max_position_embeddings, self.rms_norm_eps = max_position_embeddings, rms_norm_eps
        self.qk_norm, self.qkv_bias = qk_norm, qkv_bias
        self.rope_parameters = rope_parameters or {"rope_type": "default", "rope_theta": 10_000.0}
        self.block_size = block_size  # tokens that are denoised together; None: all of them
        self.answer_length = answer_length  # tokens that answers had in training
        self.track = track  # diffusion, or both: text is read left to right, and only masks see each other
        self.predicts = predicts  # whether an output is about the token at its place (self) or the one after (next)
        self.decode = decode  # how a model of both writes: ar, block or speculative, which is the default
        self.drafts = drafts  # tokens that it drafts in a pass; default: 2
        self.mask_token_id = mask_token_id
        self.unwritable_token_ids = list(unwritable_token_ids)  # marks that no text contains
        super().__init__(**others)


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        scaled = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return scaled.to(x.dtype) * self.weight


class Attention(nn.Module):
    """Grouped-query attention with rotary embeddings."""

    def __init__(self, config: NanoLLaDAConfig) -> None:
        super().__init__()
        self.width, hidden = config.head_dim, config.hidden_size
        queries, keys = config.num_attention_heads * self.width, config.num_key_value_heads * self.width
        self.q_proj = nn.Linear(hidden, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden, keys, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden, keys, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        self.q_norm = RMSNorm(self.width, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.width, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, self.width)) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        groups = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: NanoLLaDAConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention, then SwiGLU, each after a norm and added to its input."""

    def __init__(self, config: NanoLLaDAConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, allowed)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, config: NanoLLaDAConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class NanoLLaDAModel(PreTrainedModel):
    """Tokens in, logits out: of the token at each place, or with `predicts` "next" of the one that follows."""

    config_class = NanoLLaDAConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _no_split_modules = ["Layer"]  # noqa: RUF012 - the library wants a list

    def __init__(self, config: NanoLLaDAConfig) -> None:
        super().__init__(config)
        self.model = Body(config)
        # a tied head is the embedding, and is not there a second time
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module | None:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        block_size: int | None = None,
        labels: Tensor | None = None,
        **ignored: Any,
    ) -> MaskedLMOutput:
        """Logits (B, L, V) of tokens (B, L).

        attention_mask (B, L) is 0 where a row is padded. A place sees itself and what comes before it if the model's
        track is "both". Else, with block_size, of this call or of the config, it sees its own block and those before
        it, blocks counted from the row's start; without, everything. labels (B, L), -100 where nothing is to be learnt,
        give the mean cross-entropy of the tokens that the outputs are about as `loss`.
        """
        length, device = input_ids.shape[1], input_ids.device
        size = 1 if self.config.track == "both" else block_size or self.config.block_size or length
        blocks = torch.arange(length, device=device) // size
        allowed = (blocks[:, None] >= blocks[None, :])[None, None]
        if attention_mask is not None:
            itself = torch.eye(length, dtype=torch.bool, device=device)  # or a padded row's softmax has nothing to sum
            allowed = (allowed & attention_mask.bool()[:, None, None]) | itself
        if position_ids is None:
            position_ids = torch.arange(length, device=device)[None]
        logits = self._logits(input_ids, position_ids, allowed)
        loss = None
        if labels is not None:
            labels = F.pad(labels[:, self._ahead :], (0, self._ahead), value=-100)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)

    def _logits(self, tokens: Tensor, positions: Tensor, allowed: Tensor) -> Tensor:
        """(B, L, V) of tokens (B, L) at positions (1|B, L), where allowed (1|B, 1, L, L) says who sees whom."""
        x = self.model.embed_tokens(tokens)
        cos, sin = angles(self.config, positions, x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, allowed)
        x = self.model.norm(x)
        return F.linear(x, self.model.embed_tokens.weight) if self.lm_head is None else self.lm_head(x)

    @property
    def _ahead(self) -> int:
        """How far behind its own place the token is that an output is about."""
        return int(self.config.predicts == "next")

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int | None = None,
        steps: int | None = None,
        threshold: float | None = None,
        block_size: int | None = None,
        decode: str | None = None,
        drafts: int | None = None,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        **ignored: Any,
    ) -> Tensor:
        """Write after each row of tokens (B, L): the prompts, each followed by its text and then by padding.

        A model that was trained in blocks writes block after block, and in each pass unmasks every place whose token is
        more probable than `threshold` (default 0.95), at least one. Any other fills one canvas of max_new_tokens masks;
        each of `steps` passes (default: one per token) unmasks the places whose token is most probable; with
        `threshold`, as above.

        A model of track "both" writes as `decode` says: "ar", left to right; "block"; or "speculative" (default), the
        texts of "ar" in fewer passes, each of which verifies `drafts` (default 2) that masks made in the one before.

        Rows are written one after the other, each pass over the whole text: the plain algorithm, without a cache.
        """
        known = {name: value for name, value in ignored.items() if value is not None}
        known.pop("token_type_ids", None)
        if known:
            raise ValueError(f"generate of this model has no {', '.join(sorted(known))}")
        room = self.config.max_position_embeddings
        block_size = block_size or self.config.block_size
        way = self._way(decode)
        if drafts is None:
            drafts = 2 if self.config.drafts is None else self.config.drafts
        rows = []
        for i, row in enumerate(input_ids):
            prompt = row if attention_mask is None else row[attention_mask[i].bool()]
            count = min(max_new_tokens or self.config.answer_length or 128, room - len(prompt))
            if count < 1:
                raise ValueError(f"the prompt has {len(prompt)} tokens, the model's context is {room}")
            text = torch.cat([prompt, prompt.new_full((count,), self.config.mask_token_id)])
            draw = Draw(self.config, temperature, generator)
            if way != "block":
                self._write_left_to_right(text, len(prompt), drafts if way == "speculative" else 0, draw)
            elif block_size:
                self._write_blocks(text, len(prompt), block_size, 0.95 if threshold is None else threshold, draw)
            else:
                self._write_canvas(text, len(prompt), steps or count, threshold, draw)
            rows.append(torch.cat([row, self._until_end(text[len(prompt) :])]))
        longest = max(map(len, rows))
        pad = self.config.pad_token_id
        return torch.stack([F.pad(row, (0, longest - len(row)), value=pad) for row in rows])

    def _way(self, decode: str | None) -> str:
        """How to write: "block" of a model of track "diffusion", be it the whole canvas."""
        ways = ("speculative", "ar", "block") if self.config.track == "both" else ("block",)
        way = decode or self.config.decode or ways[0]
        if way not in ways:
            raise ValueError(f"decode is {way!r}; this model can be {', '.join(ways)}")
        return way

    def _write_left_to_right(self, text: Tensor, start: int, most: int, draw: Draw) -> None:
        """Token by token; with drafts, several in a pass, the same ones.

        Behind the text and each draft stands a group of masks, which sees the text up to there and itself. The outputs
        of the text say which drafts are right, and one token more; the masks behind those give the next drafts. Texts
        that are drawn, not greedy, are written without drafts.
        """
        most = 0 if draw.temperature else most
        spare = 1 - self._ahead  # with "self" a group's first mask says nothing new
        drafts = text.new_empty(0)
        end = start  # of what is written
        while end < len(text) and not self._ended(text[start:]):
            known = torch.cat([text[:end], drafts])
            places = torch.arange(len(known), device=text.device)
            reach, group, groups = places + 1, torch.zeros_like(places), []
            for number in range(len(drafts) + 1):
                behind = end + number
                count = max(min(most, len(text) - 1 - behind), 0)
                size = count + spare if count else 0
                groups.append(slice(len(places) + size - count, len(places) + size))
                more = torch.arange(behind, behind + size, device=text.device)
                places, reach = torch.cat([places, more]), torch.cat([reach, torch.full_like(more, behind)])
                group = torch.cat([group, torch.full_like(more, number + 1)])
            masks = text.new_full((len(places) - len(known),), self.config.mask_token_id)
            order = torch.arange(len(places), device=text.device)
            same = (group[:, None] == group[None]) & (group[None] > 0)
            allowed = ((order[None] < reach[:, None]) | same)[None, None]
            logits = self._logits(torch.cat([known, masks])[None], places[None], allowed)[0]
            right, _ = draw(logits[end - 1 : len(known)])
            agreed = int((right[:-1] == drafts).long().cumprod(0).sum())
            new = right[: min(agreed + 1, len(text) - end)]
            drafts = draw(logits[groups[agreed]])[0] if most else drafts
            text[end : end + len(new)] = new
            end += len(new)

    def _write_canvas(self, text: Tensor, start: int, steps: int, threshold: float | None, draw: Draw) -> None:
        """LLaDA: unmask the surest places of the whole canvas, a planned number in each pass."""
        count = len(text) - start
        passes = min(steps, count)
        for step in range(count):
            hidden = (text == self.config.mask_token_id).nonzero()[:, 0]
            hidden = hidden[hidden >= start]
            if not len(hidden) or self._ended(text[start:]):
                return
            tokens, sure = draw(self(text[None]).logits[0, hidden - self._ahead])
            quota = count // passes + (step < count % passes)
            chosen = surest(sure, quota) if threshold is None else above(sure, threshold)
            text[hidden[chosen]] = tokens[chosen]

    def _write_blocks(self, text: Tensor, start: int, size: int, threshold: float, draw: Draw) -> None:
        """LLaDA 2.0: block after block; a block sees the finished ones, and nothing that follows.

        Where text is read left to right, blocks begin behind the prompt, and only the last one sees all of itself.
        """
        causal = self.config.track == "both"
        for begin in range(start if causal else start // size * size, len(text), size):
            end = min(begin + size, len(text))
            places = torch.arange(end, device=text.device)
            if causal:
                allowed = (places[:, None] >= places[None]) | (places[:, None] >= begin)
            else:
                allowed = places[:, None] // size >= places[None] // size
            while True:
                hidden = (text[:end] == self.config.mask_token_id).nonzero()[:, 0]
                hidden = hidden[hidden >= max(begin, start)]
                if not len(hidden) or self._ended(text[start:]):
                    break
                logits = self._logits(text[None, :end], places[None], allowed[None, None])
                tokens, sure = draw(logits[0, hidden - self._ahead])
                chosen = above(sure, threshold)
                text[hidden[chosen]] = tokens[chosen]
            if self._ended(text[start:]):
                return

    def _ended(self, text: Tensor) -> bool:
        """Whether an end token stands in the text with no mask before it."""
        ends = torch.isin(text, text.new_tensor(self._ends)).nonzero()[:, 0]
        masks = (text == self.config.mask_token_id).nonzero()[:, 0]
        return len(ends) > 0 and (len(masks) == 0 or bool(ends[0] < masks[0]))

    def _until_end(self, text: Tensor) -> Tensor:
        """The text with its first end token, and nothing after it."""
        ends = torch.isin(text, text.new_tensor(self._ends)).nonzero()[:, 0]
        return text[: int(ends[0]) + 1] if len(ends) else text

    @property
    def _ends(self) -> list[int]:
        ends = self.config.eos_token_id
        return list(ends) if isinstance(ends, (list, tuple)) else [ends]


class Draw:
    """From logits (N, V) a token for each place, and the probability that the model gives it."""

    def __init__(self, config: NanoLLaDAConfig, temperature: float, generator: torch.Generator | None) -> None:
        self.unwritable, self.temperature, self.generator = config.unwritable_token_ids, temperature, generator

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits.float()
        logits[:, self.unwritable] = -torch.inf  # the mask, and marks that no text contains
        probabilities = logits.softmax(-1)
        if self.temperature:
            drawn = torch.multinomial((logits / self.temperature).softmax(-1), 1, generator=self.generator)[:, 0]
        else:
            drawn = logits.argmax(-1)
        return drawn, probabilities.gather(-1, drawn[:, None])[:, 0]


def surest(sure: Tensor, count: int) -> Tensor:
    """Indices of the highest values, of equal ones the leftmost."""
    return sure.sort(descending=True, stable=True).indices[:count]


def above(sure: Tensor, threshold: float) -> Tensor:
    """Indices of values above a threshold, or of the highest if there is none."""
    chosen = (sure > threshold).nonzero()[:, 0]
    return chosen if len(chosen) else surest(sure, 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of each head, (B, L, heads, D), by angles (B, L, 1, D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def angles(config: NanoLLaDAConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary embedding at positions (B, L): each (B, L, 1, D/2)."""
    frequencies, scale = rotary_frequencies(config)
    turned = (positions[..., None].float() * frequencies.to(positions.device))[:, :, None]
    return (turned.cos() * scale).to(dtype), (turned.sin() * scale).to(dtype)


def rotary_frequencies(config: NanoLLaDAConfig) -> tuple[Tensor, float]:
    """(D/2,) angle per position of each pair of dimensions, and a factor on the rotated vectors."""
    width, rope = config.head_dim, config.rope_parameters
    theta, kind, factor = rope["rope_theta"], rope["rope_type"], rope.get("factor", 1.0)
    frequencies = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    if kind == "linear":
        return (frequencies / factor).float(), 1.0
    if kind == "llama3":
        turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return (frequencies * (kept + (1 - kept) / factor)).float(), 1.0
    if kind == "yarn":

        def dimension(turns: float) -> float:
            length = rope["original_max_position_embeddings"]
            return width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(dimension(rope["beta_fast"])), 0)
        high = min(math.ceil(dimension(rope["beta_slow"])), width - 1)
        ramp = (torch.arange(width // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)
        kept = 1 - ramp.clamp(0, 1)
        return (frequencies * (kept + (1 - kept) / factor)).float(), rope["attention_factor"]
    if kind == "default":
        return frequencies.float(), 1.0
    raise ValueError(f"unknown rope_type {kind!r}")
