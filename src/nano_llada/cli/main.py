"""`nano-llada COMMAND`: finds the command and runs it; everything slow to import waits until it is needed."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from nano_llada.core.errors import ReportedElsewhere, UserError
from nano_llada.core.waiting import let_threads_sleep
from nano_llada.core.words import nearest

COMMANDS = {
    "demo": "train AR and diffusion models on a small bilingual world and compare them (10 minutes, 2 cores)",
    "data": "write the small world as files (data world), or inspect your own files (data show)",
    "tokenizer": "train a tokenizer (tokenizer train), or inspect one (tokenizer show)",
    "pretrain": "pretrain on text: pretrain ar, and diffusion or tri (from an AR model with --init-from)",
    "sft": "fine-tune on conversations: sft ar, sft diffusion, or sft tri",
    "dpo": "align with preferences (DPO): dpo ar, or dpo diffusion",
    "rl": "train on the model's own answers with verifiable rewards: rl ar (GRPO), or rl diffusion (EBPO)",
    "resume": "continue an interrupted run, or train a finished one further",
    "plan": "memory, speed and time of a run before it is started, here and on GPUs: plan pretrain ar",
    "recipe": "run a whole pipeline that a recipe file describes",
    "generate": "continue or answer prompts with a trained model",
    "chat": "talk to a trained model, and watch a diffusion model write",
    "bench": "time decoding on this machine, beside its limits: bench decode",
    "drafts": "measure how many tokens a tri-mode model should draft in a pass",
    "serve": "serve models over OpenAI's HTTP API (needs the extra serve)",
    "infill": "fill ___ gaps in a text with a diffusion model",
    "trace": "show a saved trace pass by pass, or turn it into a page",
    "compare": "compare models: answers, exact match and speed; Markdown and HTML reports",
    "eval": "measure models by suites: likelihood, multiple choice, answers, quality, infilling, speed",
    "report": "one page about evaluations and training runs",
    "experiment": "run a recorded experiment (needs the repository)",
    "merge": "average the weights of several checkpoints, or of the K best of a run",
    "quantize": "store a model's weights in eight bits: a quarter of the size",
    "import": "turn a model of transformers, a hub, llama.cpp, the original or minimind into a checkpoint",
    "export": "turn a checkpoint into a folder for transformers, llama.cpp or peft, with a model card",
    "push": "publish a model on Hugging Face or ModelScope",
    "pull": "fetch a model from Hugging Face or ModelScope",
    "doctor": "what this machine will use, and why",
}

# those whose work `torchrun` can divide among processes
SEVERAL = frozenset({"pretrain", "sft", "dpo", "rl", "resume", "recipe", "eval"})


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
    if not arguments or arguments[0] in ("-h", "--help", "--help-all", "help"):
        print(usage(), end="")
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from nano_llada import __version__

        print(__version__)
        return 0
    if arguments[0] not in COMMANDS:
        near = nearest(arguments[0], COMMANDS)
        hint = f"; did you mean {near!r}?" if near else ""
        print(f"error: unknown command {arguments[0]!r}{hint}\n\n{usage()}", file=sys.stderr, end="")
        return 2
    return _run(arguments[0], arguments[1:])


def _run(command: str, arguments: Sequence[str]) -> int:
    """The exit status of a command; what a person can correct is printed in one line, without a traceback."""
    let_threads_sleep(os.environ)
    try:
        if command not in SEVERAL and os.environ.get("WORLD_SIZE", "1") != "1":
            from nano_llada.training.parallel import refuse_several  # imports torch

            refuse_several(command)
        module = importlib.import_module(f"nano_llada.cli.{command}_command")
        status: int = module.main(arguments)
        return status
    except ReportedElsewhere:
        return 2
    except UserError as error:
        return _complain(str(error))
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder without permission
        return _complain(f"{error.filename or command}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise
        return _complain("not enough memory: use a smaller model, a smaller --micro-batch-size or shorter texts")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "invalid buffer size", "storage size calculation overflowed")


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


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
