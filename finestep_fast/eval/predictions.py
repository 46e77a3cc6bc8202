"""Predicted queries, read from the formats in use and laid beside the questions they answer.

Not a check of the queries: whatever is wrong with one shows as its status, and so does an entry
that holds no query.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finestep_fast.env.question import ID_KEYS, Question, entries
from finestep_fast.errors import InputError
from finestep_fast.sql import query_in

BIRD_MARK = "\t----- bird -----\t"
IS_NULL = "is null"
SQL_KEYS = ("SQL", "sql", "predicted_sql", "pred_sql", "prediction", "predicted", "pred", "query")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted query and where it stands."""

    place: str
    """The file with the key, the entry or the line, for messages."""
    name: str | None
    """The question it says it answers; none if only its position says that."""
    sql: str | None
    """The query; none where the file holds something else."""
    db_id: str = ""
    """The database it says it is for; empty if it says nothing."""
    problem: str = ""
    """Why there is no query; empty if there is one."""
    taken_out: int = 0
    """How many of the queries are only a part of what the file holds; see `sql.query_in`."""
    more: tuple[str | None, ...] = ()
    """Further predicted queries for the question, as `sql` is."""

    @property
    def queries(self) -> tuple[str | None, ...]:
        """Return all predicted queries for the question, in their order."""
        return (self.sql, *self.more)

    @property
    def is_missing(self) -> bool:
        """Return whether there is no query at all."""
        return all(sql is None for sql in self.queries)


