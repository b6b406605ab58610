"""Old name of `nano-llada generate` with a left-to-right model: continue a text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import (
    DEVICE,
    FOREIGN_TOKENIZER,
    HEADS,
    MEASURING_OPTIONS,
    Option,
    Translation,
    draw,
    measure,
)

PROMPT = "你好，请介绍一下你自己。"

OPTIONS = (
    Option("--checkpoint", "--checkpoint", required=True, checkpoint=True, track="ar"),
    Option("--prompt", "--prompt", default=PROMPT),
    Option("--max-new-tokens", "--max-new-tokens"),
    Option("--temperature", there=0.8, here="0: greedy"),
    Option("--top-k", type=int),
    Option("--tokenizer-dir", note=FOREIGN_TOKENIZER),
    *MEASURING_OPTIONS,
    Option("--max-seq-len", needs=("--eval-data",)),
    DEVICE,
    HEADS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Continue a text with an autoregressive model; now `nano-llada generate`."
    translation = Translation("scripts.eval.eval_minimind", about, OPTIONS, argv)
    translation.add("generate", *draw(translation, "--temperature", "--top-k", usual=20))
    measure(translation, translation.checkpoint_once("--checkpoint"), window=translation.value("--max-seq-len"))
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
