"""LLaDA in one file: a masked diffusion language model, from the text to the sampler (arXiv:2502.09992).

An autoregressive model writes from left to right. This one starts with a row of masks and fills it in any order, the
most confident tokens first, one or several at a time. Equations are numbered as in docs/concepts.md:

    (1) forward process   t ~ U(0, 1] for each row; each token of x_0 becomes MASK with probability t. This is x_t.
    (2) loss              L = E[ (1/t) * sum over masked i of -log p(x_0^i | x_t) ]  >=  -log p(x_0)   (LLaDA, eq. 3)
    (3) exact count       the same expectation: mask exactly k ~ U{1..L} of L tokens, weight L/k       (LLaDA, eq. 6)
    (4) confidence        c_i = p(v_i | x_t), the probability of the token v_i chosen for masked position i
    (5) reverse process   each pass commits the most confident tokens; the others stay masked (low-confidence remasking)

    python examples/one_file.py                                     # learns four lines by heart: one or two minutes
    python examples/one_file.py --text book.txt --prompt "It was" --steps 5000
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VERSE = """first every word is hidden, then one by one they show;
the surest comes before the rest, the others wait to know.
a mask is but a question, and the text a slow reply;
from all the words around it each one finds the reason why.
"""


class Tokenizer:
    """One character is one token. MASK is one id more: it occurs in no text, so it is never a target."""

    def __init__(self, text: str) -> None:
        self.characters = sorted(set(text))
        self.ids = {character: number for number, character in enumerate(self.characters)}
        self.mask = len(self.characters)

    def encode(self, text: str) -> Tensor:
        return torch.tensor([self.ids[character] for character in text], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        return "".join("_" if token == self.mask else self.characters[token] for token in tokens.tolist())


# ---- The model: a Llama-shaped Transformer without the causal mask; parameters named as in nano_llada ----------------
class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(self.head_width, eps=1e-6), nn.RMSNorm(self.head_width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, self.head_width))  # (B, L, 3, heads, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, L, D)
        # every token attends to every token, left and right; with is_causal=True this would be an AR model
        y = F.scaled_dot_product_attention(rotary(self.q_norm(q)), rotary(self.k_norm(k)), v)
        return self.out(y.transpose(1, 2).flatten(2))


def rotary(x: Tensor, base: float = 10_000.0) -> Tensor:
    """RoPE: rotate each pair of dimensions by an angle proportional to the position. (B, heads, L, D) -> the same."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * base ** -(torch.arange(half) / half)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        inner = -(-width * 8 // 3 // 64) * 64  # 8/3 of the width, rounded up to a multiple of 64
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)  # SwiGLU


class Transformer(nn.Module):
    """x_t (B, L) in, logits (B, L, V) of x_0 out. It needs no input for t: the number of masks shows it."""

    def __init__(self, vocab_size: int, width: int = 128, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens))))


