"""Questions with their gold queries and databases, read from files in BIRD's format.

Not a check of the databases: `databases` opens them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finestep_fast.env.databases import database_file
from finestep_fast.errors import InputError, shown

# BIRD's name first; `sql` last, for it is SynSQL's query but Spider's parsed one beside `query`.
SQL_KEYS = ("SQL", "gold", "query", "sql")
GOLDS_KEY = "gold_alternatives"
ID_KEYS = ("question_id", "qid")
EVIDENCE_KEYS = ("evidence", "external_knowledge")


@dataclass(frozen=True)
class Question:
    """One question on one database."""

    question_id: str
    """Its name in the file it came from."""
    text: str
    """The question in natural language."""
    gold_sql: str
    """A query that answers it."""
    db_id: str
    """The name of the database."""
    database: Path
    """The SQLite file."""
    evidence: str = ""
    """Outside knowledge that comes with the question; may be empty."""
    difficulty: str = ""
    """A label; may be empty."""
    kind: str = ""
    """A label; may be empty."""
    other_golds: tuple[str, ...] = ()
    """Further queries that answer it: a result that equals any of them is right."""

    @property
    def golds(self) -> tuple[str, ...]:
        """Return all queries that answer it, `gold_sql` first."""
        return (self.gold_sql, *self.other_golds)


def load_questions(
    questions: Path, databases: Path, *, limit: int | None = None, golds_alone: bool = False
) -> list[Question]:
    """Read questions from a JSON list, or from JSON lines.

    Args:
        questions: The file. Each entry has `question`, `db_id`, the query under one of `SQL_KEYS`
            or a list of accepted ones, more accepted ones perhaps under `GOLDS_KEY`, and perhaps
            `evidence` or SynSQL's `external_knowledge`, `question_id` or `qid`, `difficulty` and
            `kind`.
        databases: The folder of the databases; see `databases.database_file`.
        limit: How many questions to read at most.
        golds_alone: Whether the file may also be a text (`.sql` or `.txt`) of gold queries, each on
            a line with a tab and its `db_id`, as Spider and BIRD have it. The questions are empty.

    Returns:
        The questions in the order of the file.

    Raises:
        InputError: The file is missing, is no JSON, or an entry lacks a key; it names the place.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    try:
        content = questions.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"questions {str(questions)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"questions {str(questions)!r}: not UTF-8 text: {error}") from error
    read: list[Question] = []
    file_of: dict[str, Path] = {}
    is_text = questions.suffix in (".sql", ".txt") and content.lstrip()[:1] not in ("[", "{")
    read_entries = gold_lines if golds_alone and is_text else entries
    for place, number, entry in read_entries(content, f"questions {str(questions)!r}"):
        if limit is not None and len(read) == limit:
            break
        read.append(question_from(entry, place, number, databases, file_of))
    return read


def entries(content: str, source: str) -> Iterator[tuple[str, int, Any]]:
    """Yield every entry of a file: where it stands, in words, its number from 0, and itself."""
    if content.lstrip().startswith("["):
        try:
            listed = json.loads(content)
        except (ValueError, RecursionError) as error:
            listed = lists_by_line(content)
            if listed is None:
                raise InputError(f"{source}: not JSON: {error}") from error
        for number, entry in enumerate(listed):
            yield f"{source}, entry {number}", number, entry
        return
    number = 0
    for line_number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{source}, line {line_number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not JSON: {error}") from error
        yield place, number, entry
        number += 1


def lists_by_line(content: str) -> list[Any] | None:
    """Return the values of JSON lines that begin with a list; None if a line is no JSON."""
    try:
        return [json.loads(line) for line in content.split("\n") if line.strip()]
    except (ValueError, RecursionError):
        return None


def gold_lines(content: str, source: str) -> Iterator[tuple[str, int, Any]]:
    """Yield what `entries` does for lines of a gold query, a tab and a `db_id`."""
    number = 0
    for line_number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{source}, line {line_number}"
        sql, _, db_id = line.rpartition("\t")
        if not sql.strip():
            raise InputError(f"{place}: is {shown(line)}; expected a gold query, a tab and a db_id")
        yield place, number, {"SQL": sql.strip(), "db_id": db_id.strip(), "question": ""}
        number += 1


def question_from(
    entry: Any, place: str, number: int, databases: Path, file_of: dict[str, Path]
) -> Question:
    """Return the question in one entry; its number stands in for an id that is missing.

    Database files that have been looked for are kept in `file_of`.
    """
    if not isinstance(entry, dict):
        raise InputError(f"{place}: is {type(entry).__name__}; expected a JSON object")
    db_id = text_of(entry, "db_id", place)
    if not db_id or "/" in db_id or "\\" in db_id or db_id in (".", ".."):
        raise InputError(f"{place}: db_id is {db_id!r}; expected the name of a folder")
    if db_id not in file_of:
        file_of[db_id] = database_file(databases, db_id)
    golds = golds_of(entry, place)
    evidence_key = next((key for key in EVIDENCE_KEYS if entry.get(key)), EVIDENCE_KEYS[0])
    question_id = next((entry[key] for key in ID_KEYS if entry.get(key) is not None), number)
    return Question(
        question_id=str(question_id),
        text=text_of(entry, "question", place),
        gold_sql=golds[0],
        db_id=db_id,
        database=file_of[db_id],
        evidence=text_of(entry, evidence_key, place, default=""),
        difficulty=text_of(entry, "difficulty", place, default=""),
        kind=text_of(entry, "kind", place, default=""),
        other_golds=golds[1:],
    )


def golds_of(entry: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """Return the accepted queries of an entry, each once, in their order; at least one."""
    keys = [next((key for key in SQL_KEYS if key in entry), ""), GOLDS_KEY]
    keys = [key for key in keys if key in entry] or [SQL_KEYS[0]]
    golds = []
    for key in keys:
        given = entry.get(key)
        for gold in given if isinstance(given, list) and given else [given]:
            golds.append(text_of({key: gold}, key, place))
    return tuple(dict.fromkeys(golds))


def text_of(entry: Mapping[str, Any], key: str, place: str, *, default: str | None = None) -> str:
    """Return the text under a key; the default, where there is one, stands in for a missing one."""
    value = entry.get(key, default)
    if value is None:
        value = default
    if not isinstance(value, str):
        reason = "is missing" if value is None else f"is {value!r}; expected text"
        raise InputError(f"{place}: {key} {reason}")
    return value
