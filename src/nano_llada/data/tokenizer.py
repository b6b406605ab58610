"""Text to token ids and back: trained here, or loaded from any folder with a `tokenizer.json`."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.files import write_json, write_text
from nano_llada.core.text import printable, read_text
from nano_llada.data.hostile import checked, patterns, unheard
from nano_llada.data.pieces import LONGEST_TOKEN, PIECE, batches, broken, is_text, may_be_cut, word_cutter
from nano_llada.data.token_bytes import token_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

EOS, TURN_START, TURN_END, MASK = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"
RESERVED = tuple(f"<|reserved_{i}|>" for i in range(12))
MARKS = (EOS, TURN_START, TURN_END)
SPECIALS = (*MARKS, MASK, *RESERVED)  # ids 0 to 15; the first three are minimind's
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
LONG_WORDS = 8  # characters of a word, on average, above which a text is left to the library
REMEMBERED = 2**20  # characters of words whose ids are kept
_OURS = (KeyboardInterrupt, SystemExit, MemoryError)  # not of the tokenizers library
_ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUNDLED_TOKENIZER = _ASSETS / "tokenizer"
STORY_TOKENIZER = _ASSETS / "tokenizer-story"
NAMED = {"world": BUNDLED_TOKENIZER, "story": STORY_TOKENIZER}  # the tokenizers that come with the package

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Tokenizer:
    """A `tokenizers` tokenizer with the ids of its special tokens.

    Text is always text: a literal `<|im_end|>` in it is encoded as those characters, never as the token.
    """

    def __init__(self, backend: Backend) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        backend.add_special_tokens([name for name in (*MARKS, MASK) if backend.token_to_id(name) is not None])
        missing = [name for name in (EOS, TURN_START, TURN_END) if backend.token_to_id(name) is None]
        if missing:
            raise UserError(f"the tokenizer lacks {', '.join(missing)}; it needs {EOS}, {TURN_START} and {TURN_END}")
        if backend.token_to_id(MASK) is None:  # a tokenizer made for autoregressive models
            backend.add_special_tokens([MASK])
        self._backend = backend
        found = {name: backend.token_to_id(name) for name in SPECIALS}
        ids: dict[str, int] = {name: index for name, index in found.items() if index is not None}
        self.vocab = Vocabulary(
            size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
            mask=ids[MASK],
            eos=ids[EOS],
            turn_start=ids[TURN_START],
            turn_end=ids[TURN_END],
            reserved=tuple(ids[name] for name in RESERVED if name in ids),
        )
        plain = json.loads(backend.to_str())
        self._cuts = may_be_cut(plain)
        # a panic of the library, which a regular expression of the file's own can cause, is printed as well as raised
        self._guard: Callable[[], contextlib.AbstractContextManager[None]] = (
            unheard if any(patterns(plain)) else contextlib.nullcontext
        )
        self._cutter, self._checked = word_cutter(plain), False
        self._plain: Backend | None = None  # for words that are cut already; made when there are texts to encode
        self._words: dict[str, Sequence[int]] = {}  # ids of words that occurred
        self._held = 0  # characters of these
        for name in (*MARKS, MASK):
            if ids[name] in self.encode(name):
                raise UserError(f"the tokenizer turns the characters {name} in a text into that token; use another")
        self.hash = hashlib.sha256(backend.to_str().encode()).hexdigest()[:16]

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """From a folder that holds `tokenizer.json`, that file itself, or the name of one that comes with the package.

        Raises:
            UserError: if it cannot be read.
        """
        from tokenizers import Tokenizer as Backend

        if not folder.exists():
            folder = NAMED.get(str(folder), folder)
        path = folder / "tokenizer.json" if folder.is_dir() else folder
        if not path.is_file():
            names = "" if folder.exists() else f"; tokenizers in this package: {', '.join(NAMED)}"
            raise UserError(f"no tokenizer.json in {printable(str(folder))}{names}")
        text = read_text(path)
        try:
            with unheard():  # a panic of the library is printed, too
                tokenizer = cls(Backend.from_str(checked(text, (*MARKS, MASK))))
                tokenizer.decode(tokenizer.encode("Probe 1 一。\n"))
        except UserError:
            raise
        except BaseException as error:  # the library raises bare Exception, and a panic is not even that
            if isinstance(error, _OURS):
                raise
            raise UserError(f"{printable(str(path))} is not a tokenizer: {printable(str(error))}") from error
        return tokenizer

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and a `tokenizer_config.json` that transformers understands."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "tokenizer.json", self._backend.to_str(pretty=True))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": TURN_START,
            "eos_token": TURN_END,
            "pad_token": EOS,
            "mask_token": MASK,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        write_json(folder / "tokenizer_config.json", config)

    def to_json(self) -> str:
        """The contents of its tokenizer.json."""
        text: str = self._backend.to_str()
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. Raises UserError for what came from bytes that are not UTF-8."""
        if len(text) > PIECE:
            return self.encode_many([text])[0]
        try:
            with self._guard():
                ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        except BaseException as error:  # TypeError for lone surrogates, which stand for such bytes; panics
            if isinstance(error, _OURS):
                raise
            raise self._refused(text, error) from error
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts. Raises UserError as `encode` does.

        Texts are cut into words, each of which is encoded once and remembered, where that gives the same ids; the
        library encodes what is new on all cores.
        """
        ids: list[list[int]] = [[] for _ in texts]
        for owners, pieces in batches(texts, self._cuts):
            for owner, item in zip(owners, self._encode_pieces(pieces), strict=True):
                ids[owner] += item
        return ids

    def _encode_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        if self._cutter is None:
            return self.encode_by_library(pieces)
        cut = [self._cutter.cut(piece) for piece in pieces]
        # clauses of a language without spaces hardly ever come again: remembering them would cost more than it saves
        whole = [i for i, words in enumerate(cut) if len(pieces[i]) > LONG_WORDS * len(words)]
        for i in whole:
            cut[i] = []
        found = self._joined(cut)
        for i, ids in zip(whole, self.encode_by_library([pieces[i] for i in whole]), strict=True):
            found[i] = ids
        if not self._checked:  # against a tokenizer that joins what `word_cutter` takes to be apart
            self._checked = True
            few = next((n for n, size in enumerate(itertools.accumulate(map(len, pieces)), 1) if size > PIECE), None)
            if self.encode_by_library(pieces[:few]) != found[:few]:
                self._cutter = None
                return self.encode_by_library(pieces)
        return found

    def _joined(self, cut: Sequence[Sequence[str]]) -> list[list[int]]:
        """Ids of texts that are cut into words."""
        known, words = self._words, set(itertools.chain.from_iterable(cut))
        new = [word for word in words if word not in known]
        self._held += sum(map(len, new))
        if self._held > REMEMBERED:  # a new table: another thread may be using the old one
            new, known = list(words), {}
            self._words, self._held = known, sum(map(len, new))
        known.update(self._encode_words(new))
        return [list(itertools.chain.from_iterable(map(known.__getitem__, words))) for words in cut]

    def _encode_words(self, words: Sequence[str]) -> Iterator[tuple[str, Sequence[int]]]:
        assert self._cutter is not None
        usual = [word for word in words if self._cutter.fits(word)]
        if usual and self._plain is None:
            self._plain = type(self._backend).from_str(json.dumps(self._cutter.plain))
            self._plain.encode_special_tokens = True
        if usual:
            encoded = self._plain.encode_batch_fast(usual, add_special_tokens=False)  # type: ignore[union-attr]
            yield from zip(usual, (item.ids for item in encoded), strict=True)
        others = [word for word in words if not self._cutter.fits(word)]
        yield from zip(others, self.encode_by_library(others), strict=True)

    def encode_by_library(self, texts: Sequence[str]) -> list[list[int]]:
        """The same by the library alone, on all cores."""
        if not texts:
            return []
        try:
            with self._guard():
                encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except BaseException as error:
            if isinstance(error, _OURS):
                raise
            bad = next((text for text in texts if not is_text(text)), texts[0])
            raise self._refused(bad, error) from error
        return [item.ids for item in encoded]

    def _refused(self, text: str, error: BaseException) -> UserError:
        if isinstance(error, TypeError):
            return UserError(f"not valid UTF-8: {text[:60]!r}")
        return UserError(f"the tokenizer cannot encode {text[:60]!r}: {printable(str(error))}")

    def decode(self, ids: Sequence[int], *, specials: bool = True) -> str:
        """Text of ids; special tokens are written out, or left out. Raises UserError where the tokenizer fails."""
        try:
            with self._guard():
                text: str = self._backend.decode(list(ids), skip_special_tokens=not specials)
        except BaseException as error:
            if isinstance(error, _OURS):
                raise
            raise UserError(f"the tokenizer cannot decode its own tokens: {printable(str(error))}") from error
        return text

    def bytes_of_tokens(self) -> tuple[bytes | None, ...]:
        """By id, what each token adds to a text; None for special tokens. Raises UserError as `token_bytes` does."""
        return token_bytes(json.loads(self._backend.to_str()), self.vocab.size)

    def token(self, index: int) -> str:
        """One token as it reads by itself, e.g. for a terminal view."""
        return self.decode([index])

    def is_byte(self, index: int) -> bool:
        """Whether a token stands for a byte (`<0x0A>`), whose text depends on the bytes after it."""
        return index in self._byte_tokens

    @cached_property
    def _byte_tokens(self) -> frozenset[int]:
        return frozenset(index for token, index in self._backend.get_vocab().items() if _BYTE.fullmatch(token))


def train_bpe(texts: Iterable[str], vocab_size: int = 6400, *, chinese_words: Sequence[str] | None = None) -> Tokenizer:
    """Byte-level BPE with the special tokens first. Round trips are exact for any text.

    What has more than LONGEST_PIECE characters without a space is cut for training (not for encoding), and no token has
    more than LONGEST_TOKEN bytes, so that time and vocabulary are spent on words.

    With `chinese_words` Chinese text is cut into these words and, elsewhere, single characters, before merging:
    a word is then the same token everywhere, which very small models need to find it again.

    Raises:
        UserError: if `vocab_size` has no room for the 256 bytes and the special tokens.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    least = 256 + len(SPECIALS)
    if vocab_size < least:
        raise UserError(
            f"vocabulary too small: {vocab_size}; 256 bytes and {len(SPECIALS)} special tokens need {least}"
        )
    backend = Backend(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if chinese_words is not None:
        longest_first = sorted(set(chinese_words), key=lambda word: (-len(word), word))
        cut = pre_tokenizers.Split(Regex("|".join([*map(re.escape, longest_first), r"\p{Han}"])), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    else:
        backend.pre_tokenizer = byte_level
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=LONGEST_TOKEN,
    )
    backend.train_from_iterator(broken(texts), trainer)
    return Tokenizer(backend)


def train_characters(texts: Iterable[str]) -> Tokenizer:
    """One token for each character of the corpus; others fall back to their bytes, so round trips stay exact."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    characters = sorted({character for text in texts for character in text})
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    backend = Backend(models.BPE({token: i for i, token in enumerate(tokens)}, [], byte_fallback=True))
    backend.add_special_tokens(list(SPECIALS))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return Tokenizer(backend)
