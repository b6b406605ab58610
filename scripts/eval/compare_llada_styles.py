"""Old name of `nano-llada compare` with one model: a fixed number of passes beside a confidence threshold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nano_llada.core.errors import UserError
from scripts.translate import (
    CANVAS,
    DEVICE,
    FOREIGN_TOKENIZER,
    HEADS,
    MASK_TOKEN,
    THRESHOLD,
    WRITING_OPTIONS,
    Option,
    Translation,
    draw,
    pass_on,
)

FILE, FIELD, TASK = "--prompt-file", "--prompt-field", "--task"

OPTIONS = (
    Option("--checkpoint", required=True, checkpoint=True, track="diffusion"),
    Option("--prompt", many=True),
    Option(FILE),
    Option(FIELD, needs=(FILE,), default="prompt"),
    Option("--max-samples", type=int),
    Option("--max-new-tokens", "--max-new-tokens", there=160, here="the length of its answers in training, else 64"),
    *(option if option.name != THRESHOLD else Option(THRESHOLD) for option in WRITING_OPTIONS),
    Option(TASK, choices=("auto", "pretrain", "sft")),
    Option("--no-chat-wrap", flag=True),
    Option("--output", default="outputs/llada_style_compare.jsonl"),
    Option("--tokenizer-dir", note=FOREIGN_TOKENIZER),
    Option("--seq-len", note=CANVAS),
    MASK_TOKEN,
    DEVICE,
    HEADS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "LLaDA 1.0's fixed passes beside LLaDA 2.0's threshold, on the same prompts; now `nano-llada compare`."
    translation = Translation("scripts.eval.compare_llada_styles", about, OPTIONS, argv)
    checkpoint = translation.checkpoint("--checkpoint")
    found = translation.described("--checkpoint")
    if found is not None and found.card.block_size:
        translation.fail(
            f"the model writes blocks of {found.card.block_size} tokens, each by a threshold: it has no fixed "
            "number of passes to compare with"
        )
    translation.add("compare", "--checkpoints", checkpoint, "--prompts", *prompts(translation))
    translation.add("--thresholds", translation.value(THRESHOLD) or "0.9")
    for name, becomes in (("--gen-steps", "--steps"), ("--gen-cfg-scale", "--guidance")):
        translation.add(*pass_on(translation, name, becomes))
    translation.add(*draw(translation, "--gen-temp", "--gen-top-k", usual=1))
    output = translation.value("--output")
    translation.add("--out", str(Path(output).with_suffix("")))
    if translation.given("--output"):
        translation.note(f"--output {output}: here a folder with records.jsonl and the report")
    asked(translation, None if found is None else found.card.answers)
    return translation.run()


def prompts(translation: Translation) -> list[str]:
    """What was given with --prompt and --prompt-file, each once, the first --max-samples. Raises SystemExit if none."""
    try:
        found = [*(translation.value("--prompt") or ()), *read_prompts(translation)]
    except (UserError, OSError, UnicodeDecodeError) as error:
        translation.fail(f"{FILE} {translation.value(FILE)}: cannot be read: {error}")
    unique = list(dict.fromkeys(prompt for prompt in found if prompt.strip()))
    if not unique:
        translation.fail("no prompt: give --prompt or --prompt-file")
    if translation.given(FILE):
        translation.note(f"{FILE} {translation.value(FILE)}: its prompts are in the command")
    limit = translation.value("--max-samples")
    if limit:
        translation.note(f"--max-samples {limit}: {len(unique[:limit])} of {len(unique)} prompts")
    elif limit == 0:
        translation.note("--max-samples 0: all prompts")
    return unique[: limit or None]


def read_prompts(translation: Translation) -> list[str]:
    """The lines of a text file, or a field of the rows of a .jsonl file."""
    from nano_llada.data.read import BadRow, read_rows, resolve

    name = translation.value(FILE)
    if not name:
        return []
    if not name.lower().endswith(".jsonl"):
        return [line.strip() for line in Path(name).read_text(encoding="utf-8-sig").split("\n")]
    field = translation.value(FIELD)
    found: list[str] = []
    for row in (row for source in resolve([name]) for row in read_rows(source)):
        if isinstance(row, BadRow):
            raise UserError(f"{row.where}: {row.reason}")
        text = row.value.get(field)
        if not isinstance(text, str):
            raise UserError(f"{row.where}: there is no text in the field {field!r}; {FIELD} names another")
        found.append(text.strip())
    if translation.given(FIELD):
        translation.note(f"{FIELD} {field}: read from {name}")
    return found


def asked(translation: Translation, answers: bool | None) -> None:
    """Whether a prompt is a question or the start of a text, which the checkpoint decides here."""
    task, plain = translation.value(TASK), translation.value("--no-chat-wrap")
    wants = False if plain or task == "pretrain" else True if task == "sft" else None
    name = "--no-chat-wrap" if plain else f"{TASK} {task}"
    if wants is not None and answers is not None and wants != answers:
        does = "answers questions" if answers else "continues texts"
        mode = "chat" if wants else "text"
        translation.fail(
            f"{name}: the model {does}, and `nano-llada compare` asks it so; use `nano-llada generate --mode {mode}` "
            "with --steps, and again with --threshold"
        )
    for given, written in ((task, f"{TASK} {task}"), (plain, "--no-chat-wrap")):
        if given:
            translation.note(f"{written}: no effect here: the checkpoint says whether its model answers or continues")


if __name__ == "__main__":
    sys.exit(main())
