"""How a trained model writes text: one record per kind of decoding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from nano_llada.config.card import Decode, ModelCard, Predicts
from nano_llada.config.checks import (
    BelowOne,
    Count,
    CountOrZero,
    NotNegative,
    PositiveShare,
    Range,
    Rows,
    Seed,
    Share,
    Tokens,
    TokensOrZero,
)
from nano_llada.config.kinds import check_values
from nano_llada.core.errors import UserError
from nano_llada.core.own import name_of
from nano_llada.core.words import did_you_mean

if TYPE_CHECKING:
    Named = str | type  # what Python code may hand over; a record keeps the name
    Schema = str | Mapping[str, Any] | bool  # a record keeps the text
else:
    Named = Schema = str

Temperature = Annotated[float, Range(0, 1e6)]
Strategy = Literal["low_confidence", "random", "margin", "entropy"]
Penalty = Annotated[float, Range(0, 1e6, above=True)]

RULES = ("entropy_bound", "factor")


@dataclass(frozen=True)
class EngineOptions:
    """How many requests an engine writes at once, and within which memory.

    Raises:
        ValueError: for a number outside its range.
    """

    max_rows: Rows = 16
    """Most requests that are written at once."""
    budget: Count | None = None
    """Most tokens whose keys and values the cache has room for: its rows times the longest request. None: as many as
    the requests need."""
    prefill_chunk: Count | None = 512
    """Most prompt tokens that are read in a pass, beside the requests that are being written; None: all."""
    max_waiting: CountOrZero | None = None
    """Most requests that wait for room; more are refused. None: any number."""
    keep_prefixes: bool = True
    """Keep the keys and values of finished requests for requests that begin alike, such as the next turn of a
    conversation, while nothing else needs their room."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class _Common:
    max_new_tokens: Tokens = 128
    """Maximum number of tokens to write."""
    temperature: Temperature = 0.0
    """0 always takes the most likely token; above 0, tokens are drawn, the more evenly the higher."""
    top_k: CountOrZero = 0
    """Draw from the k most likely tokens only; 0: off."""
    top_p: PositiveShare = 1.0
    """Draw from the fewest tokens whose probabilities add up to this; 1: off."""
    min_p: BelowOne = 0.0
    """Drop tokens less likely than this share of the most likely one; 0: off."""
    repetition_penalty: Penalty = 1.0
    """Above 1, tokens that are already in the text become less likely; 1: off."""
    min_new_tokens: TokensOrZero = 0
    """Minimum number of tokens before the text may end."""
    seed: Seed = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens must be from 0 to max_new_tokens {self.max_new_tokens}, got {self.min_new_tokens}"
            )
        if self.temperature == 0 and (self.top_k or self.top_p < 1 or self.min_p):
            raise ValueError("top_k, top_p and min_p only matter when tokens are drawn: set a temperature above 0")


@dataclass(frozen=True)
class Autoregressive(_Common):
    """Left to right, one token per forward pass, with a cache of keys and values."""


Drafts = Annotated[int, Range(0, 32)]


@dataclass(frozen=True)
class Speculative(Autoregressive):
    """As autoregressive, the same texts in fewer passes: a pass verifies drafts that the one before made with masks.

    For models of track `both`. Greedy texts equal those of `Autoregressive`; drawn ones have its distribution.
    """

    drafts: Drafts = 2
    """Tokens drafted in a pass. A pass over k drafts computes (k + 1)^2 positions; 0: none, one token per pass."""
    predicts: Predicts = "next"
    """Which token an output for a mask predicts, as the model was trained."""


