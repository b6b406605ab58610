"""Many clients of a server at once, well-behaved and not, and whether each got what is its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from nano_llada.language_model import LanguageModel

WORDS = ("cat", "ball", "red", "the", "小猫", "红色的球", "一二三", "hello", "is", "a", "who?", "你好")
GOOD = ("whole", "stream", "frames", "slow", "text")
BAD = ("gone", "malformed", "huge", "unknown", "wrong key")


@dataclass(frozen=True)
class Question:
    """A request, and the text that it must get."""

    model: str
    prompt: str
    options: Mapping[str, Any]
    answer: str  # to a conversation
    continued: str  # of a text

    def body(self, *, chat: bool = True, **fields: Any) -> dict[str, Any]:
        """What is sent."""
        said = {"messages": [{"role": "user", "content": self.prompt}]} if chat else {"prompt": self.prompt}
        return {"model": self.model, **said, **self.options, **fields}


def unanswered(names: Sequence[str], count: int, length: int, seed: int = 0) -> list[Question]:
    """Questions to all models by turns, half of them to be drawn with a seed; without the texts that they must get."""
    rng, found = random.Random(seed), []
    for number in range(count):
        prompt = " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))
        options: dict[str, Any] = {"max_tokens": rng.randint(max(length // 2, 1), length)}
        if number // len(names) % 2:
            options |= {"temperature": 1.0, "seed": number}
        found.append(Question(names[number % len(names)], prompt, options, "", ""))
    return found


def questions(models: Mapping[str, LanguageModel], count: int, length: int, seed: int = 0) -> list[Question]:
    """The same with the texts of the offline engine."""
    found = []
    for one in unanswered(list(models), count, length, seed):
        options = {("max_new_tokens" if key == "max_tokens" else key): value for key, value in one.options.items()}
        answer = models[one.model].chat(one.prompt, **options).text
        continued = models[one.model].generate(one.prompt, chat=False, **options).text
        found.append(replace(one, answer=answer, continued=continued))
    return found


@dataclass
class Outcome:
    """What became of the requests, by kind, and how long some took."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # answers that are not what they must be
    first_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0

    def check(self, kind: str, found: object, expected: object) -> None:
        """Count a request; note it if it got something else than what is its own."""
        self.counts[kind] += 1
        if found != expected:
            self.wrong.append(f"{kind}: {found!r:.200} instead of {expected!r:.200}")


class Client:
    """Sends requests to a server, each of its kind."""

    def __init__(self, url: str, key: str | None, http: httpx2.AsyncClient, outcome: Outcome, seed: int) -> None:
        self._url, self._http, self._outcome = f"{url}/v1", http, outcome
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._secured, self._rng = key is not None, random.Random(seed)

    async def send(self, kind: str, question: Question) -> None:
        """One request; those that find the queue full try again when they are told to."""
        begun = time.perf_counter()
        while not await getattr(self, f"_{kind.replace(' ', '_')}")(question):
            self._outcome.counts["told to wait"] += 1
            await asyncio.sleep(self._rng.uniform(0.05, 0.3))
        if kind in GOOD:
            self._outcome.seconds.append(time.perf_counter() - begun)

    def _stopping(self, answer: httpx2.Response) -> bool:
        """Whether a server that stops has refused, which is right only after it was told to stop."""
        if answer.status_code == 503:
            self._outcome.counts["refused"] += 1
        return answer.status_code == 503

    async def _post(self, path: str, body: dict[str, Any], **more: Any) -> httpx2.Response:
        return await self._http.post(f"{self._url}/{path}", json=body, headers=self._headers, **more)

    async def _whole(self, question: Question) -> bool:
        answer = await self._post("chat/completions", question.body())
        if answer.status_code == 429:
            return not int(answer.headers["retry-after"])
        if self._stopping(answer):
            return True
        found = answer.json()
        text = found["choices"][0]["message"]["content"] if answer.status_code == 200 else found
        self._outcome.tokens += found.get("usage", {}).get("completion_tokens", 0)
        self._outcome.check("whole", text, question.answer)
        return True

    async def _text(self, question: Question) -> bool:
        answer = await self._post("completions", question.body(chat=False))
        if answer.status_code == 429:
            return False
        found = answer.json()
        text = found["choices"][0]["text"] if answer.status_code == 200 else found
        self._outcome.tokens += found.get("usage", {}).get("completion_tokens", 0)
        self._outcome.check("text", text, question.continued)
        return True

    async def _stream(self, question: Question) -> bool:
        return await self._read("stream", question, {})

    async def _frames(self, question: Question) -> bool:
        return await self._read("frames", question, {"diffusion": {"frames": True, "alternatives": 3}})

    async def _slow(self, question: Question) -> bool:
        return await self._read("slow", question, {"diffusion": {"frames": True}}, pause=0.02)

    async def _read(self, kind: str, question: Question, extra: dict[str, Any], pause: float = 0.0) -> bool:
        body = question.body(stream=True, stream_options={"include_usage": True}, **extra)
        begun, text, ended = time.perf_counter(), "", False
        url = f"{self._url}/chat/completions"
        async with self._http.stream("POST", url, json=body, headers=self._headers) as answer:
            if answer.status_code == 429:
                return False
            if self._stopping(answer):
                return True
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if kind != "slow" and not text and not ended:
                    self._outcome.first_seconds.append(time.perf_counter() - begun)
                ended = line == "data: [DONE]"
                chunk = {} if ended else json.loads(line.removeprefix("data: "))
                for choice in chunk.get("choices", ()):
                    text += choice["delta"].get("content", "")
                self._outcome.tokens += (chunk.get("usage") or {}).get("completion_tokens", 0)
                await asyncio.sleep(pause)
        self._outcome.check(kind, (text, ended), (question.answer, True))
        return True

    async def _gone(self, question: Question) -> bool:
        """Leaves after some lines."""
        body, left = question.body(stream=True), self._rng.randint(1, 3)
        url = f"{self._url}/chat/completions"
        async with self._http.stream("POST", url, json=body, headers=self._headers) as answer:
            if answer.status_code == 429:
                return False
            async for line in answer.aiter_lines():
                left -= line.startswith("data: ")
                if not left:
                    break
        self._outcome.check("gone", answer.status_code, 200)
        return True

    async def _refused(self, kind: str, status: int, content: bytes, headers: dict[str, str]) -> bool:
        all_headers = self._headers | {"content-type": "application/json"} | headers
        answer = await self._http.post(f"{self._url}/chat/completions", content=content, headers=all_headers)
        if answer.status_code == 429 != status:
            return False
        self._outcome.check(kind, (answer.status_code, list(answer.json())), (status, ["error"]))
        return True

    async def _malformed(self, question: Question) -> bool:
        whole = json.dumps(question.body()).encode()
        return await self._refused("malformed", 400, whole[: self._rng.randint(1, len(whole) - 1)], {})

    async def _huge(self, question: Question) -> bool:
        return await self._refused("huge", 413, json.dumps(question.body(user="x" * 1_100_000)).encode(), {})

    async def _unknown(self, question: Question) -> bool:
        return await self._refused("unknown", 400, json.dumps(question.body(tools=[1])).encode(), {})

    async def _wrong_key(self, question: Question) -> bool:
        if not self._secured:
            return await self._unknown(question)
        headers = {"authorization": "Bearer nl-wrong"}
        return await self._refused("wrong key", 401, json.dumps(question.body()).encode(), headers)


