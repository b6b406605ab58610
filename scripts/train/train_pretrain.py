"""Old name of `nano-llada pretrain ar`: train a left-to-right model on text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.translate import (
    LOOP_OPTIONS,
    MASK_TOKEN,
    MORE_SHAPE_OPTIONS,
    NO_EXTRA_TOKENS,
    RUN_OPTIONS,
    SHAPE_OPTIONS,
    Option,
    Translation,
    train_into,
)

DATA = "./dataset/pretrain_hq.jsonl"
ALL_ROWS = "no effect here: a tokenizer is trained on all rows of --data"
RETRAIN, FILE = "--retrain-tokenizer", "--tokenizer-json"
THERE = {"--batch-size": 32, "--log-interval": 50}

OPTIONS = tuple(
    replace(option, there=THERE.get(option.name, option.there))
    for option in (
        Option("--run-name", "--name", default="minimind_pretrain"),
        Option("--load-from", "--init-from", checkpoint=True, track="ar"),
        Option("--jsonl-field", "--text-field"),
        *SHAPE_OPTIONS,
        Option("--max-seq-len", "--sequence-length", type=int, default=256),
        Option("--epochs", "--epochs", there=1),
        Option("--data", "--data", default=DATA),
        Option(FILE, "--tokenizer"),
        *RUN_OPTIONS[1:],
        Option("--lr", "--learning-rate", type=float, there=3e-4),
        Option("--weight-decay", "--weight-decay", there=0.01),
        *MORE_SHAPE_OPTIONS,
        *LOOP_OPTIONS,
        Option(RETRAIN, flag=True),
        Option("--retrained-tokenizer-json-name", needs=(RETRAIN,), default="tokenizer_retrained.json"),
        Option("--tokenizer-vocab-size", needs=(RETRAIN,), default="6400"),
        Option("--tokenizer-train-max-lines", note=ALL_ROWS, needs=(RETRAIN,)),
        MASK_TOKEN,
        NO_EXTRA_TOKENS,
    )
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    translation = Translation(
        "scripts.train.train_pretrain", "Pretrain an autoregressive model; now `nano-llada pretrain ar`.", OPTIONS, argv
    )
    translation.differences = ("the learning rate, constant there, warms up and decays here",)
    train_into(translation, "pretrain", "ar", start="--load-from", resumes=True)
    if not (translation.start or translation.given("--max-position-embeddings")) and not translation.has_word(
        "--max-length"
    ):
        # fine-tuning and answers need more room than the rows of pretraining
        translation.add("--max-length", str(max(512, translation.value("--max-seq-len"))))
    retrain(translation)
    return translation.run()


def retrain(translation: Translation) -> None:
    """Which tokenizer is used, and, where it is asked for, `nano-llada tokenizer train` before anything else."""
    folder = translation.value("--tokenizer-dir")
    if translation.value(RETRAIN):
        name = str(translation.value("--retrained-tokenizer-json-name"))
        if name == "tokenizer.json":
            translation.fail("--retrained-tokenizer-json-name must differ from tokenizer.json")
        out = Path(folder or ".") / name.removesuffix(".json")
        translation.note(f"{RETRAIN}: the folder {out} takes the place of {out}.json")
        if (out / "tokenizer.json").is_file():
            translation.note(f"{RETRAIN}: there is one in {out} already, which is used; delete it to train another")
        else:
            field = ["--text-field", translation.value("--jsonl-field")] if translation.given("--jsonl-field") else []
            size, data = translation.value("--tokenizer-vocab-size"), translation.value("--data")
            translation.first("tokenizer", "train", "--data", data, "--out", str(out), "--vocab-size", size, *field)
        if translation.given(FILE):
            translation.note(f"{FILE} {translation.value(FILE)}: no effect with {RETRAIN}, as in the old script")
        translation.instead(FILE, str(out))
    if (translation.value(RETRAIN) or translation.given(FILE)) and folder:
        translation.note(f"--tokenizer-dir {folder}: the tokenizer named besides is used, as in the old script")
        translation.instead("--tokenizer-dir", None)


if __name__ == "__main__":
    sys.exit(main())