@dataclass(frozen=True)
class Diffusion(_Common):
    """A canvas of masks that is filled in over several forward passes (LLaDA)."""

    strategy: Strategy = "low_confidence"
    """Which masked positions to unmask first: where the chosen token is most probable, where its margin over the second
    is largest, where the entropy is lowest, or at random."""
    steps: Tokens | None = None
    """Forward passes for the whole canvas; default: one per token. Not together with `threshold`."""
    threshold: Share | None = None
    """Unmask every position whose chosen token is more probable than this, and at least one; instead of `steps`."""
    block_length: Tokens | None = None
    """Fill the canvas in blocks of this many positions, left to right; default: all at once."""
    certainty: Literal["chosen", "likeliest"] = "chosen"
    """When tokens are drawn: the confidence of a position is the probability of the drawn token (`chosen`), which
    writes unlikely draws late or never, or that of the most likely token (`likeliest`), which keeps the variety."""
    cache: Literal["none", "prefix", "dual"] = "none"
    """Approximate caches of Fast-dLLM, with block_length: keys and values of the text before the block (`prefix`), or
    of everything outside it (`dual`), are computed when a block begins and reused until it is full. The tokens may
    differ; `none` is exact."""
    guidance: NotNegative = 0.0
    """Classifier-free guidance against the prompt replaced by masks (LLaDA, eq. 16); doubles the cost; 0: off."""
    end_confidence: Share = 1.0
    """Factor on the confidence of end tokens, so that a text does not end before it is written; 1: off."""
    rule: Named | None = None
    """How masked positions are chosen, instead of by `strategy`, `steps` or `threshold`: `entropy_bound`
    (arXiv 2505.24857), `factor` (arXiv 2505.22618), or FILE.py:NAME, a class of your own (in Python: the class)."""
    rule_bound: NotNegative | None = None
    """The bound of `entropy_bound`, in nats, or of `factor`: higher writes more positions per pass."""
    remask: Share = 0.0
    """Mask written positions again, to write them with more in view (ReMDM, arXiv 2503.00307): this share of the most
    that the noise schedule allows in each pass; the least confident ones, or with strategy random any. 0: never."""
    predicts: Predicts = "self"
    """Which token an output predicts, as the model was trained."""

    def __post_init__(self) -> None:
        _name_rule(self)
        super().__post_init__()
        _check_rule(self)
        if self.remask and (self.rule is not None or self.threshold is not None):
            raise ValueError("remask follows a plan of passes: use steps, not a rule or a threshold")
        if self.rule is not None and (self.threshold is not None or self.strategy != "low_confidence"):
            raise ValueError(f"rule {self.rule} chooses positions itself: leave out threshold and strategy")
        if self.rule in RULES and self.steps is not None:
            raise ValueError(f"rule {self.rule} decides how many positions a pass writes: leave out steps")
        if self.steps is not None and self.threshold is not None:
            raise ValueError("steps fixes how many tokens a pass writes, threshold leaves it open: give one of them")
        if self.threshold is not None and self.strategy != "low_confidence":
            raise ValueError(
                f"threshold compares probabilities, so it needs strategy low_confidence, not {self.strategy}"
            )
        self._check_cache()
        if self.end_confidence < 1 and self.strategy == "random":
            raise ValueError("end_confidence has no effect with strategy random, which uses no confidence")

    def _check_cache(self) -> None:
        if self.certainty == "likeliest" and self.strategy != "low_confidence":
            raise ValueError(f"certainty 'likeliest' needs strategy low_confidence, not {self.strategy}")
        if self.cache != "none" and self.block_length is None:
            raise ValueError(f"cache {self.cache!r} keeps what is outside a block: give a block_length")
        if self.cache != "none" and self.guidance:
            raise ValueError("cache cannot be combined with guidance, whose second pass sees another prompt")


