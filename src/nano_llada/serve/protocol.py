"""The wire format: what a request may contain, and what answers look like. `docs/protocol.md` describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from nano_llada.config.checks import USUAL, Range
from nano_llada.config.decoding import RULES, DecodingOptions

MOST_STOPS = 4
GENERAL = ("max_new_tokens", "temperature", "top_p", "seed")  # decoding options that OpenAI has fields for
NEUTRAL = "Not supported: only values that change nothing are accepted."


class Body(BaseModel):
    """A request: every field is known, and has the type that it says."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


_UNUSED = Field(description=NEUTRAL)
Zero = Annotated[Literal[0] | None, _UNUSED]
Nothing = Annotated[None, _UNUSED]
NoList = Annotated[Annotated[list[Any], Field(max_length=0)] | None, _UNUSED]


# --- decoding options and frames --------------------------------------------------------------------------------------


class FrameOptions(Body):
    """How to write, and what to show of it."""

    frames: bool = False
    """The stream carries a frame for every forward pass."""
    alternatives: int = Field(0, ge=0, le=10)
    """Likeliest tokens that frames list for each place that a pass judged."""

    def decoding(self) -> dict[str, Any]:
        """The decoding options that are given, by name."""
        return self.model_dump(exclude_none=True, exclude={"frames", "alternatives"})


def unused(model: type[BaseModel], name: str) -> bool:
    """Whether a field of a request is one that is not supported."""
    field = model.model_fields.get(name)
    return field is not None and field.description == NEUTRAL


def _range_of(hint: Any) -> tuple[Any, Range]:
    """The plain type of a record's field, and its range."""
    for part in get_args(hint):
        if isinstance(part, Range):
            return get_args(hint)[0], part
        if part is not type(None) and get_args(part):
            return _range_of(part)
    (plain,) = (part for part in get_args(hint) if part is not type(None))
    return plain, USUAL


def _field_of(name: str, hint: Any) -> Any:
    """An option of `DecodingOptions` as a field: its type and its range."""
    if name == "rule":  # of one's own is a file, and no request opens one
        return Literal[RULES] | None
    plain = next((part for part in get_args(hint) if part is not type(None)), hint)
    if get_args(plain) and not any(isinstance(part, Range) for part in get_args(plain)):
        return hint  # one of some words
    kind, allowed = _range_of(hint)
    if kind not in (int, float):
        return hint
    ends: dict[str, Any] = {
        "gt" if allowed.above else "ge": allowed.low,
        "lt" if allowed.below else "le": allowed.high,
    }
    return Annotated[kind, Field(**ends)] | None


def _decoding_fields() -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(DecodingOptions, include_extras=True)
    for field in fields(DecodingOptions):
        if field.name not in GENERAL:
            yield field.name, (_field_of(field.name, hints[field.name]), None)


Diffusion: type[FrameOptions] = create_model(
    "DiffusionOptions", __base__=FrameOptions, __doc__=FrameOptions.__doc__, **dict(_decoding_fields())
)


# --- requests ---------------------------------------------------------------------------------------------------------


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]
    refusal: Nothing = None
    name: Nothing = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: NoList = None
    annotations: NoList = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Body):
    """What a stream contains."""

    include_usage: bool = False
    """A last chunk with the usage."""


class Writing(Body):
    """What every request that writes may contain."""

    model: str | None = None
    """A name from /v1/models; default: the first."""
    temperature: float | None = Field(None, ge=0, le=2)
    """0 (default): always the likeliest token."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Draw from the fewest tokens whose probabilities add up to this."""
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    """Of everything that is drawn; default: a new one, which the answer names."""
    stream: bool | None = None
    """Send the text as server-sent events while it is written."""
    stream_options: StreamOptions | None = None
    diffusion: Diffusion | None = None  # type: ignore[valid-type]
    user: str | None = None
    """Accepted, without effect."""

    @property
    def watched(self) -> FrameOptions:
        """The extension, or its defaults."""
        return self.diffusion or Diffusion.model_validate({})

    def options(self) -> dict[str, Any]:
        """The decoding options that are given, by the names of `DecodingOptions`."""
        named = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        return {name: value for name, value in named.items() if value is not None} | self.watched.decoding()

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream is to end with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


StopText = Annotated[str, Field(min_length=1, max_length=200)]
Word = Annotated[str, Field(min_length=1, max_length=200)]


class Form(Body):
    """What a text must be, beside OpenAI's response_format; see `Constraint`."""

    regex: str | None = Field(None, min_length=1, max_length=10_000)
    """A regular expression that matches the whole text."""
    template: str | None = Field(None, min_length=1, max_length=10_000)
    """A text with ___ at each gap: ___{1,20} for so many characters, ___(REGEX) for what an expression matches."""
    require: list[Word] = Field([], max_length=16)
    """Words that the text must contain."""
    ban: list[Word] = Field([], max_length=256)
    """Words that it must not contain."""


