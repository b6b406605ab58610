"""The process that tokenises for another one: orders as lines on standard input, answers on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from nano_llada.core.errors import UserError
from nano_llada.data.bad_rows import BadRows
from nano_llada.data.documents import Encoding, Notes
from nano_llada.data.read import Source
from nano_llada.data.store import write_part
from nano_llada.data.tokenizer import Tokenizer


def work() -> None:
    """Tokenise part after part until standard input ends."""
    first = sys.stdin.readline()
    if not first:
        return
    told = json.loads(first)
    tokenizer, encoding = Tokenizer(Backend.from_str(told["tokenizer"])), Encoding(**told["encoding"])
    for line in sys.stdin:
        order = json.loads(line)
        bad_rows, notes = BadRows(told["policy"]), Notes()
        answer: dict[str, Any]
        try:
            write_part(Path(order["folder"]), Source(**order["source"]), tokenizer, encoding, bad_rows, notes)
            answer = {"bad": bad_rows.count, "kinds": _kinds(bad_rows)}
            answer |= {"unread": notes.unread.counts, "marked": notes.marked}
        except UserError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


def _kinds(bad_rows: BadRows) -> dict[str, Any]:
    return {
        kind: (seen, [(place.file, place.line) for place in places], reason)
        for kind, (seen, places, reason) in bad_rows.kinds.items()
    }
