"""`nano-llada demo`: the main job, from nothing to a comparison."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nano_llada.cli.options import parse


def main(arguments: Sequence[str]) -> int:
    """Run (or go on with) the demo; gives the exit status."""
    from nano_llada.demo_config import DemoConfig

    about = (
        "Train an AR and a diffusion model from nothing on a small bilingual world, fine-tune both, and compare them. "
        "Interrupt it and run it again: it goes on where it stopped."
    )
    config = parse(DemoConfig, arguments, command="demo", about=about)
    from nano_llada.demo import run_demo

    begin = time.monotonic()
    comparison = run_demo(config)
    if comparison is None:
        return 130
    from nano_llada.evaluate.report import sample_rows, skill_rows, summary_rows, write_report

    curves = [config.folder / name / "loss.png" for name in ("ar", "diffusion", "ar-sft", "diffusion-sft")]
    page = write_report(comparison, config.folder / "report", "nano-llada demo: AR against diffusion", curves)
    from nano_llada.cli.tables import print_table

    print_table(summary_rows(comparison))
    print_table(skill_rows(comparison))
    print_table(sample_rows(comparison))
    print(f"done in {(time.monotonic() - begin) / 60:.1f} minutes; the report is {page}")
    print(f"now try: nano-llada chat {config.folder / 'diffusion-sft'} --max-new-tokens {config.answer_length}")
    return 0
