"""A server under load: nothing is lost, doubled or mixed, and it ends cleanly.

The large form is `python -m benchmarks.serving`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx2
import pytest
from benchmarks.serving_load import BAD, GOOD, Outcome, load, questions

from forked import Forked, needs_fork, start
from nano_llada.cli.main import main
from nano_llada.config.serving import ServingOptions
from nano_llada.serve.keys import Keys, make_key
from nano_llada.serve.page import POLICY, read_page
from serving import http, live, writers


def test_mixed_requests_each_get_what_is_their_own():
    models = writers()
    key, line = make_key("ann")
    keys = Keys({"ann": bytes.fromhex(line.split()[1])})
    options = ServingOptions(max_rows=2, max_waiting=1, max_per_key=1000)
    asked = questions(models, 15, 10)
    with live(models, options, keys) as server:

        async def all_at_once() -> Outcome:
            worker = next(iter(server.models)).worker  # it finds its queue full of what came while it was away
            away = asyncio.create_task(worker.call(lambda: time.sleep(1)))
            outcome = await load(server.url, asked, requests=90, concurrency=40, key=key)
            await away
            return outcome

        outcome = asyncio.run(all_at_once())
        assert outcome.wrong == []
        assert sum(outcome.counts[kind] for kind in (*GOOD, *BAD)) == 90
        assert min(outcome.counts[kind] for kind in (*GOOD, *BAD)) >= 6
        assert outcome.counts["told to wait"] > 0, "the queue was never full"
        for served in server.models:
            assert served.worker.figures.waiting <= 1
            assert not served.worker._owners
            assert not served.worker._engine.busy


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "ar"
    writers(("ar",))["ar"].save(folder)
    return folder


@needs_fork
def test_sigterm_under_load_lets_running_texts_finish(saved):
    process = start(["serve", f"small={saved}", "--port", 0, "--threads", 1, "--drain-seconds", 20])
    url = process.stdout.readline().decode().split()[3]
    statuses, texts = asyncio.run(_until_it_stops(url, process))
    done = process.finish()
    err = done.stderr.decode()
    assert done.returncode == 0, err
    assert statuses.count(200) >= 8
    assert set(statuses) <= {200, 503, 0}
    assert all(text.endswith("data: [DONE]\n\n") for text in texts), "a text that had begun was not finished"
    entries = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert sum(entry["message"] == "request" for entry in entries) >= 8
    assert entries[-1]["message"] == "stopped"
    assert "你好" not in err


async def _until_it_stops(url: str, process: Forked) -> tuple[list[int], list[str]]:
    """Eight streams, SIGTERM in the middle of them, and eight requests more; 0: the connection was refused."""
    body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 100, "stream": True}
    body["diffusion"] = {"min_new_tokens": 100}
    begun = asyncio.Event()
    texts: list[str] = []

    async def stream(http: httpx2.AsyncClient) -> int:
        try:
            async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                text = ""
                async for line in answer.aiter_lines():
                    text += line + "\n"
                    begun.set()
                if answer.status_code == 200:
                    texts.append(text)
                return answer.status_code
        except httpx2.TransportError:
            return 0

    async with httpx2.AsyncClient(verify=False, timeout=60) as http:
        first = [asyncio.create_task(stream(http)) for _ in range(8)]
        await asyncio.wait_for(begun.wait(), 30)
        await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)
        late = [asyncio.create_task(stream(http)) for _ in range(8)]
        return await asyncio.gather(*first, *late), texts


# --- the command line -------------------------------------------------------------------------------------------------


def test_what_the_command_refuses(saved, capsys, monkeypatch, tmp_path):
    def error_of(*arguments: object) -> str:
        assert main(["serve", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "no checkpoint at" in error_of(tmp_path / "nothing")
    assert "two models have the name a" in error_of(f"a={saved}", f"a={saved.parent / 'ar' / '..' / 'ar2'}")
    assert "reached by other machines" in error_of(saved, "--host", "0.0.0.0")
    assert "cannot listen on" in error_of(saved, "--host", "203.0.113.7", "--open")
    assert "make-key" in error_of(saved, "--keys", saved / "model.json")
    assert "max_rows must be" in error_of(saved, "--max-rows", "0")
    assert "letters, digits" in error_of("--make-key", "a b")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "nano-llada[serve]"' in error_of(saved)


def test_a_new_key_opens_the_server(capsys, tmp_path):
    assert main(["serve", "--make-key", "ann"]) == 0
    _, key, _, line = capsys.readouterr().out.splitlines()
    path = tmp_path / "keys"
    path.write_text(line + "\n", encoding="utf-8")
    assert Keys.read(path).owner(key) == "ann"


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_read_once_and_nothing_else_is(tmp_path, monkeypatch):
    folder = tmp_path / "page"
    (folder / "parts").mkdir(parents=True)
    (folder / "index.html").write_text("<p>你好</p>", encoding="utf-8")
    (folder / "parts" / "app.js").write_text("1", encoding="utf-8")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    monkeypatch.setattr("nano_llada.serve.app.read_page", lambda: read_page(folder))
    with live(writers(("ar",)), keys=Keys.read(None, "ann:0123456789abcdef")) as server:
        shutil.rmtree(folder)
        home = http().get(f"{server.url}/", follow_redirects=True)
        assert (home.url.path, home.text) == ("/page/", "<p>你好</p>")
        assert home.headers["content-security-policy"] == POLICY
        assert "unsafe" not in POLICY
        script = http().get(f"{server.url}/page/parts/app.js")
        assert (script.text, script.headers["content-type"].partition(";")[0]) == ("1", "text/javascript")
        for path in ("../secret", "%2e%2e/secret", "/etc/passwd", "parts", "parts/../../secret", "<script>"):
            assert http().get(f"{server.url}/page/{path}").status_code in (401, 404)


# --- JavaScript -------------------------------------------------------------------------------------------------------

SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "你好 cat" }];
const whole = await client.chat.completions.create({ model: "ar", messages, max_tokens: 9 });
let text = "", usage = null;
const stream = await client.chat.completions.create({ model: "ar", messages, max_tokens: 9, stream: true,
  stream_options: { include_usage: true } });
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
let error = null;
try { await client.chat.completions.create({ model: "ar", messages, tools: [{ type: "function" }] }); }
catch (found) { error = { status: found.status, param: found.param }; }
console.log(JSON.stringify({ whole: whole.choices[0].message.content, text, tokens: usage.completion_tokens, error }));
"""


