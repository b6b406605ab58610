"""Texts that must have a form: languages against `re`, `json` and `jsonschema`, the search against brute force, and
every kind of decoding under every kind of constraint.

The long form, with 1,000 schemas and 300 patterns, is `python -m benchmarks.structured validity`.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.structured import constraint_of, random_regex
from examples import structured

from nano_llada import Constraint, load
from nano_llada.config.decoding import Autoregressive, Block, Diffusion, EngineOptions, Speculative
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import BUNDLED_TOKENIZER, Tokenizer, train_characters
from nano_llada.decode.constraint.automaton import DEAD, ByteAutomaton, automaton
from nano_llada.decode.constraint.compile import KEPT, Compiler
from nano_llada.decode.constraint.expression import ANY, TEXT, others, ranges, utf8
from nano_llada.decode.constraint.guide import Guide
from nano_llada.decode.constraint.regex import read_regex, read_template
from nano_llada.decode.constraint.schema import json_object, read_schema
from nano_llada.decode.constraint.tokens import token_automaton
from nano_llada.decode.engine import BatchSampler, Engine
from nano_llada.decode.types import Request, collect, gather
from tiny import family, run_cli

# every byte, some words, and tokens that begin or end within a character
WORDS = (
    '": ',
    '", "',
    '{"',
    '"}',
    '":',
    "true",
    "null",
    "ab",
    "name",
    "汤",
    "12",
    "-1",
    "[]",
    'a"',
    ", ",
    "\\n",
    "0.",
    "xx",
)
PIECES = (
    [None] * 6 + [bytes([i]) for i in range(256)] + [w.encode() for w in WORDS] + [b"\xe6\xb1", b"\xb1\xa4", b"a\xe6"]
)
VOCAB = Vocabulary(size=len(PIECES), mask=0, eos=1, turn_start=2, turn_end=3, reserved=(4, 5))
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "年": {"type": "integer", "minimum": -5, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["红", "blue", None]}, "maxItems": 2},
    },
    "required": ["name", "年"],
}
ROOM = 24
DECODINGS = {
    "ar": Autoregressive(),
    "ar-drawn": Autoregressive(temperature=1.0, top_k=5, repetition_penalty=1.2),
    "speculative": Speculative(drafts=2),
    "speculative-drawn": Speculative(drafts=3, temperature=1.0, top_k=5, predicts="self"),
    "block": Block(block_size=8, threshold=0.4),
    "block-drawn": Block(block_size=5, threshold=0.4, temperature=0.8, top_p=0.9, certainty="likeliest"),
    "editing": Block(block_size=8, threshold=0.3, edit_threshold=0.2, edit_blocks=1, max_post_steps=4),
    "canvas": Diffusion(threshold=0.4),
    "canvas-blocks": Diffusion(steps=9, block_length=7, cache="dual", end_confidence=0.5),
    "canvas-drawn": Diffusion(strategy="random", steps=12, temperature=1.0, min_p=0.1),
    "margin": Diffusion(strategy="margin", steps=8, guidance=0.5),
    "rule": Diffusion(rule="entropy_bound", rule_bound=0.5),
}
each_decoding = pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler(PIECES, VOCAB.ends)


@pytest.fixture(scope="module")
def sure(make_model):
    """A random model of this vocabulary that is sure of some tokens."""
    return make_model(seed=3, peak=16.0, vocab_size=VOCAB.size)


def text_of(tokens) -> str:
    return b"".join(PIECES[token] or b"<special>" for token in tokens).decode()


def written(model, decoding, requests):
    sampler = BatchSampler(model, VOCAB, decoding)
    return collect(sampler.stream(requests), len(requests), sampler.ends)


def refusal(make) -> str:
    with pytest.raises(UserError) as error:
        make()
    return str(error.value)


# --- languages --------------------------------------------------------------------------------------------------------


def test_utf8_of_any_characters_is_exactly_theirs():
    machine = automaton(TEXT)
    assert all(machine.accepts(chr(c).encode()) for c in (*range(0, 0xD800, 61), *range(0xE000, 0x110000, 997)))
    broken = (b"\xed\xa0\x80", b"\xc0\x80", b"\xe6\xb1", b"\x80", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80")
    assert not any(machine.accepts(text) for text in broken)
    some = ranges([(0x41, 0x7FF), (0xFFF0, 0x10FFF)])
    one = automaton(read_regex(f"[{chr(0x41)}-{chr(0x7FF)}{chr(0xFFF0)}-{chr(0x10FFF)}]"))
    for c in (0x40, 0x41, 0x7F, 0x80, 0x7FF, 0x800, 0xFFEF, 0xFFF0, 0xFFFF, 0x10000, 0x10FFF, 0x11000):
        assert one.accepts(chr(c).encode()) == any(low <= c <= high for low, high in some)
    assert others(others(some)) == some
    assert sum(np.prod([high - low + 1 for low, high in part]) for part in utf8(ANY.ranges)) == 0x110000 - 0x800


def test_patterns_mean_what_they_mean_in_python():
    written_by_hand = [
        r"a|ab", "汤.姆", r"[^a-c]{2,3}b?", r"\d{2}-\w+\s?", r"[\]a\-]{1,3}", r"a{,2}b", r"^x(?:y|z)$", r"[]a]+", r"\\",
        r"\x41\u6c64.", r"a{x}", r"(?P<n>ab)?c", r"", r"a||b", r"[^\n\d]+", r"\.\*\$", r"(a{2}){2}", r"[a-]b",
    ]  # fmt: skip
    rng = random.Random(0)
    alphabet, matches = "abcxyz019-]\n.汤姆*$\\ A", 0
    for pattern in [*written_by_hand, *(random_regex(rng) for _ in range(40))]:
        machine, judge = automaton(read_regex(pattern)), re.compile(pattern, re.ASCII)
        for _ in range(300):
            text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 4)))
            assert machine.accepts(text.encode()) == bool(judge.fullmatch(text)), (pattern, text)
            matches += bool(judge.fullmatch(text))
    assert matches > 500


def test_what_an_automaton_cannot_do_is_refused_by_name_and_place(monkeypatch):
    monkeypatch.setattr("nano_llada.decode.constraint.automaton.MOST_STATES", 2000)  # a tenth, so that it is quick
    monkeypatch.setattr("nano_llada.decode.constraint.automaton.MOST_WORK", 200_000)
    wrong = {
        "(?=a)": "look-ahead", "(?<=a)b": "look-behind", r"\bx": "word boundary", r"(a)\1": "back reference",
        "(?i)a": "(?i", "a++": "possessive", "(a": "parenthesis is missing", "a)": "too many",
        "*a": "nothing to repeat",
        "[z-a]": "wrong order", "a^b": "whole text must match", r"\ud800": "hexadecimal", "[abc": "too early",
        "a{3,2}": "wrong order", "a{99999}": "repetitions", r"\p{L}": "Unicode property", "\\": "too early",
        ".{0,300}": "more than 2000 states", "(a{0,40}){0,40}": "too many ways", "(" * 200: "groups",
    }  # fmt: skip
    for pattern, problem in wrong.items():
        assert problem in refusal(lambda pattern=pattern: automaton(read_regex(pattern)))
    assert "no gap" in refusal(lambda: read_template("nothing to fill"))


def test_a_template_keeps_its_spans_and_bounds_its_gaps():
    machine = automaton(read_template("姓名: ___{1,3}, age ___([0-9]{1,3}(a|b)). ___"))
    good = ("姓名: Tom, age 12a. x", "姓名: 汤姆, age 1b. x汤 and more")
    bad = ("姓名: Tomm, age 12a. x", "姓名: Tom, age 12. x", "姓名: Tom, age 12a. ", "姓名: T\nm, age 1a. x")
    assert all(machine.accepts(text.encode()) for text in good)
    assert not any(machine.accepts(text.encode()) for text in bad)


def test_schemas_accept_what_fits_and_refuse_by_name():
    machine = automaton(read_schema(json.dumps(SCHEMA)))
    good = [
        '{"name":"a","年":1}',
        '{"name": "a\\n", "年": -5, "tags": ["红","blue"]}',
        '{"name":"","年":130, "tags":[]}',
    ]
    bad = ['{"name":"a"}', '{"name":"a","年":131}', '{"name":"a","年":1,"tags":["red"]}', '{"年":1,"name":"a"}', "{}"]
    assert all(machine.accepts(text.encode()) for text in good)
    assert not any(machine.accepts(text.encode()) for text in bad)
    many = {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(12)}}
    machine = automaton(read_schema(json.dumps(many)))
    for chosen in ((), (0,), (3, 7), (11,), tuple(range(12))):
        assert machine.accepts(json.dumps({f"p{i}": None for i in chosen}).encode())
    anything = automaton(json_object())
    assert anything.accepts(b'{"a": {"b": [1,2.5e-3,"x"]}}')
    assert not anything.accepts(b'{"a":{"b":{"c":{}}}}')
    wrong = [
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, "$ref '#' leads back to itself"),
        ({"not": {}}, "'not'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "integer", "multipleOf": 2}, "'multipleOf'"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"), ({"type": "strin"}, "'strin'"),
        ({"$ref": "http://x"}, "leads out"), ({"$ref": "#/$defs/q"}, "#/$defs/q"), ({"format": "email"}, "'email'"),
        ({"type": "object", "required": ["a"]}, "'a' is not among"),
        ({"type": "number", "exclusiveMinimum": 0}, "here"),
        ({"properties": {"a": {"patternProperties": {}}}}, "#/properties/a"),
        ({"type": "string", "maxLength": -1}, "-1"),
        ({"allOf": [{}, {}]}, "allOf"), ({"type": "string", "pattern": "^a|b$"}, "parentheses"), ({"enum": []}, "enum"),
    ]  # fmt: skip
    for schema, problem in wrong:
        assert problem in refusal(lambda schema=schema: read_schema(json.dumps(schema)))


def test_anything_else_than_a_schema_is_refused_and_not_a_crash():
    rng, refused = random.Random(5), 0
    words = ["type", "properties", "required", "items", "prefixItems", "maxItems", "minLength", "pattern", "format"]
    words += ["minimum", "enum", "const", "anyOf", "oneOf", "$ref", "$defs", "additionalProperties", "title"]
    leaves = [None, True, False, -1, 2.5, 10**30, "", "string", "object", "number", "#/$defs/a", "^a$", "(", "date"]

    def junk(depth: int):
        kind = rng.random() if depth else 1.0
        if kind < 0.5:
            return {rng.choice(words): junk(depth - 1) for _ in range(rng.randint(0, 3))}
        return [junk(depth - 1) for _ in range(rng.randint(0, 3))] if kind < 0.65 else rng.choice(leaves)

    for _ in range(1500):
        try:
            read_schema(json.dumps(junk(4)))
        except UserError:
            refused += 1
    assert 700 < refused < 1500


def test_a_schema_whose_references_multiply_is_refused_in_time():
    level = {
        f"l{i}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/l{i + 1}"}] * 9, "items": False}
        for i in range(12)
    }
    schema = {"$ref": "#/$defs/l0", "$defs": {**level, "l12": {"type": "null"}}}
    assert "too large" in refusal(lambda: automaton(read_schema(json.dumps(schema))))


def test_whole_numbers_between_bounds_are_exactly_those():
    rng = random.Random(1)
    for _ in range(15):
        low, high = sorted(rng.choice([rng.randint(-30, 30), rng.randint(-1200, 1200)]) for _ in range(2))
        machine = automaton(read_schema(json.dumps({"type": "integer", "minimum": low, "maximum": high})))
        found = [n for n in range(-1500, 1500) if machine.accepts(str(n).encode())]
        assert found == list(range(low, high + 1))
        assert not machine.accepts(b"007")


def test_words_are_there_or_not_wherever_they_begin():
    machine, rng, both = automaton(TEXT, ["aba", "cc"], ["bac", "aac"]), random.Random(0), 0
    for _ in range(4000):
        text = "".join(rng.choice("abc") for _ in range(rng.randint(0, 9)))
        right = "aba" in text and "cc" in text and "bac" not in text and "aac" not in text
        assert machine.accepts(text.encode()) == right
        both += right
    assert both > 20


def test_a_constraint_says_what_is_wrong_with_it(compiler):
    with pytest.raises(ValueError, match="needs a form"):
        Constraint()
    with pytest.raises(ValueError, match="empty"):
        Constraint(ban=("",))
    with pytest.raises(ValueError, match="not JSON"):
        Constraint(json_schema="{")
    assert Constraint(json_schema=SCHEMA) == Constraint(json_schema=json.dumps(SCHEMA))
    assert "contradict" in refusal(lambda: compiler.compile(Constraint(regex="a+", require="b")))


# --- tokens -----------------------------------------------------------------------------------------------------------

FEW = [None, None, None, b"a", b"b", b"c", b"ab", b"bc", b"\xe6", b"\xb1\xa4", b"\xb1", b"\xa4", "汤".encode()]
END = 1
LANGUAGES = ("(ab|c)*", "a.{1,2}c?", "[^a]{2}", "(a|b)*c", "汤+|a", "", "a{0,3}(bc)?")


def tidy(tokens, hidden) -> bool:
    """Whether the search would write this: behind an end it writes ends."""
    return all(tokens[i] == END for i in hidden if END in tokens[:i])


def accepted(machine: ByteAutomaton, tokens) -> bool:
    """By the definition: the bytes before the first end."""
    body = list(tokens[: tokens.index(END)] if END in tokens else tokens)
    return all(FEW[token] for token in body) and machine.accepts(b"".join(FEW[token] for token in body))


@pytest.mark.parametrize("pattern", LANGUAGES)
def test_the_best_string_is_that_of_brute_force(pattern):
    machine = automaton(read_regex(pattern))
    found = token_automaton(machine, FEW, (END,))
    rng, compared = random.Random(0), 0
    for count, left in itertools.product(range(1, 4), (0, 1, None)):
        weights = np.array([[rng.gauss(0, 1) for _ in FEW] for _ in range(count)])
        weights[:, [0, 2]] = -np.inf
        extra = 0 if left is None else left
        writable = [i for i in range(len(FEW)) if i not in (0, 2) and (left is not None or i != END)]
        worth = {}
        for tokens in itertools.product(writable, repeat=count + extra):
            if accepted(machine, tokens) and tidy(tokens, range(count)):
                total = sum(weights[i, token] for i, token in enumerate(tokens[:count]))
                worth[tokens[:count]] = max(total, worth.get(tokens[:count], -np.inf))
        best = max(worth.values(), default=-np.inf)
        path = found.best(found.label_weights(weights), 0, left)
        assert (path is None) == (best == -np.inf)
        if path is not None:
            compared += 1
            assert path.total == pytest.approx(best)
            alive = {(i, token) for tokens, total in worth.items() if total > -np.inf for i, token in enumerate(tokens)}
            possible = (path.possible @ found.writable)[:, found.classes]
            assert alive == {(i, t) for i, t in np.argwhere(possible & (weights > -np.inf)).tolist()}
    assert compared > 3 or pattern == ""


@pytest.mark.parametrize("pattern", LANGUAGES)
def test_next_tokens_are_those_from_which_an_end_is_in_reach(pattern):
    machine = automaton(read_regex(pattern))
    found = token_automaton(machine, FEW, (END,))
    writable = [i for i in range(len(FEW)) if i not in (0, 2)]
    complete = {n: {t for t in itertools.product(writable, repeat=n) if accepted(machine, t)} for n in range(5)}
    lengths = [len(t) for n in complete for t in complete[n] if END not in t]
    assert found.shortest == min(lengths)
    for before in itertools.product(writable, repeat=1):
        state = found.walk(0, before)
        for left in (1, 2):
            near = {t[1] for t in complete[2 + left - 1] if t[0] == before[0]}
            mask = found.following(state, left - 1) if state != DEAD else np.zeros(len(FEW), dtype=bool)
            assert set(np.flatnonzero(mask).tolist()) - {0, 2} == near


class FewReading:
    """Log-probabilities as they are."""

    def __init__(self, places, weights) -> None:
        self.places, self._weights = places, weights

    def weights(self):
        return self._weights.copy()

    def scores(self, places, tokens, possible):
        assert all(possible[i, token] for i, token in enumerate(tokens))
        return [
            float(self._weights[self.places.index(place), token]) for place, token in zip(places, tokens, strict=True)
        ]


def test_a_text_with_tokens_that_stand_and_some_that_may_change_is_completed_as_by_brute_force():
    machine = automaton(read_regex("(ab|c)*a?"))
    found, rng, changed, refused = token_automaton(machine, FEW, (END,)), random.Random(5), 0, 0
    writable, count = [i for i in range(len(FEW)) if i not in (0, 2)], 4
    complete = [string for string in itertools.product(writable, repeat=count) if accepted(machine, string)]
    for trial in range(150):
        shown = rng.choice((2, 3, 4))
        text = [rng.choice([0, 0, *writable]) for _ in range(shown)]
        guide = Guide(found, 0, 2, count, exact=False)
        whole = [7, 7, *text]
        fits = [t for t in complete if all(one in (0, other) for one, other in zip(text, t, strict=False))]
        assert guide.allows(whole, {}) == bool(fits), (text, trial)
        if not fits or 0 not in text:
            continue
        weights = np.array([[rng.gauss(0, 2) for _ in FEW] for _ in text])
        weights[:, [0, 2]] = -np.inf
        standing = [i for i, token in enumerate(text) if token]
        changes = {i + 2: rng.choice(writable) for i in standing if rng.random() < 0.6}
        changes = {place: token for place, token in changes.items() if token != text[place - 2]}
        guide.reading = FewReading(list(range(2, 2 + shown)), weights)
        best = guide.best(whole, changes)

        def options(i, text=text, changes=changes):
            return writable if not text[i] else [text[i], *([changes[i + 2]] if i + 2 in changes else [])]

        def worth(string, text=text, changes=changes, weights=weights):
            return sum(weights[i, t] for i, t in enumerate(string) if not text[i] or i + 2 in changes)

        begun = {string[:shown] for string in complete}
        strings = begun & set(itertools.product(*(options(i) for i in range(shown))))
        strings = [string for string in strings if tidy(string, [i for i in range(shown) if not text[i]])]
        ours = tuple(best.changes.get(i + 2, best.tokens.get(i + 2, token)) for i, token in enumerate(text))
        assert ours in strings
        assert worth(ours) == pytest.approx(max(map(worth, strings)))
        changed += bool(best.changes)
        refused += len(best.changes) < len(changes)
    assert changed > 5
    assert refused > 5


def test_tokens_are_the_bytes_that_they_decode_to():
    for tokenizer in (Tokenizer.load(BUNDLED_TOKENIZER), train_characters(["Tom has 一只猫。"])):
        pieces, text = tokenizer.bytes_of_tokens(), '{"a": "汤姆 has a 猫 😀\\n"}'
        assert b"".join(pieces[i] for i in tokenizer.encode(text)) == text.encode()
        assert all(pieces[i] is None for i in (tokenizer.vocab.mask, *tokenizer.vocab.ends, *tokenizer.vocab.reserved))
        whole = [i for i, piece in enumerate(pieces) if piece is not None and piece.decode(errors="ignore")]
        assert len(whole) > 20
        assert all(tokenizer.decode([i]).encode() == pieces[i] for i in whole if "\ufffd" not in tokenizer.decode([i]))


# --- decoding ---------------------------------------------------------------------------------------------------------


def json_of(text: str) -> bool:
    return isinstance(json.loads(text), dict)


FORMS = {
    "object": (Constraint(json_object=True), json_of),
    "pattern": (Constraint(regex="[a-f汤]{3,9}(x|yz)+"), re.compile("[a-f汤]{3,9}(x|yz)+").fullmatch),
    "template": (Constraint(template="N: ___{1,5}, ___(red|蓝)."), re.compile("N: [^\n]{1,5}, (red|蓝)\\.").fullmatch),
    "words": (
        Constraint(require=("tom", "汤"), ban=("a", "ab", "\n")),
        lambda text: "tom" in text and "汤" in text and "a" not in text and "\n" not in text,
    ),
    "both": (
        Constraint(json_object=True, require="ab", ban=("0", "e")),
        lambda text: json_of(text) and "ab" in text and not re.search("[0e]", text),
    ),
}


@each_decoding
def test_every_text_is_valid_within_its_room(sure, compiler, decoding):
    rng = random.Random(7)
    cases = list(FORMS.values())
    for kind in ("schema", "regex") * 4:
        constraint, judge = constraint_of(kind, rng)
        cases.append((constraint, lambda text, judge=judge: judge(text) is None))
    requests, rooms = [], []
    for i, (constraint, _) in enumerate(cases):
        found = compiler.compile(constraint)
        rooms.append(min(max(found.shortest, 1) + (0, 7, 15)[i % 3], 60 if found.shortest < 50 else 200))
        requests.append(Request((7 + i, 9), seed=i, max_new_tokens=rooms[-1], automaton=found))
    requests = [r for r, room in zip(requests, rooms, strict=True) if room <= 60]
    cases = [case for case, room in zip(cases, rooms, strict=True) if room <= 60]
    assert len(cases) > 9
    done = written(sure, replace(decoding, max_new_tokens=64), requests)
    for (constraint, judge), request, completion in zip(cases, requests, done, strict=True):
        assert len(completion.tokens) <= request.max_new_tokens
        assert judge(text_of(completion.tokens)), (constraint, text_of(completion.tokens))
    assert {completion.finish for completion in done} == {"stop", "length"}  # both ways to end were met


@pytest.fixture(scope="module")
def anything():
    """Accepts every string of tokens."""
    table = np.zeros((1, 256), dtype=np.int32)
    return token_automaton(ByteAutomaton(table, np.array([True])), PIECES, VOCAB.ends)


@each_decoding
def test_with_a_constraint_that_accepts_everything_nothing_changes(sure, anything, decoding):
    decoding = replace(decoding, max_new_tokens=ROOM)
    requests = [Request((7, 9, 12 + i), seed=i) for i in range(4)]
    sampler = BatchSampler(sure, VOCAB, decoding)
    free = list(sampler.stream(requests))
    assert list(sampler.stream([replace(request, automaton=anything) for request in requests])) == free
    assert len({tuple(c.tokens) for c in collect(free, 4, sampler.ends)}) > 1


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in DECODINGS
        if name in ("ar", "block", "margin", "rule") or ("canvas" in name and "drawn" not in name)
    ],
)
def test_a_text_that_is_valid_anyway_is_kept(make_model, name):
    """Whatever else would be valid, and however unsure the passes before were."""
    decoding = replace(DECODINGS[name], max_new_tokens=14)
    pieces = [None] * 6 + [bytes([97 + i]) for i in range(18)]  # all texts are text
    model = make_model(seed=11, peak=16.0)
    small, kept = Vocabulary(24, 0, 1, 2, 3, (4, 5)), 0
    compiler = Compiler(pieces, small.ends)
    sampler = BatchSampler(model, small, decoding)
    for i in range(4):
        request = Request((6, 7, 8 + i), seed=i)
        (free,) = collect(sampler.stream([request]), 1, sampler.ends)
        text = b"".join(pieces[token] for token in free.tokens).decode()
        found = compiler.compile(Constraint(regex=f"{text}|[a-k]{{3,9}}|{text[::-1]}|{text[: len(text) // 2]}"))
        (bound,) = collect(sampler.stream([replace(request, automaton=found)]), 1, sampler.ends)
        assert (bound.tokens, bound.forwards, bound.order) == (free.tokens, free.forwards, free.order)
        kept += len(text) > 3
    assert kept


@pytest.mark.parametrize("drafts", [1, 3])
@pytest.mark.parametrize("reading", ["next", "self"])
def test_speculation_writes_the_same_as_without_under_every_constraint(make_model, compiler, drafts, reading):
    model, rng = make_model(seed=3, peak=16.0, vocab_size=VOCAB.size).double(), random.Random(drafts)
    some = [constraint for constraint, _ in FORMS.values()]
    some += [constraint_of(kind, rng)[0] for kind in ("schema", "regex") * 4]
    automata = [found for found in map(compiler.compile, some) if found.shortest < 40]
    assert len(automata) > 9
    requests = [
        Request((7 + i, 9), max_new_tokens=max(found.shortest, 1) + (0, 4, 20)[i % 3], automaton=found)
        for i, found in enumerate(automata)
    ]
    plain = written(model, Autoregressive(), requests)
    quick = written(model, Speculative(drafts=drafts, predicts=reading), requests)
    assert [(one.tokens, one.finish) for one in quick] == [(one.tokens, one.finish) for one in plain]
    passes, most = sum(one.forwards for one in quick), sum(one.forwards for one in plain)
    assert most / (drafts + 1) < passes < 0.9 * most, "drafts were taken, and others were not"


def test_the_distribution_of_drawn_tokens_under_a_constraint_is_that_without_speculation(make_model):
    """Of two tokens that a pattern allows a few of, the second one is a draft in many texts."""
    pieces, count = [None] * 6 + [bytes([97 + i]) for i in range(18)], 700
    small = Vocabulary(24, 0, 1, 2, 3, (4, 5))
    model, found = (
        make_model(seed=3, peak=1.0),
        Compiler(pieces, small.ends).compile(Constraint(regex="(ab|[bc][d-f])r")),
    )
    requests = [Request((7, 9, 11), seed=i, max_new_tokens=3, automaton=found) for i in range(count)]
    tables = []
    for kind in (Autoregressive, Speculative):
        done = collect(BatchSampler(model, small, kind(temperature=1.0)).stream(requests), count, small.ends)
        tables.append(Counter(bytes(91 + token for token in one.tokens) for one in done))
        assert {one.forwards for one in done} == ({3} if kind is Autoregressive else {2, 3})
    plain, quick = tables
    assert plain.keys() == quick.keys()
    assert len(plain) == 7
    squares = sum((plain[text] - quick[text]) ** 2 / (plain[text] + quick[text]) for text in plain)
    assert squares < 22.5  # chi-square with 6 degrees of freedom: 1 in 1000


def test_how_likely_tokens_were_does_not_depend_on_who_else_is_written(sure, compiler):
    """Log-probabilities are those among the tokens that may follow."""
    asked = Request((7, 9), max_new_tokens=6, automaton=compiler.compile(Constraint(regex="(ab|x[0-9]){2}")), watch=2)
    for decoding in (Autoregressive(), Speculative(drafts=2)):
        other = replace(asked, automaton=None, decoding=replace(decoding, temperature=0.7))
        looks = []
        for requests in ([asked], [asked, other]):
            steps = BatchSampler(sure, VOCAB, decoding).stream(requests)
            looks.append([look for step in steps for event in step if not event.request for look in event.looks])
        alone, together = ({look.place: look.log_probability for look in some} for some in looks)
        assert together == pytest.approx(alone, abs=1e-4)
        assert alone[1] == 0 if looks[0][0].token == 6 + ord("a") else alone[1] < 0


def test_a_banned_word_is_not_assembled_from_its_pieces(table_model, compiler):
    ids = {piece: i for i, piece in reversed(list(enumerate(PIECES)))}
    wanted = [ids[b"x"], ids[b"a"], ids[b"b"], ids[b"c"], ids["汤".encode()], ids[b"\xe6\xb1"], ids[b"\xa4"], VOCAB.eos]
    for decoding in (Block(block_size=4, threshold=0.9), Diffusion(), Block(edit_threshold=0.5, threshold=0.5)):
        rows = torch.zeros(64, VOCAB.size)
        rows[:, ids[b"z"]] = 4.0
        for i, token in enumerate(wanted):
            rows[2 + i, token] = 9.0
        model, decoding = table_model(rows), replace(decoding, max_new_tokens=9)
        (free,) = written(model, decoding, [Request((7, 9))])
        assert text_of(free.tokens) == "xabc汤汤"
        for ban, left in {("abc",): "汤汤", ("汤汤",): "abc", ("ab", "bc"): "汤汤", ("汤",): "abc"}.items():
            found = compiler.compile(Constraint(ban=ban))
            (bound,) = written(model, decoding, [Request((7, 9), automaton=found)])
            text = text_of(bound.tokens)
            assert not any(word in text for word in ban)
            assert left in text


def test_edits_that_would_break_the_text_are_not_made_and_others_are(table_model, compiler):
    ids = {piece: i for i, piece in reversed(list(enumerate(PIECES)))}
    a, b, c = ids[b"a"], ids[b"b"], ids[b"c"]

    def rule(tokens, positions):
        """Prefers a, but b once everything is written: then each place would be changed."""
        logits = torch.zeros(*tokens.shape, VOCAB.size)
        logits[..., a] = 5.0
        late = (tokens != VOCAB.mask).all(1)
        logits[late] = 0.0
        logits[late, :, b] = 7.0
        logits[late, :, c] = 3.0
        return logits

    decoding = Block(block_size=4, threshold=0.3, edit_threshold=0.3, max_new_tokens=4)
    results = {}
    for name, pattern in {"any": ".{4}", "first": "[ab]a{3}", "none": "a{4}"}.items():
        request = Request((7, 9, 12, 13), automaton=compiler.compile(Constraint(regex=pattern)))
        (done,) = written(table_model(rule), decoding, [request])
        results[name] = (text_of(done.tokens), done.edits)
    assert results == {"any": ("bbbb", 4), "first": ("baaa", 1), "none": ("aaaa", 0)}


def test_a_gap_is_filled_exactly_with_what_is_given_in_its_place(sure, compiler):
    letter = 6 + ord("k")
    found = compiler.compile(Constraint(regex="[a-m]{3,30}汤?"))
    request = Request((7, 9), suffix=(12, 13), given=((4, letter),), fill=True, automaton=found)
    for decoding in (Diffusion(max_new_tokens=9), Diffusion(max_new_tokens=9, block_length=4, threshold=0.2)):
        sampler = BatchSampler(sure, VOCAB, decoding)
        tokens: dict[int, int] = {4: letter}
        for events in sampler.stream([request]):
            tokens |= {place: token for event in events for place, token in event.writes}
        assert sorted(tokens) == list(range(9))
        text = text_of([tokens[i] for i in range(9)])
        assert re.fullmatch(r"[a-m]{3,30}汤?", text)
        assert text_of([tokens[i] for i in range(4)]) + "k" == text[: len(text_of([tokens[i] for i in range(4)])) + 1]
    wrong = replace(request, given=((4, 6 + ord("z")),))
    assert "given" in refusal(lambda: written(sure, Diffusion(max_new_tokens=9), [wrong]))


def test_a_batch_of_constrained_and_free_texts_writes_each_as_alone(make_model, compiler):
    model = make_model(seed=3, peak=16.0, vocab_size=VOCAB.size).double()
    automata = [compiler.compile(FORMS[name][0]) for name in ("pattern", "words", "object")]
    kinds, rng = list(DECODINGS.values()), random.Random(2)
    requests = [
        Request(
            (7, 9, 20 + i % 5), seed=i % 3, decoding=replace(kinds[i % len(kinds)], max_new_tokens=15), automaton=one
        )
        for i, one in enumerate([automata[0], None, automata[1], None, automata[2]] * 4)
    ]
    alone = [written(model, request.decoding, [request])[0] for request in requests]
    order = rng.sample(range(len(requests)), len(requests))
    engine = Engine(model, VOCAB, kinds[0], EngineOptions(max_rows=5))
    handles = {engine.add(requests[i]): i for i in order}
    done = dict(gather(engine.run(), VOCAB.ends))
    assert len(done) == len(requests)
    for handle, completion in done.items():
        expected = alone[handles[handle]]
        assert (completion.tokens, completion.order) == (expected.tokens, expected.order)
    model.float()


def test_what_has_no_room_is_refused_before_anything_is_written(sure, compiler):
    found = compiler.compile(Constraint(json_schema=SCHEMA))
    assert found.shortest == 11
    for decoding in (Autoregressive(), Block(), Diffusion()):
        for room, problem in ((found.shortest - 1, "has 11 tokens, the room is 10"), (found.shortest, None)):
            requests = [Request((7,)), Request((7,), automaton=found)]
            make = lambda room=room, decoding=decoding, requests=requests: written(  # noqa: E731
                sure, replace(decoding, max_new_tokens=room), requests
            )
            if problem is None:
                assert json_of(text_of(make()[1].tokens))
            else:
                assert problem in refusal(make)
    early = Autoregressive(min_new_tokens=3)
    assert "min_new_tokens" in refusal(lambda: written(sure, early, [Request((7,), automaton=found)]))
    letters = Compiler([None] * 6 + [b"a", b"b"], VOCAB.ends).compile(Constraint(regex="c+"))
    assert "no text of this tokenizer" in refusal(lambda: written(sure, Block(), [Request((7,), automaton=letters)]))


def test_a_model_with_more_ids_than_tokens_never_writes_the_others(make_model, compiler):
    model = make_model(seed=3, peak=16.0, vocab_size=VOCAB.size + 40)
    found = compiler.compile(FORMS["words"][0])
    for decoding in DECODINGS.values():
        (done,) = written(model, replace(decoding, max_new_tokens=12), [Request((7, 9), automaton=found)])
        assert FORMS["words"][1](text_of(done.tokens))


def test_automata_are_made_once_and_few_are_kept(compiler):
    assert compiler.compile(Constraint(regex="ab")) is compiler.compile(Constraint(regex="ab"))
    for i in range(KEPT + 1):
        compiler.compile(Constraint(regex=f"ab{i}"))
    assert compiler.compile.cache_info().currsize == KEPT


# --- as it is used ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return family(tmp_path_factory.getbasetemp()).runs


def test_from_python(runs):
    for name in ("ar-sft", "diffusion-sft"):
        model = load(runs / name)
        constraint = Constraint(json_schema=SCHEMA)
        texts = model.generate(["What has Tom?", "一加一？"], constraint=constraint, max_new_tokens=60)
        assert all(set(json.loads(str(text))) >= {"name", "年"} for text in texts)
        assert model.automaton(constraint) is model.automaton(Constraint(json_schema=json.dumps(SCHEMA)))
        (event, *_), *_ = model.stream("Hi", constraint=Constraint(regex="yes|no"), max_new_tokens=8)
        assert event.forwards == 1
        assert str(model.chat("Hi", constraint=Constraint(regex="yes|no"), max_new_tokens=8)) in ("yes", "no")
        stop = refusal(lambda model=model: model.generate("Hi", constraint=Constraint(regex="a"), stop=["b"]))
        assert "leave out stop" in stop


def test_the_example(runs, capsys):
    structured.main(str(runs / "diffusion-sft"))
    person, *_, refused = capsys.readouterr().out.splitlines()
    assert {"'name':", "'colour':"} <= set(person.strip("{").split())
    assert "the shortest text that satisfies the constraint" in refused


def test_from_the_command_line(runs, tmp_path, capsys):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    base = ["generate", runs / "diffusion-sft", "What has Tom?", "--max-new-tokens", 40]
    asked = {
        ("--json-schema", schema): lambda text: json.loads(text).keys() >= {"name", "年"},
        ("--json-object",): json_of,
        ("--regex", "(yes|no)!"): ("yes!", "no!").__contains__,
        ("--template", "Tom: ___([0-9]{2})."): re.compile(r"Tom: [0-9]{2}\.").fullmatch,
        ("--require", "hat", "球", "--ban", "a ", "e"): lambda text: "hat" in text and "球" in text and "e" not in text,
    }
    for words, judge in asked.items():
        assert run_cli([*base, *words]) == 0
        assert judge(capsys.readouterr().out.removesuffix("\n")), words
    schema.write_text('{"type": "string", "format": "email"}')
    wrong = {
        ("--json-schema", schema): "format 'email' is not supported",
        ("--json-schema", tmp_path / "none.json"): "none.json",
        ("--regex", "a{50}"): "the shortest text that satisfies the constraint has 50 tokens, the room is 40",
        ("--regex", "(a"): "closing parenthesis",
        ("--template", "x"): "no gap",
        ("--ban", ""): "empty",
        ("--regex", "yes", "--stop", "y"): "leave out stop",
    }
    for words, problem in wrong.items():
        assert run_cli([*base, *words]) == 2
        captured = capsys.readouterr()
        assert problem in captured.err
        assert not captured.out
        assert "Traceback" not in captured.err
