"""The alarm on rollouts that end without an answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from finestep_fast.train.alarms import UnsubmittedWatch


def metrics(shares: Sequence[float | None]) -> list[dict[str, float | None]]:
    return [{"unsubmitted_rate": share} for share in shares]


def alarms(shares: Sequence[float | None]) -> list[str | None]:
    """Return what a watch says after each update."""
    watch = UnsubmittedWatch()
    return [watch.add(record) for record in metrics(shares)]


def test_a_rising_share_of_unsubmitted_rollouts_raises_the_alarm() -> None:
    *before, alarm = alarms([0.05] * 10 + [0.2] * 10)
    assert set(before) == {None}
    assert alarm is not None
    assert "from 5.0% to 20.0%" in alarm
    assert "credit.process_weight" in alarm


def test_a_slow_rise_is_held_against_the_lowest_window_and_told_once_a_window() -> None:
    said = alarms([0.3] * 10 + [0.1] * 10 + [0.15] * 10 + [0.21] * 10 + [0.25] * 15)
    assert [place for place, alarm in enumerate(said) if alarm] == [39, 49]
    assert "from 10.0% to 21.0%" in str(said[39])


@pytest.mark.parametrize(
    "shares",
    [
        [0.9] * 30,
        [0.9] * 10 + [0.1] * 20,
        [0.0] * 10 + [0.09] * 20,
        [0.0] * 10 + [0.5] * 9,
        [None] * 10 + [0.5] * 10,
        [0.0] * 10 + [None] * 10,
        [],
    ],
    ids=[
        "high at first",
        "falls",
        "little",
        "too early",
        "nothing before",
        "nothing",
        "none",
    ],
)
def test_other_courses_raise_no_alarm(shares: list[float | None]) -> None:
    assert set(alarms(shares)) <= {None}


@pytest.mark.parametrize("done", [1, 9, 10, 15, 20, 29])
def test_a_watch_that_begins_from_the_log_of_a_run_says_the_same(done: int) -> None:
    shares = [0.1] * 10 + [0.25] * 10 + [0.4] * 10
    watch = UnsubmittedWatch(metrics(shares[:done]))
    assert [watch.add(record) for record in metrics(shares[done:])] == alarms(shares)[done:]
