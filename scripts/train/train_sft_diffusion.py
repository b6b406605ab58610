"""Old name of `nano-llada sft diffusion`: teach a pretrained masked-diffusion model to answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import RUN_OPTIONS, Option, Translation

OPTIONS = (
    Option("--run-name", "--name", default="diffusion_sft"),
    Option("--load-from", "--init-from", required=True, checkpoint=True),
    Option("--max-seq-len", "--sequence-length", default="512"),
    Option("--epochs", "--epochs"),
    *RUN_OPTIONS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Fine-tune a masked-diffusion model on conversations; now `nano-llada sft diffusion`."
    translation = Translation("scripts.train.train_sft_diffusion", about, OPTIONS, argv)
    translation.add("sft", "diffusion", "--runs", "weights")
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