@dataclass(frozen=True)
class Block(_Common):
    """Block after block, left to right, each from masks; finished blocks are cached exactly (LLaDA 2.0)."""

    block_size: Tokens = 32
    """Tokens in a block, counted from the start of the text: best the size the model was trained with."""
    threshold: Share = 0.95
    """Unmask every position of the block whose chosen token is more probable than this, and at least one."""
    edit_threshold: Share | None = None
    """Change a written token when another one is more probable than this (LLaDA 2.1); None: never."""
    max_post_steps: Annotated[int, Range(1, 2**24)] = 16
    """Maximum number of passes that only edit, once a block is full; a pass that changes nothing is the last."""
    reread_threshold: Share = 1.0
    """Check a full block again only if the last pass found one of its tokens no more probable than this; 1: always, as
    LLaDA 2.1 does. Below 1, passes that would only confirm the block are saved."""
    edit_blocks: CountOrZero = 0
    """Finished blocks before the current one that may still be edited when a block is opened (multi-block editing)."""
    certainty: Literal["chosen", "likeliest"] = "chosen"
    """When tokens are drawn: the confidence of a position is the probability of the drawn token (`chosen`), which
    writes unlikely draws late or never, or that of the most likely token (`likeliest`), which keeps the variety."""
    cached: bool = True
    """Keep keys and values of finished blocks; off: compute them in every pass, which writes the same text."""
    rule: Named | None = None
    """How masked positions are chosen, instead of by `threshold`: `entropy_bound`
    (arXiv 2505.24857), `factor` (arXiv 2505.22618), or FILE.py:NAME, a class of your own (in Python: the class)."""
    rule_bound: NotNegative | None = None
    """The bound of `entropy_bound`, in nats, or of `factor`: higher writes more positions per pass."""
    predicts: Predicts = "self"
    """Which token an output predicts, as the model was trained."""
    causal: bool = False
    """Whether finished text is read left to right, as models of track `both` are trained: blocks then begin behind the
    prompt, wherever that ends. Otherwise a token of finished text sees its whole block."""

    def __post_init__(self) -> None:
        _name_rule(self)
        super().__post_init__()
        _check_rule(self)
        if self.causal and self.edit_blocks:
            raise ValueError("edit_blocks reads finished text in blocks, which this model reads left to right")
        if self.reread_threshold < 1 and not self.edits:
            raise ValueError("reread_threshold has no effect without an edit_threshold below 1")
        if self.reread_threshold < 1 and self.temperature and self.certainty == "likeliest":
            raise ValueError(
                "reread_threshold compares probabilities of drawn tokens, which certainty 'likeliest' does not measure"
            )
        if self.edits and self.repetition_penalty != 1.0:
            raise ValueError(
                "repetition_penalty makes every written token less likely, so it cannot be used with editing"
            )
        if self.edit_blocks and not self.edits:
            raise ValueError(f"edit_blocks {self.edit_blocks} has no effect without an edit_threshold below 1")

    @property
    def edits(self) -> bool:
        """Whether a written token can change: no probability is above 1."""
        return self.edit_threshold is not None and self.edit_threshold < 1


def _name_rule(record: Diffusion | Block | DecodingOptions) -> None:
    """A rule that is given as a class, as Python code may, is kept by its name."""
    if isinstance(record.rule, type):
        object.__setattr__(record, "rule", name_of(record.rule))


def _check_rule(record: Diffusion | Block) -> None:
    """A rule that exists, and its bound where it has one."""
    rule = None if record.rule is None else str(record.rule)
    if rule is not None and rule not in RULES and ":" not in rule:
        near = did_you_mean(rule, RULES)
        raise ValueError(f"unknown rule {rule!r}: use {', '.join(RULES)}, or FILE.py:NAME{near}")
    if rule in RULES and record.rule_bound is None:
        raise ValueError(f"rule {rule} needs a rule_bound")
    if rule is None and record.rule_bound is not None:
        raise ValueError("rule_bound has no effect without a rule")


# LLaDA 2.1: quality and speed, as (threshold, edit_threshold)
MODES = {"q": (0.7, 0.5), "s": (0.5, 0.0)}

Decoding = Autoregressive | Speculative | Diffusion | Block


@dataclass(frozen=True)
class Constraint:
    """What a written text must be. Everything that is given holds at once, for every kind of decoding.

    Raises:
        ValueError: if nothing is given, for an empty word, or a schema that is not JSON.
    """

    json_object: bool = False
    """A JSON object, at most three objects and lists inside one another."""
    json_schema: Schema | None = None
    """JSON that fits this schema: its text (in Python also as a dictionary). Properties come in the order of the
    schema, and no others."""
    regex: str | None = None
    """A text that this regular expression matches as a whole."""
    template: str | None = None
    """A text with ___ at each gap: ___{1,20} for so many characters, ___(REGEX) for what an expression matches."""
    require: tuple[str, ...] = ()
    """Words that the text must contain, also as parts of longer words."""
    ban: tuple[str, ...] = ()
    """Words that the text must not contain, not even as parts of longer words."""

    def __post_init__(self) -> None:
        for name in ("require", "ban"):
            if isinstance(words := getattr(self, name), str):
                object.__setattr__(self, name, (words,))
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", _schema_text(self.json_schema))
        check_values(self)
        if "" in (*self.require, *self.ban):
            raise ValueError("a required or banned word is empty: every text contains it")
        if all(value in (None, False, ()) for value in vars(self).values()):
            raise ValueError("a constraint needs a form (json_object, json_schema, regex, template) or words")


