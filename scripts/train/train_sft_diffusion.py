"""Old name of `nano-llada sft diffusion`: teach a pretrained masked-diffusion model to answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import (
    DECAY_OPTIONS,
    MORE_SHAPE_OPTIONS,
    RESUME_OPTIMIZER,
    RUN_OPTIONS,
    SHAPE_OPTIONS,
    STREAMING_OPTIONS,
    TUNING_OPTIONS,
    Option,
    Translation,
    accumulate,
    steps_of_epochs,
    train_into,
)

BLOCKS, CAP = "--llada2-enable-block-diffusion", "--llada2-enable-cap"
SIZE, WHOLE_BLOCKS = "--llada2-block-size", "--llada2-quantize-effective-length"
FILLED = "filled with end-of-text tokens up to a multiple of the block size"
IN_BLOCKS = "a block sees the clean text before it; the old project masked what follows under full attention"
CONFIDENT = "Confidence-Aware Parallel training, weighted by --llada2-cap-lambda"

OPTIONS = (
    Option("--run-name", "--name", default="diffusion_sft"),
    Option("--load-from", "--init-from", required=True, checkpoint=True, track="diffusion"),
    Option("--max-seq-len", "--sequence-length", default="512"),
    Option("--epochs", "--epochs", there=3),
    Option("--learning-rate", "--learning-rate", there=2.5e-5),
    *RUN_OPTIONS,
    Option(BLOCKS, flag=True),
    Option(SIZE, "--block-size", needs=(BLOCKS,), default="32"),
    Option("--llada2-alpha-min", "--mask-rate-min", needs=(BLOCKS,), default="0.05"),
    Option("--llada2-alpha-max", "--mask-rate-max", needs=(BLOCKS,), default="0.95"),
    Option(CAP, flag=True, needs=(BLOCKS,)),
    Option("--llada2-cap-lambda", "--confidence-weight", needs=(BLOCKS, CAP), default="0.1"),
    Option("--llada2-enable-complementary-masking", "--complementary", flag=True, needs=(BLOCKS,)),
    Option(WHOLE_BLOCKS, note=FILLED, flag=True, needs=(BLOCKS,)),
    RESUME_OPTIMIZER,
    *STREAMING_OPTIONS,
    *TUNING_OPTIONS,
    *DECAY_OPTIONS,
    *SHAPE_OPTIONS,
    *MORE_SHAPE_OPTIONS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Fine-tune a masked-diffusion model on conversations; now `nano-llada sft diffusion`."
    translation = Translation("scripts.train.train_sft_diffusion", about, OPTIONS, argv)
    train_into(translation, "sft", "diffusion", start="--load-from")
    accumulate(translation)
    steps_of_epochs(translation, epochs=3)
    if translation.value(WHOLE_BLOCKS) and not translation.lacks(WHOLE_BLOCKS):
        translation.add("--fill-multiple", translation.value(SIZE))
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
