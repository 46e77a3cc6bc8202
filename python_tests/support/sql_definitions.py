"""When two results are the same, in plain Python: what the compiled comparator is held against.

Each definition stands as its source has it, except its n^n search: here all n! permutations are
tried. Rows are tuples. Slow and recursion-free; for results of a few rows and columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import permutations

from finestep_fast.sql import Row, Value


def equal(
    predicted: Sequence[Row],
    gold: Sequence[Row],
    *,
    semantics: str,
    ordered: bool = False,
    float_tolerance: float = 0.0,
) -> bool:
    """Return the verdict of a semantics."""
    if semantics == "bird":
        return set(predicted) == set(gold)
    if semantics == "multiset":
        return Counter(predicted) == Counter(gold)
    if semantics == "ordered":
        return list(predicted) == list(gold)
    if semantics == "test_suite":
        return test_suite_equal(gold, predicted, order_matters=ordered)
    if semantics == "soft_f1":
        return soft_f1(predicted, gold) == 1
    if float_tolerance:
        return close(predicted, gold, ordered, float_tolerance)
    return list(predicted) == list(gold) if ordered else Counter(predicted) == Counter(gold)


def unordered(row: Row) -> Row:
    """Return the values of a row, sorted as the test-suite evaluator sorts them."""
    return tuple(sorted(row, key=lambda value: str(value) + str(type(value))))


def test_suite_equal(gold: Sequence[Row], predicted: Sequence[Row], *, order_matters: bool) -> bool:
    """Return the test-suite evaluator's result_eq, with all permutations tried."""
    if not gold and not predicted:
        return True
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    gold_unordered, predicted_unordered = map(unordered, gold), map(unordered, predicted)
    if order_matters:
        if list(gold_unordered) != list(predicted_unordered):
            return False
    elif set(gold_unordered) != set(predicted_unordered):
        return False
    for order in permutations(range(len(gold[0]))):
        permuted = [tuple(row[column] for column in order) for row in predicted]
        if order_matters:
            if list(gold) == permuted:
                return True
        elif Counter(gold) == Counter(permuted):
            return True
    return False


def soft_f1(predicted: Sequence[Row], gold: Sequence[Row]) -> float:
    """Return BIRD mini-dev's Soft-F1; sum term by term, as sum() did before Python 3.12."""
    if not predicted and not gold:
        return 1.0
    predicted, gold = list(dict.fromkeys(predicted)), list(dict.fromkeys(gold))
    both = predicted_only = gold_only = 0.0
    for ours, theirs in zip(predicted, gold, strict=False):
        if not theirs:
            return 0.0
        found = sum(value in theirs for value in ours)
        both += found / len(theirs)
        predicted_only += (len(ours) - found) / len(theirs)
        gold_only += sum(value not in ours for value in theirs) / len(theirs)
    for _ in range(len(gold) - len(predicted)):
        gold_only += 1
    for _ in range(len(predicted) - len(gold)):
        predicted_only += 1
    precision = both / (both + predicted_only) if both + predicted_only > 0 else 0.0
    recall = both / (both + gold_only) if both + gold_only > 0 else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def close_values(a: Value, b: Value, tolerance: float) -> bool:
    """Return whether values are equal, or numbers within the tolerance and not both integers."""
    if a == b:
        return True
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        mixed = isinstance(a, float) or isinstance(b, float)
        return mixed and math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return False


def close_rows(a: Row, b: Row, tolerance: float) -> bool:
    """Return whether two rows are of one length and close in every value."""
    return len(a) == len(b) and all(
        close_values(x, y, tolerance) for x, y in zip(a, b, strict=True)
    )


def close(predicted: Sequence[Row], gold: Sequence[Row], ordered: bool, tolerance: float) -> bool:
    """Return whether rows are close one by one, or can be paired so that all pairs are close."""
    if len(predicted) != len(gold):
        return False
    fits = [[close_rows(a, b, tolerance) for b in gold] for a in predicted]
    if ordered:
        return all(fits[place][place] for place in range(len(gold)))
    return any(
        all(fits[a][b] for a, b in enumerate(order)) for order in permutations(range(len(gold)))
    )
