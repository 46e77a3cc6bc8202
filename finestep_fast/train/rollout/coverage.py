"""What a gold query needs, and how much of it a rollout has been shown before each of its steps.

Only the critic uses this: nothing in here reaches a prompt, an observation or a reward. Of several
accepted gold queries the first counts. Names count as seen where the agent could learn that they
exist, never where a word of the question happens to be one; literals count wherever their words
were shown.

- A table is seen when the schema in the prompt, `list_tables` or `describe_table` shows it.
- A column `t.c` is seen when the schema in the prompt or `describe_table` of `t` shows `c`, or when
  a foreign key shown there points to it.
- A query that ran shows the tables and columns that it names, and those in the head of its result;
  one that reads `sqlite_master` shows the names in its result.
- `search_values` shows the columns that its lines begin with.
- A literal is seen when its words stand in the prompt or in an observation, one after the other,
  without regard to letter case and punctuation. `%` around it, signs of numbers and `.0` do not
  matter; one without a letter or a digit is no fact.

Calls that failed and malformed steps show nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from finestep_fast.env.episode import LAST_STEP, Episode, StepRecord
from finestep_fast.env.observation import schema_text
from finestep_fast.env.tools import SUBMIT, named_table
from finestep_fast.sql.analysis import analyse
from finestep_fast.sql.names import quoted_name
from finestep_fast.sql.outcome import Status
from finestep_fast.sql.schema import DatabaseSchema, Table

CATALOGUES = frozenset({"sqlite_master", "sqlite_schema"})
_WORD = re.compile(r"\d+(?:\.\d+)?(?![\w.]*[^\W\d])|\w+")
_MAX_REMEMBERED = 4096


class Fact(NamedTuple):
    """One thing that the gold query names."""

    kind: str
    """`table`, `column` or `literal`."""
    name: str
    """Of the table, or of the column's table, folded; the words of a literal."""
    column: str = ""
    """Of a column, folded."""


def num_seen(episode: Episode) -> tuple[int, list[int]]:
    """Return how many facts the gold query has, and how many had been seen before each step.

    Args:
        episode: One that is over.

    Returns:
        The number of facts, 0 if the gold query cannot be parsed or names nothing, and [n] numbers.
    """
    needed = gold_facts(episode.question.gold_sql, episode.schema) if episode.schema else ()
    if not needed or episode.schema is None:
        return 0, [0] * len(episode.steps)
    unseen = set(needed) - _seen_in_prompt(episode, needed)
    counts = []
    for step in episode.steps:
        counts.append(len(needed) - len(unseen))
        if unseen:
            unseen -= _seen_in_step(step, episode.schema, unseen)
    return len(needed), counts


@lru_cache(maxsize=_MAX_REMEMBERED)
def gold_facts(gold_sql: str, schema: DatabaseSchema) -> tuple[Fact, ...]:
    """Return the tables, columns and literals that a query names and the database has."""
    said = analyse(gold_sql, schema)
    tables = [name for name in said.tables if name in schema.columns_by_table]
    columns = set(said.columns)
    facts = [Fact("table", table) for table in tables]
    for table in tables:
        named = [c for c in schema.columns_by_table[table] if f"{table}.{c}" in columns]
        facts += [Fact("column", table, column) for column in sorted(named)]
    literals = [words(value if isinstance(value, str) else repr(value)) for value in said.literals]
    return tuple(dict.fromkeys(facts + [Fact("literal", text) for text in literals if text]))


@lru_cache(maxsize=_MAX_REMEMBERED)
def words(text: str) -> str:
    """Return the folded words and numbers of a text, with one space between them."""
    found = _WORD.findall(text.lower())
    return " ".join(re.sub(r"^(\d+)\.0+$", r"\1", word) for word in found)


