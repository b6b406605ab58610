"""From options to suites with their examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.core.errors import UserError
from nano_llada.evaluation.items import Passage, read_passages
from nano_llada.evaluation.judge import Question, read_questions
from nano_llada.evaluation.options import SuiteOptions
from nano_llada.evaluation.suite import Suite
from nano_llada.evaluation.suites import SUITES
from nano_llada.evaluation.suites.calibration import Calibration
from nano_llada.evaluation.suites.choices import Choices, read_choices
from nano_llada.evaluation.suites.generation import Generation, world_questions
from nano_llada.evaluation.suites.infilling import Infilling
from nano_llada.evaluation.suites.likelihood import Likelihood
from nano_llada.evaluation.suites.quality import Quality
from nano_llada.evaluation.suites.speed import Speed
from nano_llada.world import SKILLS

PASSAGES = ("likelihood", "calibration", "quality", "infilling")
READ_BY: Mapping[str, tuple[str, ...]] = {  # which suites look at an option
    "text": (*PASSAGES, "speed"),
    "window": ("likelihood", "calibration"),
    "judge": ("quality",),
    "choices": ("choices",),
    "skills": ("generation", "speed"),
    "questions": ("generation", "speed"),
    "verifier": ("generation",),
}
TIMED = 64  # questions of each language that speed is measured on, at most


def make_suites(options: SuiteOptions, context: int, device: torch.device | str = "cpu") -> list[Suite]:
    """The suites that were asked for, or those that examples were given for.

    Args:
        context: tokens that all models can see at once.

    Raises:
        UserError: for an unknown suite, one without examples, examples that cannot be read, or numbers out of range.
    """
    if unknown := [name for name in options.suites if name not in SUITES]:
        raise UserError(f"unknown suite {unknown[0]!r}: use some of {', '.join(SUITES)}")
    window = context if options.window is None else options.window
    if not 2 <= window <= context:
        raise UserError(f"window must be from 2 to the models' shortest context {context}, got {window}")
    makers: Mapping[str, Callable[[], Suite]] = {
        "likelihood": lambda: Likelihood(
            _passages(options, "likelihood"), window, options.draws, options.noise_seed, options.batch_size
        ),
        "choices": lambda: Choices(
            tuple(read_choices(_given(options.choices, "choices", "--choices"), options.limit)),
            draws=4 * options.draws,
            seed=options.noise_seed,
            batch_size=options.batch_size,
        ),
        "generation": lambda: Generation(_questions(options, "generation"), options.noise_seed, options.batch_size),
        "quality": lambda: _quality(options, device),
        "infilling": lambda: _infilling(options, context),
        "speed": lambda: Speed(_timed(options), options.batch_sizes),
        "calibration": lambda: Calibration(
            _passages(options, "calibration"), window, seed=options.noise_seed, batch_size=options.batch_size
        ),
    }
    chosen = options.suites or default_suites(options)
    try:
        suites = [makers[name]() for name in chosen]
    except ValueError as error:
        raise UserError(str(error)) from error
    for option, readers in READ_BY.items():
        if getattr(options, option) and not set(readers) & set(chosen):
            raise UserError(
                f"--{option} is for {', '.join(readers)}, measured is {', '.join(chosen)}: leave it out, or name one "
                "that reads it in --suites"
            )
    return suites


def default_suites(options: SuiteOptions) -> list[str]:
    """Those that there are examples for and that need nothing else. Raises UserError if there are none."""
    given = {
        "likelihood": bool(options.text),
        "choices": bool(options.choices),
        "generation": bool(options.skills or options.questions),
    }
    if not any(given.values()):
        raise UserError(
            "nothing to measure: give --text FILES, --skills all, --questions FILES or --choices FILES, and perhaps "
            f"--suites (some of {', '.join(SUITES)})"
        )
    return [name for name, there in given.items() if there]


def _given(files: tuple[str, ...], suite: str, option: str) -> tuple[str, ...]:
    if not files:
        raise UserError(f"the suite {suite} needs {option}")
    return files


def _passages(options: SuiteOptions, suite: str) -> tuple[Passage, ...]:
    return tuple(read_passages(_given(options.text, suite, "--text"), options.text_field, options.limit))


def _questions(options: SuiteOptions, suite: str) -> tuple[Question, ...]:
    if not options.skills and not options.questions:
        raise UserError(f"the suite {suite} needs --skills or --questions")
    if options.verifier and not options.questions:
        raise UserError("--verifier judges the answers to --questions: give both, or leave it out")
    skills = SKILLS if options.skills == ("all",) else options.skills
    found = list(world_questions(skills, options.items, options.noise_seed)) if skills else []
    return (*found, *(read_questions(options.questions, options.limit, options.verifier) if options.questions else ()))


def _infilling(options: SuiteOptions, context: int) -> Infilling:
    """With 96 tokens shown on each side, or as many as all models have room for."""
    passages = _passages(options, "infilling")
    shown = min(96, (context - 1 - max(options.spans, default=1)) // 2)
    return Infilling(passages, options.spans, context=shown, seed=options.noise_seed, batch_size=options.batch_size)


def _quality(options: SuiteOptions, device: torch.device | str) -> Quality:
    passages = _passages(options, "quality")
    if options.judge is None:
        raise UserError("the suite quality needs --judge: an autoregressive model")
    judge = load_checkpoint(options.judge, device)
    return Quality(
        passages,
        judge,
        options.judge.name,
        prompt_tokens=options.prompt_tokens,
        seed=options.noise_seed,
        batch_size=options.batch_size,
    )


def _timed(options: SuiteOptions) -> tuple[Passage, ...]:
    """Questions where there are some, evenly from all of them, or else texts."""
    if options.skills or options.questions:
        passages = [Passage(q.prompt, q.language, q.task, q.item) for q in _questions(options, "speed")]
    else:
        passages = list(_passages(options, "speed"))
    chosen: list[Passage] = []
    for language in dict.fromkeys(passage.language for passage in passages):
        some = [passage for passage in passages if passage.language == language]
        chosen += some[:: max(1, -(-len(some) // TIMED))]
    return tuple(chosen)
