"""Records what training and decoding compute: losses, weights and texts of small runs of every kind.

    python tests/golden/record.py OUT.json

runs the command line of the `nano_llada` on the Python path in a temporary folder. The file beside this one,
`0.1.0.json`, was recorded with version 0.1.0; `tests/test_golden.py` records again and compares. On the processor named
in the file all figures must be equal to the last bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STEPS = 30
SHAPE = "--hidden-size 32 --num-layers 2 --num-heads 4 --num-kv-heads 2 --intermediate-size 64 --max-length 256"
COMMON = (
    f"--steps {STEPS} --batch-size 8 --micro-batch-size 4 --sequence-length 64 --learning-rate 1e-2 --warmup-steps 3 "
    "--eval-every 10 --eval-rows 8 --save-every 15 --log-every 1 --threads 1 --device cpu --runs runs --cache cache"
)
TEXT = "--data world/pretrain-train.jsonl --validation world/pretrain-validation.jsonl"
CHAT = "--data world/chat-train.jsonl --validation world/chat-validation.jsonl"
PAIRS = "--data world/preference-train.jsonl --validation world/preference-validation.jsonl"
BLOCKS = "--block-size 8 --block-warmup 1 4 --block-decay 32 8 --optimizer muon"
RUNS: Mapping[str, str] = {  # name -> command
    "ar": f"pretrain ar {TEXT} {SHAPE} --dropout 0.1 --ema-decay 0.9",
    "full": f"pretrain diffusion {TEXT} --init-from runs/ar --random-length 0.2",
    "cosine": f"pretrain diffusion {TEXT} --init-from runs/ar --mask-count bernoulli --noise cosine",
    "blocks": f"pretrain diffusion {TEXT} --init-from runs/ar {BLOCKS} --keep-best 2 --merge-best 2",
    "editing": f"pretrain diffusion {TEXT} --init-from runs/ar --block-size 8 --replace-rate 0.2 --draft-rate 0.5 "
    "--keep-weight 0.1",
    "ar-sft": f"sft ar {CHAT} --init-from runs/ar --optimizer muon",
    "full-sft": f"sft diffusion {CHAT} --init-from runs/full --eos-fill 16",
    "blocks-sft": f"sft diffusion {CHAT} --init-from runs/blocks --eos-fill 16 --fill-multiple 8 --block-size 8 "
    "--confidence-weight 0.1 --mask-rate-min 0.05 --mask-rate-max 0.95 --complementary",
    "ar-dpo": f"dpo ar {PAIRS} --init-from runs/ar-sft",
    "blocks-dpo": f"dpo diffusion {PAIRS} --init-from runs/blocks-sft --eos-fill 16 --fill-multiple 8 --block-size 8 "
    "--draws 2 --complementary",
    "ar-rl": "rl ar --data world/chat-train.jsonl --init-from runs/ar-sft --group-size 4 --max-new-tokens 8 "
    "--kl-weight 0.1 --reward rewards.py:letters",
    "blocks-rl": "rl diffusion --data world/chat-train.jsonl --init-from runs/blocks-sft --group-size 4 "
    "--max-new-tokens 8 --block-size 8 --threshold 0.05 --reward rewards.py:letters",
}
REWARD = "def letters(question, answer, row):\n    return len(set(answer)) / 8\n"
DECODED: Mapping[str, tuple[str, str]] = {  # name -> model and options
    "ar greedy": ("ar", "--repetition-penalty 1.3"),
    "ar drawn": ("ar-sft", "--temperature 0.8 --top-k 20 --top-p 0.9 --samples 2"),
    "full": ("full", "--max-new-tokens 24"),
    "full sft": ("full-sft", "--steps 5"),
    "full random": ("full", "--strategy random --max-new-tokens 24"),
    "full margin": ("full", "--strategy margin --steps 9 --block-length 8 --max-new-tokens 24"),
    "full entropy": ("full", "--strategy entropy --temperature 0.7 --max-new-tokens 24"),
    "full threshold": ("full", "--threshold 0.05 --block-length 12 --max-new-tokens 24"),
    "full guided": ("full-sft", "--guidance 0.5 --end-confidence 0.8"),
    "full prefix": ("full", "--cache prefix --block-length 8 --max-new-tokens 24"),
    "full dual": ("full", "--cache dual --block-length 8 --threshold 0.05 --max-new-tokens 24"),
    "blocks": ("blocks", "--threshold 0.05 --max-new-tokens 40"),
    "blocks drawn": ("blocks-sft", "--threshold 0.1 --temperature 0.9 --min-p 0.01 --min-new-tokens 4"),
    "blocks edited": ("editing", "--threshold 0.05 --edit-threshold 0.02 --edit-blocks 1 --max-new-tokens 40"),
    "blocks reread": ("editing", "--threshold 0.05 --edit-threshold 0.03 --reread-threshold 0.1 --max-new-tokens 40"),
    "blocks edited, drawn": ("editing", "--threshold 0.05 --edit-threshold 0.02 --temperature 0.8 --max-new-tokens 24"),
    "blocks preset": ("editing", "--preset s --max-new-tokens 24"),
}


def call(folder: Path, words: Sequence[str], text: str = "") -> str:
    """Standard output of `nano-llada WORDS`, run in `folder`, within this process."""
    from nano_llada.cli.main import main as command_line

    before, typed, out = Path.cwd(), sys.stdin, io.StringIO()
    os.chdir(folder)
    sys.stdin = io.StringIO(text)
    try:
        with contextlib.redirect_stdout(out):
            status = command_line(list(words))
    finally:
        os.chdir(before)
        sys.stdin = typed
    if status:
        raise RuntimeError(f"nano-llada {' '.join(words)} ended with status {status}")
    return out.getvalue()


def losses(run: Path) -> list[dict[str, str]]:
    """Every line of a run's metrics without what depends on the machine's speed; numbers in hexadecimal."""
    kept = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        timed = ("tokens_per_second", "mfu", "memory_gib", "seconds", "time")
        kept.append({key: float(value).hex() for key, value in row.items() if key not in timed})
    return kept


def digest(path: Path) -> str:
    """SHA-256 of a file's tensors, by name."""
    from safetensors.numpy import load_file

    total = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        total.update(name.encode() + tensor.tobytes())
    return total.hexdigest()


