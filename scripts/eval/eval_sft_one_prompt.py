"""Old name of `nano-llada compare` on one prompt, or of `nano-llada generate` when only one model is given."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import (
    CANVAS,
    DEVICE,
    FOREIGN_TOKENIZER,
    HEADS,
    MASK_TOKEN,
    PARALLEL,
    THRESHOLD,
    WRITING_OPTIONS,
    Option,
    Translation,
    decode,
    draw,
)

AR, DIFFUSION = "--minimind-checkpoint", "--diffusion-checkpoint"
PAIRS = (("--ar-temperature", "--gen-temp"), ("--ar-top-k", "--gen-top-k"))
FOR = {AR: ("--ar-temperature", "--ar-top-k"), DIFFUSION: (*(option.name for option in WRITING_OPTIONS), PARALLEL)}

OPTIONS = (
    Option("--prompt", required=True),
    Option(AR, checkpoint=True, track="ar", stage="sft"),
    Option(DIFFUSION, checkpoint=True, track="diffusion", stage="sft"),
    Option("--max-new-tokens", "--max-new-tokens"),
    Option("--tokenizer-dir", note=FOREIGN_TOKENIZER),
    Option("--seq-len", note=CANVAS),
    Option("--ar-temperature", type=float, needs=(AR,), there=0.8, here="0: greedy"),
    Option("--ar-top-k", type=int, needs=(AR,)),
    *WRITING_OPTIONS,
    Option(PARALLEL, note=f"a pass writes every token that is surer than {THRESHOLD} (without it 0.9)", flag=True),
    MASK_TOKEN,
    Option("--no-chat-wrap", flag=True),
    DEVICE,
    HEADS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Ask fine-tuned models one question; now `nano-llada compare` (one model: `nano-llada generate`)."
    translation = Translation("scripts.eval.eval_sft_one_prompt", about, OPTIONS, argv)
    names = [name for name in (AR, DIFFUSION) if translation.value(name)]
    if not names:
        translation.fail(f"no model: give {AR} or {DIFFUSION}, or both to compare them")
    models = [translation.checkpoint(name) for name in names]
    prompt: str = translation.value("--prompt")
    if len(models) == 1:
        translation.add("generate", "--checkpoint", *models, "--prompt", prompt)
    else:
        translation.add("compare", "--checkpoints", *models, "--prompts", prompt)
        one_way(translation)
    if DIFFUSION in names:
        found = translation.described(DIFFUSION)
        translation.add(*decode(translation, None if found is None else found.card.block_size))
    else:
        translation.add(*draw(translation, "--ar-temperature", "--ar-top-k", usual=20))
    for model, options in FOR.items():
        for name in options:
            if translation.given(name) and model not in names:
                value = translation.value(name)
                written = name if value is True else f"{name} {value}"
                translation.note(f"{written}: no effect without {model}, as in the old script")
                translation.instead(name, None)
    plain_text(translation, len(models))
    return translation.run()


def one_way(translation: Translation) -> None:
    """`compare` draws both models in the same way. Raises SystemExit if they are to differ."""
    for ar, diffusion in PAIRS:
        values = [translation.value(name) for name in (ar, diffusion)]
        if values[0] != values[1]:
            translation.fail(
                f"{ar} {values[0]} and {diffusion} {values[1]}: `nano-llada compare` draws both models with the same "
                "values; give both, alike, or ask one model at a time"
            )
        if values[0] is not None:
            translation.note(f"{ar} {values[0]}: for both models, as {diffusion}")


def plain_text(translation: Translation, models: int) -> None:
    """`--no-chat-wrap` is text mode, which `compare` has not."""
    if not translation.value("--no-chat-wrap"):
        return
    if models > 1:
        translation.fail(
            "--no-chat-wrap: `nano-llada compare` asks a fine-tuned model as it was trained to be asked; ask one model "
            "at a time, which is `nano-llada generate --mode text`"
        )
    translation.add("--mode", "text")


if __name__ == "__main__":
    sys.exit(main())
