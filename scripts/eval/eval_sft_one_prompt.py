"""Old name of `nano-llada compare` on one prompt, or of `nano-llada generate` when only one model is given."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import CANVAS, FOREIGN_TOKENIZER, Option, Translation

MODELS = ("--minimind-checkpoint", "--diffusion-checkpoint")

OPTIONS = (
    Option("--prompt", required=True),
    *(Option(name) for name in MODELS),
    Option("--max-new-tokens", "--max-new-tokens"),
    Option("--tokenizer-dir", note=FOREIGN_TOKENIZER),
    Option("--seq-len", note=CANVAS),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Ask fine-tuned models one question; now `nano-llada compare` (one model: `nano-llada generate`)."
    translation = Translation("scripts.eval.eval_sft_one_prompt", about, OPTIONS, argv)
    models = [translation.checkpoint(name) for name in MODELS if translation.value(name)]
    if not models:
        translation.fail(f"no model: give {' or '.join(MODELS)}, or both to compare them")
    prompt: str = translation.value("--prompt")
    if len(models) == 1:
        translation.add("generate", "--checkpoint", *models, "--prompt", prompt)
    else:
        translation.add("compare", "--checkpoints", *models, "--prompts", prompt)
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
