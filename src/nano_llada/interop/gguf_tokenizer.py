"""Tokenizers in GGUF files: byte-level BPE, cut as one of the ways that llama.cpp knows by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.core.text import printable
from nano_llada.data.tokenizer import CHAT_TEMPLATE, EOS, MASK, Tokenizer
from nano_llada.interop.foreign_tokenizer import Adopted, adopt

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_ONLY_BYTES = {**_BYTES, "use_regex": False}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _cut(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_LLAMA = _QWEN.replace(r"|\p{N}| ", r"|\p{N}{1,3}| ")
CUTS: Mapping[str, list[dict[str, Any]]] = {  # llama.cpp's name of a pre-tokenizer -> how it cuts, in order
    "gpt-2": [_BYTES],
    "smollm": [_DIGITS, _BYTES],
    "qwen2": [_cut(_QWEN), _ONLY_BYTES],
    "llama-bpe": [_cut(_LLAMA), _ONLY_BYTES],
}
ALSO: Mapping[str, str] = {"default": "gpt-2", "gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}
HAN = r"\p{Han}"  # how the patterns of our own tokenizers end: every Chinese character by itself
WHOLE_WORDS = ("llama-bpe",)  # a piece that is a token is not merged from parts


def write_tokenizer(writer: Any, tokenizer: Tokenizer, rows: int) -> list[str]:
    """Write a tokenizer for a model with an embedding of so many rows; gives what has to be said about it.

    Raises:
        UserError: for one that is not byte-level BPE.
    """
    plain = json.loads(tokenizer.to_json())
    model = plain["model"]
    if (
        model.get("type") != "BPE"
        or model.get("byte_fallback")
        or (plain.get("decoder") or {}).get("type") != "ByteLevel"
    ):
        raise UserError(
            "the tokenizer is not byte-level BPE, and llama.cpp has no other that would cut texts as it does; "
            "`export --to transformers` keeps it"
        )
    cut, remarks = _name_of(plain), []
    if cut is None:
        cut = "gpt-2"
        remarks.append(
            f"llama.cpp has no name for how this tokenizer cuts texts before merging: {_described(plain)}. It will cut "
            "as gpt-2 does, and merge some texts into other tokens. Give it token ids where that matters"
        )
    tokens, types = [f"[PAD{i}]" for i in range(rows)], [UNUSED] * rows
    for name, number in model["vocab"].items():
        tokens[number], types[number] = name, NORMAL
    for added in plain.get("added_tokens") or ():
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = model.get("merges") or ()
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    vocab = tokenizer.vocab
    writer.add_bos_token_id(vocab.turn_start)
    writer.add_eos_token_id(vocab.turn_end)
    writer.add_pad_token_id(vocab.eos)
    writer.add_mask_token_id(vocab.mask)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    return remarks


def _name_of(plain: Mapping[str, Any]) -> str | None:
    """The name under which llama.cpp knows how a tokenizer cuts texts."""
    steps = _steps(plain)
    normaliser = (plain.get("normalizer") or {}).get("type")
    whole = bool(plain["model"].get("ignore_merges"))
    for name, cuts in CUTS.items():
        if [_bare(step) for step in steps] == [_bare(step) for step in cuts] and whole == (name in WHOLE_WORDS):
            return name if normaliser in ((None, "NFC") if name == "qwen2" else (None,)) else None
    return None


def _steps(plain: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    first: Mapping[str, Any] = plain.get("pre_tokenizer") or {}
    steps: list[Mapping[str, Any]] = first.get("pretokenizers", []) if first.get("type") == "Sequence" else [first]
    return steps


def _described(plain: Mapping[str, Any]) -> str:
    """The steps of a pre-tokenizer, and what comes with it, in words."""
    told = []
    for step in _steps(plain):
        pattern = (step.get("pattern") or {}).get("Regex") if step.get("type") == "Split" else None
        if isinstance(pattern, str) and pattern.endswith(HAN):
            words = pattern.removesuffix(HAN).strip("|")
            told.append(f"at {words.count('|') + bool(words)} words of its own and at each Chinese character")
        elif isinstance(pattern, str):
            told.append(f"at the pattern {printable(pattern)[:80]}")
        else:
            told.append(printable(str(step.get("type")))[:80])
    normaliser = (plain.get("normalizer") or {}).get("type")
    return ", then ".join([*([f"the normalizer {printable(str(normaliser))[:80]}"] if normaliser else []), *told])


def _bare(step: Mapping[str, Any]) -> dict[str, Any]:
    """A pre-tokenizer without what does not change its cuts. Without a prefix space, texts begin as they are."""
    ignored = ("trim_offsets", "add_prefix_space") if step.get("type") == "ByteLevel" else ()
    return {name: value for name, value in step.items() if name not in ignored}


def read_tokenizer(metadata: Mapping[str, Any], where: str) -> Adopted:
    """The tokenizer of a GGUF file.

    Raises:
        UserError: for one that is not byte-level BPE, or is cut in a way that is not known here.
    """
    kind, named = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    name = ALSO.get(str(named), str(named))
    give = "give the folder of the tokenizer.json that the model was trained with as --tokenizer"
    if kind != "gpt2":
        raise UserError(f"{where}: its tokenizer is of the kind {ascii(kind)[:80]}, only gpt2 (BPE) is read; {give}")
    if name not in CUTS:
        raise UserError(
            f"{where}: tokenizer.ggml.pre is {ascii(named)[:80]}; texts can be cut as {', '.join(CUTS)}; {give}"
        )
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens or ())
    if not _texts(tokens) or not _texts(merges) or len(types) != len(tokens or ()):
        raise UserError(f"{where}: its tokens, their types or its merges are missing or damaged; {give}")
    normal = {t: i for i, t in enumerate(tokens or ()) if types[i] == NORMAL}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": token, **flags, "special": types[i] == CONTROL}
        for i, token in enumerate(tokens or ())
        if types[i] in (CONTROL, USER_DEFINED)
    ]
    vocabulary = normal | {item["content"]: item["id"] for item in added}
    pairs = [pair for merge in merges or () if len(pair := merge.split(" ")) == 2]
    plain = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if name == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[name]},
        "post_processor": None,
        "decoder": _BYTES,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": pairs, "ignore_merges": name in WHOLE_WORDS},
    }
    numbers = {EOS: metadata.get("tokenizer.ggml.eos_token_id"), MASK: metadata.get("tokenizer.ggml.mask_token_id")}
    roles = {mark: number for mark, number in numbers.items() if type(number) is int}
    return adopt(json.dumps(plain, ensure_ascii=False), roles, f"the tokenizer of {printable(where)}")


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
