"""Predicted queries, read from the formats in use and laid beside the questions they answer.

Not a check of the queries: whatever is wrong with one shows as its status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finestep_fast.env.question import ID_KEYS, Question, entries
from finestep_fast.errors import InputError

BIRD_MARK = "\t----- bird -----\t"
SQL_KEYS = ("SQL", "sql", "predicted_sql", "pred_sql", "prediction", "predicted", "pred", "query")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted query and where it stands.

    Attributes:
        place: The file with the key, the entry or the line, for messages.
        name: The question it says it answers; none if only its position says that.
        sql: The query; none where the file holds null.
        db_id: The database it says it is for; empty if it says nothing.
    """

    place: str
    name: str | None
    sql: str | None
    db_id: str = ""


def load_predictions(path: Path, questions: Sequence[Question]) -> list[str | None]:
    """Reads predictions and lays them beside the questions.

    A prediction that names its question is matched by `question_id` where every name is one, else
    by position (as BIRD's keys "0", "1", ... are). One without a name is matched by position.

    Args:
        path: BIRD's JSON object, a JSON list or JSON lines of queries or of objects with a query
            under one of `SQL_KEYS`, or a text with one query per line. A query may be followed by
            BIRD's mark, or in a text by a tab, and the name of its database.
        questions: All questions of the file the predictions were made for, in its order.

    Returns:
        One query per question, in their order; none where there is no prediction.

    Raises:
        InputError: The file is missing or malformed, or does not fit the questions.
    """
    source = f"predictions {str(path)!r}"
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 text: {error}") from error
    if not content.strip():
        raise InputError(f"{source}: is empty; expected one query per question")
    start = content.lstrip()[0]
    if start == "{" and (keyed := whole_object(content, source)) is not None:
        read = [keyed_prediction(key, value, source) for key, value in keyed.items()]
    elif start in '{["' or path.suffix in (".json", ".jsonl"):
        read = [listed_prediction(entry, place) for place, _, entry in entries(content, source)]
    else:
        read = text_predictions(content, source)
    return beside(read, questions, source)


def whole_object(content: str, source: str) -> dict[str, Any] | None:
    """The object a file consists of; none for JSON lines, of which there may be one only."""
    try:
        found = json.loads(content, object_pairs_hook=lambda pairs: unrepeated(pairs, source))
    except json.JSONDecodeError as error:
        first_line = content.lstrip().split("\n", 1)[0]
        if is_json(first_line):  # JSON lines, whose own reader names the line
            return None
        raise InputError(f"{source}: not JSON: {error}") from error
    is_line = isinstance(found, dict) and any(key in found for key in (*ID_KEYS, *SQL_KEYS))
    return None if is_line else found


def is_json(text: str) -> bool:
    """Whether a text is JSON."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def unrepeated(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    """The object of these pairs, unless a key comes twice and one value would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"{source}, key {key!r}: comes twice")
        found[key] = value
    return found


def keyed_prediction(key: str, value: Any, source: str) -> Prediction:
    """The prediction under one key of BIRD's object."""
    place = f"{source}, key {key!r}"
    sql, db_id = unmarked(checked_query(value, place))
    return Prediction(place, key, sql, db_id)


def listed_prediction(entry: Any, place: str) -> Prediction:
    """The prediction in one entry of a list, or on one line of JSON lines."""
    if not isinstance(entry, Mapping):
        sql, db_id = unmarked(checked_query(entry, place))
        return Prediction(place, None, sql, db_id)
    key = next((key for key in SQL_KEYS if key in entry), None)
    if key is None:
        raise InputError(f"{place}: has no query; expected it under one of {', '.join(SQL_KEYS)}")
    sql, db_id = unmarked(checked_query(entry[key], f"{place}, key {key!r}"))
    name = next((str(entry[key]) for key in ID_KEYS if entry.get(key) is not None), None)
    named_db = entry.get("db_id")
    return Prediction(place, name, sql, db_id or (named_db if isinstance(named_db, str) else ""))


def text_predictions(content: str, source: str) -> list[Prediction]:
    """One prediction per line; an empty line is an empty query."""
    lines = content.split("\n")
    if not lines[-1].strip():
        lines.pop()
    read = []
    for number, line in enumerate(lines, start=1):
        sql, _, db_id = line.rstrip("\r").replace(BIRD_MARK, "\t").rpartition("\t")
        if not sql or not db_id or " " in db_id:  # a tab inside the query
            sql, db_id = line.rstrip("\r"), ""
        read.append(Prediction(f"{source}, line {number}", None, sql, db_id))
    return read


def checked_query(value: Any, place: str) -> str | None:
    """A query as JSON holds it.

    Raises:
        InputError: It is neither text nor null.
    """
    if value is not None and not isinstance(value, str):
        raise InputError(f"{place}: is {type(value).__name__} {value!r:.40}; expected a query")
    return value


def unmarked(sql: str | None) -> tuple[str | None, str]:
    """A query without BIRD's mark, and the database named behind the mark."""
    if sql is None:
        return None, ""
    query, _, db_id = sql.partition(BIRD_MARK)
    return query, db_id.strip()


def beside(
    read: Sequence[Prediction], questions: Sequence[Question], source: str
) -> list[str | None]:
    """The predicted query of each question.

    Raises:
        InputError: A prediction names no question, one that another names too, or another database;
            or predictions without names are not as many as the questions.
    """
    positions = positions_of(read, questions, source)
    taken: dict[int, Prediction] = {}
    for prediction, position in zip(read, positions, strict=True):
        question = questions[position]
        if position in taken:
            raise InputError(
                f"{prediction.place}: answers question {question.question_id!r}, "
                f"as {taken[position].place.removeprefix(source + ', ')} does"
            )
        if prediction.db_id not in ("", question.db_id):
            raise InputError(
                f"{prediction.place}: is for database {prediction.db_id!r}; "
                f"expected {question.db_id!r}, that of question {question.question_id!r}"
            )
        taken[position] = prediction
    return [taken[i].sql if i in taken else None for i in range(len(questions))]


def positions_of(
    read: Sequence[Prediction], questions: Sequence[Question], source: str
) -> list[int]:
    """Which question each prediction answers, by its position from 0."""
    named = [prediction for prediction in read if prediction.name is not None]
    if not named:
        if len(read) != len(questions):
            raise InputError(
                f"{source}: holds {len(read)} predictions that do not name their question; "
                f"expected {len(questions)}, one per question"
            )
        return list(range(len(read)))
    if len(named) < len(read):
        unnamed = next(prediction for prediction in read if prediction.name is None)
        raise InputError(f"{unnamed.place}: has no question_id, though others have one")
    by_id = {question.question_id: i for i, question in enumerate(questions)}
    by_number = {str(i): i for i in range(len(questions))}
    for known in (by_id, by_number):
        if len(known) == len(questions) and all(p.name in known for p in named):
            return [known[str(prediction.name)] for prediction in named]
    stranger = next((p for p in named if p.name not in by_id and p.name not in by_number), named[0])
    raise InputError(
        f"{stranger.place}: {stranger.name!r} is neither the question_id of a question "
        f"nor, as all keys would have to be, a position from 0 to {len(questions) - 1}"
    )
