"""`nano-llada experiment NAME`: recorded experiments, made or gone on with."""

from __future__ import annotations

from collections.abc import Sequence

from nano_llada.cli.options import choose_word, parse

WORDS = {
    "small-world": "every skill of the small world, AR and diffusion, with per-skill exact match",
    "real-data": "AR, diffusion from AR and diffusion from scratch on real text, in bits per byte",
}


def main(arguments: Sequence[str]) -> int:
    """Run the experiment; gives the exit status: 130 when it was interrupted and can be gone on with."""
    name, rest = choose_word(arguments, WORDS, "experiment")
    from nano_llada.experiments.options import RealData, SmallWorld

    if name == "small-world":
        small = parse(SmallWorld, rest, command=f"experiment {name}", about=WORDS[name])
        from nano_llada.experiments import small_world

        return 0 if small_world.run(small) else 130
    real = parse(RealData, rest, command=f"experiment {name}", about=WORDS[name])
    from nano_llada.experiments import real_data

    return 0 if real_data.run(real) else 130
