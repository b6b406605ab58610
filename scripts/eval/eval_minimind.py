"""Old name of `nano-llada generate` with a left-to-right model: continue a text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import FOREIGN_TOKENIZER, Option, Translation

OPTIONS = (
    Option("--checkpoint", "--checkpoint", required=True, checkpoint=True),
    Option("--prompt", "--prompt", required=True),
    Option("--max-new-tokens", "--max-new-tokens"),
    Option("--tokenizer-dir", note=FOREIGN_TOKENIZER),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Continue a text with an autoregressive model; now `nano-llada generate`."
    translation = Translation("scripts.eval.eval_minimind", about, OPTIONS, argv)
    translation.add("generate")
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
