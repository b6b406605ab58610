"""A server for the studio's tests: the page with its security headers, and answers from a script instead of a model.

`python tests/studio_server.py [PORT]` runs it for looking at the page by hand. The wire format is docs/protocol.md's.
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "src" / "nano_llada" / "serve" / "page"
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
END = 3
COMMON = {"context": 512, "parameters": 7_400_000, "vocabulary": 4096, "answers": True, "turns": True}
SHARED = {"max_new_tokens": 64, "temperature": 0.0}


def card(name: str, kind: str, decoding: dict[str, Any], options: Sequence[str], **more: Any) -> dict[str, Any]:
    about = COMMON | {"kind": kind, "modes": [kind], "infill": kind == "canvas", "exact_likelihood": kind == "ar"}
    about |= {"end_tokens": [END], "decoding": SHARED | decoding, "options": list(options)} | more
    return {"id": name, "object": "model", "created": 0, "owned_by": "nano-llada", "nano_llada": about}


MODELS = [
    card(
        "story-block",
        "editing",
        {"block_size": 16, "threshold": 0.7, "edit_threshold": 0.5},
        ["block_size", "threshold", "edit_threshold"],
    ),
    card("story-ar", "ar", {}, []),
    card(
        "story-canvas",
        "canvas",
        {"threshold": None, "steps": None, "block_length": None},
        ["threshold", "steps", "block_length"],
    ),
    card(
        "story-tri",
        "tri",
        {"drafts": 2},
        ["decode", "drafts", "block_size", "threshold"],
        modes=["speculative", "ar", "block"],
    ),
]

# what is asked contains -> (answer, what some of its words are at first)
ANSWERS = {
    "kite": (
        "Mia had a red kite. One windy day the string broke, and the kite flew over the hill. Mia looked behind the "
        "old barn and under the bridge. At last her friend Tom found it in a tall oak. He climbed up and gave it back. "
        "Mia smiled, and they flew it together until the evening.",
        {" Tom": " Mia", " hill": " river", " smiled": " cried", " bridge": " bed"},
    ),
    "风筝": (
        "米娅有一只红色的风筝。有一天风很大，线断了，风筝飞过了小山。米娅在旧谷仓后面找，又在桥下找。最后，朋友汤姆在一棵高高的橡树上找到了它。"
        "他爬上去，把风筝还给了她。米娅笑了，他们一起放风筝，一直放到傍晚。",
        {"汤姆": "米娅", "一起": "独自", "给了": "扔给"},
    ),
    "Repeat": ("red fox, blue sky, old oak.", {}),
    "重复": ("红狐狸，蓝天空，老橡树。", {}),
    "ball": ("Mia has the ball.", {" Mia": " Tom"}),
    "球": ("球在米娅那里。", {"米娅": "汤姆"}),
}
OTHER = "I only know a small world: people, animals, places and things."
FILLS = ["little fox", "Pip", "the old mill", "a golden key", "it opened the door and came home happy"]
FILLS_ZH = ["小狐狸", "皮皮", "旧磨坊", "一把金钥匙", "它打开门，高高兴兴地回家了"]


def tokens_of(text: str) -> list[str]:
    """Words with the space before them, Chinese in pieces of one or two characters, marks alone."""
    return re.findall(r"[一-鿿]{1,2}| ?\w+| ?[^\w\s]|\s", text)


class Script:
    """The frames of one answer: `(milliseconds to wait, diffusion_frame, delta)`."""

    def __init__(self, answer: str, first: dict[str, str], model: dict[str, Any], mode: str, seed: int = 0) -> None:
        self.words, self.first, self.rng = tokens_of(answer), first, random.Random(f"{answer}{seed}")
        about = model["nano_llada"]
        self.mode = mode or about["kind"]
        self.edits = about["kind"] == "editing"

    @cached_property
    def ids(self) -> dict[str, int]:
        return {word: 100 + i for i, word in enumerate(dict.fromkeys([*self.words, *self.first.values()]))}

    def token(self, word: str | None, confidence: float | None) -> dict[str, Any]:
        if word is None:
            return {"id": None, "text": None, "confidence": None, "alternatives": []}
        if word == "<end>":
            return {"id": END, "text": "<|im_end|>", "confidence": 0.99, "alternatives": []}
        others = self.rng.sample([" the", " a", " went", " happy", ",", " dog"], 3)
        shares = sorted((self.rng.random() for _ in others), reverse=True)
        rest = (1 - (confidence or 0)) / (sum(shares) + 0.5)
        listed = [
            (word, confidence),
            *((other, round(share * rest, 4)) for other, share in zip(others, shares, strict=True)),
        ]
        alternatives = [{"id": self.ids.get(text, 9), "text": text, "probability": share} for text, share in listed]
        return {"id": self.ids.get(word, 9), "text": word, "confidence": confidence, "alternatives": alternatives}

    def sure(self) -> float:
        return round(1 - 0.7 * self.rng.random() ** 7, 3)

    def frames(self) -> Iterator[tuple[float, dict[str, Any], str]]:
        if self.mode in ("ar", "speculative"):
            yield from self.left_to_right(3 if self.mode == "speculative" else 1)
        else:
            yield from self.in_blocks(len(self.words) + 1 if self.mode == "canvas" else 16)

    def left_to_right(self, most: int) -> Iterator[tuple[float, dict[str, Any], str]]:
        yield 0, frame(0, 0, 0, []), ""
        words, number, start = [*self.words, "<end>"], 0, 0
        while start < len(words):
            number += 1
            some = words[start : start + self.rng.randint(1, most)]
            inserted = [self.token(word, self.sure()) for word in some]
            edit = {"start": start, "removed": 0, "inserted": inserted, "final": True}
            start += len(some)
            yield 1, frame(number, start, start, [edit]), "".join(some).replace("<end>", "")

    def in_blocks(self, size: int) -> Iterator[tuple[float, dict[str, Any], str]]:
        words = [*self.words, "<end>"]
        number, told = 0, 0
        opening = {
            "start": 0,
            "removed": 0,
            "inserted": [self.token(None, None)] * min(size, len(words)),
            "final": False,
        }
        yield 0, frame(0, min(size, len(words)), 0, [opening]), ""
        for begin in range(0, len(words), size):
            end = min(begin + size, len(words))
            order = sorted(range(begin, end), key=lambda i: i + self.rng.random() * 9)
            later = [i for i in order if self.edits and words[i] in self.first]
            while order or later:
                number += 1
                now, order = order[: (chunk := self.rng.randint(2, 5))], order[chunk:]
                edits = []
                for i in now:
                    early = self.first.get(words[i]) if i in later else None
                    share = self.sure() if early is None else round(0.5 + 0.2 * self.rng.random(), 3)
                    edits.append(
                        {"start": i, "removed": 1, "inserted": [self.token(early or words[i], share)], "final": False}
                    )
                if not now:
                    edits += [
                        {"start": i, "removed": 1, "inserted": [self.token(words[i], 0.97)], "final": True}
                        for i in later
                    ]
                    later = []
                done = not order and not later
                if done and end < len(words):
                    more = min(size, len(words) - end)
                    edits.append(
                        {"start": end, "removed": 0, "inserted": [self.token(None, None)] * more, "final": False}
                    )
                delta = "".join(words[told:end]).replace("<end>", "") if done else ""
                told = end if done else told
                yield 2, frame(number, len(words), told, edits), delta


def frame(number: int, length: int, committed: int, edits: list[dict[str, Any]]) -> dict[str, Any]:
    return {"index": 0, "pass": number, "length": length, "committed": committed, "edits": edits}


def infilling(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Events of /v1/infill: gaps get as many tokens as they are long, the known text between them is given."""
    parts, lengths = body["text"].split("___"), body["gaps"]
    chinese = re.search("[一-鿿]", body["text"])
    script = Script(" ".join(FILLS), {}, MODELS[2], "canvas")
    texts = [
        tokens_of(fill)[:length] for fill, length in zip((FILLS_ZH if chinese else FILLS) * 9, lengths, strict=False)
    ]
    hidden, opening, places = script.token(None, None), [], []
    for number, text in enumerate(texts):
        if number:
            opening += [script.token(word, None) for word in tokens_of(parts[number])]
        places += [(len(opening) + i, word) for i, word in enumerate(text)]
        opening += [hidden] * len(text)
    edits = [{"start": 0, "removed": 0, "inserted": opening, "final": False}]
    yield {"gaps": [], "diffusion_frame": frame(0, len(opening), 0, edits)}
    script.rng.shuffle(places)
    number = 0
    while places:
        number += 1
        now, places = places[:3], places[3:]
        edits = [
            {"start": i, "removed": 1, "inserted": [script.token(word, script.sure())], "final": True}
            for i, word in now
        ]
        yield {"gaps": [], "diffusion_frame": frame(number, len(opening), 0, edits)}
    filled = ["".join(text) for text in texts]
    whole = "".join(part + fill for part, fill in zip(parts, [*filled, ""], strict=True))
    yield {"gaps": [{"index": i, "text": fill} for i, fill in enumerate(filled)], "text": whole}


