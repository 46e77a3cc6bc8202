"""Running queries: results, order, limits, deadlines, failures as statuses, unreadable files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from finestep_fast import sql
from finestep_fast.errors import InputError
from finestep_fast.sql import Engine, Status
from support.databases import written
from support.queries import ENDLESS, NUMBERS

pytestmark = pytest.mark.native


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
    with Engine(workers=1, timeout_s=0.15) as engine:
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


def test_text_in_any_bytes_is_returned_and_distinguished(tmp_path: Path, engine: Engine) -> None:
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


def test_a_closed_engine_says_so(shop: Path) -> None:
    engine = Engine()
    engine.close()
    with pytest.raises(InputError, match="the engine is closed"):
        engine.run([(shop, "SELECT 1")])


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


def test_odd_paths_are_opened_as_they_are(tmp_path: Path, engine: Engine) -> None:
    for name in ("a b.sqlite", "a?mode=rwc.sqlite", "a#b%20c.sqlite", "ä'\".sqlite"):
        database = written(tmp_path / name)
        assert engine.run([(database, "SELECT count(*) FROM customer")])[0].rows == ((4,),)


def test_misuse_is_an_input_error(shop: Path, engine: Engine) -> None:
    with pytest.raises(InputError, match="timeout_s is 0; expected a finite number > 0"):
        Engine(timeout_s=0)
    with pytest.raises(InputError, match="max_rows is -1"):
        engine.run([(shop, "SELECT 1")], max_rows=-1)
    with pytest.raises(InputError, match="semantics is 'exact'"):
        engine.match([], semantics="exact")  # type: ignore[arg-type]


def test_empty_batches_are_fine(engine: Engine) -> None:
    assert engine.run([]) == []
    assert engine.match([]) == []


def test_the_module_runs_and_matches_without_an_engine(shop: Path) -> None:
    assert sql.run([(shop, "SELECT 1")])[0].rows == ((1,),)
    assert sql.match([(shop, "SELECT 1", "SELECT 1.0")])[0].equal
