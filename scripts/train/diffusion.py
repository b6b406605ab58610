"""Old name of `nano-llada pretrain diffusion`: train a model that fills in hidden text."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from scripts.translate import RUN_OPTIONS, Option, Translation

ONE_TOKENIZER = "no effect here: a tokenizer is always used"
SCHEDULES = {
    "iid_t": "no effect here: each document always has a share of hidden tokens of its own",
    "wsd": "LLaDA 2.0's warm-up, stable, decay of block sizes; in the old project it was a schedule of mask ratios",
}
ALWAYS_WEIGHTED = "always on here: hidden tokens weigh so that the loss bounds the likelihood"
ALWAYS_SEPARATE = "always on here: documents packed into one row do not see each other"
CLEAN_BEFORE = "a block sees the clean text before it; the old project hid whole blocks under full attention"
MERGED = "the mean of the best checkpoints is saved in the folder `merged` of the run"
WRITING = "no effect here: it is about writing, not training: `nano-llada generate --threshold`"
BLOCKS, MERGE = "--mask-schedule wsd or --use-block-curriculum", "--llada2-topk-merge"


def block_sizes(text: str) -> tuple[int, ...]:
    """Numbers of tokens, from text such as `32,64,128`."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of block sizes such as 32,64,128") from None


def phase_shares(text: str) -> tuple[float, ...]:
    """Shares of a run for warm-up, stable and decay, from text such as `0.3,0.5,0.2`."""
    try:
        shares = tuple(float(word) for word in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        wanted = "warm-up, stable and decay take three shares of the run that add up to 1, such as 0.3,0.5,0.2"
        raise argparse.ArgumentTypeError(f"{wanted}; got {text!r}")
    return shares


OPTIONS = (
    Option("--run-name", "--name", default="diffusion_no_v1"),
    Option("--jsonl-field", "--text-field"),
    Option("--seq-len", "--sequence-length"),
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
    Option("--mask-schedule", choices=tuple(SCHEDULES)),
    Option("--repeat-penalty-weight", note="no effect here: there is no such penalty", type=float),
    Option("--time-weighted-loss", note=ALWAYS_WEIGHTED, flag=True),
    Option("--use-doc-attention-mask", note=ALWAYS_SEPARATE, flag=True),
    Option("--use-block-curriculum", note=CLEAN_BEFORE, flag=True),
    Option("--wsd-block-sizes-up", "--block-warmup", needs=(BLOCKS,), default=(1, 4, 32, 64, 128), type=block_sizes),
    Option("--wsd-block-sizes-down", "--block-decay", needs=(BLOCKS,), default=(128, 64, 32), type=block_sizes),
    Option("--wsd-phase-ratios", needs=(BLOCKS,), default=(0.3, 0.5, 0.2), type=phase_shares),
    Option(MERGE, note=MERGED, flag=True),
    Option("--llada2-topk-merge-k", "--keep-best --merge-best", needs=(MERGE,), default="3"),
    Option("--llada2-enable-parallel-decoding", note=WRITING, flag=True),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Pretrain a masked-diffusion model; now `nano-llada pretrain diffusion`."
    translation = Translation("scripts.train.diffusion", about, OPTIONS, argv)
    refuse(translation)
    translation.add("pretrain", "diffusion", "--runs", "weights")
    schedule = translation.value("--mask-schedule")
    if schedule is not None:
        translation.note(f"--mask-schedule {schedule}: {SCHEDULES[schedule]}")
    if translation.has(BLOCKS):
        warmup, _, decay = translation.value("--wsd-phase-ratios")
        translation.add("--block-size", str(translation.value("--wsd-block-sizes-down")[-1]))
        translation.add("--block-warmup-share", str(warmup), "--block-decay-share", str(decay))
    return translation.run()


def refuse(translation: Translation) -> None:
    """Stop at a contradiction, and where the old script would do what this version cannot. Raises SystemExit."""
    given = translation.value
    if given("--mask-schedule") == "iid_t" and given("--use-block-curriculum"):
        translation.fail("--use-block-curriculum goes with --mask-schedule wsd, not iid_t; leave one of them out")
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