# ---- Forward process and loss ----------------------------------------------------------------------------------------
def corrupt(tokens: Tensor, mask_count: str, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which tokens of x_0 (B, L) to mask, (B, L) bool, and the weight of a masked token in each row, (B, 1)."""
    batch, length = tokens.shape
    # one time per row, spread evenly over (0, 1]: each is uniform, and the loss varies less from batch to batch
    t = 1 - (torch.rand(1, generator=rng) + torch.arange(batch) / batch)[:, None] % 1
    noise = torch.rand(batch, length, generator=rng)
    if mask_count == "bernoulli":  # eq. (1) and (2); rarely, a row has no mask and adds nothing to the loss
        return noise < t, 1 / t
    k = (t * length).ceil()  # eq. (3): uniform in 1..L, never 0; the positions of the k smallest draws are masked
    return noise.argsort(dim=1).argsort(dim=1) < k, length / k


def diffusion_loss(model: nn.Module, tokens: Tensor, masked: Tensor, weights: Tensor, mask: int) -> Tensor:
    """Eq. (2), in nats per token: an upper bound on the negative log-likelihood, in expectation over the noise."""
    logits = model(tokens.masked_fill(masked, mask))
    nll = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    return (nll * weights * masked).sum() / tokens.numel()  # visible tokens are known: they bear no loss


# ---- Reverse process -------------------------------------------------------------------------------------------------
@torch.no_grad()
def denoise(
    model: nn.Module, canvas: Tensor, mask: int, passes: int, temperature: float, rng: torch.Generator
) -> Iterator[Tensor]:
    """Fill in the masks of a canvas (B, L), in one forward pass per token or fewer; yields the canvas after each pass.

    Visible tokens never change: a prompt is text at the beginning of the canvas, and known text may be anywhere else.
    """
    passes = min(passes, int((canvas == mask).sum(1).max()))
    for left in range(passes, 0, -1):
        masked = canvas == mask
        logits = model(canvas)
        logits[..., mask] = -torch.inf  # the model must never write MASK
        # draw v_i with Gumbel noise, in float64 because float32 lowers diversity; temperature 0 takes the likeliest
        uniform = torch.rand(logits.shape, generator=rng, dtype=torch.float64).clamp(min=1e-300)
        tokens = (logits.double() - temperature * (-uniform.log()).log()).argmax(-1)
        confidence = logits.softmax(-1).gather(-1, tokens[..., None])[..., 0].masked_fill(~masked, -1)  # eq. (4)
        rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        count = (masked.sum(1, keepdim=True) / left).ceil()  # an equal share of what is left
        canvas = torch.where(masked & (rank < count), tokens, canvas)  # eq. (5)
        yield canvas  # the tokens of one pass were chosen without seeing each other


# ---- The whole of it -------------------------------------------------------------------------------------------------
def train(model: nn.Module, data: Tensor, mask: int, options: argparse.Namespace) -> Iterator[float]:
    """Minimise eq. (2) on random windows of the text; yields the loss of each step, in nats per token."""
    rng = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(options.steps):
        starts = torch.randint(0, len(data) - options.length + 1, (32, 1), generator=rng)
        tokens = data[starts + torch.arange(options.length)]  # x_0, (32, L)
        loss = diffusion_loss(model, tokens, *corrupt(tokens, options.mask_count, rng), mask)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # warm up over 30 steps, stay, decay over the last 40 %
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 30, (options.steps - step) / (0.4 * options.steps))
        optimizer.step()
        yield loss.item()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a masked diffusion language model on one text; watch it write.")
    parser.add_argument("--text", type=Path, help="a UTF-8 text file (default: the verse in this file)")
    parser.add_argument("--prompt", help="what the final text begins with (default: the beginning of the text)")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps (default: 600)")
    parser.add_argument("--length", type=int, default=64, help="tokens in a row (default: 64)")
    parser.add_argument("--mask-count", choices=("exact", "bernoulli"), default="exact", help="equation (3) or (1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, noise and samples (default: 0)")
    options = parser.parse_args(argv)
    try:
        text = options.text.read_text(encoding="utf-8") if options.text else 2 * VERSE
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"cannot read --text {options.text}: {error}")
    prompt = text[: options.length // 5] if options.prompt is None else options.prompt
    if options.steps < 1 or not len(prompt) < options.length <= len(text):
        parser.error(f"need --steps of at least 1, and prompt < --length <= {len(text)}, the characters of the text")
    if unknown := set(prompt) - set(text):
        parser.error(f"the text does not contain these characters of the prompt: {sorted(unknown)}")
    torch.manual_seed(options.seed)  # of the initial weights
    tokenizer, rng = Tokenizer(text), torch.Generator().manual_seed(options.seed)
    model, empty = Transformer(tokenizer.mask + 1), torch.full((1, options.length), tokenizer.mask)
    every, losses = max(options.steps // 6, 1), []
    for step, loss in enumerate(train(model, tokenizer.encode(text), tokenizer.mask, options), start=1):
        losses.append(loss)
        if step % every == 0:
            *_, sample = denoise(model, empty, tokenizer.mask, passes=32, temperature=1.0, rng=rng)
            mean = sum(losses[-every:]) / every
            print(f"step {step:4}  loss {mean:.3f}  {tokenizer.decode(sample[0])!r}", flush=True)
    canvas = torch.cat([tokenizer.encode(prompt)[None], empty[:, len(prompt) :]], dim=1)
    for passes in (options.length, 12, 4):  # fewer passes: more tokens per forward (TPF)
        states = [canvas, *denoise(model, canvas, tokenizer.mask, passes, temperature=0.0, rng=rng)]
        print(f"\n{options.length - len(prompt)} tokens in {len(states) - 1} forward passes")
        for number in sorted({round(i * (len(states) - 1) / 12) for i in range(13)}):
            print(f"{number:4}  {tokenizer.decode(states[number][0])!r}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
