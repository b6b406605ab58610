"""An evaluation report as one HTML page: no other file, no script; for phones, dark rooms and screen readers too."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nano_llada.evaluation.page_parts import Cell, Part, Row, Section, Table, Trace
from nano_llada.evaluation.page_style import STYLE

EARLY, LATE = (222, 236, 248), (10, 54, 100)  # first and last pass of a trace: red, green, blue
LIGHT_INK_FROM = 0.45  # share of the way to LATE from which white letters are read better than dark ones
REPLAY = (
    '<input type="checkbox" class="replay" id="replay"> <label for="replay">Write them again, pass by pass</label>'
    '<p>Pass: first <span class="scale" role="img" aria-label="light to dark"></span> last</p>'
)


def to_html(title: str, sections: Sequence[Section]) -> str:
    """The page. All text is escaped; plots are SVG that was made here."""
    links = "".join(f'<li><a href="#{escape(s.key)}">{escape(s.title)}</a></li>' for s in sections)
    body = "".join(_section(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>'
        f'<a class="skip" href="#main">To the results</a><header><h1>{escape(title)}</h1></header>'
        f'<nav aria-label="Contents"><ol>{links}</ol></nav><main id="main">{body}</main></body></html>\n'
    )


def _section(section: Section) -> str:
    key = escape(section.key)
    words = "".join(f"<p>{escape(text)}</p>" for text in section.words)
    points = "".join(_point(text) for text in section.points)
    words += f"<ul>{points}</ul>" if points else ""
    words += REPLAY if any(isinstance(part, Trace) for part in section.parts) else ""
    parts = "".join(_part(part) for part in section.parts)
    head = f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{escape(section.title)}</h2>'
    return f"{head}{words}{parts}</section>"


def _point(text: str) -> str:
    """What stands before the first colon is what it is about."""
    about, colon, rest = text.partition(": ")
    return f"<li><strong>{escape(about)}{colon}</strong>{escape(rest)}</li>" if colon else f"<li>{escape(text)}</li>"


def _part(part: Part) -> str:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Trace):
        return _trace(part)
    caption = f"<figcaption>{escape(part.caption)}</figcaption>"
    return f'<figure class="plot"><div class="scroll" tabindex="0">{part.svg}</div>{caption}</figure>'


def _table(table: Table) -> str:
    caption = escape(table.caption)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.head)
    body = ""
    for name, rows in table.groups:
        title = f'<tr><th scope="rowgroup" colspan="{len(table.head)}">{escape(name)}</th></tr>' if name else ""
        body += f"<tbody>{title}{''.join(_row(row, table.labels) for row in rows)}</tbody>"
    shown = f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>'
    shown += f"<caption>{caption}</caption><thead><tr>{head}</tr></thead>{body}</table></div>"
    return f"<details><summary>{caption}</summary>{shown}</details>" if table.folded else shown


def _row(row: Row, labels: int) -> str:
    cells = [f'<th scope="row">{escape(cell)}</th>' for cell in row[:labels] if isinstance(cell, str)]
    return f"<tr>{''.join(cells)}{''.join(_cell(cell) for cell in row[labels:])}</tr>"


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        kind = {"✓": ' class="right"', "✗": ' class="wrong"'}.get(cell[:1], "")
        return f"<td{kind}>{escape(cell)}</td>"
    text = f"<b>{escape(cell.text)} ★</b>" if cell.best else escape(cell.text)
    text += "".join(f"<small>{escape(note)}</small>" for note in cell.notes if note)
    if cell.span is not None:
        low, value, high = (100 * share for share in cell.span)
        inside = f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><em style="left:{value:.1f}%"></em>'
        text += f'<span class="bar" aria-hidden="true">{inside}</span>'
    return f"<td>{text}</td>"


def _trace(trace: Trace) -> str:
    last = max(trace.passes)
    tokens = "".join(_token(piece, number, last) for piece, number in zip(trace.pieces, trace.passes, strict=True))
    mark = {True: ' <span class="right">✓ right</span>', False: ' <span class="wrong">✗ wrong</span>', None: ""}
    told = f"{escape(trace.who)}{mark[trace.right]}: {len(trace.pieces)} tokens, the last in pass {last + 1}"
    return (
        f'<figure class="trace"><figcaption>{told}</figcaption><p>{escape(trace.prompt)}</p>'
        f'<p class="tokens">{tokens}</p></figure>'
    )


def _token(piece: str, number: int, last: int) -> str:
    share = number / last if last else 0.0
    back = ",".join(str(round(a + share * (b - a))) for a, b in zip(EARLY, LATE, strict=True))
    shown = piece.replace("\n", "⏎") or "∅"
    ink = "#fff" if share > LIGHT_INK_FROM else "#10202e"
    style = f"background:rgb({back});color:{ink};--pass:{number}"
    return f'<span style="{style}" title="pass {number + 1}">{escape(shown)}<sub>{number + 1}</sub></span>'
