"""Soft-F1, R-VES and averages, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast.env.question import Question
from finestep_fast.errors import InputError
from finestep_fast.eval.efficiency import efficiency_of, kept_ratios, reward_of, timed
from finestep_fast.eval.evaluation import Record, Verdict, checked_semantics
from finestep_fast.eval.summary import remarks, summary
from finestep_fast.sql import Engine, Row, score_f1
from support.databases import written
from support.json_lines import json_lines

Rows = list[Row]


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ([], [], 1.0),
        ([], [(1,)], 0.0),
        ([(1,)], [], 0.0),
        ([(1, "a")], [(1, "a")], 1.0),
        ([("a", 1)], [(1, "a")], 1.0),  # cells are searched for anywhere in the row
        ([(2, "b"), (1, "a")], [(1, "a"), (2, "b")], 0.0),  # rows are paired by position
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], 1.0),  # after duplicates are dropped
        # tp 3/2, fp 1/2, fn 1/2: precision and recall 3/4
        ([(1, "x"), (3, "y")], [(1, "y"), (3, "y")], 0.75),
        # tp 1, fp 1 (a row too many), fn 0: precision 1/2, recall 1
        ([(1,), (2,)], [(1,)], 2 / 3),
        # tp 1, fp 0, fn 1: precision 1, recall 1/2
        ([(1,)], [(1,), (2,)], 2 / 3),
        # one value of the row found twice: tp 2, fp 0, fn 0 over one gold column
        ([(1, 1)], [(1,)], 1.0),
        # tp 1, fp 1, fn 0 over one gold column
        ([(1, 9)], [(1,)], 2 / 3),
        # tp 1/2, fp 0, fn 1/2
        ([(1,)], [(1, 2)], 2 / 3),
        ([(1.0,)], [(1,)], 1.0),
        ([(2.0**53,)], [(2**53 + 1,)], 0.0),
        ([("1",)], [(1,)], 0.0),
        ([(b"a",)], [("a",)], 0.0),
        ([(None,)], [(None,)], 1.0),
    ],
)
def test_soft_f1_by_hand(predicted: Rows, gold: Rows, expected: float) -> None:
    assert score_f1(predicted, gold) == pytest.approx(expected, abs=1e-12)


def value(written: Any) -> Any:
    """Return a value of the recorded cases."""
    if isinstance(written, dict):
        return float(written["float"]) if "float" in written else bytes.fromhex(written["blob"])
    return written


def test_soft_f1_agrees_with_what_was_recorded_of_the_published_one(shared_data: Path) -> None:
    cases = json_lines(shared_data / "adversarial" / "semantics_cases.jsonl")
    assert len(cases) >= 28
    for case in cases:
        predicted, gold = (
            [tuple(value(cell) for cell in row) for row in case[side]] for side in ("pred", "gold")
        )
        recorded = float(case["verdicts"]["mini_dev Soft-F1"])
        assert round(score_f1(predicted, gold), 3) == recorded, case["case"]


ROWS = st.integers(0, 3).flatmap(
    lambda width: st.lists(
        st.tuples(*[st.sampled_from([None, 0, 1, 1.0, "a", b"a"])] * (width + 1)), max_size=5
    )
)


@given(ROWS, ROWS)
def test_soft_f1_is_a_share_and_full_for_the_same_rows(predicted: Rows, gold: Rows) -> None:
    assert 0.0 <= score_f1(predicted, gold) <= 1.0
    assert score_f1(gold, gold) == 1.0


@pytest.mark.parametrize(
    ("time_ratio", "reward"),
    [
        (99.0, 1.25),
        (2.0, 1.25),
        (1.999, 1.0),
        (1.0, 1.0),
        (0.999, 0.75),
        (0.5, 0.75),
        (0.499, 0.5),
        (0.25, 0.5),
        (0.249, 0.25),
        (0.0, 0.25),
    ],
)
def test_the_reward_falls_in_five_steps(time_ratio: float, reward: float) -> None:
    assert reward_of(time_ratio) == reward


def test_a_repeat_beyond_three_standard_deviations_is_left_out() -> None:
    # One value among n others that agree stands sqrt(n) standard deviations from the mean.
    assert kept_ratios([1.0] * 11 + [100.0]) == [1.0] * 11
    assert kept_ratios([1.0] * 8 + [100.0]) == [1.0] * 8 + [100.0]


def test_equal_ratios_are_all_kept_where_the_published_filter_keeps_none() -> None:
    assert kept_ratios([1.5, 1.5, 1.5]) == [1.5, 1.5, 1.5]
    assert efficiency_of([2.0], [3.0]).reward == 1.0


def test_efficiency_of_hand_made_times() -> None:
    found = efficiency_of([1.0, 2.0, 4.0], [2.0, 2.0, 6.0])
    assert found.time_ratio == pytest.approx(1.5)
    assert (found.predicted_ms, found.gold_ms) == (2.0, 2.0)
    assert (found.reward, found.score) == (1.0, 1.0)
    fast = efficiency_of([1.0] * 12, [1.0] * 11 + [500.0])
    assert (fast.time_ratio, fast.reward) == (1.0, 1.0)
    assert efficiency_of([1.0], [2.5]).score == pytest.approx(1.25**0.5)


def test_queries_are_timed_in_turns_and_a_failure_gives_no_times(tmp_path: Path) -> None:
    path = written(tmp_path / "shop.sqlite")
    gold = "WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000) SELECT max(x) FROM c"
    with Engine(workers=1) as engine:
        found = timed(path, "SELECT 100000", gold, engine, 3)
        assert found is not None
        assert found.gold_ms > found.predicted_ms > 0
        assert found.reward == 1.25
        assert timed(path, "SELECT nothing", gold, engine, 3) is None


def record(
    equal: bool = True,
    *,
    status: str = "ok",
    difficulty: str = "",
    db_id: str = "shop",
    soft: float = 1.0,
    gold_failed: bool = False,
    predicted: str | None = "SELECT 1",
    ratio: float | None = None,
) -> Record:
    return Record(
        Question("0", "?", "SELECT 1", db_id, Path(), difficulty=difficulty),
        predicted,
        {"bird": Verdict(equal, status), "strict": Verdict(False, status)},
        soft_f1=soft,
        gold_failed=gold_failed,
        efficiency=None if ratio is None else efficiency_of([1.0], [ratio]),
    )


def test_averages_are_taken_over_all_questions_and_over_those_with_a_gold_that_ran() -> None:
    found = summary(
        [
            record(),
            record(False, soft=0.5),
            record(False, status="gold_error", soft=0.0, gold_failed=True),
            record(False, status="no_prediction", soft=0.0, predicted=None),
        ],
        timed=False,
    )
    assert found["overall"] == {
        "questions": 4,
        "gold_failed": 1,
        "some_golds_failed": 0,
        "no_prediction": 1,
        "ex": {"bird": 0.25, "strict": 0.0},
        "ex_where_gold_ran": {"bird": pytest.approx(1 / 3), "strict": 0.0},
        "soft_f1": 0.375,
    }
    assert found["by_difficulty"] == {}
    assert found["statuses"]["bird"] == {"ok": 2, "gold_error": 1, "no_prediction": 1}
    said = remarks(found, 0)
    assert said[0].startswith("1 gold query failed and count")
    assert "EX bird is 33.33%" in said[0]
    assert said[-1] == "1 question has no prediction: counted as wrong"


def test_difficulties_come_in_birds_order_and_databases_by_name() -> None:
    records = [
        record(difficulty=difficulty, db_id=db_id)
        for difficulty, db_id in [
            ("odd", "b"),
            ("challenging", "a"),
            ("simple", "c"),
            ("moderate", "a"),
            ("", "a"),
        ]
    ]
    found = summary(records, timed=False)
    assert list(found["by_difficulty"]) == ["simple", "moderate", "challenging", "", "odd"]
    assert list(found["by_database"]) == ["a", "b", "c"]
    assert found["by_database"]["a"]["questions"] == 3


def test_r_ves_is_the_mean_root_of_rewards_over_all_questions() -> None:
    found = summary([record(ratio=4.0), record(ratio=0.3), record(False)], timed=True)
    assert found["overall"]["r_ves"] == pytest.approx((1.25**0.5 + 0.5**0.5) / 3)
    assert "r_ves" not in summary([record(ratio=4.0)], timed=False)["overall"]


def test_undecided_verdicts_are_reported() -> None:
    found = summary([record(False, status="undecided"), record()], timed=False)
    assert "bird: 1 verdict undecided: counted as wrong" in remarks(found, 0)


def test_only_known_and_different_semantics_are_taken() -> None:
    assert checked_semantics(["strict", "bird"]) == ["strict", "bird"]
    with pytest.raises(InputError, match="semantics is 'birdy'; expected some of bird, strict"):
        checked_semantics(["birdy"])
    with pytest.raises(InputError, match="semantics is ''; expected"):
        checked_semantics([""])
    with pytest.raises(InputError, match="bird, bird; expected different"):
        checked_semantics(["bird", "bird"])
    with pytest.raises(InputError, match="'soft_f1'; expected"):
        checked_semantics(["soft_f1"])
