"""When two results are the same: each definition in use under its own name.

Not an executor: rows come in, a verdict goes out. `bird` is Python's `set(a) == set(b)` with all
its consequences; `strict` is the one to recommend. The compiled core does the work.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from finestep_fast import _core
from finestep_fast.config.semantics import Semantics
from finestep_fast.errors import InputError, shown
from finestep_fast.sql.outcome import Value

SEARCH_BUDGET = 500_000_000
MOST_THREADS = 4096
IS_EQUAL = {
    _core.Verdict.different: False,
    _core.Verdict.equal: True,
    _core.Verdict.undecided: None,
}

Rows = Iterable[Sequence[Value]]


def checked_semantics(semantics: str) -> None:
    """Raise InputError unless the name is one of `Semantics`."""
    if not isinstance(semantics, str) or semantics not in get_args(Semantics):
        known = ", ".join(get_args(Semantics))
        raise InputError(f"semantics is {shown(semantics)}; expected one of {known}")


def checked_number(name: str, value: object, *, whole: bool) -> None:
    """Raise InputError unless the value is a number that the core can use."""
    kind, rule = (int, "an integer of 64 bits") if whole else (int | float, "a finite number")
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not -(2**63) <= value < 2**63:  # type: ignore[operator]
        raise InputError(f"{name} is {shown(value)}; expected {rule} > 0")


def listed(given: Any) -> list[Any] | None:
    """Return the items of something iterable; None for text and anything else."""
    if isinstance(given, str | bytes):
        return None
    try:
        items = iter(given)
    except TypeError:
        return None
    return list(items)


def compare(
    predicted_rows: Rows,
    gold_rows: Rows,
    *,
    semantics: Semantics = "bird",
    ordered: bool = False,
    float_tolerance: float = 0.0,
    search_budget: int = SEARCH_BUDGET,
) -> bool | None:
    """Return whether two results are equal.

    Values compare as in Python: 1 equals 1.0 exactly, text never equals bytes, NULL equals NULL.
    Two empty results are equal. Rows are compared by keyed 128-bit hashes, values by 64-bit ones
    under `test_suite` and `soft_f1`. The key is drawn anew in every process; without it no one can
    make two of them collide.

    Args:
        predicted_rows: Rows as DB-API gives them, of int (64 bits), float, str, bytes and None.
        gold_rows: Likewise.
        semantics: `bird`: the same set of rows, however often and in whatever order (BIRD's
            execution accuracy). `multiset`: the same rows equally often. `ordered`: the same rows
            in the same order. `strict`: `ordered` if the gold query orders its rows, else
            `multiset`. `test_suite`: the test-suite evaluator's: the same once the columns are
            permuted suitably, as a list or as a bag of rows, and with the values of each row sorted
            by their text and type, so that (2, 2.5) is not (2.0, 2.5). `soft_f1`: `score_f1` is 1.
        ordered: For `strict`: whether the gold query's outermost SELECT orders its rows. For
            `test_suite`: whether "order by" occurs in it.
        float_tolerance: For `strict`: the relative and absolute difference allowed between two
            numbers of which at least one is a float.
        search_budget: For `test_suite`, and `strict` with a tolerance: how many values a search for
            a permutation or a pairing may read. What needs no search is decided without it.

    Returns:
        The verdict. None, which counts as false, if the search used up its budget: undecided.

    Raises:
        InputError: The semantics is unknown, a tolerance is given to one that has none, or a value
            is not one that SQLite gives. Rows of different widths are refused by `test_suite`,
            `soft_f1` and with a tolerance.
    """
    settings = checked_settings(semantics, ordered, float_tolerance, search_budget)
    predicted = ready(predicted_rows, "predicted_rows", settings)
    verdict, _ = predicted.outcome(ready(gold_rows, "gold_rows", settings))
    return IS_EQUAL[verdict]


def compare_batch(
    pairs: Iterable[tuple[Rows, Rows]],
    *,
    semantics: Semantics = "bird",
    ordered: bool | Sequence[bool] = False,
    float_tolerance: float = 0.0,
    search_budget: int = SEARCH_BUDGET,
    threads: int | None = None,
) -> list[bool | None]:
    """Compare many pairs of results, on several threads; each verdict is that of `compare`.

    Args:
        pairs: Predicted and gold rows. They must not change during the call.
        semantics: See `compare`.
        ordered: See `compare`; one for all pairs, or one per pair.
        float_tolerance: See `compare`.
        search_budget: See `compare`; for each pair.
        threads: Threads that work at the same time; by default one per available core.

    Returns:
        One verdict per pair, in their order. Rows that `compare` would refuse, such as None where a
        query failed, cost one verdict and not the batch: the prediction's make it False, the gold's
        None. A warning names their place.

    Raises:
        InputError: The settings are as `compare` refuses them, an entry is no pair, or there are
            not as many flags of order as pairs.
    """
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    checked_number("threads", threads, whole=True)
    if not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads is {threads}; expected at least 1 and at most {MOST_THREADS}")
    given = listed(pairs)
    if given is None:
        raise InputError(f"pairs is {shown(pairs)}; expected pairs (predicted rows, gold rows)")
    both = []
    for place, pair in enumerate(given):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                f"pairs[{place}] is {shown(pair)}; expected (predicted rows, gold rows)"
            )
        # Rows that can be read once only are read once only.
        both.append((rereadable(pair[0]), rereadable(pair[1])))
    orders = [ordered] * len(both) if isinstance(ordered, bool) else listed(ordered)
    if orders is None or not all(isinstance(order, bool) for order in orders):
        raise InputError(f"ordered is {shown(ordered)}; expected a bool, or one per pair")
    if len(orders) != len(both):
        raise InputError(f"ordered has {len(orders)} values; expected {len(both)}, one per pair")
    settings = checked_settings(semantics, False, float_tolerance, search_budget)
    try:
        outcomes = _core.compare_pairs(both, orders, settings, threads)
    except (TypeError, ValueError):
        each = [
            checked_settings(semantics, order, float_tolerance, search_budget) for order in orders
        ]
        return [
            verdict_of_pair(pair, f"pairs[{place}]", how)
            for place, (pair, how) in enumerate(zip(both, each, strict=True))
        ]
    return [IS_EQUAL[verdict] for verdict, _ in outcomes]


def rereadable(rows: Any) -> Any:
    """Return the rows as a list if they can be read only once, else unchanged."""
    return list(rows) if isinstance(rows, Iterator) else rows


def verdict_of_pair(
    pair: tuple[Any, Any], place: str, settings: _core.ComparisonSettings
) -> bool | None:
    """Return the verdict on one pair of which a side may be no rows; warn of such a side."""
    sides: list[_core.ReadyResult | None] = []
    for side, rows in enumerate(pair):
        try:
            if not isinstance(rows, Iterable):
                raise InputError(f"{place}[{side}] is {shown(rows)}; expected rows")
            sides.append(ready(rows, f"{place}[{side}]", settings))
        except InputError as error:
            # The gold's failure goes before the prediction's: nothing can be said then.
            warnings.warn(str(error), stacklevel=3)
            sides.append(None)
    predicted, gold = sides
    if gold is None:
        return None
    if predicted is None:
        return False
    verdict, _ = predicted.outcome(gold)
    return IS_EQUAL[verdict]


def score_f1(predicted_rows: Rows, gold_rows: Rows) -> float:
    """Return BIRD mini-dev's Soft-F1 of two results.

    Each result without its repeated rows; rows paired by position; a value counts if the other row
    of its pair holds it anywhere:

        precision = tp / (tp + fp); recall = tp / (tp + fn); F1 = 2 precision recall / (sum of both)
        tp, fp, fn = sums over rows of found, not found and missed values / columns of the gold row

    Source: `calculate_f1_score` of BIRD mini-dev's `evaluation_f1.py`, rounding included. Gold rows
    without columns, on which that divides by zero, score 0.

    Args:
        predicted_rows: Rows as DB-API gives them.
        gold_rows: Rows as DB-API gives them.

    Returns:
        F1 in [0, 1]; 1 for two empty results.

    Raises:
        InputError: A value is not one that SQLite gives, or rows of a result differ in width.
    """
    settings = checked_settings("soft_f1", False, 0.0, SEARCH_BUDGET)
    predicted = ready(predicted_rows, "predicted_rows", settings)
    _, score = predicted.outcome(ready(gold_rows, "gold_rows", settings))
    return score


def checked_settings(
    semantics: str, ordered: bool, float_tolerance: float, search_budget: int
) -> _core.ComparisonSettings:
    """Return the settings of a comparison for the core.

    Raises:
        InputError: One of them is not what it must be.
    """
    checked_semantics(semantics)
    checked_tolerance(semantics, float_tolerance)
    if not isinstance(ordered, bool):
        raise InputError(f"ordered is {shown(ordered)}; expected a bool")
    checked_number("search_budget", search_budget, whole=True)
    if search_budget < 0:
        raise InputError(f"search_budget is {search_budget}; expected a number >= 0")
    return _core.ComparisonSettings(
        semantics=_core.Semantics[semantics],
        ordered=ordered,
        float_tolerance=float_tolerance,
        search_budget=search_budget,
    )


def checked_tolerance(semantics: str, float_tolerance: float) -> None:
    """Raise InputError for a negative tolerance, or one that the semantics does not have."""
    checked_number("float_tolerance", float_tolerance, whole=False)
    if not float_tolerance >= 0:
        raise InputError(f"float_tolerance is {float_tolerance}; expected a finite number >= 0")
    if float_tolerance and semantics != "strict":
        raise InputError(
            f"float_tolerance is {float_tolerance} with semantics {semantics!r}; "
            "only 'strict' has a tolerance"
        )


def ready(rows: Any, name: str, settings: _core.ComparisonSettings) -> _core.ReadyResult:
    """Return a result made ready for comparison.

    Raises:
        InputError: A row or value is not one that SQLite gives.
    """
    if isinstance(rows, str | bytes):
        raise InputError(f"{name} is {shown(rows)}; expected rows")
    try:
        return _core.ReadyResult(rows, name, settings)
    except ValueError as error:
        raise InputError(str(error)) from error
    except TypeError as error:
        raise InputError(f"{name} is {shown(rows)}; expected rows: {error}") from error
