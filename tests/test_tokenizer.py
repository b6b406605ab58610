"""Tokenizers: where the special tokens stand, that any text comes back as it was, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import (
    EOS,
    MASK,
    RESERVED,
    SPECIALS,
    TURN_END,
    TURN_START,
    Tokenizer,
    train_bpe,
    train_characters,
)
from nano_llada.session.run import BUNDLED_TOKENIZER
from nano_llada.world import documents, examples
from nano_llada.world.vocabulary import chinese_words

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizers"
TEXTS = ["Tom has a red ball. 汤姆有一个红色的球。世界你好，你好世界。\n", "hello world, hello there"] * 20
WORDS = ["世界", "你好", "红色", "汤姆", "红色的球"]
MAKERS = {
    "bpe": lambda: train_bpe(TEXTS, 320),
    "words": lambda: train_bpe(TEXTS, 320, chinese_words=WORDS),
    "characters": lambda: train_characters(TEXTS),
}
HARD = (
    "",
    "<0x41><0xE4>",
    "<|im_end|>",
    " <|im_start|>user\n<|mask|><|endoftext|><|reserved_3|>",
    "a\r\n\tb\r\r\n  c\n\n",
    "👩\u200d👩\u200d👧 🇬🇧 e\u0301 \u200b\ufeff\u00ad",
    "你好，world  世界 ñ Ġ Ċ ▁",
    "\x00\x7f\x1b[0m\u2028\ufffd\U0010ffff",
)


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request) -> Tokenizer:
    return MAKERS[request.param]()


def foreign(specials=(EOS, TURN_START, TURN_END)) -> Backend:
    """A tokenizer as others make them: no mask, a template, truncation and padding."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, 0)])
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    return backend


