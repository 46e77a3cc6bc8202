"""Permutations of columns, pairings within a tolerance: found fast, or given up as undecided."""

from __future__ import annotations

from random import Random

import pytest

from finestep_fast import sql

pytestmark = pytest.mark.native


def permuted(rows: list[tuple[int, ...]], random: Random) -> list[tuple[int, ...]]:
    order = random.sample(range(len(rows[0])), len(rows[0]))
    changed = [tuple(row[column] for column in order) for row in rows]
    return random.sample(changed, len(changed))


@pytest.mark.parametrize("width", [1, 2, 26, 60])
@pytest.mark.parametrize("num_values", [1, 2, 1000])
def test_columns_are_found_however_many_and_however_alike(width: int, num_values: int) -> None:
    random = Random(width * num_values)
    gold = [tuple(random.randrange(num_values) for _ in range(width)) for _ in range(40)]
    gold = [row + row[: width // 3] for row in gold]
    predicted = permuted(gold, random)
    assert sql.compare(predicted, gold, semantics="test_suite") is True
    wrong = [*predicted[:-1], tuple(1 + value for value in predicted[-1])]
    assert sql.compare(wrong, gold, semantics="test_suite") is False


def test_columns_that_differ_only_in_the_order_of_rows_are_distinguished() -> None:
    # Each column holds 0 and 1 twice; only together do rows show which is which.
    gold = [(0, 0, 1), (0, 1, 1), (1, 0, 0), (1, 1, 0)]
    assert sql.compare([row[::-1] for row in gold], gold, semantics="test_suite")
    other = [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]
    assert sql.compare(other, gold, semantics="test_suite") is False


def edges_of_cycles(*lengths: int) -> list[tuple[int, ...]]:
    """Return one row per edge, one column per vertex: 1 where the edge ends."""
    edges, first = [], 0
    for length in lengths:
        edges += [(first + i, first + (i + 1) % length) for i in range(length)]
        first += length
    return [tuple(int(v in edge) for v in range(first)) for edge in edges]


def test_a_search_without_budget_says_that_it_is_undecided() -> None:
    # All vertices of both graphs look alike from where they are: columns must be tried out.
    one, two = edges_of_cycles(12), edges_of_cycles(6, 6)
    assert sql.compare(two, one, semantics="test_suite", search_budget=0) is None
    assert sql.compare(two, one, semantics="test_suite") is False
    assert sql.compare(permuted(one, Random(0)), one, semantics="test_suite") is True
    assert sql.compare_batch([(two, one)], semantics="test_suite", search_budget=0) == [None]


def test_what_needs_no_trying_out_is_decided_without_a_budget() -> None:
    gold = [(place, place % 7, -place) for place in range(100)]
    predicted = [row[::-1] for row in gold]
    assert sql.compare(predicted, gold, semantics="test_suite", search_budget=0) is True
    assert sql.compare(predicted[1:], gold, semantics="test_suite", search_budget=0) is False


def test_a_pairing_without_budget_says_that_it_is_undecided() -> None:
    gold = [(0.0,), (1.0,), (2.0,)]
    crossed = [(1.0, 10.0), (1.0 + 1e-10, 20.0)]
    uncrossed = [(1.0 + 2e-10, 10.0), (1.0 - 1e-10, 20.0)]
    settings = {"semantics": "strict", "search_budget": 0}
    assert sql.compare(uncrossed, crossed, float_tolerance=1e-9, **settings) is None  # type: ignore[arg-type]
    assert sql.compare(gold, gold, float_tolerance=0.5, **settings) is True  # type: ignore[arg-type]
    alone = [(0.0,), (1.0,), (5.0,)]  # what is near nothing needs no search
    assert sql.compare(alone, gold, float_tolerance=0.1, **settings) is False  # type: ignore[arg-type]


def test_large_results_differ_by_one_value_in_one_row() -> None:
    random = Random(1)
    gold: list[sql.Row] = [
        (place % 5000, f"name {place % 77}", place / 7, None) for place in range(20_000)
    ]
    predicted = random.sample(gold, len(gold))
    wrong: list[sql.Row] = [*predicted[:-1], (*predicted[-1][:3], 0)]
    pairs: list[tuple[list[sql.Row], list[sql.Row]]] = [(predicted, gold), (wrong, gold)]
    for semantics in ("bird", "multiset", "strict", "test_suite"):
        assert sql.compare_batch(pairs, semantics=semantics, threads=2) == [True, False]
    for tolerance in (0.0, 1e-9):
        verdicts = sql.compare_batch(pairs, semantics="strict", float_tolerance=tolerance)
        assert verdicts == [True, False]


def test_only_duplicates_leave_a_large_set_as_it_is() -> None:
    gold = [(place % 3,) for place in range(10_000)]
    assert sql.compare(gold[:3], gold)
    assert not sql.compare(gold[:2], gold)
    assert not sql.compare(gold[:3], gold, semantics="multiset")
