"""Old name of `nano-llada pretrain diffusion`: train a model that fills in hidden text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.translate import RUN_OPTIONS, Option, Translation

ONE_TOKENIZER = "no effect here: a tokenizer is always used"
OWN_SHARES = "no effect here: it is the only schedule, each document with a share of hidden tokens of its own"
ALWAYS_WEIGHTED = "always on here: hidden tokens weigh so that the loss bounds the likelihood"
ALWAYS_SEPARATE = "always on here: documents packed into one row do not see each other"

OPTIONS = (
    Option("--run-name", "--name", default="diffusion_no_v1"),
    Option("--jsonl-field", "--text-field"),
    Option("--init-from-minimind", "--init-from", checkpoint=True),
    Option("--learning-rate", "--learning-rate"),
    Option("--warmup-steps", "--warmup-steps"),
    Option("--min-lr-ratio", "--min-lr-ratio"),
    Option("--max-iters", "--steps"),
    Option("--early-stop-patience", "--patience"),
    Option("--early-stop-min-delta", "--min-delta"),
    *RUN_OPTIONS,
    Option("--train", note="no effect here: this script does nothing else", flag=True),
    Option("--use-tokenizer", note=ONE_TOKENIZER, flag=True),
    Option("--mask-schedule", note=OWN_SHARES, choices=("iid_t", "wsd")),
    Option("--repeat-penalty-weight", note="no effect here: there is no such penalty", type=float),
    Option("--time-weighted-loss", note=ALWAYS_WEIGHTED, flag=True),
    Option("--use-doc-attention-mask", note=ALWAYS_SEPARATE, flag=True),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Pretrain a masked-diffusion model; now `nano-llada pretrain diffusion`."
    translation = Translation("scripts.train.diffusion", about, OPTIONS, argv)
    refuse_what_is_not_here(translation)
    translation.add("pretrain", "diffusion", "--runs", "weights")
    return translation.run()


def refuse_what_is_not_here(translation: Translation) -> None:
    """Stop where the old script would do something else than this version can. Raises SystemExit."""
    given = translation.value
    if given("--mask-schedule") == "wsd":
        translation.refuse_blocks("--mask-schedule wsd")
    if given("--repeat-penalty-weight"):
        translation.fail("--repeat-penalty-weight: no such penalty here, the loss bounds the likelihood; leave it at 0")
    if not given("--train"):
        translation.fail(
            "--train is missing, and this script only trains; python -m scripts.eval.eval_diffusion writes"
        )
    if not (given("--use-tokenizer") or given("--tokenizer-dir") or given("--init-from-minimind")):
        translation.fail(
            "no --use-tokenizer, so the text is to be cut into characters: make a tokenizer that does, with "
            "`nano-llada tokenizer train --kind characters --data FILE --out FOLDER`, and give --tokenizer-dir FOLDER"
        )


if __name__ == "__main__":
    sys.exit(main())