def test_the_official_javascript_client(tmp_path):
    node, packages = shutil.which("node"), os.environ.get("NANO_LLADA_NODE_MODULES")
    if node is None or not packages or not (Path(packages) / "openai").is_dir():
        pytest.skip("needs node, and NANO_LLADA_NODE_MODULES: a node_modules folder with the package openai")
    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "client.mjs").write_text(SCRIPT, encoding="utf-8")
    models = writers(("ar",))
    with live(models) as server:
        done = subprocess.run(
            [node, "client.mjs", f"{server.url}/v1"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    alone = models["ar"].chat("你好 cat", max_new_tokens=9)
    assert json.loads(done.stdout) == {
        "whole": alone.text,
        "text": alone.text,
        "tokens": alone.tokens,
        "error": {"status": 400, "param": "tools"},
    }


# --- the page of the documentation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["serving.md", "serving_cn.md"])
def test_what_the_documentation_tells_to_type_works(page, capsys):
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    commands = [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("curl ")]
    assert len(commands) == 3
    made = writers(("canvas", "ar"))
    with live({"diffusion-sft": made["canvas"], "ar-sft": made["ar"]}) as server:
        exec(program.replace("http://127.0.0.1:8000", server.url), {})
        out = capsys.readouterr().out
        assert made["canvas"].chat("Repeat: cat dog fish.", max_new_tokens=32).text in out
        assert "'committed'" in out
        for command in commands:
            words = shlex.split(command.replace("http://127.0.0.1:8000", server.url))
            body = json.loads(words[words.index("-d") + 1])
            answer = http().post(words[1], json=body)
            assert answer.status_code == 200, answer.text
