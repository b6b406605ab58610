"""`nano-llada COMMAND`: finds the command and runs it; everything slow to import waits until it is needed."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from nano_llada.core.errors import UserError

COMMANDS = {
    "demo": "train AR and diffusion models on a small bilingual world and compare them (10 minutes, 2 cores)",
    "data": "write the small world as files (data world), or look at your own files (data show)",
    "tokenizer": "train a tokenizer (tokenizer train), or look at one (tokenizer show)",
    "pretrain": "pretrain on text: pretrain ar, or pretrain diffusion (from an AR model with --init-from)",
    "sft": "fine-tune on conversations: sft ar, or sft diffusion",
    "dpo": "align with preferences (DPO): dpo ar, or dpo diffusion",
    "rl": "reinforce a model's own answers by verifiable rewards: rl ar (GRPO), or rl diffusion (EBPO)",
    "recipe": "make a whole pipeline of runs, as a recipe file describes it",
    "generate": "continue or answer prompts with a trained model",
    "chat": "talk to a trained model, and watch a diffusion model write",
    "infill": "fill ___ gaps in a text with a diffusion model",
    "compare": "AR and diffusion side by side: answers, speed, exact match; Markdown and HTML reports",
    "eval": "bits per byte on text files, exact match on the small world's test questions",
    "report": "what evaluations and training runs found, side by side: one page to look at",
    "experiment": "make (or go on with) one of the recorded experiments; without a name, list them",
    "merge": "average the weights of several checkpoints, or of the K best of a run",
    "import": "turn a transformers folder (Llama, Qwen3), or a .pt file of the original or minimind, into a checkpoint",
    "export": "turn an AR checkpoint into a transformers folder",
    "doctor": "what this machine will use and why",
}


def usage() -> str:
    """The text of --help."""
    lines = [f"  {name:<12} {text}" for name, text in COMMANDS.items()]
    return (
        "usage: nano-llada COMMAND [options]\n\n"
        "Small diffusion language models: train, compare and run them.\n\ncommands:\n" + "\n".join(lines) + "\n\n"
        "nano-llada COMMAND --help lists a command's options. nano-llada --version prints the version.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit status: 0, 2 for a user's mistake, 130 when interrupted."""
    _write_utf8()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from nano_llada import __version__

        print(__version__)
        return 0
    if arguments[0] not in COMMANDS:
        print(f"error: unknown command {arguments[0]!r}\n\n{usage()}", file=sys.stderr, end="")
        return 2
    module = importlib.import_module(f"nano_llada.cli.{arguments[0]}_command")
    try:
        status: int = module.main(arguments[1:])
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _write_utf8() -> None:
    """Let Chinese be written to files and pipes whose usual encoding has no Chinese, as on Windows."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            try:
                "中".encode(stream.encoding)
            except UnicodeEncodeError:
                stream.reconfigure(encoding="utf-8", errors=stream.errors)


if __name__ == "__main__":
    sys.exit(main())
