"""A checkpoint as lm-evaluation-harness asks it: how likely continuations and texts are, and what it writes.

Here a request is anything with `args` and `doc_id`; the harness itself is met in `evaluate.harness` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.decoding import Block, default_decoding
from nano_llada.core.device import choose_machine
from nano_llada.core.errors import UserError
from nano_llada.core.random import derive_seed
from nano_llada.data.chat import encode_prompt
from nano_llada.data.tokenizer import CHAT_TEMPLATE
from nano_llada.decode.types import Request, collect
from nano_llada.evaluation.harness_requests import (
    GREEDY,
    Writing,
    changed,
    number_of,
    parse_chat,
    write_chat,
    writing_of,
)
from nano_llada.evaluation.likelihood import ScoredRow, check_window, passage_likelihoods, row_batches, row_nll
from nano_llada.language_model import cut_at, encode_start, make_sampler, stop_at

T = TypeVar("T")


class HarnessModel:
    """The harness's three questions to a checkpoint; `NanoLladaLM` is this class as the harness wants it.

    Likelihoods are exact for an AR model and for one token; else they are the diffusion bound. Its noise belongs to the
    harness's number of the document, so that a question's choices are compared under the same masks, and no figure
    depends on the order of the requests or the batch size.

    Args:
        pretrained: run or checkpoint folder.
        draws: Monte-Carlo draws of the bound.
        batch_size: rows computed at once.
        max_length: most tokens seen at once; default: the model's context. Longer contexts lose their beginning.
        max_gen_toks: most tokens written where a task sets no limit; default: 256, or half of `max_length` if less.
        decoding: options of the decoding config (steps, threshold, temperature ...); a task's `generation_kwargs`
            come first. A diffusion model is decoded in blocks if it was trained so, or if a block_size is given.

    Raises:
        UserError: for a folder without a model, or values that cannot be.
    """

    cache_hook: Any

    def __init__(
        self,
        pretrained: str,
        draws: int = 32,
        seed: int = 0,
        batch_size: int | str = 16,
        device: str = "auto",
        max_length: int | None = None,
        max_gen_toks: int | None = None,
        **decoding: Any,
    ) -> None:
        super().__init__()
        for name, value, least in (("draws", draws, 1), ("batch_size", batch_size, 1), ("max_length", max_length, 2)):
            if value is not None and (not str(value).isdecimal() or int(value) < least):
                raise UserError(f"{name} must be a number of at least {least}, got {value!r}")
        self._device = choose_machine(device).device
        self.checkpoint = load_checkpoint(Path(str(pretrained)), self._device)
        self.draws, self.seed, self.batch_size = draws, seed, int(batch_size)
        self.max_length = self.checkpoint.model.config.max_length if max_length is None else max_length
        check_window(self.checkpoint, self.max_length)
        self.max_gen_toks = min(256, self.max_length // 2) if max_gen_toks is None else max_gen_toks
        if "block_size" in decoding and not self.checkpoint.card.denoising:
            raise UserError("block_size: for diffusion models only, this one is autoregressive")
        size = decoding.pop("block_size", self.checkpoint.card.block_size)
        self.decoding = changed(
            default_decoding(replace(self.checkpoint.card, block_size=size)), {"seed": seed} | decoding
        )

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each continuation, and whether the model's own greedy writing gives it.

        Greedy writing is asked for just as many tokens, with the decoding options given, at temperature 0. For an AR
        model this is the harness's meaning: every token is the likeliest after those before it.

        Raises:
            UserError: for a continuation that is empty, or too long for the context.
        """
        rows = [self._row(request) for request in requests]
        return self._gather("loglikelihood", requests, self._scores(rows), disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of each text, in windows of `max_length` tokens that do not see each other.

        Every window starts with <|endoftext|>. The figure is that of `text_likelihood`.
        """
        found = passage_likelihoods(
            self.checkpoint,
            [request.args[0] for request in requests],
            [number_of(request) for request in requests],
            window=self.max_length,
            draws=self.draws,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        answers = enumerate(-one.nats for one in found)
        return self._gather("loglikelihood_rolling", requests, answers, disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of the strings in `until`.

        `max_gen_toks` is a limit: a diffusion model fine-tuned on answers of one length gets a canvas of that length
        where it is shorter. A context too long to leave so much room loses its beginning.

        Raises:
            UserError: for generation_kwargs that the decoding has no option for, or a limit beyond the context.
        """
        asked: Counter[tuple[int, str]] = Counter()
        longest = self.checkpoint.card.answer_length
        groups: dict[Writing, list[tuple[int, Request]]] = {}
        for i, request in enumerate(requests):
            context, wishes = request.args
            decoding, until = writing_of(wishes, self.decoding, self.max_gen_toks, self.max_length, longest)
            prompt = self._prompt(context)[-(self.max_length - decoding.max_new_tokens) :]
            one = number_of(request), context
            seed = derive_seed("harness", one[0], asked[one])  # a repeated request is drawn anew
            asked[one] += 1
            groups.setdefault((decoding, until), []).append((i, Request(tuple(prompt), seed=seed)))
        return self._gather("generate_until", requests, self._texts(groups), disable_tqdm)

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation up to the assistant's turn, or, without a generation prompt, its open last turn.

        Raises:
            UserError: if the model was never taught to answer, or what is said holds the marks between turns.
        """
        if not self.checkpoint.card.answers:
            raise UserError(f"{self.checkpoint.folder} continues texts and was taught no chat: ask it without template")
        return write_chat(chat_history, answer=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The only template, for the harness's records."""
        return CHAT_TEMPLATE if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        """What prepared requests are kept under."""
        return f"nano-llada-{self.checkpoint.tokenizer.hash}"

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes down with its results."""
        exact = self.checkpoint.card.autoregressive
        return {
            "model_num_parameters": sum(weight.numel() for weight in self.checkpoint.model.parameters()),
            "checkpoint": self.checkpoint.folder.name,
            "track": self.checkpoint.card.track,
            "likelihood": "exact" if exact else f"bound, {self.draws} draws, seed {self.seed}",
            "decoding": repr(self.decoding),
            "context": self.max_length,
        }

    def _prompt(self, context: str) -> list[int]:
        """Tokens of a text's beginning, or of a conversation's, each piece encoded as in training."""
        tokenizer = self.checkpoint.tokenizer
        if turns := parse_chat(context):
            return [*encode_prompt(tokenizer, turns[:-1]), *tokenizer.encode(turns[-1].content)]
        return encode_start(tokenizer, context)

    def _row(self, request: Any) -> ScoredRow:
        """A continuation and what comes before it; a text is cut into tokens as a whole, as the harness's models do.

        Where the last token of the context is another one when the continuation follows, it is scored with it.
        """
        (context, continuation), tokenizer = request.args, self.checkpoint.tokenizer
        if parse_chat(context):
            before, after = self._prompt(context), tokenizer.encode(continuation)
        else:
            words = context.rstrip()  # white space belongs to the word behind it
            before, whole = encode_start(tokenizer, words), encode_start(tokenizer, context + continuation)
            shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))))
            before, after = whole[:shared], whole[shared:]
        if not 0 < len(after) < self.max_length:
            raise UserError(f"{continuation!r} has {len(after)} tokens, there must be 1 to {self.max_length - 1}")
        tokens = [*before, *after][-self.max_length :]
        return ScoredRow(tokens, len(tokens) - len(after), number_of(request))

    def _scores(self, rows: Sequence[ScoredRow]) -> Iterator[tuple[int, tuple[float, bool]]]:
        for names, batch in row_batches(self.checkpoint, rows, self.batch_size):
            figures = (-row_nll(self.checkpoint, batch, self.draws, self.seed).mean).tolist()
            greedy = self._greedy([rows[i] for i in names])
            yield from zip(names, zip(figures, greedy, strict=True), strict=True)

    def _greedy(self, rows: Sequence[ScoredRow]) -> list[bool]:
        """Whether each row is what the model writes from its start; one that has gone astray is left at once."""
        wanted = [list(row.tokens[row.start :]) for row in rows]
        decoding = replace(self.decoding, **GREEDY)
        sampler = make_sampler(self.checkpoint.model, self.checkpoint.tokenizer.vocab, decoding)

        def astray(number: int, tokens: Sequence[int | None]) -> bool:
            return any(token not in (None, want) for token, want in zip(tokens, wanted[number], strict=False))

        edits = isinstance(decoding, Block) and decoding.edits  # then a wrong token may yet become the right one
        requests = [
            Request(tuple(row.tokens[: row.start]), max_new_tokens=len(want))
            for row, want in zip(rows, wanted, strict=True)
        ]
        done = collect(sampler.stream(requests, None if edits else astray), len(rows), sampler.ends)
        return [one.tokens == want for one, want in zip(done, wanted, strict=True)]

    def _texts(self, groups: Mapping[Writing, Sequence[tuple[int, Request]]]) -> Iterator[tuple[int, str]]:
        tokenizer = self.checkpoint.tokenizer
        for (decoding, until), named in groups.items():
            sampler = make_sampler(self.checkpoint.model, tokenizer.vocab, decoding)
            ordered = sorted(named, key=lambda one: len(one[1].prompt))
            for first in range(0, len(ordered), self.batch_size):
                names, some = zip(*ordered[first : first + self.batch_size], strict=True)
                done = collect(sampler.stream(some, stop_at(tokenizer, until)), len(some), sampler.ends)
                yield from zip(names, (cut_at(tokenizer.decode(one.tokens), until) for one in done), strict=True)

    def _gather(self, kind: str, requests: Sequence[Any], answers: Iterable[tuple[int, T]], quiet: bool) -> list[T]:
        """Answers in the order of the requests; each is kept by the harness's cache as soon as it is there."""
        from tqdm import tqdm

        found: dict[int, T] = {}
        for i, answer in tqdm(answers, total=len(requests), desc=kind, disable=quiet):
            found[i] = answer
            self.cache_hook.add_partial(kind, requests[i].args, answer)
        return [found[i] for i in range(len(requests))]
