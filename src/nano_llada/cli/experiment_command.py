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
    if name == "small-world":
        from nano_llada.experiments import small_world

        done = small_world.run(parse(small_world.SmallWorld, rest, command=f"experiment {name}", about=WORDS[name]))
    else:
        from nano_llada.experiments import real_data

        done = real_data.run(parse(real_data.RealData, rest, command=f"experiment {name}", about=WORDS[name]))
    return 0 if done else 130
