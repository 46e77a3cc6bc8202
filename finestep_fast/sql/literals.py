"""Which constants of a query are literals it depends on, and what value each of them has.

A literal is a constant that the query holds against something: an operand of `=`, `<`, LIKE, IN,
BETWEEN and the like, or of a CASE with an operand. Other constants are no literals: LIMIT, ordinals
in ORDER BY, results of a CASE, factors such as 100.0, formats of functions.
"""

from __future__ import annotations

from sqlglot import exp

COMPARISONS = (
    exp.EQ,
    exp.NEQ,
    exp.Is,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
    exp.LT,
    exp.LTE,
    exp.GT,
    exp.GTE,
    exp.Like,
    exp.Glob,
    exp.Match,
    exp.RegexpLike,
    exp.In,
    exp.Between,
)
WRAPPERS = (exp.Paren, exp.Neg, exp.Cast, exp.Collate, exp.Lower, exp.Upper, exp.Trim, exp.Escape)
"""What stands around a constant without making another one of it."""


def literal_value(node: exp.Expr, *, text: str | None = None) -> str | int | float | None:
    """Return the value of a constant if it is a literal; None for any other constant.

    Args:
        node: The constant: a literal of the tree, or a name in double quotes that SQLite reads as a
            string.
        text: What such a name says; None for a literal of the tree.
    """
    negative = False
    inner, outer = node, node.parent
    while isinstance(outer, WRAPPERS):
        if isinstance(outer, exp.Escape) and inner is not outer.this:
            return None
        negative ^= isinstance(outer, exp.Neg)
        inner, outer = outer, outer.parent
    if isinstance(outer, exp.If) and isinstance(outer.parent, exp.Case):
        is_compared = inner is outer.this and outer.parent.this is not None
    else:
        is_compared = isinstance(outer, COMPARISONS)
    if not is_compared:
        return None
    if text is not None or node.args.get("is_string"):
        return node.name if text is None else text
    return _number(str(node.this), negative=negative)


def _number(written: str, *, negative: bool) -> int | float | None:
    """Return a number as SQLite reads it; None if that is not what it is."""
    digits = written.replace("_", "").lower()
    try:
        value: int | float = int(digits, 0) if digits.startswith("0x") else int(digits)
    except ValueError:
        try:
            value = float(digits)
        except ValueError:
            return None
    return -value if negative else value
