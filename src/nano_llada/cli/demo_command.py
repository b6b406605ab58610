"""`nano-llada demo`: the main job, from nothing to a comparison."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nano_llada.cli.options import parse

SHOWN = {
    "demo": "folder skills documents chats answer_length items seed device threads cache",
    "steps": "ar_steps ar_sft_steps diffusion_steps diffusion_sft_steps",
    "model": "hidden_size num_layers num_heads",
}


def main(arguments: Sequence[str]) -> int:
    """Run or resume the demo; gives the exit status."""
    from nano_llada.demo.options import DemoConfig

    about = (
        "Train an AR and a diffusion model from nothing on a small bilingual world, fine-tune both, and compare them. "
        "When interrupted, the same command continues it."
    )
    config = parse(DemoConfig, arguments, command="demo", about=about, shown=SHOWN, hidden=("vocab_size",))
    from nano_llada.cli.tables import print_comparison
    from nano_llada.demo.run import run_demo
    from nano_llada.evaluation.results import measure
    from nano_llada.evaluation.suites import metrics_of
    from nano_llada.report.training_run import read_run
    from nano_llada.report.write import write_report

    begin = time.monotonic()
    report = config.folder / "report"
    records = run_demo(config, report)
    if records is None:
        return 130
    runs = [read_run(config.folder / name, name) for name in ("ar", "ar-sft", "diffusion", "diffusion-sft")]
    training = [run for run in runs if run is not None]
    results = measure(records, metrics_of)
    page = write_report(records, report, "nano-llada demo: AR against diffusion", training=training, results=results)
    print_comparison(records, results)
    print(f"done in {(time.monotonic() - begin) / 60:.1f} minutes; the report is {page}")
    print(f"now try: nano-llada chat {config.folder / 'diffusion-sft'} --max-new-tokens {config.answer_length}")
    return 0