def complaint(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def there_and_back(tokenizer: Tokenizer, text: str) -> str:
    """The text of its tokens, all of which are ordinary ones."""
    ids = tokenizer.encode(text)
    vocab = tokenizer.vocab
    assert all(0 <= index < vocab.size for index in ids)
    assert not {vocab.mask, vocab.eos, vocab.turn_start, vocab.turn_end, *vocab.reserved} & set(ids)
    assert tokenizer.decode(ids, specials=False) == tokenizer.decode(ids)
    return tokenizer.decode(ids)


def test_special_tokens_come_first(tokenizer):
    vocab = tokenizer.vocab
    assert (vocab.eos, vocab.turn_start, vocab.turn_end, vocab.mask) == (0, 1, 2, 3)
    assert vocab.reserved == tuple(range(4, 16))
    assert [tokenizer.token(index) for index in range(16)] == list(SPECIALS)
    assert (EOS, TURN_START, TURN_END, MASK) == ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>")
    assert vocab.unwritable == (3, 1, *range(4, 16))
    assert vocab.ends == (2, 0)


@pytest.mark.parametrize("size", [272, 273, 300, 311])
def test_bpe_has_as_many_tokens_as_asked_for(size):
    made = train_bpe(TEXTS, size)
    assert made.vocab.size == size
    assert len({made.token(index) for index in range(16)}) == 16


def test_bpe_of_little_text_is_smaller_than_asked_for():
    assert 272 < train_bpe(["ab ab ab"] * 3, 6400).vocab.size < 280
    assert train_bpe([], 6400).vocab.size == 272


@pytest.mark.parametrize("size", [0, 16, 271])
def test_bpe_needs_room_for_bytes_and_special_tokens(size):
    message = f"vocabulary too small: {size}; 256 bytes and 16 special tokens need 272"
    assert complaint(train_bpe, TEXTS, size) == message


def test_bpe_is_the_same_every_time():
    assert train_bpe(iter(TEXTS), 300).hash == train_bpe(TEXTS, 300).hash


def is_chinese(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"


@pytest.fixture(scope="module")
def single() -> Tokenizer:
    return train_bpe(TEXTS, 400, chinese_words=[])


@pytest.fixture(scope="module")
def worded() -> Tokenizer:
    return train_bpe([*TEXTS, *["好红色好"] * 20], 400, chinese_words=WORDS)


CHINESE = st.text(alphabet="世界你好汤姆有红色的球，。 ab")


@given(text=CHINESE)
@settings(max_examples=60, deadline=None)
def test_without_words_a_chinese_character_stands_alone(single, text):
    pieces = [single.token(index) for index in single.encode(text)]
    assert all(len(piece) == 1 for piece in pieces if any(map(is_chinese, piece)))


def test_without_words_no_token_spans_two_chinese_characters(single):
    tokens = [single.token(index) for index in range(16, single.vocab.size)]
    assert not [token for token in tokens if len(token) > 1 and any(map(is_chinese, token))]
    joined = [train_bpe(TEXTS, 400).token(index) for index in range(16, 400)]
    assert [token for token in joined if sum(map(is_chinese, token)) > 1]  # which they would


def test_words_are_the_same_token_wherever_they_stand(worded):
    ids = {word: worded.encode(word) for word in WORDS}
    assert {word: len(tokens) for word, tokens in ids.items()} == dict.fromkeys(WORDS, 1)
    assert worded.encode("世界世界") == ids["世界"] * 2
    assert worded.encode("好世界，你好") == [*worded.encode("好"), *ids["世界"], *worded.encode("，"), *ids["你好"]]
    assert worded.encode("红色的球") == ids["红色的球"]  # the longest word that fits
    assert worded.encode("红色的") == [*ids["红色"], *worded.encode("的")]


@given(text=CHINESE)
@settings(max_examples=60, deadline=None)
def test_with_words_chinese_tokens_are_words_or_characters(worded, text):
    pieces = [worded.token(index) for index in worded.encode(text)]
    assert all(len(piece) == 1 or piece in WORDS for piece in pieces if any(map(is_chinese, piece)))


def test_words_are_taken_as_they_are_written():
    made = train_bpe(["世界 世. (("] * 20, 300, chinese_words=["世.", "("])
    assert [made.token(index) for index in made.encode("世界((")] == ["世", "界", "(", "("]


def test_characters_are_tokens_and_others_their_bytes():
    made = train_characters(["ba", "c好"])
    assert made.vocab.size == 16 + 256 + 4
    assert made.encode("abc好") == [272, 273, 274, 275]
    assert made.encode("é") == [16 + 0xC3, 16 + 0xA9]
    assert made.encode("你a") == [*(16 + byte for byte in "你".encode()), 272]
    assert made.decode([16 + byte for byte in "你".encode()]) == "你"
    assert made.token(275) == "好"


@pytest.mark.parametrize("text", HARD)
def test_hard_texts_come_back_as_they_were(tokenizer, text):
    assert there_and_back(tokenizer, text) == text


@given(text=st.text())
@example(text="<|im_end|>")
@example(text="<0x41>")
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_as_it_was(tokenizer, text):
    assert there_and_back(tokenizer, text) == text


@given(
    parts=st.lists(st.sampled_from([*SPECIALS, "<0x41>", "\r\n", "你", "👩\u200d👧", " ", "<|", "|>", "x"]), max_size=9)
)
@settings(max_examples=60, deadline=None)
def test_literal_special_tokens_are_text(tokenizer, parts):
    text = "".join(parts)
    assert there_and_back(tokenizer, text) == text


def test_several_texts_at_once_are_the_same_as_one_by_one(tokenizer):
    texts = [*HARD, *TEXTS[:2]]
    assert tokenizer.encode_many(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_many([]) == []


def test_special_tokens_are_written_out_or_left_out(tokenizer):
    ids = [1, *tokenizer.encode("a b"), 2, 3, 4, 0]
    assert tokenizer.decode(ids) == f"{TURN_START}a b{TURN_END}{MASK}{RESERVED[0]}{EOS}"
    assert tokenizer.decode(ids, specials=False) == "a b"


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "deep" / "er")
    back = Tokenizer.load(tmp_path / "deep" / "er")
    assert (back.hash, back.vocab) == (tokenizer.hash, tokenizer.vocab)
    assert [back.encode(text) for text in HARD] == [tokenizer.encode(text) for text in HARD]
    assert Tokenizer.load(tmp_path / "deep" / "er" / "tokenizer.json").hash == tokenizer.hash
    back.save(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "deep" / "er" / name).read_bytes()


def test_the_hash_tells_tokenizers_apart():
    made = [make() for make in MAKERS.values()]
    made += [train_bpe(TEXTS, 321), train_bpe(TEXTS[:1], 320), train_characters(TEXTS[:1])]
    assert len({one.hash for one in made}) == len(made)
    assert all(len(one.hash) == 16 for one in made)


def test_a_foreign_tokenizer_gets_a_mask_behind_its_tokens(tmp_path):
    backend = foreign()
    size = backend.get_vocab_size()
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.vocab.mask, loaded.vocab.size, loaded.vocab.reserved) == (size, size + 1, ())
    assert loaded.decode([size]) == MASK
    assert len(loaded.encode(TEXTS[0])) > 9  # neither cut, nor padded,
    assert loaded.encode("") == []  # nor with a template around it
    for text in HARD:
        assert there_and_back(loaded, text) == text
    loaded.save(tmp_path / "ours")
    assert Tokenizer.load(tmp_path / "ours").vocab == loaded.vocab
    assert Tokenizer.load(tmp_path / "ours").hash == loaded.hash == Tokenizer.load(tmp_path).hash


def test_a_foreign_mask_is_kept_where_it_is(tmp_path):
    foreign((MASK, TURN_END, EOS, TURN_START)).save(str(tmp_path / "tokenizer.json"))
    vocab = Tokenizer.load(tmp_path).vocab
    assert (vocab.mask, vocab.turn_end, vocab.eos, vocab.turn_start, vocab.size) == (0, 1, 2, 3, 280)


def test_folders_without_a_usable_tokenizer(tmp_path):
    assert complaint(Tokenizer.load, tmp_path) == f"no tokenizer.json in {tmp_path}"
    assert complaint(Tokenizer.load, tmp_path / "gone") == (
        f"no tokenizer.json in {tmp_path / 'gone'}; tokenizers in this package: world, story"
    )
    path = tmp_path / "tokenizer.json"
    foreign((EOS, "<s>")).save(str(path))
    needs = f"it needs {EOS}, {TURN_START} and {TURN_END}"
    assert complaint(Tokenizer.load, tmp_path) == f"the tokenizer lacks {TURN_START}, {TURN_END}; {needs}"
    for broken in (b"{", b"", b"[]", b'{"model": {"type": "BPE"}}', b"[" * 100_000):
        path.write_bytes(broken)
        assert complaint(Tokenizer.load, tmp_path).startswith(f"{path} is not a tokenizer: ")
    path.write_bytes(b"{\n\xff")
    assert complaint(Tokenizer.load, tmp_path) == f"{path}:2: not valid UTF-8; save the file as UTF-8"


def test_the_settings_beside_a_tokenizer_name_its_special_tokens(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = {"bos_token": TURN_START, "eos_token": TURN_END, "pad_token": EOS, "mask_token": MASK}
    assert names.items() <= config.items()
    assert "add_generation_prompt" in config["chat_template"]


@pytest.fixture(scope="module")
def bundled() -> Tokenizer:
    return Tokenizer.load(BUNDLED_TOKENIZER)


def test_the_bundled_tokenizer_covers_the_small_world(bundled):
    vocab = bundled.vocab
    assert (vocab.eos, vocab.turn_start, vocab.turn_end, vocab.mask) == (0, 1, 2, 3)
    assert vocab.reserved == tuple(range(4, 16))
    prompts = [item.prompt for item in examples("recall", "test", 50, 0)]
    assert sum(len(bundled.encode(prompt)) for prompt in prompts) / len(prompts) < 30
    texts = [str(row["text"]) for row in documents("test", 100, 0)]
    for text in prompts + texts:
        assert there_and_back(bundled, text) == text
        assert len(bundled.encode(text)) <= len(text)
        assert "\ufffd" not in "".join(map(bundled.token, bundled.encode(text)))  # no character in pieces


def test_the_bundled_tokenizer_keeps_chinese_words_whole(bundled):
    assert {word: len(bundled.encode(word)) for word in chinese_words()} == dict.fromkeys(chinese_words(), 1)


@pytest.mark.parametrize("text", HARD)
def test_the_bundled_tokenizer_takes_any_text(bundled, text):
    assert there_and_back(bundled, text) == text


@pytest.mark.shared
@pytest.mark.parametrize("name", ["nano-llada", "minimind-3"])
def test_shared_tokenizers(name, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"there is no folder shared/data/tokenizers/{name} beside the checkout")
    loaded = Tokenizer.load(SHARED / name)
    vocab = loaded.vocab
    assert (vocab.eos, vocab.turn_start, vocab.turn_end) == (0, 1, 2)
    assert (vocab.mask, vocab.size, vocab.reserved) == (6400, 6401, ())
    for text in (*HARD, *TEXTS[:2]):
        assert there_and_back(loaded, text) == text
    loaded.save(tmp_path)
    assert (Tokenizer.load(tmp_path).hash, Tokenizer.load(tmp_path).vocab) == (loaded.hash, vocab)
