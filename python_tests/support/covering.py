"""A covering design: few rows in which every pair of choices of two factors occurs.

Most faults of a computation with many settings come from one setting or from two together. The full
product of the settings of the policy loss has some 10^6 rows; a pairwise covering design has about
as many as the two largest factors multiply to, and misses no pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

Pair = tuple[tuple[str, int], tuple[str, int]]


def pairs(factors: Mapping[str, Sequence[Any]]) -> set[Pair]:
    """Return every pair of choices of two factors, by name and index."""
    return {
        ((one, i), (two, j))
        for one, two in combinations(factors, 2)
        for i in range(len(factors[one]))
        for j in range(len(factors[two]))
    }


def pairs_of_row(row: Mapping[str, int]) -> set[Pair]:
    return set(combinations(row.items(), 2))


def covering(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return rows, factor -> choice, in which every pair occurs. Greedy, always the same rows.

    Each row begins with the first pair that is still missing; the other factors are filled in one
    after the other by the choice that covers most of what is missing, ties by turns.
    """
    missing = pairs(factors)
    rows: list[dict[str, int]] = []
    while missing:
        row = dict(min(missing))
        for name, choices in factors.items():
            if name in row:
                continue
            first = len(rows) % len(choices)
            turns = [*range(first, len(choices)), *range(first)]
            row[name] = max(turns, key=lambda i: _gain(row, name, i, missing, factors))
        rows.append({name: row[name] for name in factors})
        missing -= pairs_of_row(rows[-1])
    return [{name: factors[name][i] for name, i in row.items()} for row in rows]


def _gain(
    row: Mapping[str, int],
    name: str,
    choice: int,
    missing: set[Pair],
    factors: Mapping[str, Sequence[Any]],
) -> int:
    wider = {**row, name: choice}
    ordered = {factor: wider[factor] for factor in factors if factor in wider}
    return len(pairs_of_row(ordered) & missing)
