"""`nano-llada experiment NAME`: recorded experiments, made or gone on with."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from nano_llada.cli.options import choose_word, parse

WORDS = {
    "small-world": "every skill of the small world, AR and diffusion, with per-skill exact match",
    "real-data": "AR, diffusion from AR and diffusion from scratch on real text, in bits per byte",
    "llada2-ablation": "each idea of LLaDA 2.0 by itself: curriculum, masks, bands, pairs, merging, CAP, block sizes",
    "block-speed": "cached block decoding against AR decoding, at equal exact match",
    "dpo": "preference optimisation of AR and diffusion models, on the small world and on your own pairs",
    "editing": "LLaDA 2.1's editing: a model that never edits and one that does, at many thresholds",
    "epochs": "does diffusion overtake AR when the same small corpus is seen 1 to 50 times?",
    "evaluation": "every suite over trained models, AR and diffusion, small world and real text",
    "reversal": "told that A is B's mother, who knows B's mother? AR and diffusion from nothing",
    "rl": "reinforcing single skills of the ablation's models by their verifiers, EBPO and GRPO",
}
OPTIONS = {  # module and class of the options of each; its own module is the name with underscores
    "small-world": "options.SmallWorld",
    "real-data": "options.RealData",
    "llada2-ablation": "options.Llada2Ablation",
    "block-speed": "options.BlockSpeed",
    "dpo": "options.Dpo",
    "editing": "options.Editing",
    "epochs": "options_measuring.Epochs",
    "evaluation": "options_measuring.Evaluation",
    "reversal": "options_measuring.Reversal",
    "rl": "options.Rl",
}


def main(arguments: Sequence[str]) -> int:
    """Run the experiment; gives the exit status: 130 when it was interrupted and can be gone on with."""
    name, rest = choose_word(arguments, WORDS, "experiment")
    module, cls = OPTIONS[name].split(".")
    known = importlib.import_module(f"experiments.{module}")
    options = parse(getattr(known, cls), rest, command=f"experiment {name}", about=WORDS[name])
    experiment = importlib.import_module(f"experiments.{name.replace('-', '_')}")
    return 0 if experiment.run(options) else 130
