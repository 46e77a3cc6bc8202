"""When two results are the same: each definition in use under its own name.

Not an executor: rows come in, a verdict goes out. `bird` is Python's `set(a) == set(b)` with all
its consequences; `strict` is the one to recommend.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from finestep_fast.errors import InputError
from finestep_fast.sql.outcome import Row, Value

Semantics = Literal["bird", "strict", "multiset", "ordered"]


@dataclass(frozen=True)
class Gold:
    """A gold result made ready for many comparisons.

    Attributes:
        form: The gold rows in the shape the comparison wants.
        shape: Brings predicted rows into that shape.
        equal: Compares two shapes.
    """

    form: Any
    shape: Callable[[Sequence[Row]], Any]
    equal: Callable[[Any, Any], bool]

    def matches(self, rows: Sequence[Row]) -> bool:
        """Whether predicted rows are equal to the gold rows."""
        return self.equal(self.shape(rows), self.form)


def checked_semantics(semantics: str) -> None:
    """Raises InputError unless the name is one of `Semantics`."""
    if semantics not in get_args(Semantics):
        known = ", ".join(get_args(Semantics))
        raise InputError(f"semantics is {semantics!r}; expected one of {known}")


def prepared_gold(
    rows: Sequence[Row], *, semantics: str, ordered: bool = False, float_tolerance: float = 0.0
) -> Gold:
    """Brings gold rows into the form in which they are compared again and again."""
    if semantics == "bird":
        return Gold(frozenset(rows), frozenset, frozenset.__eq__)
    if semantics == "multiset" or (semantics == "strict" and not ordered and not float_tolerance):
        return Gold(Counter(rows), Counter, Counter.__eq__)
    if semantics == "ordered" or not float_tolerance:
        return Gold(tuple(rows), tuple, tuple.__eq__)

    def close(predicted: Sequence[Row], gold: Sequence[Row]) -> bool:
        compared = close_lists if ordered else close_bags
        return compared(predicted, gold, float_tolerance)

    return Gold(tuple(rows), tuple, close)


def compare(
    predicted_rows: Iterable[Sequence[Value]],
    gold_rows: Iterable[Sequence[Value]],
    *,
    semantics: Semantics = "bird",
    ordered: bool = False,
    float_tolerance: float = 0.0,
) -> bool:
    """Whether two results are equal.

    Values compare as in Python: 1 equals 1.0 exactly, text never equals bytes, NULL equals NULL.
    Two empty results are equal.

    Args:
        predicted_rows: Rows as DB-API gives them.
        gold_rows: Rows as DB-API gives them.
        semantics: `bird`: the same set of rows, however often and in whatever order (BIRD's
            execution accuracy). `multiset`: the same rows equally often. `ordered`: the same rows
            in the same order. `strict`: `ordered` if the gold query orders its rows, else
            `multiset`.
        ordered: For `strict`: whether the gold query's outermost SELECT orders its rows.
        float_tolerance: For `strict`: the relative and absolute difference allowed between two
            numbers of which at least one is a float.

    Returns:
        The verdict.

    Raises:
        InputError: The semantics is unknown, or a tolerance is given to one that has none.
    """
    checked_semantics(semantics)
    checked_tolerance(semantics, float_tolerance)
    predicted = [tuple(row) for row in predicted_rows]
    gold = [tuple(row) for row in gold_rows]
    prepared = prepared_gold(
        gold, semantics=semantics, ordered=ordered, float_tolerance=float_tolerance
    )
    return prepared.matches(predicted)


def checked_tolerance(semantics: str, float_tolerance: float) -> None:
    """Raises InputError for a tolerance that is no size, or that the semantics does not have."""
    if not (math.isfinite(float_tolerance) and float_tolerance >= 0):
        raise InputError(f"float_tolerance is {float_tolerance}; expected a finite number >= 0")
    if float_tolerance and semantics != "strict":
        raise InputError(
            f"float_tolerance is {float_tolerance} with semantics {semantics!r}; "
            "only 'strict' has a tolerance"
        )


def close_values(a: Value, b: Value, tolerance: float) -> bool:
    """Whether two values are equal, or numbers within the tolerance and not both integers."""
    if a == b:
        return True
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        mixed = isinstance(a, float) or isinstance(b, float)
        return mixed and math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return False


def close_rows(a: Row, b: Row, tolerance: float) -> bool:
    """Whether two rows are of one length and close in every value."""
    return len(a) == len(b) and all(
        close_values(x, y, tolerance) for x, y in zip(a, b, strict=True)
    )


def close_lists(predicted: Sequence[Row], gold: Sequence[Row], tolerance: float) -> bool:
    """Whether two lists of rows are close row by row."""
    return len(predicted) == len(gold) and all(
        close_rows(a, b, tolerance) for a, b in zip(predicted, gold, strict=True)
    )


def close_bags(predicted: Sequence[Row], gold: Sequence[Row], tolerance: float) -> bool:
    """Whether the rows of two bags can be paired so that every pair is close."""
    if len(predicted) != len(gold):
        return False
    predicted_by_kind, gold_by_kind = by_exact_values(predicted), by_exact_values(gold)
    if {k: len(v) for k, v in predicted_by_kind.items()} != {
        k: len(v) for k, v in gold_by_kind.items()
    }:
        return False
    return all(
        close_lists(rows, gold_by_kind[kind], tolerance)
        or can_pair(rows, gold_by_kind[kind], tolerance)
        for kind, rows in predicted_by_kind.items()
    )


def by_exact_values(rows: Sequence[Row]) -> dict[Hashable, list[Row]]:
    """The rows sorted by their numbers, under what must agree exactly: all that is no number."""
    kinds: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[tuple(0.0 if isinstance(v, (int, float)) else (v,) for v in row)].append(row)
    for same in kinds.values():
        same.sort(key=lambda row: [v for v in row if isinstance(v, (int, float))])
    return kinds


def can_pair(predicted: Sequence[Row], gold: Sequence[Row], tolerance: float) -> bool:
    """Whether a perfect pairing of close rows exists (augmenting paths, without recursion)."""
    predicted_of: dict[int, int] = {}
    gold_of: dict[int, int] = {}
    for start in range(len(predicted)):
        reached_from: dict[int, int] = {}
        frontier = [start]
        free = None
        while frontier and free is None:
            p = frontier.pop()
            for g, row in enumerate(gold):
                if g in reached_from or not close_rows(predicted[p], row, tolerance):
                    continue
                reached_from[g] = p
                if g not in predicted_of:
                    free = g
                    break
                frontier.append(predicted_of[g])
        while free is not None:
            p = reached_from[free]
            previous = gold_of.get(p)
            gold_of[p], predicted_of[free] = free, p
            free = previous
        if start not in gold_of:
            return False
    return True
