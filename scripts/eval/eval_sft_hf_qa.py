"""Old name of `nano-llada eval` on a question-answering dataset, with an autoregressive and a diffusion model."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.core.files import write_text
from scripts.translate import (
    CANVAS,
    DEVICE,
    FOREIGN_TOKENIZER,
    HEADS,
    MASK_TOKEN,
    PARALLEL,
    THRESHOLD,
    WRITING_OPTIONS,
    Option,
    Translation,
    decode,
    draw,
)

AR, DIFFUSION = "--minimind-checkpoint", "--diffusion-checkpoint"
CONTEXT, WITH_CONTEXT = "--context-field", "--include-context"
READ = "which rows are asked, and with what, is in the questions file"

OPTIONS = (
    Option(AR, required=True, checkpoint=True, track="ar", stage="sft"),
    Option(DIFFUSION, required=True, checkpoint=True, track="diffusion", stage="sft"),
    Option("--dataset", default="cmrc2018", note="read as hf:NAME[:CONFIG]@SPLIT"),
    Option("--dataset-config", note="read as hf:NAME:CONFIG@SPLIT"),
    Option("--split", default="validation", note="read as hf:NAME@SPLIT"),
    Option("--question-field", default="question", note=READ),
    Option(CONTEXT, default="context", note=READ, needs=(WITH_CONTEXT,)),
    Option("--answers-field", default="answers", note="an answer is right if it contains one of these"),
    Option("--num-samples", type=int, default=50, note=READ),
    Option("--seed", type=int, default=42, note="of the choice of questions"),
    Option(WITH_CONTEXT, flag=True, note=READ),
    Option(
        "--output", default="outputs/sft_cmrc2018_eval.jsonl", note="here a folder with records.jsonl and the report"
    ),
    Option("--max-new-tokens", "--max-new-tokens", there=128, here="the length of its answers in training, else 24"),
    Option("--ar-temperature", type=float, there=0.8, here="0: greedy"),
    Option("--ar-top-k", type=int),
    *WRITING_OPTIONS,
    Option(PARALLEL, note=f"a pass writes every token that is surer than {THRESHOLD} (without it 0.9)", flag=True),
    Option("--tokenizer-dir", note=FOREIGN_TOKENIZER),
    Option("--seq-len", note=CANVAS),
    MASK_TOKEN,
    DEVICE,
    HEADS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    about = "Ask two fine-tuned models the questions of a Hugging Face dataset; now `nano-llada eval --questions`."
    translation = Translation("scripts.eval.eval_sft_hf_qa", about, OPTIONS, argv)
    models = [f"{name}={translation.checkpoint(option)}" for name, option in (("ar", AR), ("diffusion", DIFFUSION))]
    found = translation.described(DIFFUSION)
    both = draw(translation, "--ar-temperature", "--ar-top-k", usual=20)
    settings = decode(translation, None if found is None else found.card.block_size)
    out = Path(translation.value("--output")).with_suffix("")
    file = questions(translation, out)
    translation.add("eval", "--checkpoints", *models, "--suites", "generation", "--questions", str(file))
    translation.add("--out", str(out), *both)
    if words := own_settings(both, settings, in_blocks=found is not None and bool(found.card.block_size)):
        translation.add("--decoders", ",".join(words))
    return translation.run()


def own_settings(both: Sequence[str], diffusion: Sequence[str], *, in_blocks: bool) -> list[str]:
    """Settings of the diffusion model alone, besides those that both models have."""
    chosen = dict(zip(diffusion[::2], diffusion[1::2], strict=True))
    for name in both[::2]:  # what was said of the other model only
        chosen.setdefault(name, "0")
    if chosen and set(chosen) <= {"--temperature", "--top-k"}:  # one that the other model does not know, and so skips
        chosen |= {"--max-post-steps": "16"} if in_blocks else {"--strategy": "low_confidence"}
    return [f"{name.removeprefix('--').replace('-', '_')}={value}" for name, value in chosen.items()]


def questions(translation: Translation, out: Path) -> Path:
    """Write the chosen rows as questions that `nano-llada eval` reads. Raises SystemExit if there are none."""
    count, value = translation.value("--num-samples"), translation.value
    if count < 1:
        translation.fail(f"--num-samples must be at least 1, got {count}")
    config = f":{value('--dataset-config')}" if value("--dataset-config") else ""
    name = f"hf:{value('--dataset')}{config}@{value('--split')}"
    try:
        rows = read(translation, name)
    except UserError as error:
        translation.fail(f"--dataset (with --dataset-config and --split): {error}")
    if not rows:
        translation.fail(
            f"--dataset: no row of {name} has a question in {value('--question-field')!r} and an answer in "
            f"{value('--answers-field')!r}; --question-field and --answers-field name others"
        )
    random.Random(value("--seed")).shuffle(rows)
    path = out.with_name(f"{out.name}.questions.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:count]))
    translation.note(f"{min(count, len(rows))} of {len(rows)} questions of {name} are in {path}")
    return path


def read(translation: Translation, name: str) -> list[dict[str, Any]]:
    """The questions of a dataset that have answers. Raises UserError if it cannot be read."""
    from nano_llada.data.read import BadRow, read_rows, resolve

    question, context, answers = (translation.value(f"--{part}-field") for part in ("question", "context", "answers"))
    found: list[dict[str, Any]] = []
    for source in resolve([name]):
        for number, row in enumerate(read_rows(source)):
            if isinstance(row, BadRow):
                raise UserError(f"{row.where}: {row.reason}")
            asked, references = row.value.get(question), texts(row.value.get(answers))
            if not isinstance(asked, str) or not asked.strip() or not references:
                continue
            given = str(row.value.get(context) or "").strip() if translation.value(WITH_CONTEXT) and context else ""
            prompt = f"资料：{given}\n问题：{asked.strip()}" if given else asked.strip()
            found.append({"id": str(number), "prompt": prompt, "references": references, "verifier": "contains"})
    return found


def texts(value: object) -> list[str]:
    """Answers as they stand in such datasets: a text, a list of them, or an object with them under `text`."""
    if isinstance(value, dict):
        value = value.get("text")
    listed = value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(text.strip() for text in listed if isinstance(text, str) and text.strip()))


if __name__ == "__main__":
    sys.exit(main())
