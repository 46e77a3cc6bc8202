"""Which rows and values the comparator takes, and how it refuses others."""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from decimal import Decimal
from typing import Any, get_args

import pytest

from finestep_fast import sql
from finestep_fast.errors import InputError

pytestmark = pytest.mark.native

RULES = {
    2**63: r"predicted_rows\[0\]\[1\] is 9223372036854775808; expected an integer of 64 bits",
    Decimal(1): r"\[0\]\[1\] is Decimal\('1'\); expected an int, float, str, bytes or None",
    float("nan"): r"\[0\]\[1\] is nan; expected a number: SQLite has no NaN",
    10**5000: r"\[0\]\[1\] is an object of type int; expected an integer of 64 bits",
}


@pytest.mark.parametrize("value", RULES, ids=["wide", "decimal", "nan", "very wide"])
def test_a_value_that_sqlite_has_not_is_named_with_its_place_and_the_rule(value: Any) -> None:
    with pytest.raises(InputError, match=RULES[value]):
        sql.compare([(1, value)], [])


def test_the_side_of_a_faulty_row_is_named() -> None:
    with pytest.raises(InputError, match=r"gold_rows\[1\] is 'ab'; expected a row"):
        sql.compare([], [(1,), "ab"])
    with pytest.raises(InputError, match=r"gold_rows\[1\] is 3; expected a row"):
        sql.compare([], [(1,), 3])  # type: ignore[list-item]
    with pytest.warns(UserWarning, match=r"pairs\[2\]\[1\]\[0\]\[0\] is \{\}; expected an int"):
        verdicts = sql.compare_batch([([], []), ([], []), ([], [({},)])])  # type: ignore[list-item]
    assert verdicts == [True, True, None]


def test_rows_of_different_widths_are_refused_where_columns_are_compared() -> None:
    ragged: list[tuple[int, ...]] = [(1,), (1, 2)]
    for semantics in ("bird", "multiset", "ordered", "strict"):
        assert sql.compare(ragged, ragged, semantics=semantics)
        assert not sql.compare([(1, 1), (2,)], [(1,), (1, 2)], semantics=semantics)
    for settings in (
        {"semantics": "test_suite"},
        {"semantics": "soft_f1"},
        {"semantics": "strict", "float_tolerance": 0.1},
    ):
        with pytest.raises(InputError, match=r"predicted_rows\[1\] has 2 values; expected as many"):
            sql.compare(ragged, ragged, **settings)


def test_rows_come_in_any_sequence_and_results_in_any_iterable() -> None:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    rows = connection.execute("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, 'y'").fetchall()
    connection.close()
    named = namedtuple("named", "a b")
    gold = [(1, "x"), (2, "y")]
    for predicted in (rows, iter(gold), tuple(map(list, gold)), [named(*row) for row in gold]):
        assert sql.compare(predicted, gold, semantics="ordered")  # type: ignore[arg-type]
        assert all(sql.compare_batch([(gold, gold)], semantics="ordered"))


def test_truth_values_are_integers() -> None:
    for semantics in get_args(sql.Semantics):
        assert sql.compare([(True, False)], [(1, 0)], semantics=semantics)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("\udcff", b"\xff"),
        ("\udcff", "\udcfe"),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\x00", "a"),
        ("é", "e\u0301"),
        ("x" * 8, "x" * 9),
        (b"\x00" * 8, b"\x00" * 9),
        (2**63 - 1, float(2**63)),
        (2**59, 2**59 - 1),
        (5e-324, 0),
    ],
)
def test_what_differs_in_python_differs_here(a: sql.Value, b: sql.Value) -> None:
    for semantics in get_args(sql.Semantics):
        assert not sql.compare([(a,)], [(b,)], semantics=semantics)
        assert sql.compare([(a,)], [(a,)], semantics=semantics)


def test_values_do_not_run_into_each_other() -> None:
    rows: list[tuple[sql.Value, ...]] = [
        *(
            ("ab", "c"),
            ("a", "bc"),
            ("", "abc"),
            ("abc", ""),
            ("abc",),
            ("abc", None),
            (None, "abc"),
        ),
        *((1, 23), (12, 3), (123,), (), (None,), (None, None), (b"", ""), ("", b"")),
    ]
    for a in rows:
        for b in rows:
            for semantics in ("bird", "multiset", "ordered"):
                assert sql.compare([a], [b], semantics=semantics) is (a == b), (a, b)


def test_a_batch_wants_one_word_on_order_per_pair_and_a_thread() -> None:
    with pytest.raises(InputError, match="ordered has 1 values; expected 2, one per pair"):
        sql.compare_batch([([], []), ([], [])], ordered=[True])
    with pytest.raises(InputError, match="threads is 0; expected at least 1"):
        sql.compare_batch([], threads=0)
    with pytest.raises(InputError, match="search_budget is -1; expected a number >= 0"):
        sql.compare([], [], search_budget=-1)
    assert sql.compare_batch([]) == []
