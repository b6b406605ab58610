"""Old name of `nano-llada sft ar`: teach a pretrained autoregressive model to answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import RUN_OPTIONS, Option, Translation

OPTIONS = (
    Option("--run-name", "--name", default="minimind_sft"),
    Option("--load-from", "--init-from", required=True, checkpoint=True),
    Option("--max-seq-len", "--sequence-length", default="512"),
    Option("--epochs", "--epochs"),
    *RUN_OPTIONS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Fine-tune a autoregressive model on conversations; now `nano-llada sft ar`."
    translation = Translation("scripts.train.train_sft_minimind", about, OPTIONS, argv)
    translation.add("sft", "ar", "--runs", "weights")
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
