"""Cutting SQL into tokens, for questions that must have an answer even when nothing can parse it.

Not a parser: it knows quotes, comments, words, numbers and the depth of parentheses, no grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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
READING_WORDS = ("select", "with", "values")


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its kind, its text as written, and how many parentheses are open around it."""

    kind: str
    text: str
    depth: int

    @property
    def folded(self) -> str:
        """The text in the form in which SQLite compares it: names and words without case."""
        if self.kind == "quoted":
            return unquoted(self.text).lower()
        return self.text if self.kind == "string" else self.text.lower()


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of a query without white space and comments; never fails."""
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
    """The name inside a quoted name."""
    close = CLOSING[text[0]]
    inner = text[1:-1] if len(text) > 1 and text.endswith(close) else text[1:]
    return inner if close == "]" else inner.replace(close * 2, close)


def first_word(sql: str) -> str:
    """The first token in lower case; empty when the text holds nothing but space and comments."""
    start = sql[:8].lower()
    for word in READING_WORDS:
        if start.startswith(word) and not start[len(word) : len(word) + 1].isalnum():
            return word
    return next((token.text.lower() for token in tokens(sql)), "")


def orders_outermost(sql: str) -> bool:
    """Whether ORDER BY stands outside every parenthesis, judged by tokens alone."""
    words = [token.folded for token in tokens(sql) if token.depth == 0 and token.kind == "word"]
    return ("order", "by") in pairwise(words)


def folded_text(sql: str) -> str:
    """The query without comments and trailing semicolons, single-spaced, names in lower case."""
    parts = [token.folded for token in tokens(sql)]
    while parts and parts[-1] == ";":
        parts.pop()
    return " ".join(parts)


def formats_are_literal(sql: str) -> bool:
    """Whether every call of printf or format has a literal pattern of bounded width.

    SQLite before 3.5x spends seconds inside one uninterruptible call on a pattern such as '%.*c'.
    """
    listed = list(tokens(sql))
    for i, token in enumerate(listed):
        called = token.kind in ("word", "quoted") and token.folded in ("printf", "format")
        if not called or i + 2 >= len(listed) or listed[i + 1].text != "(":
            continue
        pattern = listed[i + 2]
        if pattern.kind != "string" or re.search(r"%[^%a-zA-Z]*(?:\*|\d{5})", pattern.text):
            return False
    return True


def expanded_ctes(sql: str) -> int:
    """How many copies of common table expressions a query may expand to while it is prepared.

    SQLite copies the body of a common table expression at each place that reads it, so a chain of
    expressions that read their predecessor twice grows as a power of two, beyond any deadline.
    """
    listed = list(tokens(sql))
    bodies: dict[str, list[range]] = {}
    defining: set[int] = set()
    for i, token in enumerate(listed):
        if token.kind != "word" or token.folded != "as":
            continue
        opening, name = body_after(listed, i), name_before(listed, i)
        if opening is not None and name is not None:
            depth = listed[opening].depth
            ends = (j for j in range(opening + 1, len(listed)) if listed[j].depth <= depth)
            body = range(opening + 1, next(ends, len(listed)))
            bodies.setdefault(listed[name].folded, []).append(body)
            defining.add(name)

    def reads_in(places: Iterable[int]) -> list[str]:
        return [
            listed[i].folded
            for i in places
            if listed[i].folded in bodies and i not in defining and reads_table(listed, i)
        ]

    reads = {
        name: [read for body in spans for read in reads_in(body)] for name, spans in bodies.items()
    }
    sizes: dict[str, int] = {}

    def size(name: str, above: frozenset[str]) -> int:
        if name in above:
            return 1
        if name not in sizes:
            sizes[name] = 1 + sum(size(read, above | {name}) for read in reads[name])
        return sizes[name]

    inside = {i for spans in bodies.values() for body in spans for i in body}
    outside = (i for i in range(len(listed)) if i not in inside)
    return sum(size(name, frozenset()) for name in reads_in(outside))


def body_after(listed: list[Token], i: int) -> int | None:
    """Where the parenthesis opens that holds a query, if that is what the AS at token i defines."""
    j = i + 1
    while j < len(listed) and listed[j].folded in ("not", "materialized"):
        j += 1
    if j + 1 < len(listed) and listed[j].text == "(" and listed[j + 1].folded in READING_WORDS:
        return j
    return None


def name_before(listed: list[Token], i: int) -> int | None:
    """Where the name stands that the AS at token i defines, stepping over a list of columns."""
    j = i - 1
    if j >= 0 and listed[j].text == ")":
        depth = listed[j].depth
        j -= 1
        while j >= 0 and not (listed[j].text == "(" and listed[j].depth == depth):
            j -= 1
        j -= 1
    return j if j >= 0 and listed[j].kind in ("word", "quoted") else None


def reads_table(listed: list[Token], i: int) -> bool:
    """Whether the name at token i stands where a table is read, as far as tokens can tell."""
    after = listed[i + 1].text if i + 1 < len(listed) else ""
    before = listed[i - 1].folded if i else ""
    is_name = listed[i].kind in ("word", "quoted")
    return is_name and after != "." and before in ("from", "join", ",", "(")
