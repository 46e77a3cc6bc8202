"""When two results are the same, under each definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast import rewards, sql
from finestep_fast.errors import InputError
from support.json_lines import json_lines

ROWS = st.lists(st.tuples(st.integers(-2, 2), st.sampled_from(["a", "b", None])), max_size=5)


@given(ROWS, st.randoms(use_true_random=False))
def test_a_shuffled_result_is_equal_unless_order_counts(rows: list[Any], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert sql.compare(shuffled, rows, semantics="bird")
    assert sql.compare(shuffled, rows, semantics="multiset")
    assert sql.compare(shuffled, rows, semantics="strict")
    assert sql.compare(shuffled, rows, semantics="ordered") == (shuffled == rows)
    assert sql.compare(shuffled, rows, semantics="strict", ordered=True) == (shuffled == rows)


def test_only_bird_overlooks_duplicate_rows() -> None:
    once, twice = [(1, "a"), (2, "b")], [(1, "a"), (2, "b"), (2, "b")]
    assert sql.compare(twice, once, semantics="bird")
    for semantics in ("strict", "multiset", "ordered"):
        assert not sql.compare(twice, once, semantics=semantics)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True),
        (2**53 + 1, float(2**53), False),
        (-0.0, 0, True),
        (None, None, True),
        (None, 0, False),
        (None, "", False),
        ("1", 1, False),
        ("a", "A", False),
        (b"a", "a", False),
        (0.1 + 0.2, 0.3, False),
    ],
)
def test_values_compare_as_python_compares_them(a: sql.Value, b: sql.Value, equal: bool) -> None:
    for semantics in get_args(sql.Semantics):
        assert sql.compare([(a,)], [(b,)], semantics=semantics) is equal


def test_two_empty_results_are_equal_and_an_empty_one_equals_nothing_else() -> None:
    for semantics in get_args(sql.Semantics):
        assert sql.compare([], [], semantics=semantics)
        assert not sql.compare([(None,)], [], semantics=semantics)
        assert not sql.compare([], [(0,)], semantics=semantics)


def test_rows_may_be_lists() -> None:
    assert sql.compare([[1, "a"]], [(1, "a")])


def test_a_tolerance_pairs_rows_whatever_their_order() -> None:
    gold = [("x", 1.0, 5), ("x", 2.0, 6), ("y", 0.3, 7)]
    predicted = [("y", 0.1 + 0.2, 7), ("x", 2.0 - 1e-12, 6), ("x", 1.0 + 1e-12, 5)]
    assert not sql.compare(predicted, gold, semantics="strict")
    assert sql.compare(predicted, gold, semantics="strict", float_tolerance=1e-9)
    assert not sql.compare(predicted, gold, semantics="strict", ordered=True, float_tolerance=1e-9)
    assert sql.compare(
        predicted[::-1][:1], gold[:1], semantics="strict", ordered=True, float_tolerance=1e-9
    )


def test_a_tolerance_finds_the_pairing_that_sorting_misses() -> None:
    # Sorted by the first number the rows pair up wrongly in the second; crosswise they fit.
    gold = [(1.0, 10.0), (1.0 + 1e-10, 20.0)]
    predicted = [(1.0 + 2e-10, 10.0), (1.0 - 1e-10, 20.0)]
    assert sql.compare(predicted, gold, semantics="strict", float_tolerance=1e-9)
    assert not sql.compare(
        [(1.0, 10.0), (1.0, 30.0)], gold, semantics="strict", float_tolerance=1e-9
    )


def test_a_tolerance_needs_a_chain_of_exchanges() -> None:
    gold = [(0.0,), (1.0,), (2.0,)]
    assert sql.compare([(2.4,), (0.5,), (1.4,)], gold, semantics="strict", float_tolerance=0.5)
    assert not sql.compare([(2.4,), (0.5,), (0.4,)], gold, semantics="strict", float_tolerance=0.2)


def test_a_tolerance_never_makes_integers_equal() -> None:
    assert not sql.compare([(1_000_000,)], [(1_000_001,)], semantics="strict", float_tolerance=0.1)
    assert sql.compare([(1_000_000,)], [(1_000_000.5,)], semantics="strict", float_tolerance=0.1)


def test_misuse_is_an_input_error_that_names_what_is_accepted() -> None:
    with pytest.raises(InputError, match="semantics is 'brid'; expected one of bird, strict"):
        sql.compare([], [], semantics="brid")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"float_tolerance is 0\.1 with semantics 'bird'"):
        sql.compare([], [], float_tolerance=0.1)
    with pytest.raises(InputError, match="float_tolerance is -1"):
        sql.compare([], [], semantics="strict", float_tolerance=-1)


def test_reward_settings_offer_the_semantics_there_are() -> None:
    for semantics in get_args(sql.Semantics):
        assert rewards.RewardConfig(semantics=semantics).semantics == semantics
    with pytest.raises(InputError, match="semantics is 'soft'"):
        rewards.RewardConfig(semantics="soft")  # type: ignore[arg-type]


RECORDED: dict[str, dict[str, Any]] = {
    "BIRD/OmniSQL/Arctic/SkyRL set": {"semantics": "bird"},
    "test-suite order=F": {"semantics": "test_suite"},
    "test-suite order=T": {"semantics": "test_suite", "ordered": True},
    "mini_dev Soft-F1": {"semantics": "soft_f1"},
}


def as_value(recorded: Any) -> sql.Value:
    """Return a value as the recorder wrote it: blobs in hexadecimal, infinities by name."""
    if isinstance(recorded, dict):
        kind, text = next(iter(recorded.items()))
        return bytes.fromhex(text) if kind == "blob" else float(text)
    return recorded  # type: ignore[no-any-return]


def test_every_recorded_case_gets_the_evaluators_verdict(shared_data: Path) -> None:
    cases = json_lines(shared_data / "adversarial" / "semantics_cases.jsonl")
    for case in cases:
        predicted, gold = (
            [tuple(map(as_value, row)) for row in case[side]] for side in ("pred", "gold")
        )
        for evaluator, settings in RECORDED.items():
            recorded = case["verdicts"][evaluator]
            if settings["semantics"] == "soft_f1":
                score = sql.score_f1(predicted, gold)
                assert f"{score:.3f}" == f"{float(recorded):.3f}", case["case"]
            else:
                verdict = sql.compare(predicted, gold, **settings)
                assert verdict is (recorded == "1"), (case["case"], evaluator)
    assert len(cases) >= 28
