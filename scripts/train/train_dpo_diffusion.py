"""Old name of `nano-llada dpo diffusion`: teach a fine-tuned masked-diffusion model which answers are better."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from scripts.translate import (
    DECAY_OPTIONS,
    RESUME_OPTIMIZER,
    RUN_OPTIONS,
    TUNING_OPTIONS,
    Option,
    Translation,
    accumulate,
    train_into,
)

ALL_COUNTS = "no effect here: the likelihood bound that answers are compared by draws every number of hidden tokens"
FILLED = "filled with end-of-text tokens up to a multiple of the block size"
PAIRS, WHOLE_BLOCKS, SIZE = "--batch-size", "--llada2-quantize-effective-length", "--llada2-block-size"
THERE = {"--warmup-steps": 0, "--final-decay-ratio": 0.5}

OPTIONS = tuple(
    replace(option, there=THERE.get(option.name, option.there))
    for option in (
        Option("--run-name", "--name", default="diffusion_dpo"),
        Option("--load-from", "--init-from", required=True, checkpoint=True, track="diffusion", stage="sft"),
        Option("--reference-from", "--reference", checkpoint=True, track="diffusion", stage="sft"),
        Option("--max-seq-len", "--sequence-length", default="512"),
        Option("--epochs", "--epochs", there=1),
        Option("--learning-rate", "--learning-rate"),
        Option("--data", "--data", required=True),
        RUN_OPTIONS[1],
        Option(PAIRS, type=int, there="16 pairs", here="8 pairs"),
        Option("--dpo-beta", "--beta", there=0.1),
        Option(SIZE, "--block-size", type=int, default=32),
        Option("--llada2-alpha-min", note=ALL_COUNTS),
        Option("--llada2-alpha-max", note=ALL_COUNTS),
        Option(WHOLE_BLOCKS, note=FILLED, flag=True),
        RESUME_OPTIMIZER,
        *TUNING_OPTIONS,
        *DECAY_OPTIONS,
    )
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Align a masked-diffusion model with preferences; now `nano-llada dpo diffusion`."
    translation = Translation("scripts.train.train_dpo_diffusion", about, OPTIONS, argv)
    train_into(translation, "dpo", "diffusion", start="--load-from")
    pairs, steps = translation.value(PAIRS), translation.value("--accumulation-steps") or 1
    if translation.given("--accumulation-steps"):
        accumulate(translation, rows=2)
        pairs = pairs or 16
    if pairs is not None:
        translation.add("--batch-size", str(2 * pairs * steps))
        translation.note(f"--batch-size {pairs}: it counted pairs of answers; here it counts rows, two a pair")
    size, start = translation.value(SIZE), translation.value("--load-from")
    if translation.value(WHOLE_BLOCKS):
        translation.add("--fill-multiple", str(size))
    found = translation.described("--load-from")
    before = None if found is None else found.card.block_size
    if before != size:
        known = f"was trained in blocks of {before} tokens" if before else "is not a checkpoint of a model in blocks"
        translation.note(f"{SIZE} {size}: {start} {known}; from here on it is one in blocks of {size}")
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
