"""Running and matching queries: order, limits, deadlines, caches, failures as statuses."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finestep_fast import sql
from finestep_fast.errors import InputError
from finestep_fast.sql import Engine, Status, execution
from finestep_fast.sql import engine as engine_module
from finestep_fast.sql.connections import Connection
from support.databases import written

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
    of_queries = [s for s in Status if not s.value.startswith(("predicted_", "gold_"))]
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
    for semantics in ("bird", "strict", "multiset", "ordered"):
        matches = engine.match(
            [(shop, hack, gold) for hack in hacks], semantics=semantics, timeout_s=0.05
        )
        assert not any(match.equal for match in matches)
        assert engine.match([(shop, gold, gold)], semantics=semantics)[0].equal


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every query that really runs, in order."""
    ran: list[str] = []
    run = execution.fetched

    def noted(connection: Connection, query: str, limits: execution.Limits) -> sql.Result:
        ran.append(query)
        return run(connection, query, limits)

    monkeypatch.setattr(engine_module, "fetched", noted)
    return ran


def test_a_gold_query_runs_once_and_equal_predictions_once_per_call(
    shop: Path, engine: Engine, executed: list[str]
) -> None:
    gold, right, wrong = "SELECT 1 + 1", "SELECT 2", "SELECT 3"
    for _ in range(2):
        matches = engine.match([(shop, p, gold) for p in (right, wrong, right, right)])
        assert [m.equal for m in matches] == [True, False, True, True]
    assert sorted(executed) == sorted([gold, right, wrong, right, wrong])


def test_a_gold_query_that_depends_on_time_or_chance_is_not_remembered(
    shop: Path, engine: Engine, executed: list[str]
) -> None:
    for gold in (
        "SELECT random() > 2",
        "SELECT date('now')",
        "SELECT CURRENT_DATE",
        "SELECT time()",
    ):
        executed.clear()
        for _ in range(2):
            engine.match([(shop, "SELECT 1", gold)])
        assert executed.count(gold) == 2, gold


def test_remembered_golds_stay_within_their_budget(shop: Path, executed: list[str]) -> None:
    with Engine(gold_cache_bytes=30_000) as engine:
        golds = [f"SELECT {i}" for i in range(100)]
        for gold in golds:
            engine.match([(shop, "SELECT 0", gold)])
        executed.clear()
        engine.match([(shop, "SELECT 0", golds[-1])])
        engine.match([(shop, "SELECT 0", golds[0])])
    assert executed == ["SELECT 0", golds[0], "SELECT 0"]


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


def test_helpers_join_in_when_a_batch_is_slow(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[int] = set()
    run = execution.fetched

    def noted(connection: Connection, query: str, limits: execution.Limits) -> sql.Result:
        used.add(threading.get_ident())
        return run(connection, query, limits)

    monkeypatch.setattr(engine_module, "fetched", noted)
    with Engine(threads=3, timeout_s=0.2) as engine:
        results = engine.run([(shop, ENDLESS)] * 6)
    assert [r.status for r in results] == [Status.TIMEOUT] * 6
    assert len(used) == 3


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
