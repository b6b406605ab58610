"""The server as a client meets it: the official Python client, plain HTTP, and what goes wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx2
import jsonschema_rs
import openai
import pytest
import torch

from nano_llada.config.decoding import Constraint
from nano_llada.config.serving import ServingOptions
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.decode.proposal import forbid
from nano_llada.serve import protocol
from nano_llada.serve.keys import Keys, make_key
from nano_llada.serve.note import JsonLines
from nano_llada.world.stories.plant import plant
from nano_llada.world.stories.simulate import simulate
from nano_llada.world.stories.story import tell
from serving import CARDS, Live, client_of, http, live, slow_down, writers

SAID = ("a有 cat", "hi", "三只小猫, 一个球", "hello you", "红红 的 red?")
SCHEMA = Path(__file__).parents[1] / "docs" / "diffusion_frame.schema.json"


@pytest.fixture(scope="module")
def models():
    return writers()


@pytest.fixture(scope="module")
def running(models) -> Iterator[Live]:
    with live(models) as found:
        yield found


@pytest.fixture(scope="module")
def client(running) -> openai.OpenAI:
    return client_of(running)


def user(text: str) -> list:
    return [{"role": "user", "content": text}]


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CARDS)
def test_texts_whole_and_streamed_are_those_of_the_offline_engine(client, models, name):
    finishes = set()
    for said, limit in itertools.product(SAID, (3, 20)):
        alone = models[name].chat(said, max_new_tokens=limit)
        finishes.add(alone.finish)
        whole = client.chat.completions.create(model=name, messages=user(said), max_tokens=limit)
        (choice,) = whole.choices
        assert (choice.message.content, choice.finish_reason) == (alone.text, alone.finish)
        assert (whole.usage.completion_tokens, whole.usage.forwards) == (alone.tokens, alone.forwards)
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + alone.tokens
        chunks = list(
            client.chat.completions.create(
                model=name,
                messages=user(said),
                max_tokens=limit,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        *pieces, last = chunks
        deltas = [chunk.choices[0].delta.content for chunk in pieces]
        assert pieces[0].choices[0].delta.role == "assistant"
        assert "".join(delta or "" for delta in deltas) == alone.text
        assert pieces[-1].choices[0].finish_reason == alone.finish
        assert last.choices == []
        assert last.usage.completion_tokens == alone.tokens
        assert last.usage.tokens_per_pass == pytest.approx(alone.tokens / alone.forwards, abs=1e-3)
        assert name not in ("ar", "tri") or alone.tokens < 4 or len([delta for delta in deltas if delta]) > 1
    assert finishes == {"stop", "length"}


def test_several_answers_with_a_seed_are_those_of_the_offline_engine(client, models):
    for name in ("ar", "block"):
        decoding = models[name].decoding(temperature=1.5, top_p=0.9, seed=7, max_new_tokens=9)
        alone = [text.text for text in models[name].write(["hi"], decoding, chat=True, samples=3)]
        options = {"temperature": 1.5, "top_p": 0.9, "seed": 7, "max_completion_tokens": 9, "n": 3}
        whole = client.chat.completions.create(model=name, messages=user("hi"), **options)
        assert [choice.message.content for choice in whole.choices] == alone
        assert len(set(alone)) > 1
        texts = ["", "", ""]
        for chunk in client.chat.completions.create(model=name, messages=user("hi"), stream=True, **options):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        assert texts == alone


def test_without_a_seed_texts_differ_and_the_answer_names_it(client):
    options = {"model": "ar", "messages": user("hi"), "temperature": 2.0}
    first, second = (client.chat.completions.create(**options) for _ in range(2))
    assert first.choices[0].message.content != second.choices[0].message.content
    again = client.chat.completions.create(seed=first.seed, **options)
    assert again.choices[0].message.content == first.choices[0].message.content


@pytest.mark.parametrize("name", ["ar", "canvas", "editing"])
def test_a_stop_text_ends_the_answer_before_it(client, models, name):
    extra = {"preset": "s"} if name == "editing" else {}
    text = models[name].chat("a有 cat", max_new_tokens=20, **extra).text
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    alone = models[name].chat("a有 cat", max_new_tokens=20, stop=[stop, "zzzz"], **extra)
    assert alone.finish == "stop"
    assert stop not in alone.text
    options = {"model": name, "messages": user("a有 cat"), "max_tokens": 20, "stop": [stop, "zzzz"]}
    options["extra_body"] = {"diffusion": extra}
    whole = client.chat.completions.create(**options)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (alone.text, "stop")
    chunks = list(client.chat.completions.create(stream=True, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == alone.text


def test_text_completions_continue_texts(client, models):
    prompts = ["the 小猫", "abc"]
    alone = models["ar"].generate(prompts, chat=False, max_new_tokens=6)
    whole = client.completions.create(model="ar", prompt=prompts, max_tokens=6)
    assert [choice.text for choice in whole.choices] == [text.text for text in alone]
    texts = ["", ""]
    for chunk in client.completions.create(model="ar", prompt=prompts, max_tokens=6, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [text.text for text in alone]


def test_logprobs_are_those_of_the_model(client, models):
    writer = models["ar"]
    whole = client.completions.create(model="ar", prompt="the 小猫", max_tokens=4, logprobs=3)
    (choice,) = whole.choices
    vocab, tokens = writer.tokenizer.vocab, list(writer.encode("the 小猫", chat=False))
    for place, value in enumerate(choice.logprobs.token_logprobs):
        logits = writer.model(torch.tensor([tokens]), AttentionPattern("causal"))[0, -1:]
        expected = forbid(logits.detach(), vocab).log_softmax(-1)[0]
        assert value == pytest.approx(float(expected.max()), abs=1e-4)
        assert next(iter(choice.logprobs.top_logprobs[place].values())) == pytest.approx(value)
        assert choice.logprobs.tokens[place] == writer.tokenizer.token(int(expected.argmax()))
        tokens.append(int(expected.argmax()))
    assert len(choice.logprobs.token_logprobs) == 4
    options = {"model": "ar", "messages": user("hi"), "max_tokens": 4, "logprobs": True, "top_logprobs": 2}
    content = client.chat.completions.create(**options).choices[0].logprobs.content
    streamed = [
        found
        for chunk in client.chat.completions.create(stream=True, **options)
        for choice in chunk.choices
        if choice.logprobs
        for found in choice.logprobs.content
    ]
    assert [one.logprob for one in content] == [one.logprob for one in streamed]
    assert len(content) == 4
    assert all(one.top_logprobs[0].logprob >= one.top_logprobs[1].logprob for one in content)


def test_the_next_turn_does_not_compute_the_last_one_again(client):
    first = client.chat.completions.create(model="ar", messages=user("三只小猫, 一个球, and a ball"), max_tokens=5)
    assert first.usage.prompt_tokens_details.cached_tokens < first.usage.prompt_tokens - 5
    turns = [*user("三只小猫, 一个球, and a ball"), {"role": "assistant", "content": "a"}, *user("go on")]
    again = client.chat.completions.create(model="ar", messages=turns, max_tokens=5)
    assert again.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 1


def test_gaps_are_filled_as_offline_and_scores_agree(running, models):
    writer, text = models["canvas"], "the ___ cat 有 ___."
    alone = writer.infill(text, [2, 3])
    body = {"model": "canvas", "text": text, "gaps": [2, 3]}
    found = http().post(f"{running.url}/v1/infill", json=body).json()
    assert found["text"] == alone
    assert len(found["gaps"]) == 2
    protocol.Infilled.model_validate(found)
    lines = events(http().post(f"{running.url}/v1/infill", json=body | {"stream": True}))
    deltas = ["", ""]
    for chunk in lines[:-1]:
        for gap in chunk["gaps"]:
            deltas[gap["index"]] += gap["delta"]
    assert lines[-1]["text"] == alone
    assert deltas == [gap["text"] for gap in lines[-1]["gaps"]]
    around = {"model": "canvas", "prefix": "the ", "suffix": " cat.", "gaps": [3]}
    assert http().post(f"{running.url}/v1/infill", json=around).json()["text"] == writer.infill("the ___ cat.", [3])
    for name in ("ar", "canvas"):
        score = models[name].score("cat", given="the ", draws=4)
        body = {"model": name, "prompt": "the ", "text": "cat", "draws": 4}
        found = http().post(f"{running.url}/v1/score", json=body).json()
        protocol.Score.model_validate(found)
        assert found["log_likelihood"] == pytest.approx(-score.nats)
        assert found["exact"] == score.exact == (name == "ar")


@pytest.mark.parametrize("mode", [{}, {"decode": "block", "threshold": 0.3}, {"temperature": 1.0, "seed": 3}], ids=str)
def test_gaps_are_filled_in_turn_by_a_model_that_reads_left_to_right(running, models, mode):
    writer, text, lengths = models["tri"], "the ___ cat 有 ___.___", [2, 5, 3]
    alone = writer.infill(text, lengths, **mode)
    plain = {name: value for name, value in mode.items() if name in ("temperature", "seed")}
    more = {name: value for name, value in mode.items() if name not in plain}
    body = {"model": "tri", "text": text, "gaps": lengths, **plain, "diffusion": more}
    found = http().post(f"{running.url}/v1/infill", json=body).json()
    protocol.Infilled.model_validate(found)
    assert (found["text"], found["usage"]["completion_tokens"]) == (alone, 10)
    assert text.replace("___", "{}").format(*(gap["text"] for gap in found["gaps"])) == alone
    watched = body | {"stream": True, "diffusion": more | {"frames": True, "alternatives": 2}}
    lines = events(http().post(f"{running.url}/v1/infill", json=watched))
    frames = [line["diffusion_frame"] for line in lines if "diffusion_frame" in line]
    assert [frame["pass"] for frame in frames] == list(range(found["usage"]["forwards"] + 1))
    tokens: list = []
    for frame in frames:
        for edit in frame["edits"]:
            tokens[edit["start"] : edit["start"] + edit["removed"]] = [place["id"] for place in edit["inserted"]]
        assert len(tokens) == frame["length"] == len(writer.gaps(text.split("___"), lengths).canvas)
    assert writer.tokenizer.decode([*writer.tokenizer.encode("the "), *tokens]) == alone
    deltas = ["", "", ""]
    for line in lines[:-1]:
        for gap in line["gaps"]:
            deltas[gap["index"]] += gap["delta"]
    assert deltas == [gap["text"] for gap in lines[-1]["gaps"]] == [gap["text"] for gap in found["gaps"]]
    long = http().post(f"{running.url}/v1/infill", json=body | {"text": "a" * 80 + "___" + "b" * 80, "gaps": [1]})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")


# --- frames -----------------------------------------------------------------------------------------------------------


def events(answer: httpx2.Response) -> list[dict]:
    """The objects of a stream that ended as it should."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    found = [json.loads(line) for line in lines]
    kinds = {"chat.completion.chunk": protocol.ChatChunk, "infill.chunk": protocol.InfillChunk}
    for chunk in found:
        kinds.get(chunk["object"], protocol.TextChunk).model_validate(chunk)
    return found


