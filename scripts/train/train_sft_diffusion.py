"""Old name of `nano-llada sft diffusion`: teach a pretrained masked-diffusion model to answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import RUN_OPTIONS, Option, Translation

BLOCKS, CAP = "--llada2-enable-block-diffusion", "--llada2-enable-cap"
SIZE, WHOLE_BLOCKS = "--llada2-block-size", "--llada2-quantize-effective-length"
FILLED = "filled with end-of-text tokens up to a multiple of the block size"

OPTIONS = (
    Option("--run-name", "--name", default="diffusion_sft"),
    Option("--load-from", "--init-from", required=True, checkpoint=True),
    Option("--max-seq-len", "--sequence-length", default="512"),
    Option("--epochs", "--epochs"),
    Option("--learning-rate", "--learning-rate"),
    *RUN_OPTIONS,
    Option(BLOCKS, flag=True),
    Option(SIZE, "--block-size", needs=(BLOCKS,), default="32"),
    Option("--llada2-alpha-min", "--mask-rate-min", needs=(BLOCKS,), default="0.05"),
    Option("--llada2-alpha-max", "--mask-rate-max", needs=(BLOCKS,), default="0.95"),
    Option(CAP, flag=True, needs=(BLOCKS,)),
    Option("--llada2-cap-lambda", "--confidence-weight", needs=(BLOCKS, CAP), default="0.1"),
    Option("--llada2-enable-complementary-masking", "--complementary", flag=True, needs=(BLOCKS,)),
    Option(WHOLE_BLOCKS, note=FILLED, flag=True, needs=(BLOCKS,)),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Fine-tune a masked-diffusion model on conversations; now `nano-llada sft diffusion`."
    translation = Translation("scripts.train.train_sft_diffusion", about, OPTIONS, argv)
    translation.add("sft", "diffusion", "--runs", "weights")
    if translation.value(WHOLE_BLOCKS) and not translation.lacks(WHOLE_BLOCKS):
        translation.add("--fill-multiple", translation.value(SIZE))
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