def _schema_text(schema: Schema) -> str:
    """A schema as compact text, its keys in their order."""
    try:
        plain = json.loads(schema) if isinstance(schema, str) else schema
        return json.dumps(plain, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"json_schema is not JSON: {error}") from error


@dataclass(frozen=True)
class DecodingOptions:
    """How to write text; what is not given is the default of the model's kind of decoding.

    Raises:
        ValueError: for a number outside its range.
    """

    max_new_tokens: Tokens | None = None
    """Maximum number of tokens to write; default: the answer length of the model's training, else 128 (chat and compare
    64, eval 24)."""
    temperature: Temperature | None = None
    """0 (default) always takes the most likely token; above 0, tokens are drawn."""
    top_k: CountOrZero | None = None
    """Draw from the k most likely tokens only; default 0, off."""
    top_p: PositiveShare | None = None
    """Draw from the fewest tokens whose probabilities add up to this; default 1, off."""
    min_p: BelowOne | None = None
    """Drop tokens less likely than this share of the most likely one; default 0, off."""
    repetition_penalty: Penalty | None = None
    """Above 1, tokens that are already in the text become less likely; default 1, off."""
    min_new_tokens: TokensOrZero | None = None
    """Minimum number of tokens before the text may end; default 0."""
    seed: Seed | None = None
    """Seed of everything that is drawn; default 0."""
    decode: Decode | None = None
    """How to decode a model of track `both`: `ar`, `speculative` (the same text in fewer passes), or in `block`s;
    default: as its card says, else speculative."""
    drafts: Drafts | None = None
    """Speculative: tokens drafted in a pass; default: as the model's card says, else 2."""
    strategy: Strategy | None = None
    """Which positions to unmask first; default low_confidence."""
    steps: Tokens | None = None
    """Forward passes for the whole canvas; default: one per token."""
    threshold: Share | None = None
    """Unmask all positions more confident than this in a pass, and at least one; instead of `steps`."""
    block_length: Tokens | None = None
    """Fill the canvas in blocks of this many tokens, left to right; default: all at once."""
    block_size: Tokens | None = None
    """Decode in blocks of this many tokens, with an exact cache; default: as the model was trained."""
    edit_threshold: Share | None = None
    """Change a written token when another one is more probable than this; default: never."""
    preset: Literal["q", "s"] | None = None
    """Models that edit: q for quality (threshold 0.7, edit_threshold 0.5), s for speed (0.5 and 0)."""
    max_post_steps: Annotated[int, Range(1, 2**24)] | None = None
    """Maximum number of passes that only edit a full block; default 16."""
    reread_threshold: Share | None = None
    """Models that edit: check a full block again only if the last pass found one of its tokens no more probable than
    this; default 1: always."""
    edit_blocks: CountOrZero | None = None
    """Finished blocks that may still be edited; default 0."""
    cache: Literal["none", "prefix", "dual"] | None = None
    """With block_length: an approximate cache; default none."""
    guidance: NotNegative | None = None
    """Weight of classifier-free guidance; default 0, off."""
    end_confidence: Share | None = None
    """Factor on the confidence of end tokens; default 1, off."""
    remask: Share | None = None
    """Share of the positions that may be masked again in a pass (ReMDM); default 0, never."""
    rule: Named | None = None
    """How masked positions are chosen: entropy_bound, factor, or FILE.py:NAME, a class of your own; default: by the
    options above."""
    rule_bound: NotNegative | None = None
    """The bound of rule entropy_bound (nats) or factor."""

    def __post_init__(self) -> None:
        _name_rule(self)
        check_values(self)


