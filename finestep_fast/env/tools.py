"""The tools of an agent: what each may be given, and what it answers.

Not the episode: nothing here knows how many turns are left. A tool never raises for anything it is
given; what goes wrong stands in its answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from finestep_fast.env.calls import ToolCall
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.observation import (
    result_text,
    table_text,
    tables_text,
    value_text,
)
from finestep_fast.env.question import Question
from finestep_fast.sql.engine import Engine
from finestep_fast.sql.lexer import CLOSING, unquoted
from finestep_fast.sql.names import always_quoted_name, quoted_name, quoted_text
from finestep_fast.sql.outcome import Result, Status
from finestep_fast.sql.schema import Column, DatabaseSchema, Table

SUBMIT = "submit"


@dataclass(frozen=True)
class Desk:
    """What a tool works with."""

    question: Question
    """The question at hand."""
    schema: DatabaseSchema
    """Of the question's database."""
    engine: Engine
    """Runs queries."""
    config: EnvConfig
    """Of the episode."""
    max_chars: int
    """Room for the answer; what exceeds it is cut off by the caller."""

    def run(self, sql: str, *, max_rows: int, timeout_s: float) -> Result:
        """Run one query on the question's database."""
        (result,) = self.engine.run(
            [(self.question.database, sql)],
            max_rows=max_rows,
            max_bytes=self.config.max_result_bytes,
            timeout_s=timeout_s,
        )
        # An agent knows of no batch.
        return replace(result, message=result.message.removeprefix("jobs[0]: "))


@dataclass(frozen=True)
class Answer:
    """What a tool answers."""

    text: str
    """For the agent."""
    status: Status = Status.OK
    """OK if the tool did what it was asked."""
    digest: str = ""
    """Of the rows, if a query was run and found some."""


@dataclass(frozen=True)
class Tool:
    """One tool: its arguments with a sentence each, and the function behind it."""

    name: str
    description: str
    required: dict[str, str]
    optional: dict[str, str]
    answer: Callable[[Desk, dict[str, str]], Answer] | None

    @property
    def schema(self) -> dict[str, Any]:
        """Return the tool as chat templates want it."""
        arguments = self.required | self.optional
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": {
                        name: {"type": "string", "description": sentence}
                        for name, sentence in arguments.items()
                    },
                    "required": list(self.required),
                },
            },
        }

    def complaint(self, arguments: dict[str, str]) -> str:
        """Return why the tool cannot take these arguments; empty if it can."""
        missing = [name for name in self.required if name not in arguments]
        if missing:
            return f"{self.name} needs the argument {missing[0]!r}"
        unknown = sorted(arguments.keys() - self.required.keys() - self.optional.keys())
        if unknown:
            return f"{self.name} has no argument {unknown[0][:40]!r}"
        return ""


def list_tables(desk: Desk, arguments: dict[str, str]) -> Answer:
    """Return the names of the tables."""
    return Answer(tables_text(desk.schema.tables) or "(no tables)")


def describe_table(desk: Desk, arguments: dict[str, str]) -> Answer:
    """Return the columns of one table."""
    table = named_table(desk.schema, arguments["table"])
    if table is None:
        return no_such("table", arguments["table"])
    return Answer(table_text(table))


def execute_sql(desk: Desk, arguments: dict[str, str]) -> Answer:
    """Return the rows of one query."""
    config = desk.config
    result = desk.run(arguments["sql"], max_rows=config.max_rows, timeout_s=config.query_timeout_s)
    if result.status is not Status.OK:
        return Answer(error_text(result, desk), result.status)
    text = result_text(result, max_chars=desk.max_chars, max_value_chars=config.max_value_chars)
    return Answer(text, Status.OK, result.digest if result.rows else "")