def test_the_published_schema_is_that_of_the_code():
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == protocol.DiffusionFrame.model_json_schema(by_alias=True)


@pytest.mark.parametrize("name", CARDS)
def test_frames_fit_the_schema_and_rebuild_the_text(running, models, name):
    check = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text(encoding="utf-8")))
    extra = {"preset": "s"} if name == "editing" else {}
    tokenizer, changes, judged = models[name].tokenizer, 0, 0
    body = {"model": name, "stream": True, "diffusion": {"frames": True, "alternatives": 3, **extra}}
    body["stream_options"] = {"include_usage": True}
    for said in SAID[:3]:
        chunks = events(http().post(f"{running.url}/v1/chat/completions", json=body | {"messages": user(said)}))
        frames = [chunk["diffusion_frame"] for chunk in chunks if "diffusion_frame" in chunk]
        tokens: list = []
        text, committed = "", 0
        assert [frame["pass"] for frame in frames] == list(range(len(frames)))
        for chunk in chunks:
            text += "".join(choice["delta"].get("content", "") for choice in chunk["choices"])
            frame = chunk.get("diffusion_frame")
            if frame is None:
                continue
            check.validate(frame)
            for edit in frame["edits"]:
                inserted = [place["id"] for place in edit["inserted"]]
                before = tokens[edit["start"] : edit["start"] + edit["removed"]]
                changes += any(a is not None and a != b for a, b in zip(before, inserted, strict=False))
                assert edit["start"] >= committed or before == inserted, "what is committed has changed"
                tokens[edit["start"] : edit["start"] + edit["removed"]] = inserted
                for place in edit["inserted"]:
                    if place["alternatives"]:
                        judged += 1
                        values = [other["probability"] for other in place["alternatives"]]
                        assert values == sorted(values, reverse=True)
                        assert sum(values) <= 1.001
                        # greedy: what is written is the likeliest
                        assert edit["final"] or place["id"] == place["alternatives"][0]["id"]
            assert frame["length"] == len(tokens)
            assert frame["committed"] >= committed
            committed = frame["committed"]
            assert None not in tokens[:committed]
            written = [token for token in tokens[:committed] if token not in tokenizer.vocab.ends]
            assert tokenizer.decode(written).startswith(text)
        alone = models[name].chat(said, **extra)
        assert text == alone.text
        assert frames[-1]["pass"] == alone.forwards == chunks[-1]["usage"]["forwards"]
        assert (name in ("ar", "tri")) == (frames[0]["edits"] == [])
    assert judged > 10
    assert (changes > 0) == (name == "editing")