def load_predictions(
    path: Path, questions: Sequence[Question], *, as_written: bool = False
) -> list[Prediction]:
    """Read predictions and lay them beside the questions.

    A prediction that names its question is matched by `question_id` where every name is one, else
    by position (as BIRD's keys "0", "1", ... are). One without a name is matched by position.
    A `question_id` that several questions share (BIRD's mini-dev has such) says which one is meant
    only beside a `db_id` that tells them apart, or in a file whose predictions name the questions
    in their very order.

    Args:
        path: BIRD's JSON object, a JSON list or JSON lines of queries or of objects with a query
            under one of `SQL_KEYS`, or a text with one query per line. A query may be followed by
            BIRD's mark, or in a text by a tab, and the name of its database. In JSON a list of
            queries may stand for a query: several predictions for one question.
        questions: All questions of the file the predictions were made for, in its order.
        as_written: Whether a query in a fence or between words stays there, and fails.

    Returns:
        One prediction per question, in their order; where the file has none, one without a query.

    Raises:
        InputError: The file is missing or malformed, holds no query, or does not fit the questions.
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
        read = text_predictions(content, source, {question.db_id for question in questions})
    wrong = next((p for p in read if p.problem and p.problem != IS_NULL), None)
    if wrong is not None and all(prediction.is_missing for prediction in read):
        raise InputError(f"{wrong.place}: {wrong.problem}, and no other prediction is a query")
    if not as_written:
        read = [out_of_fences(prediction) for prediction in read]
    return beside(read, questions, source)


def out_of_fences(prediction: Prediction) -> Prediction:
    """Return the prediction with the query in what the model wrote."""
    queries = [None if sql is None else query_in(sql) for sql in prediction.queries]
    taken_out = sum(a != b for a, b in zip(queries, prediction.queries, strict=True))
    return replace(prediction, sql=queries[0], more=tuple(queries[1:]), taken_out=taken_out)


def whole_object(content: str, source: str) -> dict[str, Any] | None:
    """Return the object a file consists of; none for JSON lines, of which there may be one only."""
    try:
        found = json.loads(content, object_pairs_hook=lambda pairs: unrepeated(pairs, source))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        first_line = content.lstrip().split("\n", 1)[0]
        if is_json(first_line):  # JSON lines, whose own reader names the line
            return None
        raise InputError(f"{source}: not JSON: {error}") from error
    is_line = isinstance(found, dict) and any(key in found for key in (*ID_KEYS, *SQL_KEYS))
    return None if is_line else found


def is_json(text: str) -> bool:
    """Return whether a text is JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def unrepeated(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    """Return the object of these pairs, unless a key comes twice and one value would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"{source}, key {key!r}: comes twice")
        found[key] = value
    return found


def keyed_prediction(key: str, value: Any, source: str) -> Prediction:
    """Return the prediction under one key of BIRD's object."""
    queries, db_id = queries_of(value)
    place = f"{source}, key {key!r}"
    return Prediction(place, key, queries[0], db_id, problem_of(value), more=queries[1:])


def listed_prediction(entry: Any, place: str) -> Prediction:
    """Return the prediction in one entry of a list, or on one line of JSON lines."""
    if not isinstance(entry, Mapping):
        queries, db_id = queries_of(entry)
        return Prediction(place, None, queries[0], db_id, problem_of(entry), more=queries[1:])
    key = next((key for key in SQL_KEYS if key in entry), None)
    value = entry[key] if key else None
    problem = f"{key}: {problem_of(value)}" if problem_of(value) else ""
    if key is None:
        problem = f"has no query; expected it under one of {', '.join(SQL_KEYS)}"
    queries, db_id = queries_of(value)
    name = next((str(entry[key]) for key in ID_KEYS if entry.get(key) is not None), None)
    named_db = entry.get("db_id")
    named_db = named_db if isinstance(named_db, str) else ""
    return Prediction(place, name, queries[0], db_id or named_db, problem, more=queries[1:])


def text_predictions(content: str, source: str, db_ids: Set[str]) -> list[Prediction]:
    """Return one prediction per line; an empty line is an empty query.

    What follows the last tab is the name of a database if it is one of `db_ids`, or could be one
    because it is a single word; else the tab is part of the query.
    """
    lines = content.split("\n")
    if not lines[-1].strip():
        lines.pop()
    read = []
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r")
        sql, mark, db_id = line.rpartition(BIRD_MARK)
        if not mark:
            sql, _, db_id = line.rpartition("\t")
        db_id = db_id.strip()
        is_name = bool(mark) or db_id in db_ids or (db_id and " " not in db_id)
        if not sql or not is_name:
            sql, db_id = line, ""
        read.append(Prediction(f"{source}, line {number}", None, sql, db_id))
    return read


def problem_of(value: Any) -> str:
    """Return why a value of JSON is no query; empty if it is one, or a list with one."""
    if isinstance(value, str):
        return ""
    if isinstance(value, list) and any(isinstance(sample, str) for sample in value):
        return ""
    return IS_NULL if value is None else f"is {type(value).__name__} {value!r:.40}, no query"


def queries_of(value: Any) -> tuple[tuple[str | None, ...], str]:
    """Return the queries in a value of JSON, at least one or None, and the database they name."""
    samples = value if isinstance(value, list) and not problem_of(value) else [value]
    read = [unmarked(sample) for sample in samples]
    return tuple(sql for sql, _ in read), next((db_id for _, db_id in read if db_id), "")


def unmarked(value: Any) -> tuple[str | None, str]:
    """Return a query without BIRD's mark, and the database behind the mark, if there is one."""
    if not isinstance(value, str):
        return None, ""
    query, _, db_id = value.partition(BIRD_MARK)
    return query, db_id.strip()


def beside(
    read: Sequence[Prediction], questions: Sequence[Question], source: str
) -> list[Prediction]:
    """Return the prediction of each question.

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
    nothing = Prediction(source, None, None, problem="the file has no query for this question")
    return [taken.get(i, nothing) for i in range(len(questions))]


def positions_of(
    read: Sequence[Prediction], questions: Sequence[Question], source: str
) -> list[int]:
    """Return which question each prediction answers, by its position from 0."""
    count = len(questions)
    named = [prediction for prediction in read if prediction.name is not None]
    if not named:
        if len(read) != count:
            raise InputError(
                f"{source}: holds {len(read)} predictions that do not name their question; "
                f"expected {count}, one per question"
            )
        return list(range(count))
    if len(named) < len(read):
        unnamed = next(prediction for prediction in read if prediction.name is None)
        raise InputError(f"{unnamed.place}: has no question_id, though others have one")
    names = [str(prediction.name) for prediction in named]
    if names == [question.question_id for question in questions]:
        return list(range(count))
    places_of_id: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        places_of_id.setdefault(question.question_id, []).append(place)
    place_of_number = {str(place): place for place in range(count)}
    if all(name in places_of_id for name in names):
        meant = [places_meant(p, places_of_id[str(p.name)], questions) for p in named]
        unclear = next((i for i, places in enumerate(meant) if len(places) != 1), None)
        if unclear is None:
            return [places[0] for places in meant]
        places = places_of_id[names[unclear]]
        raise InputError(
            f"{named[unclear].place}: {names[unclear]!r} is the question_id of {len(places)} "
            f"questions, at positions {' and '.join(map(str, places))} from 0; expected beside it "
            "a db_id that tells them apart, a list of predictions for all questions in their "
            f"order, or as keys the positions 0 to {count - 1} of all questions"
        )
    if all(name in place_of_number for name in names):
        return [place_of_number[name] for name in names]
    known = places_of_id.keys() | place_of_number.keys()
    stranger = next((p for p in named if p.name not in known), None)
    if stranger is None:
        stranger = next(p for p in named if p.name not in place_of_number)
        other = next(p for p in named if p.name not in places_of_id)
        raise InputError(
            f"{stranger.place}: {stranger.name!r} is the question_id of a question, and "
            f"{other.name!r} only a position; expected question_ids alone, or positions alone"
        )
    raise InputError(
        f"{stranger.place}: {stranger.name!r} is neither the question_id of a question "
        f"nor, as all keys would have to be, a position from 0 to {count - 1}"
    )


def places_meant(
    prediction: Prediction, places: Sequence[int], questions: Sequence[Question]
) -> list[int]:
    """Return the questions, of those that share an id, that a prediction can be meant for."""
    if len(places) == 1 or not prediction.db_id:
        return list(places)
    return [place for place in places if questions[place].db_id == prediction.db_id]
