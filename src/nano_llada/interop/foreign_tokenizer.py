"""A tokenizer of another program as one of ours: the same cuts and ids, our names for the tokens that have a role.

Text never becomes a special token here, so renaming one changes no text's ids. A tokenizer that lacks a mark gets it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.core.text import printable, read_text
from nano_llada.data.hostile import checked
from nano_llada.data.tokenizer import EOS, MARKS, MASK, TURN_END, Tokenizer

ALIASES: Mapping[str, tuple[str, ...]] = {  # our mark -> what others call it
    EOS: ("</s>", "<|end_of_text|>", "<eos>", "<|eot|>"),
    TURN_END: ("<|eot_id|>", "<|end|>", "<end_of_turn>"),
    MASK: ("<|mdm_mask|>", "<|MASK|>", "<mask>", "[MASK]"),
}


@dataclass(frozen=True)
class Adopted:
    """A tokenizer, and what had to be changed for it.

    Attributes:
        tokenizer: with our marks.
        size: one more than the largest id that the file has.
        new: ids of the marks that the file lacks, for which the model has no trained embedding.
        remarks: what was renamed or added.
    """

    tokenizer: Tokenizer
    size: int
    new: tuple[int, ...]
    remarks: tuple[str, ...]


def adopt_file(path: Path, roles: Mapping[str, int]) -> Adopted:
    """`adopt` for a tokenizer.json. Raises UserError if there is none, and as `adopt` does."""
    if not path.is_file():
        raise UserError(f"no tokenizer.json in {printable(str(path.parent))}")
    return adopt(read_text(path), roles, printable(str(path)))


def adopt(text: str, roles: Mapping[str, int], where: str) -> Adopted:
    """The tokenizer of a tokenizer.json.

    Args:
        text: of the file.
        roles: our marks -> their ids, as far as a config states them; what the tokenizer calls them does not matter.
        where: name of the file, for complaints.

    Raises:
        UserError: for a file that is not a tokenizer.
    """
    from tokenizers import Tokenizer as Backend

    try:
        plain = json.loads(checked(text, (*MARKS, MASK)))
        names = _names(plain)
        renamed = _renamed(names, roles)
        backend = Backend.from_str(json.dumps(_with_names(plain, names, renamed), ensure_ascii=False))
        before = backend.get_vocab(with_added_tokens=True)
        missing = [name for name in (*MARKS, MASK) if name not in before]
        backend.add_special_tokens(missing)
        tokenizer = Tokenizer(backend)
        tokenizer.decode(tokenizer.encode("Probe 1 一。\n"))
    except UserError:
        raise
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library raises bare Exception, and a panic is not even that
        raise UserError(f"{where} is not a tokenizer: {printable(str(error))[:200]}") from error
    remarks = [f"the tokenizer's {printable(theirs)[:80]} is called {ours} here" for ours, theirs in renamed.items()]
    if missing:
        remarks.append(
            f"the tokenizer has no {', '.join(missing)}: added; an embedding that is new starts at the mean of the rest"
        )
    now = backend.get_vocab(with_added_tokens=True)
    new = tuple(now[name] for name in missing)
    return Adopted(tokenizer, max(before.values(), default=-1) + 1, new, tuple(remarks))


def _names(plain: Mapping[str, Any]) -> dict[int, str]:
    """The token of each id, of the vocabulary and of what was added to it."""
    vocabulary = plain["model"].get("vocab")
    if isinstance(vocabulary, dict):
        found = {number: name for name, number in vocabulary.items()}
    else:  # Unigram lists pairs
        found = {number: item[0] for number, item in enumerate(vocabulary or ())}
    return found | {token["id"]: token["content"] for token in plain.get("added_tokens") or ()}


def _renamed(names: Mapping[int, str], roles: Mapping[str, int]) -> dict[str, str]:
    """Our mark -> the token that takes its role, for the marks that the tokenizer does not have by our name."""
    there, taken = set(names.values()), dict[str, str]()
    for mark in (EOS, TURN_END, MASK):
        if mark in there:
            continue
        stated = [names[roles[mark]]] if roles.get(mark) in names else []
        free = there - {*MARKS, *taken.values()}
        # a stated end may be that of a turn, where the text's own end has a usual name
        order = (*stated, *ALIASES[mark]) if mark == MASK else (*ALIASES[mark], *stated)
        found = next((name for name in order if name in free), None)
        if found is not None:
            taken[mark] = found
    return taken


def _with_names(plain: dict[str, Any], names: Mapping[int, str], renamed: Mapping[str, str]) -> dict[str, Any]:
    """The tokenizer with tokens renamed, in its vocabulary and as special added tokens."""
    if not renamed:
        return plain
    ours = {theirs: mark for mark, theirs in renamed.items()}
    vocabulary = plain["model"].get("vocab")
    if isinstance(vocabulary, dict):
        plain["model"]["vocab"] = {ours.get(name, name): number for name, number in vocabulary.items()}
    elif vocabulary:
        plain["model"]["vocab"] = [[ours.get(item[0], item[0]), *item[1:]] for item in vocabulary]
    added = [dict(token) for token in plain.get("added_tokens") or ()]
    for token in added:
        if token["content"] in ours:
            token |= {"content": ours[token["content"]], "special": True}
    listed = {token["content"] for token in added}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for number, name in names.items():
        if name in ours and ours[name] not in listed:
            added.append({"id": number, "content": ours[name], **flags})
    plain["added_tokens"] = sorted(added, key=lambda token: token["id"])
    if plain["model"].get("unk_token") in ours:
        plain["model"]["unk_token"] = ours[plain["model"]["unk_token"]]
    return plain
