"""Old name of `nano-llada generate`, run twice: without and with classifier-free guidance."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import (
    CANVAS,
    DEVICE,
    FOREIGN_TOKENIZER,
    HEADS,
    MASK_TOKEN,
    NO_PENALTY,
    NO_WINDOW,
    Option,
    Translation,
)

OFF, ON = "--cfg-off-scale", "--cfg-on-scale"

OPTIONS = (
    Option("--checkpoint", "--checkpoint", required=True, checkpoint=True, track="diffusion"),
    Option("--prompt", "--prompt", required=True),
    Option("--max-new-tokens", "--max-new-tokens", there=160, here="the length of its answers in training, else 128"),
    Option("--gen-steps", "--steps", there=64, here="one a token"),
    Option(ON, default="1.5"),
    Option(OFF, default="0.0"),
    Option("--tokenizer-dir", note=FOREIGN_TOKENIZER),
    Option("--seq-len", note=CANVAS),
    NO_PENALTY,
    NO_WINDOW,
    MASK_TOKEN,
    Option("--no-chat-wrap", flag=True),
    DEVICE,
    HEADS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Write a text without and with guidance; now `nano-llada generate --guidance`, twice."
    translation = Translation("scripts.eval.compare_cfg", about, OPTIONS, argv)
    found = translation.described("--checkpoint")
    if found is not None and found.card.block_size:
        translation.fail(
            f"the model writes blocks of {found.card.block_size} tokens and has no guidance: nothing to compare"
        )
    off, on = translation.value(OFF), translation.value(ON)
    translation.add("generate", "--guidance", off)
    if translation.value("--no-chat-wrap"):
        translation.add("--mode", "text")
    translation.then(lambda words: ["generate", "--guidance", on, *words[3:]])
    return translation.run()


if __name__ == "__main__":
    sys.exit(main())
