"""All texts of some files, for measuring a model or training a tokenizer on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nano_llada.data.bad_rows import BadRow, BadRows, Unread
from nano_llada.data.read import TextSplit, read_rows, resolve
from nano_llada.data.rows import to_messages, to_text


def read_texts(
    sources: Sequence[str],
    field: str,
    bad_rows: BadRows,
    *,
    txt_split: TextSplit = "file",
    unread: Unread | None = None,
) -> Iterator[str]:
    """The text of every row, or, of rows without that field, of every message. Bad rows go to the policy."""
    for source in resolve(sources):
        for row in read_rows(source, txt_split):
            if isinstance(row, BadRow):
                bad_rows.report(row.where, row.reason)
                continue
            try:
                if field in row.value:
                    yield to_text(row.value, field, unread)
                else:
                    yield from [message.content for message in to_messages(row.value, unread)]
            except ValueError as error:
                bad_rows.report(row.where, str(error))