# --- errors -----------------------------------------------------------------------------------------------------------

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
WRONG = [
    ({}, "messages", None),
    ({"messages": []}, "messages", None),
    ({"messages": [{"role": "user"}]}, "messages[0].content", None),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role", None),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type", None),
    (MESSAGES | {"tools": [{"type": "function"}]}, "tools", "unsupported_field"),
    (MESSAGES | {"constraint": {"regex": "("}}, "constraint", None),
    (MESSAGES | {"constraint": {"regex": "[0-9]{2}"}, "stop": ["a"]}, "stop", None),
    (MESSAGES | {"presence_penalty": 0.5}, "presence_penalty", "unsupported_field"),
    (MESSAGES | {"logit_bias": {"5": 1}}, "logit_bias", "unsupported_field"),
    (MESSAGES | {"temprature": 1}, "temprature", "unsupported_field"),
    (MESSAGES | {"temperature": 3}, "temperature", None),
    (MESSAGES | {"temperature": "1"}, "temperature", None),
    (MESSAGES | {"top_p": 0.5}, "top_p", None),
    (MESSAGES | {"n": 100}, "n", None),
    (MESSAGES | {"n": True}, "n", None),
    (MESSAGES | {"max_tokens": 0}, "max_tokens", None),
    (MESSAGES | {"max_tokens": 10**6}, "max_tokens", None),
    (MESSAGES | {"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", None),
    (MESSAGES | {"stop": ["a"] * 5}, "stop", None),
    (MESSAGES | {"stop": ""}, "stop", None),
    (MESSAGES | {"model": "block", "logprobs": True}, "logprobs", None),
    (MESSAGES | {"top_logprobs": 2}, "top_logprobs", None),
    (MESSAGES | {"diffusion": {"steps": 4}}, "diffusion.steps", None),
    (MESSAGES | {"diffusion": {"stepps": 4}}, "diffusion.stepps", "unsupported_field"),
    (MESSAGES | {"model": "canvas", "diffusion": {"rule": "own.py:Rule"}}, "diffusion.rule", None),
    (MESSAGES | {"diffusion": {"frames": True}}, "diffusion.frames", None),
    (MESSAGES | {"diffusion": {"alternatives": 2}, "stream": True}, "diffusion.alternatives", None),
    (MESSAGES | {"stream_options": {"include_usage": True}}, "stream_options", None),
    ({"messages": [{"role": "user", "content": "ab " * 100}]}, "prompt", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "ab " * 100000}]}, "messages", "context_length_exceeded"),
    (MESSAGES | {"seed": -1}, "seed", None),
    (MESSAGES | {"a": 1, "b": 2}, "a", "unsupported_field"),
]


