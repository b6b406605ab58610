"""Old name of `nano-llada sft ar`: teach a pretrained autoregressive model to answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import (
    MORE_SHAPE_OPTIONS,
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

OPTIONS = (
    Option("--run-name", "--name", default="minimind_sft"),
    Option("--load-from", "--init-from", required=True, checkpoint=True, track="ar"),
    Option("--max-seq-len", "--sequence-length", default="512"),
    Option("--epochs", "--epochs", there=2),
    Option("--learning-rate", "--learning-rate", there=2.5e-5),
    Option("--min-lr-ratio", "--min-lr-ratio", there=0.1),
    *RUN_OPTIONS,
    *STREAMING_OPTIONS,
    *TUNING_OPTIONS,
    *SHAPE_OPTIONS,
    *MORE_SHAPE_OPTIONS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Fine-tune an autoregressive model on conversations; now `nano-llada sft ar`."
    translation = Translation("scripts.train.train_sft_minimind", about, OPTIONS, argv)
    translation.differences = ("the learning rate, a cosine there, is stable and then decays here",)
    train_into(translation, "sft", "ar", start="--load-from", resumes=True)
    accumulate(translation)
    steps_of_epochs(translation, epochs=2)
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
