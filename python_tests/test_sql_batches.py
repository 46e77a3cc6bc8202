"""A bad entry of a batch fails alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from finestep_fast import sql
from finestep_fast.errors import InputError
from finestep_fast.sql import Engine, Semantics, Status
from support.databases import written

pytestmark = pytest.mark.native

GOOD = "SELECT name FROM customer WHERE id = 1"
NO_QUERY: list[tuple[Any, str]] = [
    (None, "is None; expected text"),
    (3, "is 3; expected text"),
    (b"SELECT 1", "is b'SELECT 1'; expected text"),
    (float("nan"), "is nan; expected text"),
    (["SELECT 1"], "is ['SELECT 1']; expected text"),
    ("SELECT '\0'", "contains a null character"),
    ("SELECT '\ud800'", "is no valid Unicode: surrogates not allowed"),
]
# A list of golds is one of accepted golds: an empty one accepts nothing.
NO_GOLD = [case for case in NO_QUERY if not isinstance(case[0], list)]
NO_GOLD.append(([], "is []; expected text"))
NO_PATH: list[Any] = [None, 3, ["x"], "\ud800.sqlite"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("shop") / "shop.sqlite")


@pytest.fixture(scope="module", params=["process", "thread"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine(workers=2, isolation=request.param) as engine:
        yield engine


@pytest.mark.parametrize(("query", "complaint"), NO_QUERY)
def test_a_query_that_is_no_text_is_one_failed_job(
    shop: Path, engine: Engine, query: Any, complaint: str
) -> None:
    jobs = [(shop, GOOD), (shop, query), (shop, GOOD)]
    for first, failed, last in (engine.run(jobs), sql.run(jobs)):
        assert first.rows == last.rows == (("Ada",),)
        assert (failed.status, failed.rows) == (Status.ERROR, ())
        assert failed.message == f"jobs[1]: the query {complaint}"


@pytest.mark.parametrize("semantics", get_args(Semantics))
def test_a_prediction_that_is_no_text_is_one_failed_prediction(
    shop: Path, engine: Engine, semantics: Semantics
) -> None:
    triples = [(shop, query, GOOD) for query, _ in NO_QUERY]
    triples.append((shop, GOOD, GOOD))
    for matches in (
        engine.match(triples, semantics=semantics),
        sql.match(triples, semantics=semantics),
    ):
        for i, (match, (_, complaint)) in enumerate(zip(matches, NO_QUERY, strict=False)):
            assert (match.equal, match.status) == (False, Status.PREDICTED_ERROR)
            assert match.message == f"triples[{i}]: the predicted query {complaint}"
        assert (matches[-1].equal, matches[-1].score) == (True, 1.0)


@pytest.mark.parametrize("semantics", get_args(Semantics))
def test_a_gold_query_that_is_no_text_is_one_gold_error(
    shop: Path, engine: Engine, semantics: Semantics
) -> None:
    triples = [(shop, GOOD, query) for query, _ in NO_GOLD]
    # The gold's failure is reported before the prediction's.
    triples += [(shop, NO_QUERY[0][0], query) for query, _ in NO_GOLD]
    triples.append((shop, GOOD, GOOD))
    matches = engine.match(triples, semantics=semantics)
    for i, (match, (_, complaint)) in enumerate(zip(matches[:-1], NO_GOLD * 2, strict=True)):
        assert (match.equal, match.status) == (False, Status.GOLD_ERROR)
        assert match.status.is_infrastructure
        assert match.message == f"triples[{i}]: the gold query {complaint}"
    assert matches[-1].equal


def test_a_bad_prediction_beside_a_failing_gold_is_the_golds_failure(
    shop: Path, engine: Engine
) -> None:
    (match,) = engine.match([(shop, NO_QUERY[0][0], "SELECT nam FROM customer")])
    assert match.status is Status.GOLD_ERROR
    assert "no such column: nam" in match.message


@pytest.mark.parametrize("path", NO_PATH)
def test_a_database_that_is_no_path_is_one_unreadable_database(
    shop: Path, engine: Engine, path: Any
) -> None:
    good, failed = engine.run([(shop, GOOD), (path, GOOD)])
    assert good.rows == (("Ada",),)
    assert failed.status is Status.DATABASE_UNREADABLE
    assert failed.message.startswith("jobs[1]: the database is ")
    right, unread = engine.match([(shop, GOOD, GOOD), (path, GOOD, GOOD)])
    assert right.equal
    assert unread.status is Status.DATABASE_UNREADABLE
    assert unread.message.startswith("triples[1]: the database is ")


def test_an_entry_without_its_parts_is_an_input_error(shop: Path, engine: Engine) -> None:
    with pytest.raises(InputError, match=r"jobs\[1\] is None; expected \(database, query\)"):
        engine.run([(shop, GOOD), None])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"triples\[0\] is .*; expected \(database, predicted "):
        engine.match([(shop, GOOD)])  # type: ignore[list-item]
    rule = r"pairs\[1\] is None; expected \(predicted rows, gold rows\)"
    with pytest.raises(InputError, match=rule):
        sql.compare_batch([([], []), None])  # type: ignore[list-item]


@pytest.mark.parametrize("rows", [None, 3, [None], "ab", [(1, [])], [(10**30,)]])
@pytest.mark.parametrize("semantics", get_args(Semantics))
def test_rows_that_are_none_cost_one_verdict(rows: Any, semantics: Semantics) -> None:
    good = [(1, "x")]
    read_once = (iter(good), iter(good))
    pairs = [(good, good), (rows, good), read_once, (good, rows), (rows, rows), (good, [(2,)])]
    with pytest.warns(UserWarning, match="is ") as warned:
        verdicts = sql.compare_batch(pairs, semantics=semantics)
    assert verdicts == [True, False, True, None, None, False]
    places = [str(warning.message) for warning in warned]
    assert [place.split("]")[0] + "]" for place in places] == [
        "pairs[1]",
        "pairs[3]",
        "pairs[4]",
        "pairs[4]",
    ]
    assert places[0].startswith("pairs[1][0]")
    assert places[1].startswith("pairs[3][1]")


def test_odd_text_among_rows_is_compared_like_any_other() -> None:
    odd = [("\0",), ("\ud800",)]
    assert sql.compare_batch([(odd, odd), (odd, odd[::-1]), (odd, odd[:1])]) == [True, True, False]