@pytest.mark.parametrize(("body", "param", "code"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_named(client, body, param, code):
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/chat/completions", body={"model": "ar"} | body, cast_to=object)
    assert (error.value.param, error.value.code) == (param, code)
    named = param.rpartition(".")[2].partition("[")[0]
    assert named in error.value.message or code == "context_length_exceeded"
    assert error.value.type == "invalid_request_error"


def test_fields_at_their_neutral_value_change_nothing(client):
    plain = client.chat.completions.create(model="ar", messages=user("hi"))
    neutral = client.chat.completions.create(
        model="ar",
        messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        frequency_penalty=0,
        presence_penalty=0.0,
        response_format={"type": "text"},
        tools=[],
        logit_bias={},
        store=False,
        user="me",
        stop=None,
        n=1,
    )
    assert neutral.choices[0].message.content == plain.choices[0].message.content


PET = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "狗"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("name", ["ar", "canvas", "block", "editing", "tri"])
def test_answers_have_the_form_that_is_asked_for(client, models, name):
    schema = {"type": "json_schema", "json_schema": {"name": "pet", "schema": PET, "strict": True}}
    asked = {"model": name, "messages": user("hi"), "max_tokens": 40}
    answer = client.chat.completions.create(**asked, response_format=schema)
    pet = json.loads(answer.choices[0].message.content)
    assert pet["kind"] in ("cat", "狗")
    assert 0 <= pet["age"] <= 99
    pieces = client.chat.completions.create(**asked, response_format=schema, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == answer.choices[0].message.content
    form = {"constraint": {"regex": "(ab|cd){2}", "ban": ["abab"]}}
    limited = client.chat.completions.create(**asked, extra_body=form).choices[0].message.content
    assert limited in ("abcd", "cdab", "cdcd")
    offline = models[name].chat("hi", max_new_tokens=40, constraint=Constraint(regex="(ab|cd){2}", ban=("abab",)))
    assert limited == offline.text


def test_a_form_that_does_not_fit_or_is_not_supported_is_refused(client):
    asked = {"model": "block", "messages": user("hi"), "max_tokens": 3}
    schema = {"type": "json_schema", "json_schema": {"name": "pet", "schema": PET}}
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.chat.completions.create(**asked, response_format=schema)
    odd = {"type": "json_schema", "json_schema": {"name": "odd", "schema": {"type": "object", "not": {}}}}
    with pytest.raises(openai.BadRequestError, match="not"):
        client.chat.completions.create(**asked, response_format=odd)


@pytest.mark.parametrize(
    ("added", "verdict"), [("", "coherent"), (" Zzz qqq xxx.", "not_understood"), (None, "no_story")]
)
def test_stories_are_checked(running, added, verdict):
    story = tell(simulate(Random(1), "test"), "en", Random(2)).text
    text = "Hello!" if added is None else story + added
    found = http().post(f"{running.url}/v1/check", json={"text": text}).json()
    protocol.Checked.model_validate(found)
    assert found["verdict"] == verdict
    assert (found["sentence"] or 0) > 3 if added else found["sentence"] is None


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_planted_contradiction_is_found_at_its_sentence(running, language):
    rng = Random(5)
    story = simulate(rng, "test")
    planted = plant(story, language, rng)
    found = http().post(f"{running.url}/v1/check", json={"text": planted.telling.text}).json()
    assert (found["verdict"], found["sentence"]) == ("contradiction", planted.sentence)
    assert found["kind"]


def test_whole_answers_are_as_the_document_says(running):
    some = {"max_tokens": 3, "n": 2}
    chat = http().post(f"{running.url}/v1/chat/completions", json=MESSAGES | some | {"logprobs": True})
    protocol.ChatCompletion.model_validate(chat.json())
    body = {"prompt": "the 小猫", "logprobs": 1} | some
    text = http().post(f"{running.url}/v1/completions", json=body)
    protocol.Completion.model_validate(text.json())
    assert events(http().post(f"{running.url}/v1/completions", json=body | {"stream": True}))
    protocol.ModelList.model_validate(http().get(f"{running.url}/v1/models").json())


def test_every_other_error_is_an_error_object(running, client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="block2", messages=user("hi"))
    assert error.value.code == "model_not_found"
    assert "did you mean 'block'" in error.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../../etc/passwd")
    url = f"{running.url}/v1/completions"
    kind = {"content-type": "application/json"}
    answers = {
        404: http().get(f"{running.url}/v2"),
        405: http().get(url),
        413: http().post(url, content=b'"' + b"x" * 2_000_000 + b'"', headers=kind),
        415: http().post(url, content=b'{"prompt": "a"}', headers={"content-type": "text/plain"}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status, answer.text
        protocol.ErrorBody.model_validate(answer.json())
    for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b'{"prompt": "\\ud800"}', b'{"prompt": NaN}'):
        answer = http().post(url, content=content, headers=kind)
        assert answer.status_code == 400, (content[:20], answer.text)
        protocol.ErrorBody.model_validate(answer.json())
    chunked = http().post(url, content=iter([b'{"prompt": "'] + [b"x" * 100_000] * 20), headers=kind)
    assert chunked.status_code == 413
    for body in ({"model": "canvas", "text": "no gap"}, {"model": "ar", "text": "a ___"}, {"model": "canvas"}):
        assert http().post(f"{running.url}/v1/infill", json=body).status_code == 400
    assert http().post(f"{running.url}/v1/score", json={"text": "a" * 500}).status_code == 400
    bodies = {"completions": b'{"prompt": "secret\\ud800"}', "score": b'{"text": "secret\\ud800"}'}
    for path, body in (bodies | {"infill": b'{"model": "tri", "text": "secret\\ud800 ___"}'}).items():
        answer = http().post(f"{running.url}/v1/{path}", content=body, headers=kind)
        assert (answer.status_code, "secret" in answer.text) == (400, False), answer.text


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /v1/completions HTTP/1.1", 413),
        ("POST /v1/nothing HTTP/1.1", 404),
        ("POST /v1/completions HTTP/1.1\r\nContent-Type: text/plain", 415),
    ],
)
def test_a_client_that_is_still_sending_sees_why_it_is_refused(running, head, status):
    """More bytes than fit into the sockets: a server that closes at once cuts such a client off in the middle."""
    host, port = running.url.removeprefix("http://").split(":")
    kind = "" if "Content-Type" in head else "\r\nContent-Type: application/json"
    body = b"x" * 6_000_000
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(f"{head}{kind}\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), 500_000):
            client.sendall(body[start : start + 500_000])
            time.sleep(0.005)
        assert client.recv(100).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_client_that_asks_before_it_sends_is_refused_without_sending(running):
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: 6000000\r\nExpect: 100-continue\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_models_say_what_they_can_do(client):
    found = {model.id: model.nano_llada for model in client.models.list().data}
    assert {name: details["kind"] for name, details in found.items()} == {name: name for name in CARDS}
    assert [name for name, details in found.items() if details["infill"]] == ["canvas", "tri"]
    assert [name for name, details in found.items() if details["exact_likelihood"]] == ["ar", "tri"]
    assert found["tri"]["modes"][0] == "speculative"
    assert {"drafts", "threshold", "decode", "block_size"} <= set(found["tri"]["options"])
    assert "steps" in found["canvas"]["options"]
    assert "steps" not in found["block"]["options"]
    assert found["block"]["decoding"]["block_size"] == 4
    assert client.models.retrieve("block").id == "block"


# --- operations -------------------------------------------------------------------------------------------------------


def test_keys_are_kept_as_digests_and_all_compared_in_constant_time(tmp_path, monkeypatch):
    key, line = make_key("ann")
    other, second = make_key("bob")
    assert key not in line
    path = tmp_path / "keys"
    path.write_text(f"# who may use it\n{line}\n\n{second}  # Bob\n", encoding="utf-8")
    keys = Keys.read(path, "carol:0123456789abcdef")
    assert [keys.owner(one) for one in (key, other, "0123456789abcdef", "wrong", "", "\udcff")] == [
        "ann",
        "bob",
        "carol",
        None,
        None,
        None,
    ]
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    assert keys.owner(key) == "ann"
    assert len(compared) == 3, "a comparison was left out"
    for text in ("ann", "ann short", "a b c", ""):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="make-key"):
            Keys.read(path)
    with pytest.raises(UserError, match="NAME:KEY"):
        Keys.read(None, "short:x")


def test_keys_limits_and_metrics(models):
    key, line = make_key("ann")
    keys = Keys({"ann": bytes.fromhex(line.split()[1])})
    options = ServingOptions(max_rows=1, max_waiting=1, max_per_key=3)
    with live({"ar": models["ar"]}, options, keys) as server:
        for wrong in ("nl-wrong", key + "x"):
            with pytest.raises(openai.AuthenticationError) as error:
                client_of(server, wrong).models.list()
            assert error.value.code == "invalid_api_key"
        assert http().get(f"{server.url}/metrics").status_code == 401
        assert http().get(f"{server.url}/health").json() == {"status": "ok"}
        assert http().get(f"{server.url}/ready").json() == {"status": "ready"}
        mine = client_of(server, key)
        with pytest.raises(openai.RateLimitError) as full:  # three texts at once, room for two
            mine.chat.completions.create(model="ar", messages=user("hi"), n=3)
        assert full.value.code == "queue_full"
        assert int(full.value.response.headers["retry-after"]) >= 1
        assert asyncio.run(_one_too_many(server, key)) == [200, 200, 429]
        assert asyncio.run(_scores(server, key, 5)) == [200, 200, 429, 429, 429]  # they wait in a queue, too
        assert mine.chat.completions.create(model="ar", messages=user("hi"), n=2).choices[1].finish_reason
        text = http().get(f"{server.url}/metrics", headers={"authorization": f"Bearer {key}"}).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert float(values['nano_llada_requests_total{model="",path="/v1/models",status="401"}']) == 2
        assert float(values['nano_llada_engine_active{model="ar"}']) == 0
        assert float(values['nano_llada_engine_passes_total{model="ar"}']) > 20
        assert float(values['nano_llada_tokens_total{kind="written",model="ar"}']) > 20
        assert float(values['nano_llada_tokens_per_pass_count{model="ar"}']) >= 1


async def _scores(server: Live, key: str, count: int) -> list[int]:
    """Statuses of so many scores that are asked for while the model is busy."""
    server.server.guard._options = ServingOptions()
    busy = asyncio.create_task(next(iter(server.models)).worker.call(lambda: time.sleep(0.5)))
    async with httpx2.AsyncClient(verify=False) as http:
        headers = {"authorization": f"Bearer {key}"}
        url = f"{server.url}/v1/score"
        sent = [http.post(url, json={"text": "cat"}, headers=headers) for _ in range(count)]
        answers = await asyncio.gather(*sent)
    await busy
    return sorted(answer.status_code for answer in answers)


async def _one_too_many(server: Live, key: str) -> list[int]:
    """Statuses of three slow requests of one key, of which two may run; the third is refused before it is read."""
    server.server.guard._options = ServingOptions(max_per_key=2)
    worker = next(iter(server.models)).worker
    async with httpx2.AsyncClient(verify=False) as http:

        def slow() -> None:
            time.sleep(0.3)

        busy = asyncio.create_task(worker.call(slow))
        body = MESSAGES | {"max_tokens": 2}
        headers = {"authorization": f"Bearer {key}"}
        url = f"{server.url}/v1/chat/completions"
        sent = [asyncio.create_task(http.post(url, json=body, headers=headers)) for _ in range(3)]
        answers = await asyncio.gather(*sent)
        await busy
    return sorted(answer.status_code for answer in answers)


def until(condition) -> bool:
    """Whether something becomes true within some seconds."""
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_a_client_that_goes_is_cancelled_at_the_next_pass(models):
    with live({"ar": models["ar"]}) as server:
        worker = next(iter(server.models)).worker
        passes = slow_down(server, 0.02)
        stream = client_of(server).chat.completions.create(
            model="ar", messages=user("hi"), max_tokens=100, stream=True, temperature=1, seed=1
        )
        next(stream), next(stream)
        stream.close()
        assert until(lambda: not worker._owners and not worker._engine.active)
        assert 0 < passes[0] < 60
        before = passes[0]
        with pytest.raises(httpx2.ReadTimeout):
            http().post(f"{server.url}/v1/chat/completions", json=MESSAGES | {"max_tokens": 100}, timeout=0.15)
        assert until(lambda: not worker._owners and not worker._engine.active)
        assert before < passes[0] < before + 60


def test_gaps_that_were_begun_are_finished_even_if_others_fill_the_queue(models):
    with live({"tri": models["tri"]}) as server:
        passes, worker = slow_down(server, 0.05), next(iter(server.models)).worker
        body = {"text": "a ___ b ___.", "gaps": [2, 3], "stream": True, "diffusion": {"frames": True}}
        with http().stream("POST", f"{server.url}/v1/infill", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            worker._limit = 0  # as if it were full
            assert passes[0] < 4, "too late to see anything"
            assert list(lines)[-2] == "data: [DONE]"
        assert http().post(f"{server.url}/v1/infill", json=body).status_code == 429


def test_what_takes_too_long_is_cancelled(models):
    with live({"ar": models["ar"]}, ServingOptions(request_seconds=0.2)) as server:
        slow_down(server, 0.05)
        client = client_of(server)
        with pytest.raises(openai.InternalServerError) as error:
            client.chat.completions.create(model="ar", messages=user("hi"), max_tokens=100)
        assert (error.value.status_code, error.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError, match="not finished within"):
            list(client.chat.completions.create(model="ar", messages=user("hi"), max_tokens=100, stream=True))
        assert until(lambda: not next(iter(server.models)).worker._engine.active)


def test_an_error_of_one_text_or_of_the_model_is_told_and_the_server_goes_on(models, monkeypatch):
    with live({"ar": models["ar"]}) as server:
        client, worker = client_of(server), next(iter(server.models)).worker
        backend = worker._engine.backend
        original = backend.compute
        failures = iter(range(4))

        def broken(placed):
            if next(failures, None) is not None:
                raise RuntimeError("no memory for you")
            return original(placed)

        backend.compute = broken
        with pytest.raises(openai.InternalServerError) as error:
            client.chat.completions.create(model="ar", messages=user("hi"))
        assert error.value.status_code == 500
        assert "memory" not in error.value.message
        with pytest.raises(openai.APIError, match="the server made an error"):
            list(client.chat.completions.create(model="ar", messages=user("hi"), stream=True))
        assert client.chat.completions.create(model="ar", messages=user("hi")).choices
        assert worker.alive


def test_stopping_refuses_what_is_new_and_cuts_off_what_is_late(models):
    with live({"ar": models["ar"]}) as server:
        slow_down(server, 0.05)
        client = client_of(server)
        stream = client.chat.completions.create(model="ar", messages=user("hi"), max_tokens=100, stream=True)
        next(stream)
        server.server.guard.draining = True
        with pytest.raises(openai.InternalServerError) as error:
            client.chat.completions.create(model="ar", messages=user("hi"))
        assert (error.value.status_code, error.value.code) == (503, "shutting_down")
        assert http().get(f"{server.url}/ready").status_code == 503
        assert http().get(f"{server.url}/health").status_code == 200
        server.models.stop()
        with pytest.raises(openai.APIError, match="stopping"):
            list(stream)


def test_a_strange_host_is_refused_and_other_origins_get_nothing(models):
    options = ServingOptions(cors=("https://good.example",))
    with live({"ar": models["ar"]}, options, hosts={"127.0.0.1", "localhost"}) as server:
        strange = http().get(f"{server.url}/health", headers={"host": "evil.example"})
        assert strange.status_code == 421
        for origin, allowed in (("https://good.example", "https://good.example"), ("https://evil.example", None)):
            ask = {"origin": origin, "access-control-request-method": "POST"}
            answer = http().options(f"{server.url}/v1/completions", headers=ask)
            assert answer.headers.get("access-control-allow-origin") == allowed
    with live({"ar": models["ar"]}) as server:
        answer = http().get(f"{server.url}/v1/models", headers={"origin": "https://good.example"})
        assert "access-control-allow-origin" not in answer.headers


def test_the_log_has_no_prompts_unless_asked(models):
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record):
            lines.append(JsonLines().format(record))

    handler, logger = Kept(), logging.getLogger("nano_llada.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        for log_prompts in (False, True):
            with live({"ar": models["ar"]}, ServingOptions(log_prompts=log_prompts)) as server:
                done = client_of(server).chat.completions.create(model="ar", messages=user("my secret\n{}"))
                http().get(f"{server.url}/v1/<script>%0A")
                assert until(
                    lambda: "".join(lines).count('"message": "request"') == 2
                )  # a line is written when its answer has been sent
                entries = [json.loads(line) for line in lines]
                assert all("\n" not in line for line in lines)
                (entry,) = [one for one in entries if one.get("path") == "/v1/chat/completions"]
                assert entry["status"] == 200
                assert entry["finish"]
                assert math.isfinite(entry["seconds"])
                assert ("my secret" in "".join(lines)) == log_prompts
                assert (done.choices[0].message.content == entry.get("text", [""])[0]) == log_prompts
                lines.clear()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