def _seen_in_prompt(episode: Episode, needed: Iterable[Fact]) -> set[Fact]:
    """Return the facts that the messages before the first step show."""
    assert episode.schema is not None
    text = "\n".join(message["content"] for message in episode.messages())
    seen = _literals_in(text, needed)
    config = episode.config
    shown = schema_text(episode.schema, config.schema_in_prompt, config.max_prompt_chars)
    if config.schema_in_prompt == "tables":
        seen |= _tables_in(shown.removeprefix("Tables: ").split(", "), episode.schema)
    for line in shown.splitlines():
        for table in episode.schema.tables:
            start = quoted_name(table.name) + "("
            if line.startswith(start):
                seen |= _columns_in(line.removeprefix(start).removesuffix(")").split(", "), table)
    return seen


def _seen_in_step(step: StepRecord, schema: DatabaseSchema, unseen: set[Fact]) -> set[Fact]:
    """Return the facts that a step's call and its observation show, new or not."""
    call = step.call
    if call is None or step.status is not Status.OK or call.name == SUBMIT:
        return set()
    text = step.observation.removesuffix(LAST_STEP)
    seen = _literals_in(text, unseen)
    if call.name == "list_tables":
        return seen | _tables_in(text.splitlines(), schema)
    if call.name == "describe_table":
        table = named_table(schema, call.arguments["table"])
        return seen if table is None else seen | _columns_in(text.splitlines(), table)
    if call.name == "execute_sql":
        return seen | _seen_in_query(call.arguments["sql"], text, schema, unseen)
    names = [fact for fact in unseen if fact.kind != "literal"]
    lines = text.split("\n")
    return seen | {name for name in names if any(_is_place(line, name, schema) for line in lines)}


def _seen_in_query(
    sql: str, text: str, schema: DatabaseSchema, unseen: Iterable[Fact]
) -> set[Fact]:
    """Return the facts that a query which ran names, or that its result shows."""
    said = analyse(sql, schema)
    tables, columns = set(said.tables), set(said.columns)
    first, _, rows = text.partition("\n")
    head = {name.lower() for name in first.split(" | ")}
    catalogue = f" {words(rows)} " if CATALOGUES & tables else ""

    def is_seen(fact: Fact) -> bool:
        names = (fact.name, fact.column) if fact.kind == "column" else (fact.name,)
        if catalogue and all(f" {words(name)} " in catalogue for name in names):
            return True
        if fact.kind == "table":
            return fact.name in tables
        in_query = f"{fact.name}.{fact.column}" in columns
        return in_query or (fact.name in tables and fact.column in head)

    return {fact for fact in unseen if fact.kind != "literal" and is_seen(fact)}


def _literals_in(text: str, facts: Iterable[Fact]) -> set[Fact]:
    """Return the literals that a text shows."""
    literals = [fact for fact in facts if fact.kind == "literal"]
    if not literals:
        return set()
    shown = f" {words(text)} "
    return {fact for fact in literals if f" {fact.name} " in shown}


def _tables_in(lines: Iterable[str], schema: DatabaseSchema) -> set[Fact]:
    """Return the tables that lines name, one each."""
    named = set(lines)
    return {Fact("table", t.name.lower()) for t in schema.tables if quoted_name(t.name) in named}


def _columns_in(lines: Iterable[str], table: Table) -> set[Fact]:
    """Return a table and those of its columns that lines describe, with what they point to."""
    shown = list(lines)
    seen = {Fact("table", table.name.lower())}
    for column in table.columns:
        name = quoted_name(column.name)
        described = [line for line in shown if line == name or line.startswith(f"{name} ")]
        if not described:
            continue
        seen.add(Fact("column", table.name.lower(), column.name.lower()))
        key = column.foreign_key
        if key is not None and any(" -> " in line for line in described):
            seen.add(Fact("table", key.table.lower()))
            seen.add(Fact("column", key.table.lower(), key.column.lower()))
    return seen


def _is_place(line: str, fact: Fact, schema: DatabaseSchema) -> bool:
    """Return whether a line of `search_values` stands for a table, or for a column of it."""
    table = schema.table(fact.name)
    if table is None:
        return False
    if fact.kind == "table":
        return line.startswith(f"{quoted_name(table.name)}.")
    column = table.column(fact.column)
    if column is None:
        return False
    return line.startswith(f"{quoted_name(table.name)}.{quoted_name(column.name)}: ")
