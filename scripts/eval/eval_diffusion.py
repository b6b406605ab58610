"""Old name of `nano-llada generate` with a diffusion model: continue a text by filling in hidden tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import CANVAS, FOREIGN_TOKENIZER, Option, Translation

GREEDY = "no effect here: decoding is greedy; `nano-llada generate --temperature T --top-k K` draws tokens"
NO_CAP = "no effect here: nothing caps what a pass writes, --gen-confidence-threshold alone decides"

OPTIONS = (
    Option("--checkpoint", "--checkpoint", required=True, checkpoint=True),
    Option("--prompt", "--prompt", required=True),
    Option("--max-new-tokens", "--max-new-tokens"),
    Option("--gen-steps"),
    Option("--gen-confidence-threshold", "--threshold"),
    Option("--gen-cfg-scale", "--guidance"),
    Option("--tokenizer-dir", note=FOREIGN_TOKENIZER),
    Option("--seq-len", note=CANVAS),
    Option("--gen-top-k", note=GREEDY),
    Option("--gen-cap-start-ratio", note=NO_CAP),
    Option("--gen-cap-end-ratio", note=NO_CAP),
    Option("--gen-max-decode-per-step", note=NO_CAP),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Continue a text with a diffusion model; now `nano-llada generate`."
    translation = Translation("scripts.eval.eval_diffusion", about, OPTIONS, argv)
    translation.add("generate")
    steps, threshold = translation.value("--gen-steps"), translation.value("--gen-confidence-threshold")
    if steps and threshold:
        translation.note(
            f"--gen-steps {steps}: no effect here: with --gen-confidence-threshold the passes are as many as needed"
        )
    elif steps:
        translation.add("--steps", steps)
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
