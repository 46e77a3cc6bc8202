"""The compiled comparator beside the definitions in plain Python, on results made to collide.

    pytest python_tests/test_sql_comparison_definitions.py --hypothesis-profile=thorough

runs 20 000 random pairs of results through every semantics.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast import sql
from support import sql_definitions

INF = float("inf")
VALUES: list[sql.Value] = [
    *(None, 0, 0.0, -0.0, 1, 1.0, -1, 2, 2.0, 2.5, 0.5, 100, 100.0, 1e15, 1e16, 1e22, 1e-5),
    *(2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63), float(2**63), -float(2**63), INF, -INF),
    *("", "1", "a", "A", "a ", "ab", "None", "\x00", "é", "\udcff", "\U0001f600", "x" * 100),
    *(b"", b"1", b"a", b"'", b"\"'\\\n\xff", b"x" * 100),
]
Table = list[tuple[sql.Value, ...]]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Table, Table]:
    """Draw a gold result of a few different values, and one made of it by small changes."""
    random: Random = draw(st.randoms(use_true_random=False))
    values = random.sample(VALUES, random.randint(1, 8))
    width = random.randint(0, 5)

    def table() -> Table:
        height = random.randint(0, 6)
        return [tuple(random.choices(values, k=width)) for _ in range(height)]

    gold = table()
    predicted = list(gold) if random.random() < 0.8 else table()
    if random.random() < 0.5:
        random.shuffle(predicted)
    if random.random() < 0.5:
        order = random.sample(range(width), width)
        predicted = [tuple(row[column] for column in order) for row in predicted]
    if predicted and random.random() < 0.3:
        predicted.append(random.choice(predicted))
    if predicted and width and random.random() < 0.5:
        place, column = random.randrange(len(predicted)), random.randrange(width)
        row: list[Any] = list(predicted[place])
        is_small = isinstance(row[column], int) and random.random() < 0.7
        row[column] = float(row[column]) if is_small else random.choice(values)
        predicted[place] = tuple(row)
    return predicted, gold


@pytest.mark.native
@given(pairs())
def test_every_verdict_is_that_of_the_definition(pair: tuple[Table, Table]) -> None:
    predicted, gold = pair
    asked: list[dict[str, Any]] = [
        *({"semantics": name} for name in ("bird", "multiset", "ordered", "soft_f1")),
        *({"semantics": name, "ordered": o} for name in ("strict", "test_suite") for o in (0, 1)),
        *(
            {"semantics": "strict", "ordered": o, "float_tolerance": tolerance}
            for o in (0, 1)
            for tolerance in (1e-9, 0.5, 1.0)
        ),
    ]
    for settings in asked:
        settings["ordered"] = bool(settings.get("ordered"))
        verdict = sql.compare(predicted, gold, **settings)
        assert verdict is sql_definitions.equal(predicted, gold, **settings), settings
    assert sql.score_f1(predicted, gold) == sql_definitions.soft_f1(predicted, gold)


@pytest.mark.native
@given(st.lists(pairs(), max_size=8), st.integers(1, 3))
def test_a_batch_gives_the_verdicts_of_its_pairs(
    listed: list[tuple[Table, Table]], threads: int
) -> None:
    ordered = [place % 2 == 0 for place in range(len(listed))]
    for semantics in ("bird", "strict", "test_suite"):
        verdicts = sql.compare_batch(
            listed,
            semantics=semantics,
            ordered=ordered,
            threads=threads,
        )
        assert verdicts == [
            sql_definitions.equal(predicted, gold, semantics=semantics, ordered=order)
            for (predicted, gold), order in zip(listed, ordered, strict=True)
        ]
