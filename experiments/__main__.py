"""`python -m experiments NAME [options]`: run a recorded experiment, or resume it. Without a name, list them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from nano_llada.cli.options import choose_word, parse
from nano_llada.core.errors import UserError


@dataclass(frozen=True)
class Experiment:
    """What an experiment answers, and the module and class of its options (imported when it is run)."""

    about: str
    module: str
    options: str


EXPERIMENTS = {
    "small-world": Experiment(
        "every skill of the small world, AR and diffusion, by exact match", "options", "SmallWorld"
    ),
    "real-data": Experiment(
        "AR, diffusion from AR and diffusion from scratch on real text, in bits per byte", "options", "RealData"
    ),
    "llada2-ablation": Experiment(
        "each idea of LLaDA 2.0 alone: curriculum, masks, bands, pairs, merging, CAP, block sizes",
        "options",
        "Llada2Ablation",
    ),
    "story": Experiment(
        "a model of the story world: coherence, tasks and skills in each of its ways of decoding", "options", "Story"
    ),
    "block-speed": Experiment(
        "cached block decoding against AR decoding, at equal exact match", "options", "BlockSpeed"
    ),
    "dpo": Experiment(
        "preference optimisation of AR and diffusion models: small world, your own pairs", "options", "Dpo"
    ),
    "editing": Experiment("LLaDA 2.1's editing: models with and without it, at many thresholds", "options", "Editing"),
    "epochs": Experiment(
        "does diffusion overtake AR when a small corpus is seen 1 to 50 times?", "options_measuring", "Epochs"
    ),
    "evaluation": Experiment(
        "every suite over trained models, AR and diffusion, small world and real text",
        "options_measuring",
        "Evaluation",
    ),
    "reversal": Experiment(
        "trained on 'A is B's mother', can a model say who B's mother is?", "options_measuring", "Reversal"
    ),
    "rl": Experiment(
        "single skills of the ablation's models reinforced by their verifiers: EBPO, GRPO", "options", "Rl"
    ),
    "decoding-rules": Experiment(
        "accuracy against tokens per pass of every decoding rule, on one model", "options_measuring", "DecodingRules"
    ),
    "int8": Experiment("what weights in eight bits cost in quality, beside float32", "options_measuring", "Int8"),
    "tri-mode": Experiment(
        "one set of weights for AR, blocks and self-speculation, against models of one kind", "options", "TriMode"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; gives the exit status: 130 when it was interrupted (the same command resumes it).

    Raises:
        UserError: for an unknown name, or options that cannot be used.
    """
    given = sys.argv[1:] if arguments is None else arguments
    words = {name: experiment.about for name, experiment in EXPERIMENTS.items()}
    name, rest = choose_word(given, words, "experiment")
    chosen = EXPERIMENTS[name]
    record = getattr(importlib.import_module(f"experiments.{chosen.module}"), chosen.options)
    options = parse(record, rest, command=f"experiment {name}", about=f"{chosen.about[:1].upper()}{chosen.about[1:]}.")
    experiment = importlib.import_module(f"experiments.{name.replace('-', '_')}")
    return 0 if experiment.run(options) else 130


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
