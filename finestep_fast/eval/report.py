"""What was found as one file: a page of Markdown or HTML for people, JSON for programs.

Not the lines of single predictions: those are written while the evaluation runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from finestep_fast.errors import InputError, shown
from finestep_fast.eval.tables import Table

STYLE = (
    "body{font:16px/1.5 sans-serif;margin:2em auto;max-width:60em;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}th,td{border:1px solid #bbb;padding:.2em .6em}"
    "td{text-align:right;font-variant-numeric:tabular-nums}td:first-child,th:first-child"
    "{text-align:left}tr:nth-child(even){background:#f4f4f4}"
)


@dataclass(frozen=True, slots=True)
class Report:
    """What a report holds, whatever its form."""

    title: str
    """One line."""
    tables: Sequence[Table]
    """The scores."""
    lines: Sequence[str]
    """How verdicts ended, and the notes without which the numbers could be misread."""
    settings: Mapping[str, Any]
    """How it was measured, by name."""
    everything: Mapping[str, Any]
    """All numbers and settings, for programs."""


def is_report(path: Path) -> bool:
    """Return whether a file of this name is a report; else it holds lines of JSON."""
    return path.suffix.lower() in FORMS


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    parts = [f"# {plain(report.title)}"]
    for table in report.tables:
        rule = ["---", *["---:"] * (len(table.head) - 1)]
        rows = [[plain(cell) for cell in row] for row in (table.head, *table.rows)]
        rows.insert(1, rule)
        parts.append(f"## EX {table.title}\n\n" + "\n".join(f"| {' | '.join(r)} |" for r in rows))
    parts.append("## Notes\n\n" + "\n".join(f"- {plain(line)}" for line in report.lines))
    settings = "\n".join(f"- {name}: {plain(str(v))}" for name, v in report.settings.items())
    return "\n\n".join([*parts, f"## Settings\n\n{settings}"]) + "\n"


def plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    one_line = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in "\\`*_|<>[]#&" else sign for sign in one_line)


def page(report: Report) -> str:
    """Return the report as a page of HTML that loads nothing."""
    parts = [f"<h1>{escape(report.title)}</h1>"]
    for table in report.tables:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
        rows = "\n".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
        )
        parts.append(
            f"<h2>EX {escape(table.title)}</h2>\n<table>\n<tr>{head}</tr>\n{rows}\n</table>"
        )
    notes = "\n".join(f"<li>{escape(line)}</li>" for line in report.lines)
    settings = "\n".join(
        f"<li>{escape(name)}: {escape(str(value))}</li>" for name, value in report.settings.items()
    )
    parts.append(f"<h2>Notes</h2>\n<ul>\n{notes}\n</ul>")
    parts.append(f"<h2>Settings</h2>\n<ul>\n{settings}\n</ul>")
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def for_programs(report: Report) -> str:
    """Return all numbers and settings as JSON."""
    return json.dumps(report.everything, indent=1) + "\n"


FORMS = {
    ".md": markdown,
    ".markdown": markdown,
    ".html": page,
    ".htm": page,
    ".json": for_programs,
}


def checked_outputs(
    paths: Sequence[Path], inputs: Sequence[Path]
) -> tuple[Path | None, list[Path]]:
    """Return which of the files to write gets lines of JSON, and which get reports.

    Raises:
        InputError: One is a file that is read, or in no folder, or two would get the lines.
    """
    for path in paths:
        if any(os.path.exists(path) and os.path.samefile(path, given) for given in inputs):
            raise InputError(f"output {str(path)!r}: is one of the files to read")
        if is_report(path) and not path.parent.is_dir():
            raise InputError(f"output {shown(str(path))}: {str(path.parent)!r} is no folder")
    lines = [path for path in paths if not is_report(path)]
    if len(lines) > 1:
        raise InputError(
            f"output {str(lines[1])!r}: a line per prediction goes to {str(lines[0])!r} already; "
            f"expected the name of a report, which ends in {', '.join(FORMS)}"
        )
    return (lines[0] if lines else None), [path for path in paths if is_report(path)]


def write_report(path: Path, report: Report) -> None:
    """Write a report in the form that the name of its file asks for.

    Raises:
        InputError: It cannot be written.
    """
    text = FORMS[path.suffix.lower()](report)
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError | ValueError) -> InputError:
    """Return the sentence about an output that cannot be written."""
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"output {shown(str(path))}: {reason}")
