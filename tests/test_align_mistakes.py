"""Mistakes with DPO and reinforcement learning: each ends with status 2 and says what was wrong, where, what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from align import RL, Scene, make_scene
from tiny import run_cli, texts, tiny_arguments

Case = Callable[[Scene], list[str]]
REFUSED: dict[str, tuple[Case, str]] = {
    "a batch that is not whole groups": (
        lambda s: s.words("rl-ar", batch_size=6),
        "batch_size 6 is not a multiple of group_size 4",
    ),
    "half a pair in a batch": (
        lambda s: s.words("dpo-ar", batch_size=3),
        "batch_size 3 is odd: a pair of answers takes two rows",
    ),
    "half a pair in a micro-batch": (
        lambda s: s.words("dpo-ar", micro_batch_size=1),
        "micro_batch_size 1 is odd: a pair of answers takes two rows",
    ),
    "a reference that is not asked": (
        lambda s: s.words("rl-blocks", reference=s.done.runs / "diffusion"),
        "a reference model is for dpo, and for rl with a kl_weight; leave --reference out",
    ),
    "rl from nothing": (
        lambda s: tiny_arguments(s.done, "rl", "ar", **RL, data=(s.here / "asked.jsonl",)),
        "rl starts from a fine-tuned model: give it with --init-from",
    ),
    "dpo from nothing": (
        lambda s: tiny_arguments(s.done, "dpo", "diffusion", eos_fill=16, data=(s.here / "pairs.jsonl",)),
        "dpo starts from a fine-tuned model: give it with --init-from",
    ),
    "conversations for rl": (
        lambda s: s.words("rl-ar", format="chat"),
        "learns from data of format",
    ),
    "prompts for dpo": (
        lambda s: s.words("dpo-ar", format="prompts"),
        "learns from data of format",
    ),
    "validation of rl": (
        lambda s: s.words("rl-ar", validation=(s.here / "asked.jsonl",)),
        "format 'prompts' draws its answers: turn packing off, leave eos_fill, turns, validation",
    ),
    "merging by a validation loss that rl has not": (
        lambda s: s.words("rl-ar", merge_best=1),
        "merge_best goes by the validation loss, and there is no validation data",
    ),
    "text where rl expects conversations": (
        lambda s: s.words("rl-ar", data=(s.file("text.jsonl", texts(4)),)),
        "text.jsonl:1: no question (messages, or one of prompt, instruction, question, query, input); the fields are: "
        "text",
    ),
    "conversations where dpo expects pairs": (
        lambda s: s.words("dpo-ar", data=(s.done.chat,)),
        "chat.jsonl:1: no chosen and no rejected; the fields are: messages",
    ),
    "a row without a verifier": (
        lambda s: s.words("rl-ar", data=(s.file("open.jsonl", [{"prompt": "2+3?"}]),), reward="verifier"),
        "open.jsonl:1: no right answer: give it references, reference, ground_truth or answer, or an answer as the last"
        " message; or give a reward function with --reward FILE.py:FUNCTION",
    ),
    "no questions": (lambda s: s.words("rl-ar", data=()), "no questions: give files of conversations with --data"),
    "questions without room": (
        lambda s: s.words("rl-ar", max_new_tokens=256),
        "max_new_tokens 256 leaves no room for a question: the model's max_length is 256",
    ),
    "questions that are all too long": (
        lambda s: s.words("rl-ar", max_new_tokens=250),
        "no questions of at most 6 tokens in",
    ),
    "a reward that is not there": (
        lambda s: s.words("rl-ar", reward="nowhere.py:f"),
        "nowhere.py cannot be read: no such file or directory",
    ),
    "a reward that fails": (
        lambda s: s.words("rl-ar", reward=f"{s.code('failing.py', 'def f(q, a, r): return r[0]')}:f"),
        "failing.py:f' failed on ",
    ),
    "groups of one": (lambda s: s.words("rl-ar", group_size=1), "group_size must be at least 2, got 1"),
    "a threshold that is none": (lambda s: s.words("rl-blocks", threshold=2), "threshold must be in [0, 1]"),
    "editing without blocks": (
        lambda s: s.words("rl-diffusion", edit_threshold=0.5),
        "edit_threshold has no effect where answers are not decoded in blocks: give a block_size",
    ),
    "drawing without temperature": (
        lambda s: s.words("rl-ar", temperature=0),
        "temperature must be positive, got 0.0",
    ),
    "nothing to resume": (lambda s: [*s.words("rl-ar"), "--resume"], "nothing to resume"),
    "rl of another kind": (lambda s: ["rl", "sideways"], "nano-llada rl needs one of ar, diffusion, not 'sideways'"),
}


@pytest.fixture
def scene(tmp_path, tmp_path_factory) -> Scene:
    return make_scene(tmp_path_factory.getbasetemp(), tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_told_in_words(scene, capfd, name):
    arguments, message = REFUSED[name]
    status, error = run_cli(arguments(scene)), " ".join(capfd.readouterr().err.replace("│", " ").split())
    assert message in error
    assert status == 2
    assert "Traceback" not in error
