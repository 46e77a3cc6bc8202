"""The fourteen kinds of quickstart questions, each with its gold SQL and its natural mistake.

A kind drafts a question from the words and values of one database; whether the draft is any good
is for `questions` to find out. Wordings are few and SQL is canonical on purpose: a very small
model learns them in a minute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from finestep_fast.train.quickstart.databases import FIRST_YEAR, KEY, LABEL, LAST_YEAR, Database


@dataclass(frozen=True)
class Draft:
    """A question before it has an id; `gold`, `mistake` and `ranking` are SQL templates."""

    text: str
    gold: str
    mistake: str
    table: str
    """The table to look at: its description shows every spelling that is not a fixed word."""
    value: str | None = None
    """A text value the question names, which one might search for."""
    ranking: str | None = None
    """The values by which the gold ranks its candidates, for golds that end in a LIMIT."""
    limit: int = 1


@dataclass(frozen=True)
class Kind:
    """A kind of question: how it is drafted, and how it is labelled."""

    draft: Callable[[Database, Random], Draft]
    hard: bool
    """Whether most demonstrations make the natural mistake; the others are learnt at once."""
    difficulty: str
    """In BIRD's words: simple, moderate or challenging."""


# Picks: every one returns words and values that occur together in the database.


def _where(database: Database, rng: Random, num_conditions: int = 1) -> list[tuple[str, str]]:
    """Return text columns of one row of the main table, with what it holds there (never NULL)."""
    words = rng.sample(database.text_words, num_conditions)
    index_of_word = {c.word: i for i, c in enumerate(database.main_columns)}
    rows = [[row[index_of_word[w]] for w in words] for row in database.main_rows]
    values = rng.choice([row for row in rows if None not in row])
    return [(word, str(value)) for word, value in zip(words, values, strict=True)]


def _threshold(database: Database, word: str, rng: Random) -> int:
    """Return a value of the column that few rows exceed and at least one row has."""
    values = sorted(int(v) for v in database.values(word) if v is not None)
    return rng.choice(values[-9:-1])


def _year(database: Database, rng: Random) -> str:
    return str(rng.choice(database.values(database.child_word("day"))))[:4]


# Kinds.


def _count(d: Database, rng: Random) -> Draft:
    ((word, value),) = _where(d, rng)
    return Draft(
        text=rng.choice(
            (
                f"How many {d.main_table} have {word} '{value}'?",
                f"Count the {d.main_table} with {word} '{value}'.",
            )
        ),
        gold=f"SELECT COUNT(*) FROM {d.main_table} WHERE {{{word}}} = '{value}'",
        mistake=f"SELECT COUNT({{{word}}}) FROM {d.main_table}",
        table=d.main_table,
        value=value,
    )


def _avg(d: Database, rng: Random) -> Draft:
    ((word, value),) = _where(d, rng)
    number = rng.choice(d.number_words)
    rest = f"({{{number}}}) FROM {d.main_table} WHERE {{{word}}} = '{value}'"
    return Draft(
        text=rng.choice(
            (
                f"What is the average {number} of {d.main_table} with {word} '{value}'?",
                f"Give the average {number} of the {d.main_table} with {word} '{value}'.",
            )
        ),
        gold=f"SELECT AVG{rest}",
        mistake=f"SELECT SUM{rest}",
        table=d.main_table,
        value=value,
    )


def _both(d: Database, rng: Random) -> Draft:
    (word, value), (other, second) = _where(d, rng, 2)
    mistake = f"SELECT {{{LABEL.word}}} FROM {d.main_table} WHERE {{{word}}} = '{value}'"
    return Draft(
        text=rng.choice(
            (
                f"Which {d.main_table} have {word} '{value}' and {other} '{second}'?",
                f"List the {d.main_table} with {word} '{value}' and {other} '{second}'.",
            )
        ),
        gold=f"{mistake} AND {{{other}}} = '{second}'",
        mistake=mistake,
        table=d.main_table,
        value=value,
    )


