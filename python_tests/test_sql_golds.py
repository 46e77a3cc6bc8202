"""Several accepted gold queries for one prediction: right if it equals any of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finestep_fast import sql
from finestep_fast.errors import InputError
from finestep_fast.sql import Engine, Match, Status
from finestep_fast.sql.golds import best_of
from support.databases import written

pytestmark = pytest.mark.native

NAMES, IDS, BOTH = (
    f"SELECT {columns} FROM customer WHERE id < 3" for columns in ("name", "id", "id, name")
)
BAD, UNTRUE, LATE = "SELECT nam FROM customer", "DELETE FROM customer", "SELECT 1; SELECT 2"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("shop") / "shop.sqlite")


@pytest.fixture(scope="module", params=["process", "thread"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine(workers=2, isolation=request.param) as engine:
        yield engine


@pytest.mark.parametrize(
    ("predicted", "golds", "expected"),
    [
        (NAMES, [NAMES], (True, Status.OK, 0, 0)),
        (NAMES, [BAD], (False, Status.GOLD_ERROR, 0, 0)),
        (NAMES, [IDS, NAMES, BOTH], (True, Status.OK, 1, 0)),
        (NAMES, (IDS, NAMES, NAMES), (True, Status.OK, 1, 0)),
        (NAMES, [BAD, IDS, NAMES], (True, Status.OK, 2, 1)),
        (NAMES, [IDS, BOTH], (False, Status.OK, 0, 0)),
        (NAMES, [BAD, IDS], (False, Status.OK, 1, 1)),
        (BAD, [BAD, IDS, NAMES], (False, Status.PREDICTED_ERROR, 1, 1)),
        (UNTRUE, [IDS, BAD], (False, Status.PREDICTED_DENIED, 0, 1)),
        (NAMES, [BAD, UNTRUE], (False, Status.GOLD_ERROR, 0, 2)),
        (NAMES, [UNTRUE, LATE, BAD], (False, Status.GOLD_DENIED, 0, 3)),
        (BAD, [BAD, UNTRUE], (False, Status.GOLD_ERROR, 0, 2)),
    ],
)
def test_one_that_is_equal_is_enough_and_all_must_fail_for_a_gold_error(
    shop: Path, engine: Engine, predicted: str, golds: Any, expected: tuple[Any, ...]
) -> None:
    (match,) = engine.match([(shop, predicted, golds)])
    assert (match.equal, match.status, match.gold_index, match.golds_failed) == expected


def test_verdicts_of_a_batch_stay_in_their_places(shop: Path, engine: Engine) -> None:
    triples: list[tuple[Path, str, Any]] = [
        (shop, IDS, NAMES),
        (shop, IDS, [NAMES, BOTH, IDS]),
        (shop, IDS, IDS),
        (shop, NAMES, [BAD, NAMES]),
        (shop, BOTH, [NAMES]),
    ]
    for matches in (engine.match(triples), sql.match(triples)):
        found = [(match.equal, match.gold_index) for match in matches]
        assert found == [(False, 0), (True, 2), (True, 0), (True, 1), (False, 0)]


def test_soft_f1_is_the_best_of_the_golds(shop: Path, engine: Engine) -> None:
    # Beside BOTH: tp 1/2, fp 0, fn 1/2 for each of two rows: F1 = 2/3. Beside the constants: 0.
    constants = "SELECT 'x' UNION ALL SELECT 'y'"
    (match,) = engine.match([(shop, IDS, [constants, BOTH])], semantics="soft_f1")
    assert (match.equal, match.gold_index) == (False, 1)
    assert match.score == pytest.approx(2 / 3)


def test_the_order_of_rows_is_that_of_the_gold_it_is_held_against(
    shop: Path, engine: Engine
) -> None:
    ordered = "SELECT name FROM customer ORDER BY name"
    backwards = ordered + " DESC"
    either = [ordered, "SELECT name FROM customer"]
    for semantics in ("strict", "test_suite"):
        wrong, right = engine.match(
            [(shop, backwards, ordered), (shop, backwards, either)],
            semantics=semantics,
        )
        assert (wrong.equal, right.equal, right.gold_index) == (False, True, 1)


def test_what_is_no_query_is_named_by_the_place_of_its_triple(shop: Path, engine: Engine) -> None:
    triples: list[tuple[Any, Any, Any]] = [
        (shop, IDS, [NAMES, IDS]),
        (shop, IDS, [3, None]),
        (shop, None, [NAMES, IDS]),
        (shop, IDS, []),
        (shop, IDS, [[IDS], IDS]),
        (None, IDS, [IDS, IDS]),
    ]
    first, golds, predicted, empty, nested, path = engine.match(triples)
    assert first.equal
    assert (golds.status, golds.golds_failed) == (Status.GOLD_ERROR, 2)
    assert golds.message == "triples[1]: the gold query is 3; expected text"
    assert predicted.message == "triples[2]: the predicted query is None; expected text"
    assert predicted.status is Status.PREDICTED_ERROR
    assert empty.status is Status.GOLD_ERROR
    assert empty.message == "triples[3]: the gold query is []; expected text"
    assert (nested.equal, nested.gold_index, nested.golds_failed) == (True, 1, 1)
    assert path.status is Status.DATABASE_UNREADABLE


def test_an_entry_that_is_no_triple_is_refused_by_its_own_place(shop: Path, engine: Engine) -> None:
    with pytest.raises(InputError, match=r"triples\[1\] is .*; expected \(database"):
        engine.match([(shop, IDS, [NAMES, IDS]), (shop, IDS)])  # type: ignore[list-item]


def test_an_undecided_comparison_goes_before_one_that_says_no() -> None:
    unequal, undecided = Match(False, Status.OK, score=0.5), Match(False, Status.UNDECIDED)
    assert best_of([unequal, undecided]) == Match(False, Status.UNDECIDED, gold_index=1)
    right = Match(True, Status.OK, score=1.0)
    assert best_of([undecided, right]) == Match(True, Status.OK, score=1.0, gold_index=1)
