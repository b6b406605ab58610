"""Old name of `nano-llada generate` with a diffusion model: continue a text by filling in hidden tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import (
    CANVAS,
    DEVICE,
    FOREIGN_TOKENIZER,
    HEADS,
    MEASURING_OPTIONS,
    PARALLEL,
    THRESHOLD,
    WRITING_OPTIONS,
    Option,
    Translation,
    decode,
    measure,
)

SURE = f"a pass writes every token that is surer than {THRESHOLD} (without it 0.9)"
RESPONSE = "--cond-ll-response"
NO_LIKELIHOOD = (
    "no text is scored on the command line here; `nano-llada eval --suites choices --choices FILE` gives the "
    "likelihood of answers, from rows of question, choices and answer"
)
PROMPT = "你好，请介绍一下你自己。"

OPTIONS = (
    Option("--checkpoint", "--checkpoint", required=True, checkpoint=True, track="diffusion"),
    Option("--prompt", "--prompt", default=PROMPT),
    Option("--max-new-tokens", "--max-new-tokens", there=160, here="the length of its answers in training, else 128"),
    *WRITING_OPTIONS,
    Option(PARALLEL, note=SURE, flag=True),
    Option("--tokenizer-dir", note=FOREIGN_TOKENIZER),
    Option("--seq-len", note=CANVAS),
    *MEASURING_OPTIONS,
    Option("--eval-mask-ratio", note="no effect here: the bound averages over all shares of masked tokens"),
    Option(RESPONSE, only="", reason=NO_LIKELIHOOD),
    Option("--cond-ll-nmc", needs=(RESPONSE,)),
    DEVICE,
    HEADS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Continue a text with a diffusion model; now `nano-llada generate`."
    translation = Translation("scripts.eval.eval_diffusion", about, OPTIONS, argv)
    translation.add("generate")
    found = translation.described("--checkpoint")
    translation.add(*decode(translation, None if found is None else found.card.block_size))
    measure(translation, translation.checkpoint_once("--checkpoint"))
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
