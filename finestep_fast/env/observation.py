"""Results and schemas as the short texts an agent reads.

Line by line and cut to a budget, saying what was left out. Not a format for machines.
"""

from __future__ import annotations

from collections.abc import Sequence

from finestep_fast.sql.names import quoted_name
from finestep_fast.sql.outcome import Result, Row, Value
from finestep_fast.sql.schema import Column, DatabaseSchema, Table


def readable(text: str) -> str:
    """Return the text with everything that no UTF-8 can hold replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def cut(text: str, max_chars: int) -> str:
    """Return the text, or its beginning and a last line that says how much is missing."""
    if len(text) <= max_chars:
        return text
    kept = max(0, max_chars - len("\n(cut: 1234567890 more characters)"))
    return f"{text[:kept]}\n(cut: {len(text) - kept} more characters)"


def value_text(value: Value, max_chars: int) -> str:
    """Return one value on one line: NULL, numbers, text, bytes in hexadecimal.

    A number is written with as many digits as a query needs to mean this very number, which
    SQLite's own 15 are too few for: a value that is read here can be searched for.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        shown = value[: max_chars // 2].hex()
        return f"x'{shown}'" + ("..." if 2 * len(value) > len(shown) else "")
    text = value if isinstance(value, str) else repr(value).replace("inf", "9e999")
    if len(text) > max_chars:
        text = text[:max_chars] + "..."
    if "\n" in text or "\r" in text:
        text = text.replace("\r", "\\r").replace("\n", "\\n")
    return text


def row_text(row: Row, max_value_chars: int) -> str:
    """Return one row on one line."""
    return " | ".join([value_text(value, max_value_chars) for value in row])


def result_text(result: Result, *, max_chars: int, max_value_chars: int) -> str:
    """Return a result: its columns' names, its rows as far as they fit, and how many there are."""
    head = " | ".join(value_text(name, max_value_chars) for name in result.columns)
    lines = [head]
    # Room for the last line, which is at most this long.
    room = max_chars - len(head) - len("\n(first 1000000000 of 1000000000 rows shown; more exist)")
    for row in result.rows:
        line = row_text(row, max_value_chars)
        room -= len(line) + 1
        if room < 0:
            break
        lines.append(line)
    num_shown, num_rows = len(lines) - 1, len(result.rows)
    if result.truncated:
        lines.append(f"(first {num_shown} rows shown; more exist)")
    elif num_shown < num_rows:
        lines.append(f"(first {num_shown} of {num_rows} rows shown)")
    else:
        lines.append(f"({num_rows} row{'' if num_rows == 1 else 's'})")
    return cut("\n".join(lines), max_chars)


def column_text(column: Column) -> str:
    """Return one column on one line: name, type, primary key, what it points to."""
    parts = [quoted_name(column.name)]
    if column.type:
        parts.append(column.type)
    if column.in_primary_key:
        parts.append("PK")
    if column.foreign_key is not None:
        target = quoted_name(column.foreign_key.table)
        if column.foreign_key.column:
            target += "." + quoted_name(column.foreign_key.column)
        parts.append(f"-> {target}")
    return " ".join(parts)


def table_text(table: Table) -> str:
    """Return a table's columns, one a line."""
    return "\n".join(column_text(column) for column in table.columns)


def tables_text(tables: Sequence[Table]) -> str:
    """Return the names of tables, one a line."""
    return "\n".join(quoted_name(table.name) for table in tables)


def schema_text(schema: DatabaseSchema, detail: str, max_chars: int) -> str:
    """Return what the first message says about the database."""
    if detail == "none" or not schema.tables:
        return ""
    if detail == "tables":
        return cut("Tables: " + ", ".join(quoted_name(t.name) for t in schema.tables), max_chars)
    lines = [
        f"{quoted_name(table.name)}({', '.join(column_text(c) for c in table.columns)})"
        for table in schema.tables
    ]
    return cut("Tables:\n" + "\n".join(lines), max_chars)