def prompts(folder: Path) -> list[str]:
    """Twenty questions of the small world, Chinese and English."""
    rows = (folder / "world" / "chat-test.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    messages = [next(iter(v for v in json.loads(row).values() if isinstance(v, list))) for row in rows]
    return [turns[0]["content"].replace("\n", " ") for turns in messages]


def record(folder: Path) -> dict[str, Any]:
    """Make every run and every text in an empty folder."""
    from nano_llada import __version__

    call(
        folder,
        [
            "data",
            "world",
            "--out",
            "world",
            "--documents",
            "400",
            "--chats",
            "400",
            "--preferences",
            "200",
            "--seed",
            "1",
        ],
    )
    (folder / "rewards.py").write_text(REWARD, encoding="utf-8")
    found: dict[str, Any] = {"version": __version__, "machine": machine(), "losses": {}, "weights": {}, "texts": {}}
    for name, command in RUNS.items():
        call(folder, [*command.split(), *COMMON.split(), "--name", name])
        run = folder / "runs" / name
        found["losses"][name] = losses(run)
        saved = sorted(run.glob("step-*/model.safetensors")) + sorted(run.glob("merged/model.safetensors"))
        found["weights"][name] = {path.parent.name: digest(path) for path in saved}
    asked = prompts(folder)
    for name, (model, options) in DECODED.items():
        words = ["generate", f"runs/{model}", "--json-lines", "--batch-size", "7", "--device", "cpu", *options.split()]
        lines = call(folder, words, "".join(f"{prompt}\n" for prompt in asked)).splitlines()
        rows = [json.loads(line) for line in lines]
        found["texts"][name] = [[row["text"], row["tokens"], row["forwards"], row["finish"]] for row in rows]
    gap = ["infill", "runs/full", "--device", "cpu", "--length", "3", "5", "--text"]
    found["texts"]["infill"] = [[call(folder, [*gap, f"{prompt[:12]}___{prompt[12:20]}___"])] for prompt in asked[:5]]
    return found


def machine() -> dict[str, str]:
    """What the last bits of a figure depend on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    capability = torch.backends.cpu.get_cpu_capability()
    return {"processor": name, "torch": torch.__version__.split("+")[0], "capability": capability}


def main(arguments: Sequence[str]) -> int:
    """Record into a file."""
    with tempfile.TemporaryDirectory() as folder:
        found = record(Path(folder))
    Path(arguments[0]).write_text(json.dumps(found, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