class Completing(Writing):
    """What chat and text completions have in common."""

    max_tokens: int | None = Field(None, ge=1, le=2**24)
    """The most tokens to write; default: as many as the model's training."""
    n: int | None = Field(None, ge=1, le=128)
    """How many answers."""
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    """Texts before which an answer ends."""
    constraint: Form | None = None
    """What the text must be: a pattern, a template, words."""
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    logit_bias: Annotated[Annotated[dict[str, Any], Field(max_length=0)] | None, _UNUSED] = None

    @property
    def stops(self) -> Sequence[str]:
        """All stop texts."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def length(self) -> int | None:
        """The most tokens to write, if it is given."""
        return self.max_tokens

    def form(self) -> Mapping[str, Any]:
        """The fields of the `Constraint` that the text is under; empty: none."""
        return {name: value for name, value in vars(self.constraint or Form.model_validate({})).items() if value}


class TextFormat(Body):
    """Free text."""

    type: Literal["text"]


class ObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema."""

    name: str = Field(max_length=200)
    """Without effect."""
    definition: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    """Without effect."""
    strict: bool | None = None
    """Without effect: texts always fit the schema."""


class SchemaFormat(Body):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class ChatRequest(Completing):
    """Body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**24)
    """The newer name of max_tokens."""
    logprobs: bool | None = None
    """How likely each token was; only of text written left to right."""
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """Likeliest tokens beside each; needs logprobs."""
    response_format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    """The form of the answer: text, any JSON object, or JSON of a schema."""
    tools: NoList = None
    tool_choice: Annotated[Literal["none"] | None, _UNUSED] = None
    parallel_tool_calls: Nothing = None
    functions: NoList = None
    function_call: Annotated[Literal["none"] | None, _UNUSED] = None
    store: Annotated[Literal[False] | None, _UNUSED] = None

    @property
    def length(self) -> int | None:
        """The most tokens to write, if it is given."""
        return self.max_completion_tokens or self.max_tokens

    def form(self) -> Mapping[str, Any]:
        """The fields of the `Constraint` that the answer is under; empty: none."""
        wanted = self.response_format
        if isinstance(wanted, SchemaFormat):
            return {**super().form(), "json_schema": wanted.json_schema.definition}
        return {**super().form(), **({"json_object": True} if isinstance(wanted, ObjectFormat) else {})}


class CompletionRequest(Completing):
    """Body of /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1)]
    logprobs: int | None = Field(None, ge=0, le=5)
    """How likely each token was, beside this many of the likeliest; only of text written left to right."""
    echo: Annotated[Literal[False] | None, _UNUSED] = None
    suffix: Nothing = None
    best_of: Annotated[Literal[1] | None, _UNUSED] = None

    @property
    def prompts(self) -> Sequence[str]:
        """All prompts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class InfillRequest(Writing):
    """Body of /v1/infill: `text` with ___ at each gap, or `prefix` and `suffix` of one gap."""

    text: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    gaps: list[Annotated[int, Field(ge=1, le=2**24)]] = Field([4], min_length=1, max_length=256)
    """Tokens in each gap; one number stands for all."""


class ScoreRequest(Body):
    """Body of /v1/score."""

    model: str | None = None
    prompt: str = ""
    text: str = Field(min_length=1)
    draws: int = Field(32, ge=1, le=256)
    """Monte-Carlo draws, where the likelihood is not exact."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Of the draws."""


class CheckRequest(Body):
    """Body of /v1/check."""

    text: str = Field(max_length=20_000)
    language: Literal["zh", "en"] | None = None
    """Default: Chinese if it contains a Chinese character."""


# --- answers: documentation, checked by tests -------------------------------------------------------------------------


class Answer(BaseModel):
    """An answer has these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class ErrorObject(Answer):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answer):
    """Body of every answer that is not a success."""

    error: ErrorObject


class Alternative(Answer):
    """A token that the pass considered."""

    id: int
    text: str
    probability: float = Field(ge=0, le=1.0001)


class Place(Answer):
    """A token, or a hidden place (id and text are null)."""

    id: int | None
    text: str | None
    confidence: float | None = Field(ge=0, le=1.0001)
    """The model's probability of this token in this pass; null: not judged in this pass."""
    alternatives: list[Alternative]
    """The likeliest tokens of the place in this pass, likeliest first."""


class FrameEdit(Answer):
    """`tokens[start : start + removed] = inserted`."""

    start: int = Field(ge=0)
    removed: int = Field(ge=0)
    inserted: list[Place]
    final: bool
    """What was inserted will not change any more."""


