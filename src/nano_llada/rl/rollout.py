"""Batches that a model draws itself: answers to questions, rewarded, a function of the step and the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.core.types import PolicyBatch, StepContext
from nano_llada.data.chat import encode_prompt
from nano_llada.data.loader import shuffled
from nano_llada.data.read import BadRow, BadRows, Source, read_rows
from nano_llada.data.rows import Where, to_messages
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.config import Autoregressive, Block, Decoding, Diffusion
from nano_llada.decode.types import Completion, Request, collect
from nano_llada.model.transformer import Transformer
from nano_llada.objectives.policy import Policy
from nano_llada.objectives.preference import BoundScore
from nano_llada.rl.reward import Reward
from nano_llada.sampling import make_sampler

FILE = "rollouts.jsonl"


@dataclass(frozen=True)
class Question:
    """A prompt, and the row it came from."""

    text: str
    tokens: tuple[int, ...]
    row: Mapping[str, Any]
    where: Where


def read_questions(sources: Sequence[Source], tokenizer: Tokenizer, bad_rows: BadRows, longest: int) -> list[Question]:
    """The questions of conversation rows: everything before the last answer. Longer ones than `longest` are left out.

    Raises:
        UserError: for a bad row under the policy `stop`, or no question at all.
    """
    questions = []
    for source in sources:
        for row in read_rows(source):
            if isinstance(row, BadRow):
                bad_rows.report(row.where, row.reason)
                continue
            try:
                messages = to_messages(row.value)
            except ValueError as error:
                bad_rows.report(row.where, str(error))
                continue
            end = max(i for i, message in enumerate(messages) if message.role == "assistant")
            if end == 0:
                bad_rows.report(row.where, "the conversation begins with an answer: there is no question")
                continue
            tokens = tuple(encode_prompt(tokenizer, messages[:end]))
            if len(tokens) <= longest:
                questions.append(Question(messages[end - 1].content, tokens, row.value, row.where))
    if not questions:
        raise UserError(f"no questions of at most {longest} tokens in {', '.join(source.name for source in sources)}")
    return questions


class RolloutBatches:
    """Training data of `Policy`: see `loader.Batches` for what a batch of a step is.

    Answers of a step depend on (seed, step, question) and the weights, so a resumed run draws them again as they were.
    They are written to rollouts.jsonl as they come; with `reuse` above 1 a resumed run reads them there.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        objective: Policy,
        questions: Sequence[Question],
        reward: Reward,
        *,
        rows: int,
        seed: int,
        folder: Path,
    ) -> None:
        self.model, self.tokenizer, self.objective = model, tokenizer, objective
        self.questions, self.reward, self.rows, self.seed = questions, reward, rows, seed
        self._path = folder / FILE
        self._asked = rows // objective.rollouts.group_size
        self._drawn: tuple[int, PolicyBatch] | None = None
        self.rows_per_epoch = len(questions) * objective.rollouts.group_size

    def batch(self, step: int) -> PolicyBatch:
        """The answers for an optimizer step, drawn now or for an earlier step that they are reused from."""
        number = step // self.objective.rollouts.reuse
        if self._drawn is None or self._drawn[0] != number:
            self._drawn = (number, self._stored(number) if step % self.objective.rollouts.reuse else self._draw(number))
        return self._drawn[1]

    def document_names(self, step: int) -> list[list[int]]:
        """Numbers of the questions behind each row."""
        group = self.objective.rollouts.group_size
        return [
            [int(question)] for question in self._chosen(step // self.objective.rollouts.reuse) for _ in range(group)
        ]

    def _chosen(self, number: int) -> list[int]:
        """Questions of a drawing: every epoch goes through all of them in another order."""
        everything = np.arange(len(self.questions))
        places = range(number * self._asked, (number + 1) * self._asked)
        order = {epoch: shuffled(everything, self.seed, epoch) for epoch in {p // len(everything) for p in places}}
        return [int(order[place // len(everything)][place % len(everything)]) for place in places]

    def _draw(self, number: int) -> PolicyBatch:
        rollouts = self.objective.rollouts
        asked = [question for question in self._chosen(number) for _ in range(rollouts.group_size)]
        requests = [
            Request(self.questions[question].tokens, seed=derive_seed(self.seed, "rollout", number, i))
            for i, question in enumerate(asked)
        ]
        self.model.eval()
        sampler = make_sampler(self.model, self.tokenizer.vocab, self._decoding())
        done = collect(sampler.stream(requests), len(requests), sampler.ends)
        texts = [self.tokenizer.decode(completion.tokens, specials=False) for completion in done]
        rewards = torch.tensor(
            [
                self.reward(self.questions[question].text, text, self.questions[question].row)
                for question, text in zip(asked, texts, strict=True)
            ],
            dtype=torch.float64,
        )
        answers = [self._answer(completion) for completion in done]
        prompts = [self.questions[question].tokens for question in asked]
        batch = self._collate(prompts, answers, rewards, torch.zeros(len(asked), dtype=torch.float64))
        if rollouts.reuse > 1:
            batch = self._collate(prompts, answers, rewards, self._scores(batch, number * rollouts.reuse))
        self._write(number, asked, texts, answers, batch)
        return batch

    def _decoding(self) -> Decoding:
        score, rollouts = self.objective.score, self.objective.rollouts
        common: dict[str, Any] = {"max_new_tokens": rollouts.max_new_tokens, "temperature": rollouts.temperature}
        if not isinstance(score, BoundScore):
            return Autoregressive(**common)
        # by the probability of what was drawn, only likely tokens would be written: the group would be one answer
        common |= {"threshold": rollouts.threshold, "certainty": "likeliest"}
        if score.block_size is None:
            return Diffusion(**common)
        return Block(**common, edit_threshold=rollouts.edit_threshold, block_size=score.block_size)

    def _answer(self, completion: Completion) -> tuple[int, ...]:
        """What is learnt: the answer, and the end of the turn where the model wrote one."""
        ended = len(completion.tokens) < self.objective.rollouts.max_new_tokens and completion.finish == "stop"
        return (*completion.tokens, self.tokenizer.vocab.turn_end) if ended else tuple(completion.tokens)

    def _collate(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        rewards: torch.Tensor,
        old_scores: torch.Tensor,
    ) -> PolicyBatch:
        """Rows of question and answer; a denoiser's is filled with ends to the length that it was written in."""
        vocab, length = self.tokenizer.vocab, self.objective.rollouts.max_new_tokens
        fill = isinstance(self.objective.score, BoundScore)
        sizes = [len(p) + (max(length, len(a)) if fill else len(a)) for p, a in zip(prompts, answers, strict=True)]
        tokens = torch.full((len(prompts), max(sizes)), vocab.eos)
        scored, docs = torch.zeros_like(tokens, dtype=torch.bool), torch.full_like(tokens, -1)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            tokens[i, :end] = torch.tensor([*prompt, *answer])
            scored[i, len(prompt) : end] = True
            docs[i, : sizes[i]] = 0
        positions = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
        group = rewards.view(-1, self.objective.rollouts.group_size)
        spread = group.std(1, correction=0, keepdim=True)
        advantages = torch.where(spread > 0, (group - group.mean(1, keepdim=True)) / spread.clamp(min=1e-9), 0.0)
        rows = torch.arange(len(tokens))
        return PolicyBatch(tokens, scored, docs, positions, rows, rewards, advantages.flatten(), old_scores)

    @torch.no_grad()
    def _scores(self, batch: PolicyBatch, step: int) -> torch.Tensor:
        ctx = StepContext(self.tokenizer.vocab, self.seed, step, step + 1, self.rows)
        seed = self.objective.noise_seed(self.seed, step)
        moved = batch.to(self.model.embed.weight.device)
        return self.objective.score(self.model, moved, ctx, seed).mean(0).double().cpu()

    def _write(
        self,
        number: int,
        asked: Sequence[int],
        texts: Sequence[str],
        answers: Sequence[Sequence[int]],
        batch: PolicyBatch,
    ) -> None:
        step = number * self.objective.rollouts.reuse + 1  # as the log counts
        with self._path.open("a", encoding="utf-8") as file:
            for i, question in enumerate(asked):
                line = {
                    "step": step,
                    "question": question,
                    "prompt": self.questions[question].text,
                    "answer": texts[i],
                    "reward": float(batch.rewards[i]),
                    "advantage": float(batch.advantages[i]),
                    "old_score": float(batch.old_scores[i]),
                    "tokens": list(answers[i]),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _stored(self, number: int) -> PolicyBatch:
        """The answers of a drawing that was made before the run was interrupted."""
        step = number * self.objective.rollouts.reuse + 1
        lines = self._path.read_text(encoding="utf-8").split("\n") if self._path.is_file() else []
        found = [row for row in map(json.loads, filter(None, lines)) if row["step"] == step]
        if len(found) != self.rows:
            raise UserError(
                f"{self._path} has {len(found)} answers of step {step}, not {self.rows}: it cannot be resumed"
            )
        prompts = [self.questions[row["question"]].tokens for row in found]
        rewards, old = (
            torch.tensor([row[name] for row in found], dtype=torch.float64) for name in ("reward", "old_score")
        )
        return self._collate(prompts, [row["tokens"] for row in found], rewards, old)
