"""Old name of `nano-llada dpo diffusion`: teach a fine-tuned masked-diffusion model which answers are better."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import Option, Translation, trained_block_size

ALL_COUNTS = "no effect here: the likelihood bound that answers are compared by draws every number of hidden tokens"

OPTIONS = (
    Option("--run-name", "--name", default="diffusion_dpo"),
    Option("--load-from", "--init-from", required=True, checkpoint=True),
    Option("--reference-from", "--reference", checkpoint=True),
    Option("--max-seq-len", "--sequence-length", default="512"),
    Option("--epochs", "--epochs"),
    Option("--learning-rate", "--learning-rate"),
    Option("--data", "--data", required=True),
    Option("--tokenizer-dir", "--tokenizer"),
    Option("--batch-size", type=int),
    Option("--dpo-beta", "--beta"),
    Option("--llada2-block-size", "--block-size", type=int, default=32),
    Option("--llada2-alpha-min", note=ALL_COUNTS),
    Option("--llada2-alpha-max", note=ALL_COUNTS),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Align a masked-diffusion model with preferences; now `nano-llada dpo diffusion`."
    translation = Translation("scripts.train.train_dpo_diffusion", about, OPTIONS, argv)
    translation.add("dpo", "diffusion", "--runs", "weights")
    pairs = translation.value("--batch-size")
    if pairs is not None:
        translation.add("--batch-size", str(2 * pairs))
        translation.note(f"--batch-size {pairs}: it counted pairs of answers; here it counts rows, two a pair")
    size, start = translation.value("--llada2-block-size"), translation.value("--load-from")
    before = trained_block_size(start)
    if before != size:
        known = f"was trained in blocks of {before} tokens" if before else "is no checkpoint of a model in blocks"
        translation.note(f"--llada2-block-size {size}: {start} {known}; from here on it is one in blocks of {size}")
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
