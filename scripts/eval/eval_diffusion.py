"""Old name of `nano-llada generate` with a diffusion model: continue a text by filling in hidden tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import CANVAS, FOREIGN_TOKENIZER, Option, Translation, trained_block_size

GREEDY = "no effect here: decoding is greedy; `nano-llada generate --temperature T --top-k K` draws tokens"
NO_CAP = "no effect here: nothing caps what a pass writes, the confidence threshold alone decides"
PARALLEL, THRESHOLD = "--llada2-enable-parallel-decoding", "--gen-confidence-threshold"
SURE = f"a pass writes every token that is surer than {THRESHOLD} (without it 0.9)"

OPTIONS = (
    Option("--checkpoint", "--checkpoint", required=True, checkpoint=True),
    Option("--prompt", "--prompt", required=True),
    Option("--max-new-tokens", "--max-new-tokens"),
    Option("--gen-steps"),
    Option("--gen-cfg-scale"),
    Option(THRESHOLD),
    Option(PARALLEL, note=SURE, flag=True),
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
    threshold = translation.value(THRESHOLD) or ("0.9" if translation.value(PARALLEL) else "")
    block = trained_block_size(translation.value("--checkpoint"))
    if block:
        blocks = f"this model writes blocks of {block} tokens, one after the other"
        pass_on(translation, "--gen-steps", "--steps", unless=f"{blocks}, each in as many passes as it needs")
        pass_on(translation, "--gen-cfg-scale", "--guidance", unless=f"{blocks}, and has no guidance")
    else:
        needed = "with a confidence threshold the passes are as many as needed" if threshold else ""
        pass_on(translation, "--gen-steps", "--steps", unless=needed)
        pass_on(translation, "--gen-cfg-scale", "--guidance")
    if threshold:
        translation.add("--threshold", threshold)
    return translation.run()


def pass_on(translation: Translation, name: str, becomes: str, unless: str = "") -> None:
    """Give the value of an option to another one, or, for the reason `unless`, say that it has no effect."""
    value = translation.value(name)
    if value and unless:
        translation.note(f"{name} {value}: no effect here: {unless}")
    elif value:
        translation.add(becomes, value)


if __name__ == "__main__":
    sys.exit(main())
