"""Why a run failed, and what to do: a loss that is not a number, too little memory, no compiler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch

from nano_llada.checkpoint.files import step_folders
from nano_llada.config.data import DataConfig
from nano_llada.config.run import RunConfig
from nano_llada.core.errors import ReportedElsewhere, UserError
from nano_llada.data.mixture import weighted
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.rows import Where
from nano_llada.data.store import Encoding, documents
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.session.rollout import RolloutBatches
from nano_llada.training import parallel
from nano_llada.training.trainer import BrokenLoss, Trainer

ALLOCATOR = "DefaultCPUAllocator"  # begins PyTorch's complaint, on every system
COMPILER = "a C++ compiler and Python's headers"
MISSING = {"InvalidCxxCompiler": COMPILER, "CppCompileError": COMPILER, "TritonMissing": "Triton"}


@contextlib.contextmanager
def explained(config: RunConfig, trainer: Trainer, tokenizer: Tokenizer) -> Iterator[None]:
    """Training happens inside; what stops it becomes a UserError, if there is something that a user can do."""
    try:
        yield
    except BrokenLoss as error:
        if not parallel.first():  # all of them meet it
            raise ReportedElsewhere(str(error)) from error
        drawn = trainer.batches if isinstance(trainer.batches, RolloutBatches) else None
        asked = (question.where for question in drawn.questions) if drawn is not None else None
        known = (
            iter(()) if config.data.stream or weighted(config.data.data) else document_places(config.data, tokenizer)
        )
        raise explain_broken_loss(config, asked or known, error) from error
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or ALLOCATOR in text:
            raise UserError(_explain_memory(config, trainer.step + 1, _gist(text))) from error
        cause = getattr(error, "inner_exception", error)  # torch.compile wraps what its back end says
        if (lacks := MISSING.get(type(cause).__name__)) is None:
            raise
        way = f"leave --compile out, or install {lacks}"
        raise UserError(f"torch.compile does not work here ({_gist(text)}): {way}") from error


def _explain_memory(config: RunConfig, step: int, gist: str) -> str:
    rows, least = min(config.train.micro_batch_size or config.train.batch_size, config.train.batch_size), 1
    if config.data.format == "preference":
        least = 2  # a pair of answers stays together
    half = max(least, rows // 2 // least * least)
    ways = [f"--micro-batch-size {half} (as many rows a step, fewer at once)"] if half < rows else []
    ways += [] if config.train.gradient_checkpointing else ["--gradient-checkpointing"]
    saved = step_folders(config.folder)
    go_on = f" with `nano-llada resume {config.folder}`, which continues from {saved[-1]}" if saved and ways else ""
    ways = [" or ".join(ways) + go_on] if ways else []
    advice = ", or ".join([*ways, "a shorter --sequence-length or a smaller model"])
    return f"step {step} needs more memory than there is ({gist}): try {advice}"


def _gist(text: str) -> str:
    """The first line, and the first one that names an error if that is another."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines[1:] if "error:" in line]
    return "; ".join([*lines[:1], *named[:1]])


def explain_broken_loss(config: RunConfig, known: Iterable[Where], error: BrokenLoss) -> UserError:
    """What a user needs to know: which of the `known` places of all documents the loss is of, and how to continue.

    Documents whose files cannot be read any more are named by their number.
    """
    rows = error.documents[:8]
    wanted = {number for row in rows for number in row}
    places: dict[int, Where] = {}
    with contextlib.suppress(UserError):
        numbered = zip(range(max(wanted) + 1), known, strict=False)
        places = {number: where for number, where in numbered if number in wanted}
    named = [dict.fromkeys(str(places.get(number, f"document {number}")) for number in row) for row in rows]
    shown = "; ".join(f"row {i}: {', '.join(names)}" for i, names in enumerate(named))
    saved = step_folders(config.folder)
    start = f"--init-from {saved[-1]} and a lower --learning-rate, as another --name" if saved else ""
    return UserError(
        f"{error}; documents of that batch: {shown}{' ...' if len(error.documents) > len(rows) else ''}. "
        f"Resuming would repeat the step: start again with {start or 'a lower --learning-rate'}"
    )


def document_places(data: DataConfig, tokenizer: Tokenizer) -> Iterator[Where]:
    """The place of each training document, in the order of the token store, which does not keep them.

    Raises:
        UserError: for files that are gone or damaged.
    """
    encoding = Encoding(data.format, data.text_field, data.turns, data.txt_split, data.marks)
    for document in documents(resolve(data.data), tokenizer, encoding, BadRows("skip")):
        yield document.where
