"""What is noted of a request: for the log and for the metrics."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Note:
    """One request. Prompts and texts are noted only where the server is told to."""

    id: str
    method: str = ""
    path: str = ""
    route: str = "other"  # the path of the API that it was for
    key: str | None = None  # the name of its key
    status: int = 0
    model: str | None = None
    stream: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    forwards: int = 0
    first_seconds: float | None = None  # from arrival to the first text
    seconds: float = 0.0
    finish: str | None = None  # stop, length, cancelled (the client has gone), timeout, or an error
    error: str | None = None
    prompt: Any = None
    text: Any = None
    begun: float = field(default_factory=time.perf_counter)

    def first_text(self) -> None:
        """Called whenever text is given out."""
        if self.first_seconds is None:
            self.first_seconds = time.perf_counter() - self.begun

    def line(self) -> dict[str, Any]:
        """What the log says of it."""
        found = {name: value for name, value in asdict(self).items() if value not in (None, 0, False, "")}
        found.pop("begun", None)
        found.pop("route", None)
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, the fields of a note."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {"time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        line["message"] = record.getMessage()
        note = record.__dict__.get("note")
        if note is not None:
            line |= note.line()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
