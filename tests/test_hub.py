"""Publishing and fetching models, against endpoints on this machine that speak as the hubs do."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlparse

import pytest
import torch

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.core.errors import UserError
from nano_llada.interop.hub import files_of, is_name, publish
from nano_llada.session.run import execute
from tiny import Place, make_place, run_cli, tiny_run

pytest.importorskip("huggingface_hub")
constants = importlib.import_module("huggingface_hub.constants")
COMMIT = "a" * 40


class Endpoint(BaseHTTPRequestHandler):
    """The part of Hugging Face's protocol that a client needs for small models: no large-file storage."""

    models: ClassVar[dict[str, dict[str, bytes]]]
    asked: ClassVar[list[str]]
    tokens: ClassVar[set[str | None]]

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.models:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        files = self.models[name]
        if parts[0] == "api":
            entries = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in files.items()
            ]
            if "tree" in parts:
                return self.answer(entries)
            siblings = [{"rfilename": file} for file in files]
            return self.answer({"id": name, "sha": COMMIT, "siblings": siblings, "private": False})
        data = files["/".join(parts[4:])]
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        return self.answer(data, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.asked.append(f"POST {self.path}")
        self.tokens.add(self.headers.get("Authorization"))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            self.models.setdefault(name, {})
            return self.answer({"url": f"https://huggingface.co/{name}", "name": name})
        if self.path == "/api/validate-yaml":  # of the model card
            assert json.loads(body)["content"].startswith("---\n")
            return self.answer({"errors": [], "warnings": []})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": file["path"], **how} for file in json.loads(body)["files"]]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.models[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        address = f"https://huggingface.co/{name}/commit/{COMMIT}"
        return self.answer({"commitUrl": address, "commitOid": COMMIT, "success": True})


@pytest.fixture
def endpoint(monkeypatch, tmp_path) -> Iterator[type[Endpoint]]:
    Endpoint.models, Endpoint.asked, Endpoint.tokens = {}, [], set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    yield Endpoint
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    place = make_place(tmp_path_factory.mktemp("hub"))
    assert execute(tiny_run(place, name="ar")).state == "finished"
    return place


def test_there_and_back(place, endpoint, tmp_path, capsys):
    exported = tmp_path / "exported"
    assert run_cli(["export", place.runs / "ar", "--out", exported, "--licence", "mit"]) == 0
    (exported / ".secret").write_text("mine", encoding="utf-8")
    (exported / "link").symlink_to("/etc/hostname")
    assert run_cli(["push", exported, "me/tiny"]) == 0
    assert "published: http://127.0.0.1" in capsys.readouterr().out
    published = endpoint.models["me/tiny"]
    assert set(published) == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert endpoint.tokens == {"Bearer hf_secret"}
    assert published["model.safetensors"] == (exported / "model.safetensors").read_bytes()
    published["modeling_evil.py"] = b"raise SystemExit('run')"
    published["pytorch_model.bin"] = b"\x80\x04never read"
    assert run_cli(["pull", "me/tiny", "--out", tmp_path / "pulled"]) == 0
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == set(published) - {
        "modeling_evil.py",
        "pytorch_model.bin",
    }
    assert run_cli(["import", "me/tiny", "--out", tmp_path / "ours"]) == 0
    first, second = (load_checkpoint(path).model for path in (place.runs / "ar", tmp_path / "ours"))
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert not any("evil" in request or ".bin" in request for request in endpoint.asked)


def test_checkpoints_are_published_without_training_state(place, endpoint, tmp_path):
    folder = next((place.runs / "ar").glob("step-*"))
    assert (folder / "training.safetensors").is_file()
    publish(folder, "me/checkpoint")
    assert set(endpoint.models["me/checkpoint"]) == {
        *("checksums.json", "model.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }


class ModelScope(Endpoint):
    """The part of ModelScope's protocol that its client needs for small models."""

    models: ClassVar[dict[str, dict[str, bytes]]] = {}
    created: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        where = urlparse(self.path)
        parts = where.path.strip("/").split("/")
        files = self.models.get("/".join(parts[3:5]))
        if files is None:
            return self.answer({"Code": 404, "Success": False, "Message": "not there", "Data": {}}, 404)
        if parts[-1] == "files":
            listed = [
                {"Name": n, "Path": n, "Type": "blob", "Size": len(d), "Sha256": hashlib.sha256(d).hexdigest()}
                for n, d in files.items()
            ]
            return self.answer({"Code": 200, "Success": True, "Data": {"Files": listed}})
        return self.answer(files[parse_qs(where.query)["FilePath"][0]])

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.path == "/api/v1/models":
            name = f"{body['Path']}/{body['Name']}"
            if name in self.models:
                return self.answer({"Code": 10020101001, "Success": False, "Message": "already exists"}, 409)
            self.created.append(body)
            self.models[name] = {}
        for action in body.get("actions", ()):
            self.models["/".join(self.path.split("/")[5:7])][action["path"]] = base64.b64decode(action["content"])
        return self.answer({"Code": 200, "Success": True, "Data": {}})


def test_modelscope(place, tmp_path, monkeypatch, capsys):
    pytest.importorskip("modelscope")
    server = ThreadingHTTPServer(("127.0.0.1", 0), ModelScope)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    folder = next((place.runs / "ar").glob("step-*"))
    before = sorted(path.name for path in folder.iterdir())
    assert run_cli(["push", folder, "me/tiny", "--hub", "modelscope"]) == 0
    assert [(body["Visibility"], body["License"]) for body in ModelScope.created] == [(1, "other")]  # private
    assert sorted(path.name for path in folder.iterdir()) == before
    published = ModelScope.models["me/tiny"]
    assert set(published) == set(files_of(folder))
    # large files are stored apart, and this endpoint says that it has them all
    published["model.safetensors"] = (folder / "model.safetensors").read_bytes()
    published["evil.py"] = b"raise SystemExit('run')"
    assert run_cli(["pull", "me/tiny", "--out", tmp_path / "pulled", "--hub", "modelscope"]) == 0
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == set(published) - {"evil.py"}
    load_checkpoint(tmp_path / "pulled")
    assert run_cli(["pull", "me/missing", "--out", tmp_path / "out", "--hub", "modelscope"]) == 2
    assert "cannot fetch me/missing from modelscope" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    server.shutdown()
    server.server_close()


def complaint(call: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_complaints(place, endpoint, tmp_path, capsys, monkeypatch):
    assert not any(map(is_name, ("x", "a/b/c", "../b", "a/..", "a/../b", "/a", "a b/c", "")))
    assert run_cli(["pull", "me/missing", "--out", tmp_path / "out"]) == 2
    error = capsys.readouterr().err
    assert "cannot fetch me/missing from huggingface: RepositoryNotFoundError" in error
    assert "set HF_TOKEN to your token" in error
    endpoint.models["me/empty"] = {"notes.txt": b"hello"}
    assert run_cli(["pull", "me/empty", "--out", tmp_path / "out"]) == 2
    assert "holds no model" in capsys.readouterr().err
    assert run_cli(["import", "nobody/nothing", "--out", tmp_path / "out"]) == 2
    assert "there is no file or folder nobody/nothing here, and no such model" in capsys.readouterr().err
    assert run_cli(["push", tmp_path, "me/tiny"]) == 2
    assert "holds no model: give a folder that `nano-llada export` wrote" in capsys.readouterr().err
    assert "has the form OWNER/NAME" in complaint(publish, place.runs / "ar", "tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens
    assert run_cli(["pull", "me/tiny", "--out", tmp_path / "out"]) == 2
    assert "Without a connection, fetch it on another machine and give the folder" in capsys.readouterr().err
    folder = next((place.runs / "ar").glob("step-*"))
    assert "Set HF_TOKEN to a token that may write" in complaint(publish, folder, "me/tiny")
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert "training.json" not in files_of(folder)
