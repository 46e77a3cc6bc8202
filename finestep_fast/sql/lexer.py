"""Cutting SQL into tokens, for questions that must have an answer even when nothing can parse it.

Not a parser: it knows quotes, comments, words, numbers and the depth of parentheses, no grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

TOKEN = re.compile(
    r"""
      (?P<space>[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<string>[xX]?'(?:[^']|'')*(?:'|\Z))
    | (?P<quoted>"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z))
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*|\.\d\w*)
    | (?P<mark><>|[<>!=]=|\|\||.)
    """,
    re.DOTALL | re.VERBOSE,
)
CLOSING = {'"': '"', "`": "`", "[": "]"}


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its kind, its text as written, and how many parentheses are open around it."""

    kind: str
    text: str
    depth: int

    @property
    def folded(self) -> str:
        """Return the text in the form in which SQLite compares it: names and words without case."""
        if self.kind == "quoted":
            return unquoted(self.text).lower()
        return self.text if self.kind == "string" else self.text.lower()


def tokens(sql: str) -> Iterator[Token]:
    """Return the tokens of a query without white space and comments; never fails."""
    depth = 0
    for match in TOKEN.finditer(sql):
        kind = match.lastgroup or "mark"
        if kind == "space":
            continue
        text = match.group()
        if text == ")":
            depth = max(0, depth - 1)
        yield Token(kind, text, depth)
        if text == "(":
            depth += 1


def unquoted(text: str) -> str:
    """Return the name inside a quoted name."""
    close = CLOSING[text[0]]
    inner = text[1:-1] if len(text) > 1 and text.endswith(close) else text[1:]
    return inner if close == "]" else inner.replace(close * 2, close)


def orders_outermost(sql: str) -> bool:
    """Return whether ORDER BY stands outside every parenthesis, judged by tokens alone."""
    words = [token.folded for token in tokens(sql) if token.depth == 0 and token.kind == "word"]
    return ("order", "by") in pairwise(words)


def folded_text(sql: str) -> str:
    """Return the query single-spaced, without comments and last semicolons, names in lower case."""
    parts = [token.folded for token in tokens(sql)]
    while parts and parts[-1] == ";":
        parts.pop()
    return " ".join(parts)
