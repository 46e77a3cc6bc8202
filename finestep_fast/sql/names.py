"""Writing names and values so that SQLite reads them back as they are.

Not a formatter of queries.
"""

from __future__ import annotations

import re

PLAIN_NAME = re.compile(r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*")
# The words SQLite 3.40 does not accept as a bare column or table name, and those that begin or
# join clauses, which it accepts in some places only.
NOT_BARE = """
    add all alter and as autoincrement between case cast check collate commit constraint create
    cross current_date current_time current_timestamp default deferrable delete distinct drop else
    end escape except exists false filter foreign from full group having in index indexed inner
    insert intersect into is isnull join left limit natural not nothing notnull null offset on or
    order outer over primary raise references returning right select set table then to transaction
    true union unique update using values when where window with
"""
RESERVED_WORDS = frozenset(NOT_BARE.split())


def quoted_name(name: str) -> str:
    """Return the name for use in a query: bare where SQLite allows that, else in double quotes."""
    if PLAIN_NAME.fullmatch(name) and name.lower() not in RESERVED_WORDS:
        return name
    return always_quoted_name(name)


def always_quoted_name(name: str) -> str:
    """Return the name in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """Return the text as a string literal."""
    return "'" + text.replace("'", "''") + "'"
