"""Verdicts that a file of predictions brings along, because `--output` wrote it.

Not a cache: every prediction is run again. They may come from another version of SQLite, and are
then no measure for what is found here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finestep_fast.eval.evaluation import Record
from finestep_fast.eval.summary import counted

KEYS = {"question_id", "db_id", "semantics", "equal", "sqlite"}


@dataclass(frozen=True, slots=True)
class RecordedVerdict:
    """One verdict of an earlier evaluation."""

    question: tuple[str, str]
    """Its `question_id` and `db_id`."""
    semantics: str
    """When results were equal."""
    equal: bool
    """Whether the prediction was right."""
    sqlite: str
    """The version of SQLite that ran it."""


def recorded_verdicts(path: Path) -> list[RecordedVerdict]:
    """Return the verdicts in a file of predictions, which is known to be readable; often none."""
    found: list[RecordedVerdict] = []
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        if '"sqlite"' not in line:
            continue
        entry: Any = None
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
        if isinstance(entry, dict) and entry.keys() >= KEYS:
            question = (str(entry["question_id"]), str(entry["db_id"]))
            by_semantics = {entry["semantics"]: entry, **entry.get("others", {})}
            found += [
                RecordedVerdict(question, name, bool(verdict["equal"]), str(entry["sqlite"]))
                for name, verdict in by_semantics.items()
            ]
    return found


def version_warning(recorded: Sequence[RecordedVerdict], version: str) -> str:
    """Return a sentence if verdicts were found with another version of SQLite than this one."""
    others = sorted({verdict.sqlite for verdict in recorded} - {version})
    if not others:
        return ""
    return (
        f"the predictions come with verdicts found with SQLite {', '.join(others)}; this is "
        f"{version}, under which results may differ: do not compare the scores"
    )


def version_remarks(
    recorded: Sequence[RecordedVerdict], records: Sequence[Record], version: str
) -> list[str]:
    """Return the warning, and how many verdicts are other than recorded; nothing if none is due."""
    warning = version_warning(recorded, version)
    if not warning:
        return []
    now = {
        ((record.question.question_id, record.question.db_id), name): verdict.equal
        for record in records
        for name, verdict in record.verdicts.items()
    }
    known = [v for v in recorded if v.sqlite != version and (v.question, v.semantics) in now]
    changed = sum(now[v.question, v.semantics] != v.equal for v in known)
    of_them = counted(len(known), "of them is", "of them are")
    return [f"{warning}; {of_them} found here again, {changed} with another outcome"]