def _extreme(d: Database, rng: Random) -> Draft:
    ((word, value),) = _where(d, rng)
    number = rng.choice(d.number_words)
    end, direction = rng.choice((("highest", " DESC"), ("lowest", "")))
    select, order = f"FROM {d.main_table}", f" ORDER BY {{{number}}}{direction}"
    where = f" WHERE {{{word}}} = '{value}'"
    return Draft(
        text=rng.choice(
            (
                f"Which of the {d.main_table} with {word} '{value}' has the {end} {number}?",
                f"Of the {d.main_table} with {word} '{value}', which has the {end} {number}?",
            )
        ),
        gold=f"SELECT {{{LABEL.word}}} {select}{where}{order} LIMIT 1",
        mistake=f"SELECT {{{LABEL.word}}} {select}{order} LIMIT 1",
        table=d.main_table,
        value=value,
        ranking=f"SELECT {{{number}}} {select}{where}{order}",
    )


def _comparison(d: Database, rng: Random, phrase: str, gold: str, mistake: str) -> Draft:
    number = rng.choice(d.number_words)
    threshold = _threshold(d, number, rng)
    select = f"SELECT {{{LABEL.word}}} FROM {d.main_table} WHERE {{{number}}}"
    return Draft(
        text=rng.choice(
            (
                f"Which {d.main_table} have {number} {phrase} {threshold}?",
                f"List the {d.main_table} with {number} {phrase} {threshold}.",
            )
        ),
        gold=f"{select} {gold} {threshold}",
        mistake=f"{select} {mistake} {threshold}",
        table=d.main_table,
    )


def _above(d: Database, rng: Random) -> Draft:
    return _comparison(d, rng, "above", ">", ">=")


def _at_least(d: Database, rng: Random) -> Draft:
    return _comparison(d, rng, "at least", ">=", ">")


def _top(d: Database, rng: Random) -> Draft:
    number, limit = rng.choice(d.number_words), rng.randint(2, 4)
    ordered = f"FROM {d.main_table} ORDER BY {{{number}}} DESC"
    return Draft(
        text=rng.choice(
            (
                f"Which {limit} {d.main_table} have the highest {number}?",
                f"List the {limit} {d.main_table} with the highest {number}.",
            )
        ),
        gold=f"SELECT {{{LABEL.word}}} {ordered} LIMIT {limit}",
        mistake=f"SELECT {{{LABEL.word}}} {ordered} LIMIT 1",
        table=d.main_table,
        ranking=f"SELECT {{{number}}} {ordered}",
        limit=limit,
    )


def _group(d: Database, rng: Random) -> Draft:
    word = rng.choice(d.text_words)
    grouped = f"FROM {d.main_table} GROUP BY {{{word}}} ORDER BY COUNT(*) DESC"
    return Draft(
        text=rng.choice(
            (
                f"Which {word} is most common among the {d.main_table}?",
                f"What is the most common {word} of the {d.main_table}?",
            )
        ),
        gold=f"SELECT {{{word}}} {grouped} LIMIT 1",
        mistake=f"SELECT MAX({{{word}}}) FROM {d.main_table}",
        table=d.main_table,
        ranking=f"SELECT COUNT(*) {grouped}",
    )


def _having(d: Database, rng: Random) -> Draft:
    word = rng.choice(d.text_words)
    least = rng.choice(list(Counter(d.values(word)).values()))
    grouped = f"SELECT {{{word}}} FROM {d.main_table} GROUP BY {{{word}}} HAVING COUNT(*)"
    return Draft(
        text=rng.choice(
            (
                f"Which {word} do at least {least} {d.main_table} have?",
                f"List each {word} with at least {least} {d.main_table}.",
            )
        ),
        gold=f"{grouped} >= {least}",
        mistake=f"{grouped} > {least}",
        table=d.main_table,
    )


def _joined(d: Database) -> str:
    foreign_key = d.child_word("id")
    return f"{d.main_table} JOIN {d.child_table} ON {{{KEY.word}}} = {{{foreign_key}}}"