async def load(
    url: str,
    asked: Sequence[Question],
    *,
    requests: int,
    concurrency: int,
    kinds: Sequence[str] = (*GOOD, *GOOD, *BAD),
    key: str | None = None,
    seed: int = 0,
) -> Outcome:
    """Send requests of mixed kinds, kinds and questions by turns, so many at a time."""
    outcome, free = Outcome(), asyncio.Semaphore(concurrency)
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx2.AsyncClient(verify=False, timeout=300, limits=limits) as http:

        async def one(number: int) -> None:
            async with free:
                client = Client(url, key, http, outcome, seed * requests + number)
                await client.send(kinds[number % len(kinds)], asked[number % len(asked)])

        await asyncio.gather(*(one(number) for number in range(requests)))
    return outcome


async def most_waiting(url: str, key: str, pause: float = 0.2) -> int:
    """The most requests of a model that waited, read from the server's figures until this is cancelled."""
    most = 0
    async with httpx2.AsyncClient(verify=False, timeout=60) as http:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                page = await http.get(f"{url}/metrics", headers={"authorization": f"Bearer {key}"})
                lines = [line for line in page.text.splitlines() if line.startswith("nano_llada_engine_waiting{")]
                most = max(most, *(int(float(line.rpartition(" ")[2])) for line in lines))
                await asyncio.sleep(pause)
    return most


async def until_the_end(
    url: str, asked: Sequence[Question], requests: int, terminate: Callable[[], None], key: str
) -> Outcome:
    """Whole answers and streams by turns, `terminate` while they are written, and as many after it.

    What was accepted must be finished and right (`whole`, `stream`), everything else refused (`refused`: 503, or no
    connection at all).
    """
    outcome, limits = Outcome(), httpx2.Limits(max_connections=4 * requests)
    async with httpx2.AsyncClient(verify=False, timeout=120, limits=limits) as http:

        async def one(number: int) -> None:
            question = asked[number % len(asked)]
            client = Client(url, key, http, outcome, number)
            try:
                await client.send(("whole", "stream")[number % 2], question)
            except httpx2.TransportError:
                outcome.counts["refused"] += 1

        early = [asyncio.create_task(one(number)) for number in range(requests)]
        await asyncio.wait(early, return_when=asyncio.FIRST_COMPLETED)
        terminate()
        late = [asyncio.create_task(one(number)) for number in range(requests)]
        await asyncio.gather(*early, *late)
    return outcome
