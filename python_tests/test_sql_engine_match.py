"""Matching queries: which side failed, meanings of equal, what is remembered and shared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from finestep_fast import _core
from finestep_fast.sql import Engine, Semantics, Status
from support.databases import written
from support.queries import ENDLESS, NUMBERS

pytestmark = pytest.mark.native


def test_a_prediction_is_stopped_once_it_cannot_be_equal(shop: Path, engine: Engine) -> None:
    endless = ENDLESS.replace("count(*)", "x")
    (early,) = engine.match([(shop, endless, "SELECT 0")], timeout_s=20)
    assert (early.equal, early.status) == (False, Status.OK)
    (whole,) = engine.match(
        [(shop, endless, "SELECT 0")], timeout_s=0.2, max_rows=50, early_exit=False
    )
    assert (whole.equal, whole.status) == (False, Status.PREDICTED_TOO_LARGE)


def test_the_test_suite_evaluator_rewrites_both_queries(shop: Path, engine: Engine) -> None:
    gold = "SELECT city FROM customer WHERE id > = 1"
    distinct = "SELECT DISTINCT city FROM customer; SELECT 1"
    (dropped,) = engine.match([(shop, distinct, gold)], semantics="test_suite")
    (kept,) = engine.match([(shop, distinct, gold)], semantics="test_suite", keep_distinct=True)
    assert (dropped.equal, dropped.status) == (True, Status.OK)
    assert kept.status is Status.PREDICTED_ERROR
    rewritten = {
        "SELECT count(DISTINCT a), 'distinct', \"distinct\" -- distinct": (
            "SELECT count( a), 'distinct', \"distinct\" -- distinct"
        ),
        "SELECT YEAR( CURDATE() ) - x": "SELECT 2020- x",
        "SELECT ';', 1; SELECT 2": "SELECT ';', 1;",
        "SELECT a ! = 'b < = c'": "SELECT a != 'b <= c'",
    }
    assert {sql: _core.spider_query(sql, False)[0] for sql in rewritten} == rewritten
    # The order of rows counts if the gold query says "order by" anywhere.
    predicted = "SELECT name FROM customer ORDER BY name DESC"
    golds = {"SELECT name FROM customer": True, "SELECT name FROM customer ORDER BY 1": False}
    matches = engine.match([(shop, predicted, g) for g in golds], semantics="test_suite")
    assert [match.equal for match in matches] == list(golds.values())


def test_a_query_that_fails_without_distinct_says_what_was_dropped(
    shop: Path, engine: Engine
) -> None:
    plain = "SELECT name FROM customer WHERE id = 1"
    operator = "SELECT name FROM customer WHERE id IS NOT DISTINCT FROM 1"
    broken = "SELECT DISTINCT nam FROM customer"
    dropped = " (run without the word DISTINCT, as test_suite does unless keep_distinct)"
    cases = {
        (plain, operator): (Status.GOLD_ERROR, f'gold query: near "FROM": syntax error{dropped}'),
        (operator, plain): (Status.PREDICTED_ERROR, f'near "FROM": syntax error{dropped}'),
        (broken, plain): (Status.PREDICTED_ERROR, f"no such column: nam{dropped}"),
        # Nothing was dropped from the query that fails, or the word is no word of the query.
        ("SELECT nam FROM customer", f"SELECT DISTINCT{plain[6:]}"): (
            Status.PREDICTED_ERROR,
            "no such column: nam",
        ),
        ("SELECT 'distinct', nam FROM customer", plain): (
            Status.PREDICTED_ERROR,
            "no such column: nam",
        ),
        (f"SELECT DISTINCT{plain[6:]}", plain): (Status.OK, ""),
    }
    triples = [(shop, predicted, gold) for predicted, gold in cases]
    matches = engine.match(triples, semantics="test_suite")
    assert [(match.status, match.message) for match in matches] == list(cases.values())
    kept = engine.match(triples[:3], semantics="test_suite", keep_distinct=True)
    assert [match.equal for match in kept] == [True, True, False]
    assert kept[2].message == "no such column: nam"


def test_operators_are_joined_wherever_they_stand() -> None:
    text = "a > = b ! = '< =' > => = < = ="
    joined = text.replace("> =", ">=").replace("< =", "<=").replace("! =", "!=")
    assert _core.spider_query(text, True) == (joined, False)
    assert _core.spider_query("SELECT count(Distinct a)", False) == ("SELECT count( a)", True)
    assert _core.spider_query("SELECT 'distinct', a -- distinct", False)[1] is False


def test_soft_f1_is_a_score(shop: Path, engine: Engine) -> None:
    gold = "SELECT id, city FROM customer WHERE id < 3"
    half = "SELECT id, 'x' FROM customer WHERE id < 3"
    right, partly = engine.match([(shop, gold, gold), (shop, half, gold)], semantics="soft_f1")
    assert (right.equal, right.score) == (True, 1.0)
    assert not partly.equal
    assert 0 < partly.score < 1


def test_bird_fails_on_text_that_is_not_utf8_as_its_evaluator_does(
    tmp_path: Path, engine: Engine
) -> None:
    script = "CREATE TABLE t(a); INSERT INTO t VALUES (CAST(x'ff' AS TEXT))"
    triple = (written(tmp_path / "bytes.sqlite", script), "SELECT a FROM t", "SELECT a FROM t")
    (bird,), (strict,) = engine.match([triple]), engine.match([triple], semantics="strict")
    assert (bird.equal, bird.status) == (False, Status.GOLD_ERROR)
    assert (strict.equal, strict.status) == (True, Status.OK)


def test_a_replaced_file_is_another_database(tmp_path: Path, engine: Engine) -> None:
    database = written(tmp_path / "d.sqlite", "CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    triple = (database, "SELECT 1", "SELECT a FROM t")
    assert engine.match([triple])[0].equal
    other = written(tmp_path / "e.sqlite", "CREATE TABLE t(a); INSERT INTO t VALUES (2)")
    os.replace(other, database)
    assert not engine.match([triple])[0].equal


def test_match_says_which_query_failed(shop: Path, engine: Engine) -> None:
    good, bad = "SELECT name FROM customer", "SELECT nam FROM customer"
    long = NUMBERS.format(n=10)
    matches = engine.match(
        [
            (shop, good, good),
            (shop, "SELECT city FROM customer", good),
            (shop, bad, good),
            (shop, good, bad),
            (shop, bad, bad),
            (shop, ENDLESS, good),
            (shop, good, ENDLESS),
            (shop, long, good),
            (shop, good, long),
            (shop, "DELETE FROM customer", good),
            (shop, good, "DELETE FROM customer"),
        ],
        timeout_s=0.1,
        max_rows=5,
        early_exit=False,
    )
    assert [m.status for m in matches] == [
        Status.OK,
        Status.OK,
        Status.PREDICTED_ERROR,
        Status.GOLD_ERROR,
        Status.GOLD_ERROR,
        Status.PREDICTED_TIMEOUT,
        Status.GOLD_TIMEOUT,
        Status.PREDICTED_TOO_LARGE,
        Status.GOLD_TOO_LARGE,
        Status.PREDICTED_DENIED,
        Status.GOLD_DENIED,
    ]
    assert [m.equal for m in matches] == [True] + [False] * 10
    assert all(m.message for m in matches[2:])
    assert [m.status.is_infrastructure for m in matches[2:6]] == [False, True, True, False]


def test_every_status_of_a_query_has_its_statuses_of_a_match() -> None:
    for status in Status:
        assert status.sentence.endswith(".")
        assert isinstance(status.is_infrastructure, bool)
    of_queries = [s for s in Status if not s.value.startswith(("predicted_", "gold_", "undec"))]
    assert {s.as_predicted.value for s in of_queries} >= {"predicted_error", "predicted_timeout"}
    for status in of_queries:
        if status not in (Status.OK, Status.DATABASE_UNREADABLE):
            assert status.as_predicted.value == f"predicted_{status}"
            assert status.as_gold.value == f"gold_{status}"


def test_strict_counts_order_only_if_the_outermost_gold_query_orders(
    shop: Path, engine: Engine
) -> None:
    predicted = "SELECT name FROM customer ORDER BY name DESC"
    golds = {
        "SELECT name FROM customer": True,
        "SELECT name FROM customer ORDER  BY name": False,
        "SELECT name FROM customer order\nby name": False,
        "SELECT name FROM (SELECT name FROM customer ORDER BY name)": True,
        "SELECT name FROM customer WHERE name <> 'order by'": True,
        "SELECT name FROM customer WHERE 1 = (SELECT 1 ORDER BY 1)": True,
        "WITH c AS (SELECT name FROM customer) SELECT name FROM c ORDER BY 1": False,
        "SELECT name FROM customer WHERE 0 UNION ALL SELECT name FROM customer ORDER BY 1": False,
    }
    matches = engine.match([(shop, predicted, gold) for gold in golds], semantics="strict")
    assert {gold: match.equal for gold, match in zip(golds, matches, strict=True)} == golds


def test_a_failed_prediction_never_equals_an_empty_gold(shop: Path, engine: Engine) -> None:
    gold = "SELECT name FROM customer WHERE 0"
    hacks = [
        "",
        " ",
        "-- nothing",
        "SELEC",
        "PRAGMA user_version=5",
        "DELETE FROM customer",
        ENDLESS,
    ]
    for semantics in get_args(Semantics):
        matches = engine.match(
            [(shop, hack, gold) for hack in hacks], semantics=semantics, timeout_s=0.05
        )
        assert not any(match.equal for match in matches)
        assert engine.match([(shop, gold, gold)], semantics=semantics)[0].equal


def num_run(engine: Engine, triples: list[tuple[Path, str, str]]) -> int:
    """Return how many queries one call of match really runs."""
    before = engine.counters.queries_run
    engine.match(triples)
    return engine.counters.queries_run - before


@pytest.fixture(params=["process", "thread"])
def one_worker(request: pytest.FixtureRequest) -> Iterator[Engine]:
    # A second worker that helps with the pairs of a gold runs that gold, too.
    with Engine(workers=1, isolation=request.param) as engine:
        yield engine


def test_a_gold_query_and_equal_pairs_run_once(shop: Path, one_worker: Engine) -> None:
    engine = one_worker
    gold, right, wrong = "SELECT 1 + 1", "SELECT 2", "SELECT 3"
    triples = [(shop, p, gold) for p in (right, wrong, right, right)]
    assert [m.equal for m in engine.match(triples)] == [True, False, True, True]
    assert engine.counters.queries_run == 3
    assert num_run(engine, triples) == 0
    assert engine.counters.golds_reused == 0
    assert num_run(engine, [(shop, p + " ", gold) for p in (right, wrong, right)]) == 2
    assert engine.counters.golds_reused == 1


DEPENDS = (
    "SELECT random() > 2",
    "SELECT length(randomblob(2))",
    "SELECT date('now')",
    "SELECT datetime( 'NOW', '-1 day')",
    "SELECT CURRENT_DATE",
    "SELECT current_timestamp",
    "SELECT time()",
    "SELECT strftime('%Y')",
    'SELECT "julianday"()',
    "SELECT * FROM today",
)
SETTLED = (
    "SELECT date(joined) FROM customer",
    "SELECT strftime('%Y', joined) FROM customer",
    "SELECT name FROM customer WHERE name <> 'random()'",
)


def test_a_query_that_depends_on_time_or_chance_is_neither_remembered_nor_shared(
    tmp_path: Path, engine: Engine
) -> None:
    view = "CREATE TABLE customer(name, joined); CREATE VIEW today AS SELECT date('now')"
    database = written(tmp_path / "views.sqlite", view)
    for query in DEPENDS:
        assert num_run(engine, [(database, "SELECT 1", query)]) == 2, query
        assert num_run(engine, [(database, "SELECT 1", query)]) == 2, query
        assert num_run(engine, [(database, query, "SELECT 1")] * 3) >= 3, query
    for query in SETTLED:
        assert num_run(engine, [(database, "SELECT 1", query)] * 3) == 2, query
        assert num_run(engine, [(database, query, query)] * 3) == 1, query


def test_pairs_that_depend_on_chance_keep_their_own_verdicts(shop: Path) -> None:
    with Engine(workers=2) as engine:
        triples = [(shop, "SELECT abs(random() % 2)", "SELECT 1")] * 200
        verdicts = [match.equal for match in engine.match(triples)]
    assert 40 < sum(verdicts) < 160


def test_remembered_golds_stay_within_their_budget(shop: Path) -> None:
    with Engine(gold_cache_bytes=40_000) as engine:
        golds = [f"SELECT {i}" for i in range(100)]
        for gold in golds:
            engine.match([(shop, "SELECT 0", gold)])
        assert num_run(engine, [(shop, "SELECT -1", golds[-1])]) == 1
        assert num_run(engine, [(shop, "SELECT -1", golds[0])]) == 2