def _join_sum(d: Database, rng: Random) -> Draft:
    ((word, value),) = _where(d, rng)
    number = d.child_word("val")
    return Draft(
        text=rng.choice(
            (
                f"What is the total {number} of {d.child_table} for {word} '{value}'?",
                f"Give the total {number} of the {d.child_table} for {word} '{value}'.",
            )
        ),
        gold=f"SELECT SUM({{{number}}}) FROM {_joined(d)} WHERE {{{word}}} = '{value}'",
        mistake=f"SELECT SUM({{{number}}}) FROM {d.child_table}",
        table=d.child_table,
        value=value,
    )


def _join_list(d: Database, rng: Random) -> Draft:
    word = d.child_word("name")
    value = str(rng.choice(d.values(word)))
    where = f"WHERE {{{word}}} = '{value}'"
    return Draft(
        text=rng.choice(
            (
                f"Which {d.main_table} have {d.child_table} with {word} '{value}'?",
                f"List the {d.main_table} that have {d.child_table} with {word} '{value}'.",
            )
        ),
        gold=f"SELECT DISTINCT {{{LABEL.word}}} FROM {_joined(d)} {where}",
        mistake=f"SELECT DISTINCT {{{d.child_word('id')}}} FROM {d.child_table} {where}",
        table=d.child_table,
        value=value,
    )


def _nested(d: Database, rng: Random) -> Draft:
    number = rng.choice(d.number_words)
    select = f"SELECT {{{LABEL.word}}} FROM {d.main_table} WHERE {{{number}}} >"
    return Draft(
        text=rng.choice(
            (
                f"Which {d.main_table} have {number} above the average?",
                f"List the {d.main_table} with {number} above the average.",
            )
        ),
        gold=f"{select} (SELECT AVG({{{number}}}) FROM {d.main_table})",
        mistake=f"{select} AVG({{{number}}})",
        table=d.main_table,
    )


def _year_kind(d: Database, rng: Random) -> Draft:
    day, year = d.child_word("day"), _year(d, rng)
    select = f"SELECT COUNT(*) FROM {d.child_table} WHERE {{{day}}}"
    return Draft(
        text=rng.choice(
            (
                f"How many {d.child_table} were {day} in {year}?",
                f"Count the {d.child_table} {day} in {year}.",
            )
        ),
        gold=f"{select} LIKE '{year}%'",
        mistake=f"{select} = '{year}'",
        table=d.child_table,
    )


def _after(d: Database, rng: Random) -> Draft:
    day, year = d.child_word("day"), rng.randint(FIRST_YEAR, LAST_YEAR - 1)
    select = f"SELECT COUNT(*) FROM {d.child_table} WHERE {{{day}}} >"
    return Draft(
        text=rng.choice(
            (
                f"How many {d.child_table} were {day} after {year}?",
                f"Count the {d.child_table} {day} after {year}.",
            )
        ),
        gold=f"{select} '{year}-12-31'",
        mistake=f"{select} '{year}'",
        table=d.child_table,
    )


KINDS: dict[str, Kind] = {
    "count": Kind(_count, hard=False, difficulty="simple"),
    "avg": Kind(_avg, hard=True, difficulty="simple"),
    "both": Kind(_both, hard=True, difficulty="simple"),
    "extreme": Kind(_extreme, hard=True, difficulty="moderate"),
    "above": Kind(_above, hard=False, difficulty="simple"),
    "at_least": Kind(_at_least, hard=True, difficulty="simple"),
    "top": Kind(_top, hard=False, difficulty="moderate"),
    "group": Kind(_group, hard=False, difficulty="moderate"),
    "having": Kind(_having, hard=True, difficulty="moderate"),
    "join_sum": Kind(_join_sum, hard=True, difficulty="challenging"),
    "join_list": Kind(_join_list, hard=False, difficulty="challenging"),
    "nested": Kind(_nested, hard=False, difficulty="challenging"),
    "year": Kind(_year_kind, hard=False, difficulty="simple"),
    "after": Kind(_after, hard=True, difficulty="simple"),
}
