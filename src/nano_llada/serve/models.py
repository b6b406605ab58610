"""The models of a server: what each of them is and can do, and the worker that runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache, cached_property
from types import TracebackType
from typing import Any

from nano_llada.config.card import ModelCard
from nano_llada.config.decoding import DecodingOptions, EngineOptions
from nano_llada.config.serving import ServingOptions
from nano_llada.core.errors import UserError
from nano_llada.core.words import did_you_mean
from nano_llada.data.tokenizer import STORY_TOKENIZER, Tokenizer
from nano_llada.language_model import LanguageModel
from nano_llada.serve.protocol import GENERAL
from nano_llada.serve.refusal import Refusal
from nano_llada.serve.worker import Worker


def kind_of(card: ModelCard) -> str:
    """`ar`, `canvas` (LLaDA 1.0), `block` (2.0), `editing` (2.1), or `tri`: AR, blocks and speculation in one."""
    if card.track == "both":
        return "tri"
    if card.autoregressive:
        return "ar"
    if card.block_size is None:
        return "canvas"
    return "editing" if card.edits else "block"


@cache
def _story_hash() -> str:
    """Of the tokenizer of the story world, whose stories /v1/check knows."""
    return Tokenizer.load(STORY_TOKENIZER).hash


class Served:
    """A model under its name."""

    def __init__(self, name: str, writer: LanguageModel, options: ServingOptions) -> None:
        self.name, self.writer, self.created = name, writer, int(time.time())
        self.kind = kind_of(writer.card)
        self.decoding = writer.decoding()
        self.worker = Worker(
            writer.model,
            writer.tokenizer.vocab,
            self.decoding,
            EngineOptions(options.max_rows, options.budget),
            limit=options.max_rows + options.max_waiting,
            name=name,
        )

    @property
    def infill(self) -> bool:
        """Whether it can fill gaps: what was trained on whole rows, or learnt it by what follows a gap put in front."""
        return self.kind == "canvas" or (self.writer.card.infills and self.writer.card.denoising)

    @cached_property
    def described(self) -> Mapping[str, Any]:
        """Its entry in /v1/models."""
        writer = self.writer
        given = {name: value for name, value in vars(self.decoding).items() if value is not None}
        names = [field.name for field in fields(DecodingOptions) if field.name not in GENERAL]
        modes = {"editing": ["block", "edit"], "tri": list(writer.card.decodes)}.get(self.kind, [self.kind])
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "nano-llada",
            "nano_llada": {
                "kind": self.kind,
                "modes": modes,
                "context": writer.model.config.max_length,
                "parameters": sum(weight.numel() for weight in writer.model.parameters()),
                "vocabulary": writer.model.config.vocab_size,
                "answers": writer.card.answers,
                "turns": writer.card.turns,
                "infill": self.infill,
                "check": writer.tokenizer.hash == _story_hash(),
                "exact_likelihood": writer.card.autoregressive,
                "end_tokens": sorted(writer.tokenizer.vocab.ends),
                "decoding": given,
                "options": [name for name in names if name in self._taken],
            },
        }

    @cached_property
    def _taken(self) -> set[str]:
        """The options that mean something to this model, in one of the ways in which it decodes."""
        card = self.writer.card
        ways = [self.writer.decoding(decode=way) for way in card.decodes] or [self.decoding]
        found = {name for way in ways for name in vars(way)}
        if card.denoising:
            found |= {"block_size"} | ({"preset"} if card.block_size is not None else set())
        return found | ({"decode"} if len(ways) > 1 else set())


class Models:
    """All models of a server, by name; the first one is the default. Used as a context, their workers run."""

    def __init__(self, writers: Mapping[str, LanguageModel], options: ServingOptions) -> None:
        if not writers:
            raise UserError("nothing to serve: give at least one model")
        self._served = {name: Served(name, writer, options) for name, writer in writers.items()}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def __enter__(self) -> Models:
        for served in self:
            served.worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the workers; whoever waits for a text gets `Stopped`."""
        for served in self:
            served.worker.stop()

    @property
    def ready(self) -> bool:
        """Whether all of them take requests."""
        return all(served.worker.alive for served in self)

    def get(self, name: str | None) -> Served:
        """A model by its name; None: the first one.

        Raises:
            Refusal: 404 if there is none of this name.
        """
        if name is None:
            return next(iter(self))
        if name not in self._served:
            names = f"the models are: {', '.join(self._served)}{did_you_mean(name, self._served)}"
            raise Refusal(404, f"no model {name[:100]!r}; {names}", param="model", code="model_not_found")
        return self._served[name]