class Handler(BaseHTTPRequestHandler):
    server: StudioServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return None

    def do_GET(self) -> None:
        if self.path.startswith("/v1/"):
            self.answer_models()
        elif self.path in ("/", "/page"):
            self.reply(307, b"", "text/plain", Location="/page/")
        else:
            path = PAGE / (self.path.removeprefix("/page/").split("?")[0] or "index.html")
            known = path.parent == PAGE and path.is_file()
            self.reply(200 if known else 404, path.read_bytes() if known else b"", TYPES.get(path.suffix, "text/plain"))

    def answer_models(self) -> None:
        if self.allowed():
            self.reply(200, json.dumps({"object": "list", "data": self.server.models}).encode(), "application/json")

    def allowed(self) -> bool:
        if self.server.key is None or self.headers.get("Authorization") == f"Bearer {self.server.key}":
            return True
        error = {
            "message": "this key is not known",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_api_key",
        }
        self.reply(401, json.dumps({"error": error}).encode(), "application/json")
        return False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        self.server.requests.append((self.path, body))
        if self.path == "/v1/check":
            self.reply(200, json.dumps(self.server.verdict).encode(), "application/json")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for event in self.events(body):
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.cancelled += 1
        self.close_connection = True

    def events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self.path == "/v1/infill":
            for event in infilling(body):
                time.sleep(self.server.pause)
                yield {"object": "infill.chunk", "model": body["model"]} | event
            return
        model = next(model for model in self.server.models if model["id"] == body["model"])
        asked = body["messages"][-1]["content"]
        answer, first = self.server.answer or next(
            (found for key, found in ANSWERS.items() if key in asked), (OTHER, {})
        )
        script = Script(answer, first, model, body["diffusion"].get("decode", model["nano_llada"]["modes"][0]))
        yield {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
        for wait, now, delta in script.frames():
            time.sleep(wait * self.server.pause)
            choice = {"index": 0, "delta": {"content": delta} if delta else {}, "finish_reason": None}
            yield {"object": "chat.completion.chunk", "choices": [choice], "diffusion_frame": now}
            if self.server.breaks:
                raise BrokenPipeError
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"completion_tokens": len(script.words)}}

    def reply(self, status: int, content: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        given = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Content-Security-Policy": POLICY,
        }
        for name, value in (given | {"X-Content-Type-Options": "nosniff"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class StudioServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.reset()

    def reset(self) -> None:
        """As at the start, before every test."""
        self.models = MODELS
        self.key: str | None = None  # the one that is accepted; None: none is needed
        self.pause = 0.004  # seconds of a unit of work
        self.answer: tuple[str, dict[str, str]] | None = None  # instead of what fits the question
        self.breaks = False  # the connection breaks after the first frame
        self.verdict: dict[str, Any] = {"verdict": "coherent"}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.cancelled = 0


if __name__ == "__main__":
    server = StudioServer(int(sys.argv[1]) if len(sys.argv) > 1 else 8765)
    server.pause = 0.05
    print(server.address, flush=True)
    threading.Event().wait()
