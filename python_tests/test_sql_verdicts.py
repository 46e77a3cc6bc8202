"""Verdicts that are remembered: what was asked before is not run again, unless it may differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.sql import Engine
from support.databases import written
from support.queries import ENDLESS

pytestmark = pytest.mark.native

COUNT = "SELECT count(*) FROM customer"


@pytest.fixture(params=["process", "thread"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    # One worker: a second one that helps with the pairs of a gold runs that gold, too.
    with Engine(workers=1, isolation=request.param) as engine:
        yield engine


def run_for(engine: Engine, triples: list[Any], **how: Any) -> tuple[list[Any], int, int]:
    """Return the verdicts of a call, how many queries ran for it, and how many were remembered."""
    before = engine.counters
    matches = engine.match(triples, **how)
    after = engine.counters
    outcomes = [(match.equal, match.status, match.message, match.score) for match in matches]
    return (
        outcomes,
        after.queries_run - before.queries_run,
        after.verdicts_reused - before.verdicts_reused,
    )


def test_what_was_asked_is_not_run_again(shop: Path, engine: Engine) -> None:
    triples = [(shop, f"SELECT {n}", COUNT) for n in range(6)]
    triples += [(shop, "SELEC", COUNT), (shop, "DELETE FROM customer", COUNT)]
    triples += [(shop, "SELECT 1", "SELECT nothing FROM customer"), (shop, "SELECT 4", COUNT)]
    first, num_run, num_reused = run_for(engine, triples)
    assert (num_run, num_reused) == (1 + 8 + 1, 0)  # a pair that comes twice is run once
    again, num_run, num_reused = run_for(engine, triples[::-1])
    assert (num_run, num_reused) == (0, len(triples))
    assert again[::-1] == first
    assert [equal for equal, *_ in first].count(True) == 2


def test_a_verdict_holds_for_what_was_asked_only(shop: Path, engine: Engine) -> None:
    triple = [(shop, "SELECT name FROM customer", "SELECT name FROM customer ORDER BY id DESC")]
    run_for(engine, triple, semantics="multiset")
    for how in (
        {"semantics": "ordered"},
        {"semantics": "bird"},
        {"semantics": "multiset", "max_rows": 3},
        {"semantics": "multiset", "timeout_s": 7.0},
        {"semantics": "multiset", "early_exit": False},
        {"semantics": "strict", "float_tolerance": 0.5},
    ):
        assert run_for(engine, triple, **how)[2] == 0, how
        assert run_for(engine, triple, **how)[1:] == (0, 1) or "max_rows" in how, how


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("SELECT random()", "SELECT 1"),
        ("SELECT 1", "SELECT random()"),
        ("SELECT date('now')", "SELECT 1"),
        (ENDLESS, "SELECT 1"),
        ("SELECT 1", ENDLESS),
    ],
)
def test_chance_time_and_deadlines_are_not_remembered(
    shop: Path, engine: Engine, predicted: str, gold: str
) -> None:
    for _ in range(2):
        _, num_run, num_reused = run_for(engine, [(shop, predicted, gold)], timeout_s=0.1)
        assert num_run >= 1
        assert num_reused == 0


def test_a_file_that_changed_is_asked_again(tmp_path: Path, engine: Engine) -> None:
    path = written(tmp_path / "one.sqlite", "CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    triple = [(path, "SELECT 1", "SELECT a FROM t")]
    assert run_for(engine, triple)[0][0][0]
    assert run_for(engine, triple)[1:] == (0, 1)
    written(path, "UPDATE t SET a = 2")
    (outcome, *_), num_run, num_reused = run_for(engine, triple)
    assert not outcome[0]
    assert (num_run, num_reused) == (2, 0)


def test_memory_for_verdicts_is_bounded(shop: Path) -> None:
    triples = [(shop, f"SELECT {n}", COUNT) for n in range(100)]
    with Engine(workers=1, isolation="thread", verdict_cache_bytes=20_000) as engine:
        run_for(engine, triples)
        reused = run_for(engine, triples[-10:])[2]
        assert reused == 10  # the last ones are there
        assert run_for(engine, triples[:10])[2] == 0
    with Engine(workers=1, isolation="thread", verdict_cache_bytes=1) as engine:
        run_for(engine, triples)
        assert run_for(engine, triples)[2] == 0
