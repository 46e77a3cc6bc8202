"""The query in what a model wrote: out of a fence, behind a label, between words.

Not a repair: the query itself stays as written. Nothing is taken out of plain SQL.
"""

from __future__ import annotations

import re
from itertools import islice

from finestep_fast.errors import InputError, shown
from finestep_fast.sql import lexer

FENCE = re.compile(r"```(?P<is_sql>[ \t]*(?:sqlite3?|sql)\b)?", re.IGNORECASE)
LABEL = re.compile(r"\s*(?:\*\*)?sql(?:ite)?(?:[ ]?query)?(?:\*\*)?[ \t]*:(?:\*\*)?", re.IGNORECASE)
REASONING_END = "</think>"


def query_in(text: str) -> str:
    """Return the query in a completion, or the text unchanged where none can be told.

    Text that SQLite could read as a query is one, though it holds a fence in a literal. Otherwise
    what stands before the last `</think>` does not count, and the query is, of these, the first
    that there is:

    1. the last block between ```` ```sql ```` (or `sqlite`) and ```` ``` ```` or the end that
       begins as a query does;
    2. the last such block between bare fences, or else one whose opening fence stands in the
       prompt;
    3. the last block after ```` ```sql ```` that is not empty;
    4. what follows `SQL:` or the reasoning and begins as a query does.

    Args:
        text: All that the model wrote.

    Raises:
        InputError: It is no text.
    """
    if not isinstance(text, str):
        raise InputError(f"text is {shown(text)}; expected text")
    has_fence = "```" in text
    if not has_fence and REASONING_END not in text and LABEL.match(text) is None:
        return text
    if (has_fence or REASONING_END in text) and is_plain(text):
        return text
    said = text.rpartition(REASONING_END)[2]
    found = fenced(said) if has_fence else None
    if found is None:
        label = LABEL.match(said)
        found = said[label.end() :] if label else said
        if not begins_as_query(found):
            return text
    return found.strip()


def is_plain(text: str) -> bool:
    """Return whether a text that holds a fence or a tag is a query all the same."""
    if not begins_as_query(text):
        return False
    # Imported here: few texts need sqlglot.
    from finestep_fast.sql.parsing import parsed_query

    return parsed_query(text) is not None


def fenced(text: str) -> str | None:
    """Return the query between fences, as `query_in` says; None where no fence holds one."""
    tagged, bare = blocks_in(text, is_open=False)
    opened_by_prompt = blocks_in(text, is_open=True)[1] if begins_as_query(text) else []
    for block in (*tagged[::-1], *bare[::-1], *opened_by_prompt[::-1]):
        if begins_as_query(block):
            return block
    return next((block for block in reversed(tagged) if block.strip()), None)


def blocks_in(text: str, *, is_open: bool) -> tuple[list[str], list[str]]:
    """Return the blocks of a text that begin with a fence for SQL, and those with a bare one.

    Args:
        text: What holds them; the last block may end with it.
        is_open: Whether the text begins inside a bare block.
    """
    tagged: list[str] = []
    bare: list[str] = []
    start = 0 if is_open else None
    blocks = bare
    for fence in FENCE.finditer(text):
        is_sql = fence["is_sql"] is not None
        if start is not None:
            blocks.append(text[start : fence.start()])
        opens = is_sql or start is None
        start = fence.end() if opens else None
        blocks = tagged if is_sql else bare
    if start is not None:
        blocks.append(text[start:])
    return tagged, bare


def begins_as_query(text: str) -> bool:
    """Return whether the first words of a text could be those of a query."""
    words = [token.folded for token in islice(lexer.tokens(text), 4)]
    while words and words[0] == "(":
        del words[0]
    if words[:1] != ["with"]:
        return words[:1] in (["select"], ["values"])
    name_at = 2 if words[1:2] == ["recursive"] else 1
    return words[name_at + 1 : name_at + 2] in (["as"], ["("])
