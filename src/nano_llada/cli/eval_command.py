"""`nano-llada eval`: bits per byte on files, exact match on the small world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.cli.options import DecodingOptions, checkpoint_decoding, parse
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.checkpoint.files import Checkpoint


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    checkpoints: tuple[Path, ...]
    """Run folders or checkpoint folders."""
    text: tuple[str, ...] = ()
    """Text files to measure bits per byte on, each for itself."""
    skills: tuple[str, ...] = ()
    """Small-world skills to measure exact match on; `all` for every one."""
    items: int = 50
    """Questions a skill and language, from the test split."""
    window: int | None = None
    """Tokens seen at once on text; default: the model's context."""
    draws: int = 8
    """Monte-Carlo draws of the diffusion bound."""
    text_field: str = "text"
    """The field of a text row."""
    batch_size: int = 32
    """Rows computed at once; changes no figure."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""
    out: Path | None = None
    """Write every figure and answer here as JSON lines."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status."""
    options = parse(
        Options,
        arguments,
        command="eval",
        about="Measure models on text files and small-world skills.",
        leading="checkpoints",
    )
    if not options.checkpoints:
        raise UserError("no model: give at least one with --checkpoints")
    for name in ("draws", "batch_size", "items"):
        if getattr(options, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(options, name)}")
    if options.window is not None and options.window < 2:
        raise UserError(f"window must be at least 2, got {options.window}")
    if not options.text and not options.skills:
        raise UserError("nothing to measure: give --text FILES, or --skills all")
    from nano_llada.checkpoint.files import load_checkpoint
    from nano_llada.core.hardware import choose_machine

    records: list[dict[str, object]] = []
    device = choose_machine(options.device).device
    for path in options.checkpoints:
        checkpoint = load_checkpoint(path, device)
        print(f"{path} ({checkpoint.track})")
        records += _text(options, path, checkpoint) + _skills(options, path, checkpoint)
    if options.out is not None:
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        try:
            options.out.write_text(lines, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {options.out}: {error.strerror}") from error
    return 0


def _text(options: Options, path: Path, checkpoint: Checkpoint) -> list[dict[str, object]]:
    from nano_llada.data.read import BadRows
    from nano_llada.data.texts import read_texts
    from nano_llada.evaluate.likelihood import text_likelihood

    records = []
    for source in options.text:
        window = options.window or checkpoint.model.config.max_length
        found = text_likelihood(
            checkpoint,
            list(read_texts([source], options.text_field, BadRows("stop"))),
            window=window,
            draws=options.draws,
            batch_size=options.batch_size,
        )
        kind = "exact" if checkpoint.track == "ar" else f"bound, {found.draws} draws"
        print(
            f"  {source}: {found.bits_per_byte:.4f} ± {found.standard_error:.4f} bits per byte ({kind}), "
            f"{found.nats_per_token:.4f} nats per token, {found.tokens:,} tokens"
        )
        records.append({"checkpoint": str(path), "text": source, "window": window, **asdict(found)})
    return records


def _skills(options: Options, path: Path, checkpoint: Checkpoint) -> list[dict[str, object]]:
    from nano_llada.data.world import SKILLS, examples
    from nano_llada.evaluate.answers import answer_examples, exact_match
    from nano_llada.sampling import make_sampler

    if not options.skills:
        return []
    skills = SKILLS if options.skills == ("all",) else options.skills
    decoding = checkpoint_decoding(checkpoint, options.decoding, default_length=24)
    sampler = make_sampler(checkpoint.model, checkpoint.tokenizer.vocab, decoding)
    questions = [example for skill in skills for example in examples(skill, "test", options.items, 0)]
    answers = answer_examples(sampler, checkpoint.tokenizer, questions, options.batch_size)
    print(f"  {'skill':<20}{'zh':>8}{'en':>8}")
    for skill in [*skills, None]:
        zh, en = (exact_match(answers, skill=skill, language=language) for language in ("zh", "en"))
        print(f"  {skill or 'all':<20}{zh:>8.3f}{en:>8.3f}")
    return [
        {"checkpoint": str(path), **answer.example.to_row(), "answer": answer.text, "right": answer.right}
        for answer in answers
    ]
