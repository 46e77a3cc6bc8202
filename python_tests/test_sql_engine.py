"""Running and matching queries: order, limits, deadlines, caches, failures as statuses."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from finestep_fast import _core, sql
from finestep_fast.errors import InputError
from finestep_fast.sql import Engine, Semantics, Status
from support.databases import written

pytestmark = pytest.mark.native

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c"
NUMBERS = (
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < {n}) SELECT x FROM c"
)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return written(tmp_path / "shop.sqlite")


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(threads=2) as engine:
        yield engine


def test_a_result_has_columns_rows_and_a_digest_of_the_rows(shop: Path, engine: Engine) -> None:
    first, renamed, other = engine.run(
        [
            (shop, "SELECT name, id FROM customer WHERE id < 3"),
            (str(shop), "SELECT name AS n, id * 1.0 FROM customer WHERE id < 3"),
            (shop, "SELECT name, id FROM customer WHERE id < 2"),
        ]
    )
    assert first.status is Status.OK
    assert first.columns == ("name", "id")
    assert first.rows == (("Ada", 1), ("Bo", 2))
    assert not first.truncated
    assert first.digest == renamed.digest != other.digest


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nam FROM customer", "no such column: nam"),
        ("SELECT * FROM custommer", "no such table: custommer"),
        ("SELEC 1", "syntax error"),
        ("", "holds no statement"),
        (" ; ", "holds no statement"),
        ("-- nothing", "holds no statement"),
        ("/* nothing", "holds no statement"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT ?", "binding"),
        ("SELECT :x", "binding"),
        ("SELECT '\0'", "null character"),
        ("SELECT '\ud800'", "surrogates not allowed"),
        ("SELECT abs(-9223372036854775808)", "integer overflow"),
    ],
)
def test_a_query_that_fails_is_an_error_with_its_reason(
    shop: Path, engine: Engine, query: str, message: str
) -> None:
    (result,) = engine.run([(shop, query)])
    assert result.status is Status.ERROR
    assert message in result.message
    assert result.rows == ()
    assert result.digest == ""


def test_a_trailing_semicolon_or_comment_is_no_second_statement(shop: Path, engine: Engine) -> None:
    for query in ("SELECT 1;", "SELECT 1; -- done", "SELECT 1 /* done */ ;\n"):
        assert engine.run([(shop, query)])[0].rows == ((1,),)


def test_results_keep_the_order_of_their_jobs(shop: Path, engine: Engine) -> None:
    slow = "SELECT count(*) FROM (" + NUMBERS.format(n=20_000) + "), (SELECT {i})"
    queries = [slow.format(i=i) if i % 3 else f"SELECT {i}" for i in range(60)]
    results = engine.run([(shop, query) for query in queries])
    assert [r.rows[0][0] for r in results] == [20_000 if i % 3 else i for i in range(60)]


def test_a_query_ends_at_its_deadline(shop: Path, engine: Engine) -> None:
    started = time.monotonic()
    (result,) = engine.run([(shop, ENDLESS)], timeout_s=0.2)
    assert result.status is Status.TIMEOUT
    assert "deadline" in result.message
    assert time.monotonic() - started >= 0.2
    assert result.elapsed_ms >= 200


def test_a_connection_serves_on_after_a_timeout(shop: Path, engine: Engine) -> None:
    engine.run([(shop, ENDLESS)], timeout_s=0.05)
    assert engine.run([(shop, "SELECT 1")])[0].rows == ((1,),)


def test_the_deadline_is_of_each_query_and_not_of_the_batch(shop: Path) -> None:
    with Engine(threads=1, timeout_s=0.15) as engine:
        results = engine.run([(shop, ENDLESS), (shop, "SELECT 1"), (shop, ENDLESS)])
    assert [r.status for r in results] == [Status.TIMEOUT, Status.OK, Status.TIMEOUT]


def test_rows_beyond_the_cap_are_cut_and_said_so(shop: Path, engine: Engine) -> None:
    exact, cut = engine.run([(shop, NUMBERS.format(n=3)), (shop, NUMBERS.format(n=4))], max_rows=3)
    assert (len(exact.rows), exact.truncated) == (3, False)
    assert (len(cut.rows), cut.truncated) == (3, True)


def test_bytes_beyond_the_cap_are_cut_and_said_so(shop: Path, engine: Engine) -> None:
    wide = f"SELECT hex(zeroblob(5000)), x FROM ({NUMBERS.format(n=100)})"
    (result,) = engine.run([(shop, wide)], max_bytes=100_000)
    assert result.status is Status.OK
    assert result.truncated
    assert 5 <= len(result.rows) <= 10


def test_a_value_beyond_sqlites_limit_is_too_large(shop: Path, engine: Engine) -> None:
    (result,) = engine.run([(shop, "SELECT length(hex(zeroblob(20000000)))")])
    assert result.status is Status.TOO_LARGE


def test_text_in_any_bytes_is_returned_and_told_apart(tmp_path: Path, engine: Engine) -> None:
    script = (
        "CREATE TABLE t(a); INSERT INTO t VALUES (CAST(x'41ff' AS TEXT)), (CAST(x'41fe' AS TEXT))"
    )
    database = written(tmp_path / "bytes.sqlite", script)
    (result,) = engine.run([(database, "SELECT a FROM t")])
    assert result.status is Status.OK
    assert result.invalid_utf8
    assert len(set(result.rows)) == 2
    assert str(result.rows[0][0]).encode("utf-8", "surrogateescape") == b"A\xff"
    assert result.digest
    # The connection reads well-formed text as before.
    assert engine.run([(database, "SELECT 'ä'")])[0].rows == (("ä",),)


def test_databases_in_utf16_give_the_same_text(tmp_path: Path, engine: Engine) -> None:
    script = "PRAGMA encoding='UTF-16'; CREATE TABLE t(a, b); INSERT INTO t VALUES ('ä€', x'00')"
    wide = written(tmp_path / "wide.sqlite", script)
    narrow = written(tmp_path / "narrow.sqlite", script.replace("16", "8"))
    results = engine.run([(wide, "SELECT * FROM t"), (narrow, "SELECT * FROM t")])
    assert results[0].rows == results[1].rows == (("ä€", b"\x00"),)
    query = "SELECT a, b, a || 'x' FROM t"
    assert engine.match([(wide, query, query + " LIMIT 1")])[0].equal


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
    assert {sql: _core.test_suite_query(sql, False) for sql in rewritten} == rewritten
    # The order of rows counts if the gold query says "order by" anywhere.
    predicted = "SELECT name FROM customer ORDER BY name DESC"
    golds = {"SELECT name FROM customer": True, "SELECT name FROM customer ORDER BY 1": False}
    matches = engine.match([(shop, predicted, g) for g in golds], semantics="test_suite")
    assert [match.equal for match in matches] == list(golds.values())


def test_soft_f1_is_a_score(shop: Path, engine: Engine) -> None:
    gold = "SELECT id, city FROM customer WHERE id < 3"
    half = "SELECT id, 'x' FROM customer WHERE id < 3"
    right, partly = engine.match([(shop, gold, gold), (shop, half, gold)], semantics="soft_f1")
    assert (right.equal, right.score) == (True, 1.0)
    assert not partly.equal
    assert 0 < partly.score < 1


FORKED = """
import os, sys
from finestep_fast.sql import Engine
with Engine(threads=2) as engine:
    jobs = [(sys.argv[1], "SELECT 1")] * 8
    assert [r.rows for r in engine.run(jobs)] == [((1,),)] * 8
    child = os.fork()
    assert [r.rows for r in engine.run(jobs)] == [((1,),)] * 8
    if child == 0:
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_an_engine_works_on_in_a_forked_process(shop: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", FORKED, str(shop)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "7\n"


def test_a_closed_engine_says_so(shop: Path) -> None:
    engine = Engine()
    engine.close()
    with pytest.raises(InputError, match="the engine is closed"):
        engine.run([(shop, "SELECT 1")])


def test_bird_fails_on_text_that_is_not_utf8_as_its_evaluator_does(
    tmp_path: Path, engine: Engine
) -> None:
    script = "CREATE TABLE t(a); INSERT INTO t VALUES (CAST(x'ff' AS TEXT))"
    triple = (written(tmp_path / "bytes.sqlite", script), "SELECT a FROM t", "SELECT a FROM t")
    (bird,), (strict,) = engine.match([triple]), engine.match([triple], semantics="strict")
    assert (bird.equal, bird.status) == (False, Status.GOLD_ERROR)
    assert (strict.equal, strict.status) == (True, Status.OK)


def test_an_unreadable_database_is_a_status(tmp_path: Path, engine: Engine) -> None:
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"this is no database, whatever its name says" * 100)
    torn = tmp_path / "torn.sqlite"
    whole = written(tmp_path / "whole.sqlite").read_bytes()
    torn.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    for path in (tmp_path / "none.sqlite", garbage, torn, tmp_path, Path("a\0b")):
        (result,) = engine.run([(path, "SELECT * FROM customer")])
        assert result.status is Status.DATABASE_UNREADABLE, path
        assert repr(str(path)) in result.message
        (match,) = engine.match([(path, "SELECT * FROM customer", "SELECT * FROM customer")])
        assert (match.equal, match.status) == (False, Status.DATABASE_UNREADABLE)
        assert match.status.is_infrastructure