CHOICES = {
    "strategy": get_args(Strategy),
    "cache": ("none", "prefix", "dual"),
    "preset": ("q", "s"),
    "decode": get_args(Decode),
}


def decoding_for(card: ModelCard, options: DecodingOptions, default_length: int | None = None) -> Decoding:
    """How a model decodes: the only place that decides how many tokens it writes, and in which blocks.

    What the user gives comes first, then the model's card: `answer_length` (a diffusion model fine-tuned on answers
    filled to this length has not learnt a longer canvas) and `block_size`. Then `default_length`, then the default of
    the kind of decoding.

    Raises:
        UserError: for options that this model does not have, or values that contradict each other.
    """
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name, choices in CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            near = did_you_mean(str(given[name]), choices)
            raise UserError(f"{name} {given[name]!r} is not one of {', '.join(choices)}{near}")
    cls = _class_for(card, given.pop("decode", None), in_blocks="block_size" in given)
    if cls is Block and "preset" in given:
        threshold, edit_threshold = MODES[given.pop("preset")]
        given = {"threshold": threshold, "edit_threshold": edit_threshold} | given
    if foreign := sorted(set(given) - {field.name for field in fields(cls)}):
        raise UserError(f"{', '.join(foreign)}: {_foreign(card, cls)}")
    if length := card.answer_length or default_length:
        given.setdefault("max_new_tokens", length)
    try:
        return cls(**{**_trained(card, cls), **given})
    except ValueError as error:
        raise UserError(str(error)) from error


def _class_for(card: ModelCard, asked: Decode | None, *, in_blocks: bool) -> type[Decoding]:
    """The kind of decoding that was asked for, or the model's usual one. Raises UserError if it does not have it."""
    if asked is None:
        return decoding_class(card, in_blocks=in_blocks or card.block_size is not None)
    if asked not in card.decodes and not (asked == "block" and in_blocks and card.denoising):
        known = ", ".join(card.decodes) or "none of these: it fills a canvas of masks"
        raise UserError(f"decode {asked}: a model of track {card.track} was not trained for it; this one has {known}")
    return WAYS[asked]


def _trained(card: ModelCard, cls: type[Decoding]) -> dict[str, Any]:
    """What a model's training decides about a kind of decoding."""
    values = {"block_size": card.block_size, "predicts": card.predicts, "causal": card.autoregressive}
    values["drafts"] = card.drafts
    known = {field.name for field in fields(cls)}
    return {name: value for name, value in values.items() if name in known and value is not None}


def _foreign(card: ModelCard, cls: type[Decoding]) -> str:
    """Why a kind of decoding lacks options that others have."""
    if card.track == "both":
        other = "ar or decode speculative" if cls is Block else "block"
        return f"not for this way of decoding; see decode ({', '.join(card.decodes)}), such as decode {other}"
    return _FOREIGN[cls]


WAYS: Mapping[Decode, type[Decoding]] = {"ar": Autoregressive, "block": Block, "speculative": Speculative}

_FOREIGN: Mapping[type, str] = {
    Autoregressive: "for diffusion models only; this model is autoregressive",
    Block: "not for decoding in blocks (this model was trained in blocks, or a block_size was given)",
    Diffusion: "only for decoding in blocks; give a block_size",
}


def decoding_class(card: ModelCard, *, in_blocks: bool) -> type[Decoding]:
    """The kind of decoding that a model uses."""
    if card.autoregressive:
        return WAYS[card.decodes[0]]
    return Block if in_blocks else Diffusion


def shared_length(cards: Iterable[ModelCard]) -> int | None:
    """The longest answer that any of several models was trained on, so that all may write as much; None: unknown."""
    return max((card.answer_length for card in cards if card.answer_length), default=None)


def default_decoding(card: ModelCard, max_new_tokens: int = 64) -> Decoding:
    """Greedy decoding, in blocks where the model was trained in blocks."""
    cls = decoding_class(card, in_blocks=card.block_size is not None)
    return cls(max_new_tokens=max_new_tokens, **_trained(card, cls))
