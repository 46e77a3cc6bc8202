"""The tool calls that scripted demonstrations are made of.

Observations are not written down: they come from the real environment when calls are replayed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One tool call."""

    name: str
    arguments: dict[str, str]


def look(table: str) -> Call:
    """Read a table's columns."""
    return Call("describe_table", {"table": table})


def run(sql: str) -> Call:
    """Run a query and see its rows."""
    return Call("execute_sql", {"sql": sql})


def submit(sql: str) -> Call:
    """Answer with a query."""
    return Call("submit", {"sql": sql})


def list_tables() -> Call:
    """List the tables."""
    return Call("list_tables", {})


def search_values(text: str) -> Call:
    """Search for a value."""
    return Call("search_values", {"text": text})
