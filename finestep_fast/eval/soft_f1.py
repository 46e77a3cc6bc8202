"""Soft-F1 as BIRD mini-dev defines it: how much of the gold's cells a wrong result still holds.

Not an equality: rows are paired by their position after duplicates are dropped, so the same rows in
another order may score near 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from finestep_fast.sql import Value


def soft_f1(
    predicted_rows: Iterable[Sequence[Value]], gold_rows: Iterable[Sequence[Value]]
) -> float:
    """The F1 score of predicted cells against gold cells.

    With p and g the rows of one pair and n the number of columns of g:
    tp = |values of p in g| / n, fp = |values of p not in g| / n, fn = |values of g not in p| / n;
    a gold row without partner counts as fn = 1, a predicted row without one as fp = 1;
    F1 = 2 P R / (P + R), P = sum tp / sum (tp + fp), R = sum tp / sum (tp + fn).

    Source: BIRD mini-dev's `evaluation_f1.py`.

    Args:
        predicted_rows: Rows as DB-API gives them.
        gold_rows: Rows as DB-API gives them.

    Returns:
        A number in [0, 1]; 1 for two empty results, 0 where only one is empty.
    """
    predicted = list(dict.fromkeys(tuple(row) for row in predicted_rows))
    gold = list(dict.fromkeys(tuple(row) for row in gold_rows))
    if not predicted and not gold:
        return 1.0
    num_pairs = min(len(predicted), len(gold))
    found = 0.0
    only_predicted, only_gold = float(len(predicted) - num_pairs), float(len(gold) - num_pairs)
    for p, g in zip(predicted, gold, strict=False):
        hits = sum(value in g for value in p)
        found += hits / len(g)
        only_predicted += (len(p) - hits) / len(g)
        only_gold += sum(value not in p for value in g) / len(g)
    precision = found / (found + only_predicted) if found + only_predicted else 0.0
    recall = found / (found + only_gold) if found + only_gold else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
