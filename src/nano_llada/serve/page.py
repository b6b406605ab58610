"""The static page: its files are read once, at start, so that no request opens a file."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse

from nano_llada.serve.refusal import Refusal

FOLDER = Path(__file__).parent / "page"
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def read_page(folder: Path = FOLDER) -> dict[str, tuple[bytes, str]]:
    """Content and media type of each file of a folder, by its path there; empty if there is no folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            text = kind.startswith("text/") or kind in ("application/javascript", "application/json")
            found[path.relative_to(folder).as_posix()] = (path.read_bytes(), f"{kind}; charset=utf-8" if text else kind)
    return found


def add_page(application: FastAPI, files: dict[str, tuple[bytes, str]]) -> None:
    """Routes of the page, if there is one."""
    if "index.html" not in files:
        return

    async def home() -> Response:
        return RedirectResponse("/page/")

    async def page(name: str) -> Response:
        if (name or "index.html") not in files:
            raise Refusal(404, "no such page", code="not_found")
        content, kind = files[name or "index.html"]
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return Response(content, headers=headers, media_type=kind)

    application.add_api_route("/", home, include_in_schema=False)
    application.add_api_route("/page/{name:path}", page, include_in_schema=False)
