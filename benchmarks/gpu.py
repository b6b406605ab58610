"""Everything that is worth knowing on a GPU, within twelve minutes, on whatever CUDA device is there.

    python -m benchmarks.gpu pack --out build/gpu-pack [--data FILE ...]      (make gpu-pack)
    python -m benchmarks.gpu run --pack build/gpu-pack --out docs/experiments/gpu   (make gpu)

`run` checks that the GPU computes what the CPU does, measures training at 30M and 350M parameters and decoding beside
the plain eager model, and trains a 30M AR model and from it a block-diffusion model on the packed text in the time
that is left. It writes figures.json after every part, so that what was measured survives whatever ends it, and the
weights in pieces of at most 15 MB with their checksums. A part that fails is written down with its error, and the next
begins.
`--toy` does all of it with tiny shapes and a few steps, on a CPU too: `tests/test_gpu.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from nano_llada.checkpoint.files import find_checkpoint, load_checkpoint, model_weights
from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import default_decoding
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, NextToken
from nano_llada.config.run import RunConfig, default_run
from nano_llada.core import device as hardware
from nano_llada.core.batch import StepContext, TokenBatch, Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.core.random import generator
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER
from nano_llada.decode.types import Request, collect
from nano_llada.language_model import make_sampler
from nano_llada.model.transformer import Transformer
from nano_llada.objectives.next_token import NextTokenLoss
from nano_llada.session.plan import training_rate
from nano_llada.session.run import execute
from nano_llada.training import parallel
from nano_llada.world.documents import documents as world_documents
from nano_llada.world.skills import SKILLS

PIECE = 15_000_000  # bytes of a file of weights
SMALL = ModelConfig(vocab_size=512, hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=1, max_length=256)
SHAPES = {
    "30M": (ModelConfig(hidden_size=512, num_layers=8, num_heads=8, max_length=1024), 1024, (8, 16, 32, 64, 128)),
    "350M": (ModelConfig(vocab_size=32000, hidden_size=1024, num_layers=24, num_heads=16), 1024, (4, 8, 16, 32)),
}
TOY = {"toy": (replace(SMALL, max_length=64), 64, (2, 4))}
VOCAB = Vocabulary(512, 0, 1, 2, 3)
OBJECTIVE = NextTokenLoss(NextToken())


@dataclass
class Bench:
    """What is there, how long it may take, and what was found."""

    machine: hardware.Machine
    pack: Path
    out: Path
    seconds: float
    toy: bool
    begun: float = field(default_factory=time.monotonic)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.begun)

    def part(self, name: str, work: Callable[[Bench], Any]) -> None:
        """Do one part and write down what it found, or how it failed."""
        begin = time.monotonic()
        try:
            found: dict[str, Any] = {"found": work(self)}
        except Exception as error:  # whatever a new device comes up with: the other parts are worth having
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
        self.figures[name] = found | {"seconds": round(time.monotonic() - begin, 1)}
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "figures.json").write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(self.figures[name])}", flush=True)


def small_model(device: torch.device) -> Transformer:
    """The same random weights on every device."""
    return Transformer(SMALL).initialise(generator(0, "gpu")).to(device).eval()


def small_batch(device: torch.device) -> TokenBatch:
    """Rows of two documents each."""
    tokens = torch.randint(6, SMALL.vocab_size, (4, 128), generator=generator(0, "gpu tokens"))
    docs = (torch.arange(128) >= 50).long().expand(4, -1).contiguous()
    positions = torch.where(docs == 1, torch.arange(128) - 50, torch.arange(128))
    return TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), docs, positions, torch.arange(4)).to(device)


def loss_and_gradient(model: Transformer, device: torch.device, **autocast: Any) -> tuple[float, torch.Tensor]:
    """Of the AR objective: the mean loss, and the gradient of the embeddings on the CPU."""
    model.train().zero_grad()
    with torch.autocast(device.type, **autocast) if autocast else contextlib.nullcontext():
        out = OBJECTIVE.loss(model, small_batch(device), StepContext(VOCAB, 0, 0, 1, 4))
    out.total.backward()
    assert model.embed.weight.grad is not None
    return float(out.total.detach()) / float(out.count), model.embed.weight.grad.float().cpu()


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    return float((one - other).abs().max() / other.abs().max())


def check_attention(bench: Bench) -> dict[str, float]:
    """Logits of packed rows on the device (FlexAttention on CUDA) beside dense masks on the CPU, in float32."""
    found = {}
    for name, training in (("training", True), ("decoding", False)):
        logits = []
        for device in (bench.machine.device, torch.device("cpu")):
            batch, model = small_batch(device), small_model(device).train(training)
            pattern = AttentionPattern.packed("full", batch.doc_ids)
            with torch.no_grad():
                logits.append(model(batch.tokens, pattern, positions=batch.positions).float().cpu())
        found[name] = apart(*logits)
        assert found[name] < 1e-3, found
    return found


def check_precision(bench: Bench) -> dict[str, float]:
    """bf16 products beside float32: the loss, and the direction of the gradient."""
    device = bench.machine.device
    loss, gradient = loss_and_gradient(small_model(device), device)
    low, rough = loss_and_gradient(small_model(device), device, dtype=torch.bfloat16)
    cosine = float(torch.nn.functional.cosine_similarity(gradient.flatten(), rough.flatten(), dim=0))
    assert abs(low - loss) < 0.02 * loss, (low, loss)
    assert cosine > 0.99, cosine
    return {"loss_fp32": loss, "loss_bf16": low, "cosine_of_gradients": cosine}


def check_compiled(bench: Bench) -> dict[str, float]:
    """A compiled model beside an eager one."""
    device = bench.machine.device
    loss, gradient = loss_and_gradient(small_model(device), device)
    model = small_model(device)
    model.compile_blocks()
    other, compiled = loss_and_gradient(model, device)
    assert apart(compiled, gradient) < 1e-2, apart(compiled, gradient)
    return {"loss_eager": loss, "loss_compiled": other, "gradients_apart": apart(compiled, gradient)}


def check_ddp(bench: Bench) -> dict[str, float]:
    """DDP with one process on the device: the gradients are those without it."""
    device = bench.machine.device
    loss, gradient = loss_and_gradient(small_model(device), device)
    model = small_model(device).train()
    with tempfile.TemporaryDirectory() as folder:
        store = torch.distributed.FileStore(f"{folder}/store", 1)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            layout = parallel.Replicated(model)
            with layout.part_of_step(last=True):
                out = layout.loss(OBJECTIVE, small_batch(device), StepContext(VOCAB, 0, 0, 1, 4))
                out.total.backward()
        finally:
            torch.distributed.destroy_process_group()
    assert model.embed.weight.grad is not None
    found = apart(model.embed.weight.grad.cpu(), gradient)
    assert found < 1e-3, found
    return {"loss": loss, "gradients_apart": found}


def check_decoding(bench: Bench) -> dict[str, int]:
    """Greedy tokens of AR and block decoding in float32 on the device beside those on the CPU."""
    prompts = [
        Request(tuple(row), seed=i) for i, row in enumerate(small_batch(torch.device("cpu")).tokens[:, :20].tolist())
    ]
    found = {}
    for name, card in (("ar", ModelCard("ar")), ("block", ModelCard("diffusion", block_size=8))):
        texts = []
        for device in (bench.machine.device, torch.device("cpu")):
            model = small_model(device)
            with torch.no_grad():
                model.head.weight.mul_(16)  # sure of its choices, so that rounding decides none
            sampler = make_sampler(model, VOCAB, default_decoding(card, 32))
            texts.append([done.tokens for done in collect(sampler.stream(prompts), len(prompts), sampler.ends)])
        found[name] = sum(a == b for a, b in zip(*texts, strict=True))
        assert found[name] == len(prompts), (name, found)
    return found


def measure_training(bench: Bench, name: str) -> list[dict[str, float]]:
    """Tokens a second and MFU by batch size, until memory or a third of the time is used up."""
    shape, length, sizes = (TOY if bench.toy else SHAPES)[name]
    peak, rows = hardware.matmul_rate(bench.machine), []
    begin, may_take = time.monotonic(), bench.left / 3
    base = default_run("pretrain", "ar")
    for size in sizes:
        train = replace(base.train, batch_size=size, compile=bench.machine.device.type == "cuda")
        config = replace(base, data=replace(base.data, sequence_length=length), train=train)
        try:
            rate = training_rate(config, shape, bench.machine, rows=size, steps=4 if bench.toy else 12)
        except torch.OutOfMemoryError:
            break
        mfu = rate * shape.train_flops(length, length, length) / length / peak
        memory = hardware.peak_memory(bench.machine.device) / 2**30
        rows.append({"rows": size, "tokens_per_second": rate, "mfu": mfu, "matmul_rate": peak, "memory_gib": memory})
        if time.monotonic() - begin > may_take:
            break
    return rows


def measure_decoding(bench: Bench) -> dict[str, float]:
    """New tokens a second of eight rows, beside the plain eager model that computes the whole text for each token."""
    shape = SMALL if bench.toy else replace(SHAPES["30M"][0], max_length=512)
    new, device = (16 if bench.toy else 128), bench.machine.device
    model = Transformer(shape).initialise(generator(0, "gpu")).to(device).eval()
    vocab = replace(VOCAB, size=shape.vocab_size)
    prompts = torch.randint(6, 500, (8, 32), generator=generator(0, "prompts"))
    decoding = replace(default_decoding(ModelCard("ar"), new), min_new_tokens=new)

    def ours() -> None:
        sampler = make_sampler(model, vocab, decoding)
        requests = [Request(tuple(row), seed=i) for i, row in enumerate(prompts.tolist())]
        collect(sampler.stream(requests), len(requests), sampler.ends)

    @torch.no_grad()
    def eager() -> None:
        tokens = prompts.to(device)
        for _ in range(new):
            tokens = torch.cat([tokens, model(tokens, AttentionPattern("causal"))[:, -1:].argmax(-1)], dim=1)
        tokens.cpu()

    seconds = {}
    for name, write in (("ours", ours), ("eager", eager)):
        write()
        begin = time.perf_counter()
        write()
        seconds[name] = time.perf_counter() - begin
    rate = {f"{name}_tokens_per_second": 8 * new / took for name, took in seconds.items()}
    return {**rate, "ratio": seconds["eager"] / seconds["ours"]}


def train_pair(bench: Bench) -> dict[str, Any]:
    """The AR model and the block-diffusion model that starts from it, each with half of the time that is left."""
    found: dict[str, Any] = {}
    shape, length, rows = (TOY["toy"][0], 64, 4) if bench.toy else (SHAPES["30M"][0], 1024, 64)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        for name, track in (("ar", "ar"), ("block", "diffusion")):
            may_take = max(0.0, bench.left - 20) / (2 if name == "ar" else 1)  # the last seconds are for the weights
            config = _run(bench, runs, name, track, shape, length, rows)
            rate = training_rate(config, shape, bench.machine, rows=rows, steps=3)
            steps = 3 if bench.toy else max(20, int(0.8 * may_take * rate / (rows * length)))
            outcome = execute(replace(config, train=replace(config.train, steps=steps)))
            found[name] = {"steps": outcome.step, "tokens": outcome.step * rows * length, "loss": outcome.best_loss}
            shutil.copy(runs / name / "metrics.jsonl", bench.out / f"metrics-{name}.jsonl")
            found[name]["pieces"] = write_pieces(runs / name, bench.out / f"weights-{name}")
    return found


def _run(bench: Bench, runs: Path, name: str, track: str, shape: ModelConfig, length: int, rows: int) -> RunConfig:
    base = default_run("pretrain", track)
    data = replace(base.data, data=(str(bench.pack / "text.jsonl.gz"),), sequence_length=length, cache=runs / "cache")
    train = replace(base.train, batch_size=rows, device=str(bench.machine.device), save_every=0, optimizer="muon")
    config = replace(
        base, name=name, runs=runs, tokenizer=bench.pack / "tokenizer", data=data, train=train, model=shape
    )
    if name == "ar":
        return config
    objective = Denoising(blocks=BlockSizeSchedule(block_size=16))
    return replace(config, objective=objective, init_from=runs / "ar", tokenizer=None, model=ModelConfig())


def write_pieces(run: Path, folder: Path) -> dict[str, str]:
    """The weights in bf16, as a safetensors file cut into pieces, and the SHA-256 of each; `cat` puts them together."""
    checkpoint = load_checkpoint(find_checkpoint(run))
    data = save({name: tensor.bfloat16().contiguous() for name, tensor in model_weights(checkpoint.model).items()})
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint.folder / name, folder / name)
    sums = {}
    for number, first in enumerate(range(0, len(data), PIECE)):
        piece, name = data[first : first + PIECE], f"model.safetensors.{number:03d}"
        (folder / name).write_bytes(piece)
        sums[name] = hashlib.sha256(piece).hexdigest()
    return sums


def run(bench: Bench) -> None:
    """All parts, the cheap and certain ones first."""
    bench.figures["environment"] = hardware.environment() | {"device": bench.machine.name, "toy": bench.toy}
    bench.part("attention", check_attention)
    bench.part("precision", check_precision)
    bench.part("ddp", check_ddp)
    bench.part("decoded tokens", check_decoding)
    if bench.machine.device.type == "cuda":
        bench.part("compiled", check_compiled)
    for name in TOY if bench.toy else SHAPES:
        bench.part(f"training {name}", lambda b, n=name: measure_training(b, n))  # type: ignore[misc]
    bench.part("decoding", measure_decoding)
    bench.part("pair", train_pair)


def pack(out: Path, data: list[Path], documents: int) -> None:
    """Text and tokenizer in one folder of at most 60 MB: some files of JSON lines, or the small world.

    Raises:
        UserError: if the files are too large.
    """
    out.mkdir(parents=True, exist_ok=True)
    with gzip.open(out / "text.jsonl.gz", "wb") as packed:
        for text in () if data else world_documents("train", documents, 0, tuple(SKILLS)):
            packed.write((json.dumps(text, ensure_ascii=False) + "\n").encode())
        for path in data:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
                shutil.copyfileobj(lines, packed)
    shutil.copytree(BUNDLED_TOKENIZER, out / "tokenizer", dirs_exist_ok=True)
    if (size := sum(path.stat().st_size for path in out.rglob("*") if path.is_file())) > 60_000_000:
        raise UserError(f"the pack is {size / 1e6:.0f} MB, and at most 60 MB can be carried: give less --data")
    print(f"{out}: {size / 1e6:.1f} MB")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Without what torchrun may have left in the environment."""
    before = os.environ.pop("WORLD_SIZE", None)
    try:
        yield
    finally:
        if before is not None:
            os.environ["WORLD_SIZE"] = before


def main(argv: list[str] | None = None) -> int:
    """Gives 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "run"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--documents", type=int, default=200_000, help="of the small world, without --data")
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(argv)
    try:
        if options.what == "pack":
            pack(options.out, options.data, options.documents)
            return 0
        if options.pack is None:
            raise UserError("run needs the --pack that `pack` has made")
        bench = Bench(
            hardware.choose_machine(options.device), options.pack, options.out, 60 * options.minutes, options.toy
        )
        with alone():
            run(bench)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if any("error" in part for part in bench.figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