def test_a_database_with_an_unfinished_log_is_not_read_half(tmp_path: Path, engine: Engine) -> None:
    database = tmp_path / "busy.sqlite"
    writer = sqlite3.connect(database)
    try:
        writer.execute("PRAGMA journal_mode=wal")
        writer.execute("CREATE TABLE t(a)")
        writer.commit()
        (result,) = engine.run([(database, "SELECT * FROM t")])
    finally:
        writer.close()
    assert result.status is Status.DATABASE_UNREADABLE
    assert "unfinished changes" in result.message
    assert engine.run([(database, "SELECT * FROM t")])[0].status is Status.OK


def test_odd_paths_are_opened_as_they_are(tmp_path: Path, engine: Engine) -> None:
    for name in ("a b.sqlite", "a?mode=rwc.sqlite", "a#b%20c.sqlite", "ä'\".sqlite"):
        database = written(tmp_path / name)
        assert engine.run([(database, "SELECT count(*) FROM customer")])[0].rows == ((4,),)


def test_a_replaced_file_is_another_database(tmp_path: Path, engine: Engine) -> None:
    database = written(tmp_path / "d.sqlite", "CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    triple = (database, "SELECT 1", "SELECT a FROM t")
    assert engine.match([triple])[0].equal
    other = written(tmp_path / "e.sqlite", "CREATE TABLE t(a); INSERT INTO t VALUES (2)")
    os.replace(other, database)
    assert not engine.match([triple])[0].equal


def test_match_says_whose_failure_it_was(shop: Path, engine: Engine) -> None:
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
    """How many queries one call of match really runs."""
    before = engine.counters.queries_run
    engine.match(triples)
    return engine.counters.queries_run - before


def test_a_gold_query_runs_once_and_equal_predictions_once_per_call(
    shop: Path, engine: Engine
) -> None:
    gold, right, wrong = "SELECT 1 + 1", "SELECT 2", "SELECT 3"
    triples = [(shop, p, gold) for p in (right, wrong, right, right)]
    assert [m.equal for m in engine.match(triples)] == [True, False, True, True]
    assert engine.counters.queries_run == 3
    assert num_run(engine, triples) == 2
    assert engine.counters.golds_reused == 1


def test_a_gold_query_runs_once_however_many_threads_ask_for_it(shop: Path) -> None:
    slow = f"SELECT count(*) FROM ({NUMBERS.format(n=300_000)})"
    with Engine(threads=4) as engine:
        triples = [(shop, "SELECT 300000", slow)]
        threads = [threading.Thread(target=engine.match, args=(triples,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.counters.queries_run == 1 + 6


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
    with Engine(threads=2) as engine:
        triples = [(shop, "SELECT abs(random() % 2)", "SELECT 1")] * 200
        verdicts = [match.equal for match in engine.match(triples)]
    assert 40 < sum(verdicts) < 160


def test_remembered_golds_stay_within_their_budget(shop: Path) -> None:
    with Engine(gold_cache_bytes=40_000) as engine:
        golds = [f"SELECT {i}" for i in range(100)]
        for gold in golds:
            engine.match([(shop, "SELECT 0", gold)])
        assert num_run(engine, [(shop, "SELECT 0", golds[-1])]) == 1
        assert num_run(engine, [(shop, "SELECT 0", golds[0])]) == 2


def test_many_threads_may_share_an_engine(shop: Path) -> None:
    failures: list[object] = []
    with Engine(threads=2, max_connections=2) as engine:

        def work(seed: int) -> None:
            for i in range(40):
                match, miss = engine.match(
                    [
                        (shop, f"SELECT {seed}, {i}", f"SELECT {seed} * 1, {i}"),
                        (shop, f"SELECT {i}", f"SELECT {seed} + {i} + 1"),
                    ]
                )
                if not match.equal or miss.equal:
                    failures.append((seed, i, match, miss))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_as_many_queries_run_at_once_as_there_are_threads(shop: Path) -> None:
    with Engine(threads=3, timeout_s=0.2) as engine:
        results = engine.run([(shop, ENDLESS)] * 6)
        assert engine.counters.most_at_once == 3
    assert [r.status for r in results] == [Status.TIMEOUT] * 6


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_results_do_not_depend_on_the_number_of_threads(shop: Path, threads: int) -> None:
    queries = [f"SELECT id, name FROM customer WHERE id > {i % 5}" for i in range(60)]
    queries += ["SELEC", "DELETE FROM customer", "SELECT nam FROM customer"] * 5
    triples = [(shop, q, queries[i % 7]) for i, q in enumerate(queries)]
    with Engine(threads=threads) as engine, Engine(threads=1) as other:
        rows = [(r.status, r.rows, r.message) for r in engine.run([(shop, q) for q in queries])]
        assert rows == [
            (*r,)
            for r in [
                (r.status, r.rows, r.message) for r in other.run([(shop, q) for q in queries])
            ]
        ]
        for semantics in get_args(Semantics):
            ours = engine.match(triples, semantics=semantics)
            theirs = other.match(triples, semantics=semantics)
            assert [(m.equal, m.status, m.score) for m in ours] == [
                (m.equal, m.status, m.score) for m in theirs
            ]


def test_a_short_call_does_not_wait_for_a_long_batch(shop: Path) -> None:
    with Engine(threads=1) as engine:
        ended: list[str] = []

        def long() -> None:
            engine.run([(shop, ENDLESS)] * 30, timeout_s=0.1)
            ended.append("long")

        thread = threading.Thread(target=long)
        thread.start()
        while engine.counters.queries_run < 2:
            time.sleep(0.01)
        engine.run([(shop, "SELECT 1")])
        ended.append("short")
        thread.join()
    assert ended == ["short", "long"]


def test_closing_the_engine_stops_its_queries(shop: Path) -> None:
    engine = Engine(threads=1)
    results: list[sql.Result] = []
    thread = threading.Thread(target=lambda: results.extend(engine.run([(shop, ENDLESS)])))
    thread.start()
    time.sleep(0.2)
    engine.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert results[0].status is Status.TIMEOUT
    assert "called off" in results[0].message


def test_an_interrupt_from_the_keyboard_gets_through_a_running_query(shop: Path) -> None:
    for jobs in (1, 3):
        timer = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
        started = time.monotonic()
        with Engine(threads=2) as engine:
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                engine.run([(shop, ENDLESS)] * jobs, timeout_s=30)
        timer.join()
        assert time.monotonic() - started < 10


def test_misuse_is_an_input_error(shop: Path, engine: Engine) -> None:
    with pytest.raises(InputError, match="timeout_s is 0; expected a finite number > 0"):
        Engine(timeout_s=0)
    with pytest.raises(InputError, match="max_rows is -1"):
        engine.run([(shop, "SELECT 1")], max_rows=-1)
    with pytest.raises(InputError, match="a query is None; expected text"):
        engine.run([(shop, None)])  # type: ignore[list-item]
    with pytest.raises(InputError, match="semantics is 'exact'"):
        engine.match([], semantics="exact")  # type: ignore[arg-type]


def test_empty_batches_are_fine(engine: Engine) -> None:
    assert engine.run([]) == []
    assert engine.match([]) == []


def test_the_module_runs_and_matches_without_an_engine(shop: Path) -> None:
    assert sql.run([(shop, "SELECT 1")])[0].rows == ((1,),)
    assert sql.match([(shop, "SELECT 1", "SELECT 1.0")])[0].equal
