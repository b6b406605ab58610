"""Batches that a model draws itself: answers to questions, rewarded, a function of the step and the weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import Decoding, decoding_class
from nano_llada.core.batch import PolicyBatch, StepContext
from nano_llada.core.device import Machine
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.loader import shuffled
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.decode.types import Request, collect
from nano_llada.language_model import make_sampler
from nano_llada.model.transformer import Transformer
from nano_llada.objectives.policy import PolicyLoss
from nano_llada.session.questions import Question
from nano_llada.training import parallel
from nano_llada.verify.reward import Reward

FILE = "rollouts.jsonl"


def group_advantages(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """(B,) each reward less its group's mean, over the group's deviation; 0 in a group whose rewards are the same."""
    group = rewards.view(-1, group_size)
    spread = group.std(1, correction=0, keepdim=True)
    differ = spread > 1e-9 * group.abs().amax(1, keepdim=True)  # else rounding would be learnt from
    advantages = (group - group.mean(1, keepdim=True)) / spread.masked_fill(~differ, 1.0)
    return advantages.masked_fill(~differ, 0.0).flatten()


class RolloutBatches:
    """Training data of `Policy`: see `loader.Batches` for what a batch of a step is.

    Answers of a step depend on (seed, step, question) and the weights, so a resumed run draws them again as they were.
    They are written to rollouts.jsonl as they come; with `reuse` above 1 a resumed run reads them there.
    """

    def __init__(  # noqa: PLR0913 - as of a trainer, each part has one user
        self,
        usable: Callable[[], Transformer],
        tokenizer: Tokenizer,
        objective: PolicyLoss,
        questions: Sequence[Question],
        reward: Reward,
        *,
        rows: int,
        seed: int,
        folder: Path,
        machine: Machine,
    ) -> None:
        self._usable, self.tokenizer, self.objective = usable, tokenizer, objective
        self.denoising = ModelCard(objective.config.track).denoising
        self.config, self.rollouts = objective.config, objective.config.rollouts
        self.questions, self.reward, self.rows, self.seed = questions, reward, rows, seed
        self._path, self._machine = folder / FILE, machine
        self._asked = rows // self.rollouts.group_size
        self._drawn: tuple[int, PolicyBatch] | None = None
        self.rows_per_epoch = len(questions) * self.rollouts.group_size * self.rollouts.reuse

    @property
    def model(self) -> Transformer:
        """The model as one that can write; where several processes hold parts of it, made anew at every call."""
        return self._usable()

    def batch(self, step: int) -> PolicyBatch:
        """The answers for an optimizer step, drawn now or for an earlier step that they are reused from."""
        number = step // self.rollouts.reuse
        if self._drawn is None or self._drawn[0] != number:
            self._drawn = (number, self._stored(number) if step % self.rollouts.reuse else self._draw(number))
        return self._drawn[1]

    def document_names(self, step: int) -> list[list[int]]:
        """Numbers of the questions behind each row."""
        group = self.rollouts.group_size
        return [[int(question)] for question in self._chosen(step // self.rollouts.reuse) for _ in range(group)]

    def _chosen(self, number: int) -> list[int]:
        """Questions of a drawing: every epoch goes through all of them in another order."""
        everything = np.arange(len(self.questions))
        places = range(number * self._asked, (number + 1) * self._asked)
        order = {epoch: shuffled(everything, self.seed, epoch) for epoch in {p // len(everything) for p in places}}
        return [int(order[place // len(everything)][place % len(everything)]) for place in places]

    def _draw(self, number: int) -> PolicyBatch:
        rollouts = self.rollouts
        asked = [question for question in self._chosen(number) for _ in range(rollouts.group_size)]
        requests = [
            Request(self.questions[question].tokens, seed=derive_seed(self.seed, "rollout", number, i))
            for i, question in enumerate(asked)
        ]
        model = self.model.eval()
        sampler = make_sampler(model, self.tokenizer.vocab, self._decoding())
        done = parallel.in_shares(requests, lambda mine: collect(sampler.stream(mine), len(mine), sampler.ends))
        model.forget()  # training continues: the weights that were laid out for this are outdated
        texts = [self.tokenizer.decode(completion.tokens, specials=False) for completion in done]
        rewards = [self._reward(question, text) for question, text in zip(asked, texts, strict=True)]
        # what is learnt: each answer, and the token that ends it where the model wrote one
        answers = [(*one.tokens, *(() if one.end is None else (one.end,))) for one in done]
        prompts = [self.questions[question].tokens for question in asked]
        batch = self._collate(prompts, answers, rewards, [0.0] * len(asked))
        if rollouts.reuse > 1:
            batch = replace(batch, old_scores=self._scores(model, batch, number * rollouts.reuse))
        parallel.on_first(lambda: self._write(number, asked, texts, answers, batch))
        return batch

    def _decoding(self) -> Decoding:
        card = ModelCard(self.config.track, block_size=self.config.block_size)
        cls, rollouts = decoding_class(card, in_blocks=card.block_size is not None), self.rollouts
        wanted: dict[str, Any] = {"max_new_tokens": rollouts.max_new_tokens, "temperature": rollouts.temperature}
        # by the probability of what was drawn, only likely tokens would be written: the group would be one answer
        wanted |= {"threshold": rollouts.threshold, "certainty": "likeliest", "block_size": card.block_size}
        wanted |= {"edit_threshold": rollouts.edit_threshold, "predicts": self.config.predicts}
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in wanted.items() if name in known})

    def _reward(self, question: int, answer: str) -> float:
        asked = self.questions[question]
        try:
            return self.reward(asked.text, answer, asked.row)
        except UserError as error:
            raise UserError(f"{asked.where}: {error}") from error

    def _collate(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        rewards: Sequence[float],
        old_scores: Sequence[float],
    ) -> PolicyBatch:
        """Rows of question and answer; a denoiser's is filled with ends to the length that it was written in."""
        vocab, length = self.tokenizer.vocab, self.rollouts.max_new_tokens
        fill = self.denoising
        sizes = [len(p) + (length if fill else len(a)) for p, a in zip(prompts, answers, strict=True)]
        tokens = torch.full((len(prompts), max(sizes)), vocab.eos)
        scored, docs = torch.zeros_like(tokens, dtype=torch.bool), torch.full_like(tokens, -1)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            tokens[i, :end] = torch.tensor([*prompt, *answer])
            scored[i, len(prompt) : end] = True
            docs[i, : sizes[i]] = 0
        positions = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
        told, old = (torch.tensor(values, dtype=torch.float64) for values in (rewards, old_scores))
        advantages = group_advantages(told, self.rollouts.group_size)
        return PolicyBatch(tokens, scored, docs, positions, torch.arange(len(tokens)), told, advantages, old)

    @torch.no_grad()
    def _scores(self, model: Transformer, batch: PolicyBatch, step: int) -> torch.Tensor:
        ctx = StepContext(self.tokenizer.vocab, self.seed, step, step + 1, self.rows)
        seed = self.objective.noise_seed(self.seed, step)
        device, dtype, enabled = self._machine.device, self._machine.dtype, self._machine.autocast
        with torch.autocast(device.type, dtype, enabled=enabled):  # as in training, or rounding would move the ratio
            part = batch.select(parallel.my_rows(self.rows)).to(device)
            mine = self.objective.score(model, part, ctx, seed).mean(0).double().cpu()
        return torch.cat(parallel.everyones(mine))

    def _write(
        self,
        number: int,
        asked: Sequence[int],
        texts: Sequence[str],
        answers: Sequence[Sequence[int]],
        batch: PolicyBatch,
    ) -> None:
        step = number * self.rollouts.reuse + 1  # as the log counts
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
        step = number * self.rollouts.reuse + 1
        lines = self._path.read_text(encoding="utf-8").split("\n") if self._path.is_file() else []
        found = [row for row in map(json.loads, filter(None, lines)) if row["step"] == step]
        if len(found) != self.rows:
            raise UserError(
                f"{self._path} has {len(found)} answers of step {step}, not {self.rows}: it cannot be resumed"
            )
        prompts = [self.questions[row["question"]].tokens for row in found]
        rewards, old = ([row[name] for row in found] for name in ("reward", "old_score"))
        return self._collate(prompts, [row["tokens"] for row in found], rewards, old)