def search_values(desk: Desk, arguments: dict[str, str]) -> Answer:
    """Return the values that contain a text, with the columns they stand in."""
    config = desk.config
    wanted = arguments["text"]
    if not wanted.strip():
        return Answer("error: text is empty", Status.ERROR)
    table_name, column_name = arguments.get("table"), arguments.get("column")
    if table_name is not None and named_table(desk.schema, table_name) is None:
        return no_such("table", table_name)
    places = list(searched_columns(desk.schema, table_name, column_name))
    if not places and column_name is not None:
        return no_such("column", column_name)
    escaped = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    pattern = quoted_text(f"%{escaped}%")
    deadline = time.monotonic() + config.query_timeout_s
    lines: list[str] = []
    left = config.max_found_values
    failed: dict[str, Result] = {}
    for table, column in places:
        if table.name in failed:
            continue
        name = always_quoted_name(column.name)
        # Numbers of a column of numbers are not what is looked for, unless it is named.
        only_text = column_name is None and not column.holds_text
        rest_s = deadline - time.monotonic()
        result = desk.run(
            f"SELECT DISTINCT {name} FROM {always_quoted_name(table.name)} WHERE "
            + (f"typeof({name}) IN ('text', 'blob') AND " if only_text else "")
            # Whether LIKE looks into a BLOB is a matter of how SQLite was built.
            + f"CAST({name} AS TEXT) LIKE {pattern} ESCAPE '\\'",
            max_rows=left,
            timeout_s=max(rest_s, 1e-3),
        )
        if result.status is Status.TIMEOUT:
            lines.append(error_text(result, desk))
            return Answer("\n".join(lines), result.status)
        if result.status is not Status.OK:
            failed[table.name] = result
            continue
        if result.rows:
            values = [literal_text(row[0], config.max_value_chars) for row in result.rows]
            place = f"{quoted_name(table.name)}.{quoted_name(column.name)}"
            lines.append(f"{place}: {', '.join(values)}")
            left -= len(values)
        if result.truncated or left < 1:
            lines.append("(more may exist)")
            break
    if failed and failed.keys() == {table.name for table, _ in places}:
        result = next(iter(failed.values()))
        return Answer(error_text(result, desk), result.status)
    if not lines:
        lines.append("(no value found)")
    for unread, result in failed.items():
        lines.append(f"({quoted_name(unread)} cannot be searched: {result.message})")
    return Answer("\n".join(lines))


def searched_columns(
    schema: DatabaseSchema, table_name: str | None, column_name: str | None
) -> Iterator[tuple[Table, Column]]:
    """Yield the columns a search reads: the one named, else every one that may hold text."""
    only = None if table_name is None else named_table(schema, table_name)
    for table in schema.tables if only is None else (only,):
        for column in table.columns:
            if column_name is None:
                if column.holds_text or column.may_hold_text:
                    yield table, column
            elif column.name.lower() in spellings(column_name):
                yield table, column


def named_table(schema: DatabaseSchema, name: str) -> Table | None:
    """Return the table an agent means, with or without the quotes that SQL needs."""
    return next((t for t in schema.tables if t.name.lower() in spellings(name)), None)


def spellings(name: str) -> tuple[str, ...]:
    """Return the folded name, and what it says inside its quotes."""
    if len(name) > 1 and CLOSING.get(name[0]) == name[-1]:
        return name.lower(), unquoted(name).lower()
    return (name.lower(),)


def literal_text(value: int | float | str | bytes | None, max_chars: int) -> str:
    """Return a value as a query would write it."""
    text = value_text(value, max_chars)
    return quoted_text(text) if isinstance(value, str) else text


def no_such(kind: str, name: str) -> Answer:
    """Return the answer to a call that names something the database does not have."""
    return Answer(f"error: no such {kind}: {name[:80]}", Status.ERROR)


def error_text(result: Result, desk: Desk) -> str:
    """Return what an agent reads of a query that failed."""
    if result.status is Status.TIMEOUT:
        return f"error: stopped after {desk.config.query_timeout_s:g} s"
    return f"error: {result.message}"


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("list_tables", "List the tables of the database.", {}, {}, list_tables),
        Tool(
            "describe_table",
            "List the columns of a table with their types and keys.",
            {"table": "Name of the table."},
            {},
            describe_table,
        ),
        Tool(
            "search_values",
            "Find values in the database that contain a text.",
            {"text": "What to look for; letter case does not matter."},
            {
                "table": "Search this table only.",
                "column": "Search columns of this name only.",
            },
            search_values,
        ),
        Tool(
            "execute_sql",
            "Run one SQLite query that only reads, and see its rows.",
            {"sql": "The query."},
            {},
            execute_sql,
        ),
        Tool(
            SUBMIT,
            "Give the final answer: the SQLite query that answers the question.",
            {"sql": "The query."},
            {},
            None,
        ),
    )
}
TOOL_SCHEMAS: list[dict[str, Any]] = [tool.schema for tool in TOOLS.values()]


def complaint(call: ToolCall) -> str:
    """Return why a well-formed call cannot be carried out at all; empty if it can."""
    tool = TOOLS.get(call.name)
    if tool is None:
        return f"no tool {call.name[:40]!r}; the tools are {', '.join(TOOLS)}"
    return tool.complaint(call.arguments)
