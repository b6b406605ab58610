"""Old name of `nano-llada pretrain ar`: train a left-to-right model on text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import RUN_OPTIONS, Option, Translation

OPTIONS = (
    Option("--run-name", "--name", default="minimind_pretrain"),
    Option("--jsonl-field", "--text-field"),
    Option("--hidden-size", "--hidden-size"),
    Option("--num-hidden-layers", "--num-layers"),
    Option("--num-attention-heads", "--num-heads"),
    Option("--max-seq-len", "--sequence-length", type=int, default=256),
    Option("--epochs", "--epochs"),
    *RUN_OPTIONS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    translation = Translation(
        "scripts.train.train_pretrain", "Pretrain an autoregressive model; now `nano-llada pretrain ar`.", OPTIONS, argv
    )
    translation.add("pretrain", "ar", "--runs", "weights")
    # fine-tuning and answers need more room than the rows of pretraining
    translation.add("--max-length", str(max(512, translation.value("--max-seq-len"))))
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
