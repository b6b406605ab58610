"""Old name of `nano-llada pretrain diffusion`: train a model that fills in hidden text."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.translate import (
    MORE_SHAPE_OPTIONS,
    NO_EPSILON,
    NO_EXTRA_TOKENS,
    PARALLEL,
    RESUME,
    RUN_OPTIONS,
    SAVE_DIR,
    SHAPE_OPTIONS,
    WRITING_OPTIONS,
    Option,
    Translation,
    train_into,
)

ONE_TOKENIZER = "no effect here: a tokenizer is always used"
SCHEDULES = {
    "iid_t": "no effect here: each document always has a share of hidden tokens of its own",
    "random": "an even mean over masked tokens, as there: it bounds no likelihood",
    "wsd": "LLaDA 2.0's warm-up, stable, decay of block sizes; in the old project it was a schedule of mask ratios",
}
ALWAYS_WEIGHTED = "always on here: hidden tokens weigh so that the loss bounds the likelihood"
ALWAYS_SEPARATE = "always on here: documents packed into one row do not see each other"
CLEAN_BEFORE = "a block sees the clean text before it; the old project hid whole blocks under full attention"
MERGED = "the mean of the best checkpoints is saved in the folder `merged` of the run"
WRITING = "no effect here: it is about writing, not training: `nano-llada generate --threshold`"
NO_RATIOS = "no effect here: shares of masked tokens are drawn evenly; what LLaDA 2.0 schedules is the size of blocks"
NO_SAMPLES = "no effect here: training writes samples only of the --sample-prompts of `nano-llada pretrain diffusion`"
PENALTY = "--repeat-penalty-weight"
APART = "no effect here: documents are kept apart, not joined with a text between them"
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


IGNORED = {
    NO_SAMPLES: (
        *(option.name for option in WRITING_OPTIONS),
        "--sample-interval",
    ),
    NO_RATIOS: tuple(f"--wsd-{name}" for name in ("min-mask-ratio", "max-mask-ratio", "warmup-ratio", "stable-ratio")),
    "no effect here: there is no such penalty": tuple(
        f"--repeat-penalty-{name}" for name in ("min-run", "delay-steps", "warmup-steps")
    ),
    "no effect here: nothing is divided by t": ("--time-weight-eps",),
}
NO_PENALTY = "no such penalty here, the loss bounds the likelihood; leave it at 0"

OPTIONS = (
    Option("--run-name", "--name", default="diffusion_no_v1"),
    Option("--weights-path"),
    SAVE_DIR,
    Option("--jsonl-field", "--text-field"),
    Option("--seq-len", "--sequence-length"),
    Option("--init-from-minimind", "--init-from", checkpoint=True, track="ar"),
    Option("--learning-rate", "--learning-rate", there=3e-4),
    Option("--warmup-steps", "--warmup-steps", there=1000),
    Option("--min-lr-ratio", "--min-lr-ratio", there=0.1),
    Option("--max-iters", "--steps", there=25000, here="one epoch"),
    Option("--early-stop-patience", "--patience"),
    Option("--early-stop-min-delta", "--min-delta"),
    Option("--data", "--data", default="data.txt"),
    *(
        option if option.name != "--batch-size" else Option("--batch-size", "--batch-size", there=64)
        for option in RUN_OPTIONS[1:]
    ),
    Option("--train", note="no effect here: this script does nothing else", flag=True),
    Option("--use-tokenizer", note=ONE_TOKENIZER, flag=True),
    Option("--mask-schedule", choices=tuple(SCHEDULES), there="wsd, of mask ratios", here="even shares"),
    Option(
        PENALTY,
        type=float,
        only=0.0,
        note="no effect here: there is no such penalty",
        reason=NO_PENALTY,
        there="0.1 (in the test branch 0.0)",
        here="none",
    ),
    Option("--time-weighted-loss", note=ALWAYS_WEIGHTED, flag=True),
    Option("--use-doc-attention-mask", note=ALWAYS_SEPARATE, flag=True),
    Option("--use-block-curriculum", note=CLEAN_BEFORE, flag=True),
    Option("--wsd-block-sizes-up", "--block-warmup", needs=(BLOCKS,), default=(1, 4, 32, 64, 128), type=block_sizes),
    Option("--wsd-block-sizes-down", "--block-decay", needs=(BLOCKS,), default=(128, 64, 32), type=block_sizes),
    Option("--wsd-phase-ratios", needs=(BLOCKS,), default=(0.3, 0.5, 0.2), type=phase_shares),
    Option(MERGE, note=MERGED, flag=True),
    Option("--llada2-topk-merge-k", "--keep-best --merge-best", needs=(MERGE,), default="3"),
    Option(PARALLEL, note=WRITING, flag=True),
    RESUME,
    Option("--weight-decay", "--weight-decay", there=0.1),
    Option("--lr-schedule", "--schedule", choices=("wsd", "cosine")),
    Option("--lr-stable-ratio", type=float, there=0.4, here="0.7 with the warm-up"),
    Option("--eval-interval", "--eval-every", there=1000),
    Option("--variable-length-prob", "--random-length", there=0.01),
    *SHAPE_OPTIONS,
    *MORE_SHAPE_OPTIONS,
    NO_EXTRA_TOKENS,
    NO_EPSILON,
    Option("--jsonl-sep", note=APART),
    *(Option(name, note=note) for note, names in IGNORED.items() for name in names),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Pretrain a masked-diffusion model; now `nano-llada pretrain diffusion`."
    translation = Translation("scripts.train.diffusion", about, OPTIONS, argv)
    refuse(translation)
    place(translation)
    train_into(translation, "pretrain", "diffusion", start="--init-from-minimind")
    resume(translation)
    schedule = translation.value("--mask-schedule")
    if schedule is not None:
        translation.note(f"--mask-schedule {schedule}: {SCHEDULES[schedule]}")
    if schedule == "random":
        translation.add("--loss-weight", "uniform")
    if translation.has(BLOCKS):
        warmup, _, decay = translation.value("--wsd-phase-ratios")
        translation.add("--block-size", str(translation.value("--wsd-block-sizes-down")[-1]))
        translation.add("--block-warmup-share", str(warmup), "--block-decay-share", str(decay))
    decay_share(translation)
    return translation.run()


def place(translation: Translation) -> None:
    """`--weights-path` names the file that is read and written: here a run folder."""
    path = translation.value("--weights-path")
    if path is None:
        return
    where = Path(path)
    name = where.name.removesuffix(".pt")
    translation.instead("--run-name", name)
    translation.instead("--save-dir", str(where.parent))
    translation.note(f"--weights-path {path}: this is the run folder {where.parent / name} here")
    given = translation.value("--run-name")
    if translation.given("--run-name") and given != name:
        translation.note(f"--run-name {given}: no effect beside --weights-path, which names the run")


def resume(translation: Translation) -> None:
    """The old script went on with a file that was there."""
    folder = Path(translation.chosen("--save-dir")) / translation.chosen("--run-name")
    if (folder / "config.json").is_file() and not translation.given("--resume"):
        translation.add("--resume")
        translation.note(f"{folder} is there: the run is resumed, as in the old script; delete it to start again")


def decay_share(translation: Translation) -> None:
    """The old schedule fixes its stable part: what follows it decays; ours fixes the part that decays."""
    stable = translation.value("--lr-stable-ratio")
    if stable is None:
        return
    if translation.value("--lr-schedule") == "cosine":
        translation.note(f"--lr-stable-ratio {stable}: no effect without --lr-schedule wsd, as in the old script")
        return
    if not 0 <= stable <= 1:
        translation.fail(f"--lr-stable-ratio is a share, in [0, 1]; got {stable}")
    steps = translation.whole("--max-iters")
    warmup = translation.whole("--warmup-steps", 50) / steps if steps > 0 else 0.0
    share = f"{max(0.0, 1 - stable - warmup):.6g}"
    translation.add("--decay-share", share)
    translation.note(f"--lr-stable-ratio {stable}: the rest of the run, a share of {share}, decays")


def refuse(translation: Translation) -> None:
    """Stop at a contradiction, and where the old script would do what this version cannot. Raises SystemExit."""
    given = translation.value
    if given("--mask-schedule") == "iid_t" and given("--use-block-curriculum"):
        translation.fail("--use-block-curriculum goes with --mask-schedule wsd, not iid_t; leave one of them out")
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