class DiffusionFrame(Answer):
    """What one forward pass did to one text."""

    index: int = Field(ge=0)
    """The choice."""
    number: int = Field(ge=0, alias="pass")
    """Forward passes so far; 0 is the hidden canvas before the first."""
    length: int = Field(ge=0)
    """Tokens after this frame, hidden ones included."""
    committed: int = Field(ge=0)
    """Tokens from the start that will not change any more."""
    edits: list[FrameEdit]
    """Applied in order."""


class CachedTokens(Answer):
    """Tokens of the prompt that were not computed again."""

    cached_tokens: int


class Usage(Answer):
    """What a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    forwards: int
    """Forward passes of the model."""
    tokens_per_pass: float
    seconds: float
    """From arrival to the last token."""


class TopToken(Answer):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopToken):
    """A token of the answer."""

    top_logprobs: list[TopToken]


class ChatLogprobs(Answer):
    """How likely the tokens of an answer were."""

    content: list[TokenLogprob]
    refusal: None


class CompletionLogprobs(Answer):
    """How likely the tokens of a text were."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AnswerMessage(Answer):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


Finish = Literal["stop", "length"]


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AnswerMessage
    finish_reason: Finish
    logprobs: ChatLogprobs | None


class TextChoice(Answer):
    """One text."""

    index: int
    text: str
    finish_reason: Finish
    logprobs: CompletionLogprobs | None


class Whole(Answer):
    """What every answer that writes has."""

    id: str
    created: int
    model: str
    seed: int
    usage: Usage


class ChatCompletion(Whole):
    """Answer of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Completion(Whole):
    """Answer of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class FilledGap(Answer):
    """The text of one gap."""

    index: int
    text: str


class Infilled(Whole):
    """Answer of /v1/infill."""

    object: Literal["infill"]
    text: str
    gaps: list[FilledGap]


class Chunk(Answer):
    """What every piece of a stream has. Fields that are not always there are absent, not null."""

    id: str
    created: int
    model: str
    seed: int = 0
    """In the last chunk."""
    usage: Usage | None = None
    """In the last chunk, where stream_options ask for it."""
    diffusion_frame: DiffusionFrame | None = None
    """Where `diffusion.frames` asks for it."""


class Delta(Answer):
    """Text that will not change; a choice's first one says who speaks."""

    role: Literal["assistant"] = "assistant"
    content: str = ""


class ChatChunkChoice(Answer):
    """A piece of one answer."""

    index: int
    delta: Delta
    finish_reason: Finish | None
    logprobs: ChatLogprobs | None


class ChatChunk(Chunk):
    """A piece of a streamed answer."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]


class TextChunkChoice(Answer):
    """A piece of one text."""

    index: int
    text: str
    finish_reason: Finish | None
    logprobs: CompletionLogprobs | None


class TextChunk(Chunk):
    """A piece of a streamed text."""

    object: Literal["text_completion"]
    choices: list[TextChunkChoice]


class GapPiece(Answer):
    """Text of a gap that will not change; in the last chunk all of it."""

    index: int
    delta: str = ""
    text: str = ""


class InfillChunk(Chunk):
    """A piece of a text whose gaps are being filled."""

    object: Literal["infill.chunk"]
    gaps: list[GapPiece]
    text: str = ""
    """The whole text, in the last chunk."""


class Score(Answer):
    """Answer of /v1/score."""

    object: Literal["score"]
    model: str
    log_likelihood: float
    exact: bool
    standard_error: float | None
    tokens: int
    bytes: int
    bits_per_byte: float


class Checked(Answer):
    """Answer of /v1/check: what the program that knows the story world says of a text."""

    object: Literal["check"]
    verdict: Literal["coherent", "contradiction", "not_understood", "no_story"]
    """`no_story`: fewer than three sentences."""
    sentence: int | None
    """The first sentence, from 1, that contradicts those before it, or is not understood."""
    kind: str | None
    """The kind of contradiction."""


class ModelDetails(Answer):
    """What a model can do."""

    kind: Literal["ar", "canvas", "block", "editing", "tri"]
    modes: list[str]
    context: int
    parameters: int
    vocabulary: int
    answers: bool
    turns: bool
    infill: bool
    check: bool
    """Whether /v1/check knows the world that its stories are about."""
    exact_likelihood: bool
    end_tokens: list[int]
    decoding: dict[str, Any]
    options: list[str]


class ModelObject(Answer):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    nano_llada: ModelDetails


class ModelList(Answer):
    """Answer of /v1/models."""

    object: Literal["list"]
    data: list[ModelObject]


class Health(Answer):
    """Answer of /health and /ready."""

    status: Literal["ok", "ready"]
