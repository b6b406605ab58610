"""A comparison as Markdown, as JSON lines, and as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nano_llada.core.errors import UserError
from nano_llada.evaluate.compare import LANGUAGES, Comparison
from nano_llada.evaluate.statistics import wilson

STYLE = """
body{font:16px/1.5 system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif;max-width:60rem;
margin:2rem auto;padding:0 1rem;color:#1d2329}table{border-collapse:collapse;margin:1rem 0}
td,th{border:1px solid #d5dbe1;padding:.3rem .6rem;text-align:left;vertical-align:top}th{background:#f3f5f7}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.wrong{color:#b3261e}.right{color:#1a7f37}img{max-width:100%}h1,h2{line-height:1.2}
"""


def write_report(comparison: Comparison, folder: Path, title: str, curves: Sequence[Path] = ()) -> Path:
    """Write report.md, report.html, answers.jsonl and the plots into a folder; gives the HTML file.

    Args:
        curves: further pictures to show, such as the loss curves of the runs.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _plot_skills(comparison, folder / "skills.png")
        pictures = [folder / "skills.png"] if comparison.skills else []
        (folder / "answers.jsonl").write_text(_answers(comparison), encoding="utf-8")
        (folder / "report.md").write_text(markdown(comparison, title, pictures), encoding="utf-8")
        page = folder / "report.html"
        page.write_text(_page(comparison, title, [*pictures, *curves]), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    return page


def summary_rows(comparison: Comparison) -> list[list[str]]:
    """A head row, then a row an entry."""
    rows = [["model", "parameters", "tokens/s", "forwards", "TPF", "first token, ms", "exact match zh", "en"]]
    for entry in comparison.entries:
        row = [entry.name, f"{entry.parameters:,}", f"{entry.speed.tokens_per_second:.0f}"]
        row += [f"{entry.speed.forwards:.1f}", f"{entry.speed.tokens_per_forward:.2f}"]
        row += [f"{1000 * entry.speed.first_seconds:.0f}"]
        for language in LANGUAGES:
            count = sum(answer.example.language == language for answer in entry.answers)
            share = entry.accuracy(language=language)
            low, high = wilson(share, count)
            row.append(f"{share:.1%} [{low:.1%}, {high:.1%}]" if count else "-")
        rows.append(row)
    return rows


def skill_rows(comparison: Comparison) -> list[list[str]]:
    """A head row, then a row a skill with each entry's exact match in both languages."""
    rows = [["skill", *(f"{entry.name} {language}" for entry in comparison.entries for language in LANGUAGES)]]
    for skill in comparison.skills:
        shares = [entry.accuracy(skill, language) for entry in comparison.entries for language in LANGUAGES]
        rows.append([skill, *(f"{share:.1%}" for share in shares)])
    return rows


def sample_rows(comparison: Comparison) -> list[list[str]]:
    """A head row, then one question a skill and language, and every prompt, with what each entry wrote."""
    rows = [["prompt", "right answer", *(entry.name for entry in comparison.entries)]]
    seen: set[tuple[str, str]] = set()
    for i, first in enumerate(comparison.entries[0].answers):
        kind = (first.example.skill, first.example.language)
        if kind not in seen:
            seen.add(kind)
            marks = [("✓ " if e.answers[i].right else "✗ ") + e.answers[i].text for e in comparison.entries]
            rows.append([first.example.prompt, first.example.answer, *marks])
    for i, prompt in enumerate(comparison.prompts):
        rows.append([prompt, "", *(entry.texts[i] for entry in comparison.entries)])
    return rows


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ⏎ ") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def markdown(comparison: Comparison, title: str, pictures: Sequence[Path] = ()) -> str:
    """The report as Markdown, with pictures by name."""
    parts = [f"# {title}\n", text_table(summary_rows(comparison))]
    if comparison.skills:
        parts += ["\n## Exact match by skill, test split\n", text_table(skill_rows(comparison))]
    parts += [f"\n![{picture.stem}]({picture.name})\n" for picture in pictures]
    parts += ["\n## What they wrote\n", text_table(sample_rows(comparison))]
    parts += [f"\n{note}\n" for note in comparison.notes]
    return "".join(parts)


def _page(comparison: Comparison, title: str, pictures: Sequence[Path]) -> str:
    sections = [f"<h1>{html.escape(title)}</h1>", _html_table(summary_rows(comparison))]
    if comparison.skills:
        sections += ["<h2>Exact match by skill, test split</h2>", _html_table(skill_rows(comparison))]
    sections += [_picture(path) for path in pictures if path.is_file()]
    sections += ["<h2>What they wrote</h2>", _html_table(sample_rows(comparison)), _trace(comparison)]
    sections += [f"<p>{html.escape(note)}</p>" for note in comparison.notes]
    body = "\n".join(sections)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        kind = {"✓": "right", "✗": "wrong"}.get(text[:1], "n" if text[:1].isdigit() else "")
        return f'<td class="{kind}">{html.escape(text)}</td>'

    head = "".join(f"<th>{html.escape(text)}</th>" for text in rows[0])
    body = "".join("<tr>" + "".join(cell(text) for text in row) + "</tr>" for row in rows[1:])
    return f"<table><tr>{head}</tr>{body}</table>"


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'


def _trace(comparison: Comparison) -> str:
    """Which forward pass wrote each token of a few diffusion answers: the darker, the later."""
    parts = []
    for entry in comparison.entries:
        if entry.track != "diffusion":
            continue
        longest = sorted(entry.answers, key=lambda answer: -len(answer.completion.tokens))[:6]
        for answer in longest:
            order = ", ".join(map(str, answer.completion.order))
            parts.append(f"<li>{html.escape(answer.text)} <small>written in passes {order}</small></li>")
        if parts:
            return f"<h2>The order in which {html.escape(entry.name)} wrote</h2><ul>{''.join(parts)}</ul>"
    return ""


def _answers(comparison: Comparison) -> str:
    lines = []
    for entry in comparison.entries:
        for answer in entry.answers:
            row: Mapping[str, object] = {
                "model": entry.name,
                **answer.example.to_row(),
                "answer": answer.text,
                "right": answer.right,
                "forwards": answer.completion.forwards,
                "tokens": len(answer.completion.tokens),
            }
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def _plot_skills(comparison: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    if not comparison.skills:
        return
    names = [f"{skill} {language}" for skill in comparison.skills for language in LANGUAGES]
    figure = Figure(figsize=(8, 0.6 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(comparison.entries)
    for i, entry in enumerate(comparison.entries):
        shares = [entry.accuracy(skill, language) for skill in comparison.skills for language in LANGUAGES]
        axes.barh([j + i * height for j in range(len(names))], shares, height=height, label=entry.name)
    axes.set_yticks([j + 0.4 - height / 2 for j in range(len(names))], names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="exact match on held-out combinations")
    figure.legend(loc="outside upper center", ncols=len(comparison.entries))
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
