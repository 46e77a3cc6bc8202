"""The engine: many read-only queries, run under a deadline and compared with their golds.

Not a database layer: a query may read the one database it is given and nothing else, and whatever
goes wrong with it comes back as a status. Everything is run and compared by the compiled module.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypedDict, get_args

from finestep_fast import _core
from finestep_fast.config.check import check_flag
from finestep_fast.config.semantics import Semantics
from finestep_fast.errors import BuildError, InputError, shown
from finestep_fast.sql.comparison import SEARCH_BUDGET, checked_settings
from finestep_fast.sql.entries import JOB_PARTS, TRIPLE_PARTS, checked_limits, fit_to_run
from finestep_fast.sql.golds import Gold, folded, one_gold_each
from finestep_fast.sql.library import open_library
from finestep_fast.sql.outcome import Match, Result, Status
from finestep_fast.sql.reports import match_of, result_of

DatabasePath = str | os.PathLike[str]
Isolation = Literal["process", "thread"]
Pair = tuple[str, str, str]

DROPPED_DISTINCT = " (run without the word DISTINCT, as test_suite does unless keep_distinct)"


class Limits(TypedDict):
    """What one query may take."""

    max_rows: int
    max_bytes: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine has done so far."""

    queries_run: int
    """Queries that were really run, golds among them."""
    golds_reused: int
    """Golds that were remembered from an earlier call."""
    verdicts_reused: int
    """Pairs whose verdict was remembered from an earlier call: nothing was run for them."""
    most_at_once: int
    """The most workers that were busy at the same time."""


class Engine:
    """Runs queries on SQLite databases; keeps connections and gold results between calls.

    A context manager, safe to use from several threads at once. Results never depend on which
    worker ran what. A process that was forked from one with an engine may go on using it: it
    starts with no connections and no gold results; fork only while no query runs. A pickled engine
    becomes one with the same settings.

    Args:
        timeout_s: Deadline of one query, where a call names none.
        max_rows: Rows a result may have, where a call names no cap.
        max_bytes: Memory that the rows of a result may take as Python objects, where a call names
            no cap.
        workers: Queries run at the same time; by default one per available core. They start when
            they are first needed.
        isolation: Where queries run. `process`: in worker processes, each with a SQLite of its own.
            A query that SQLite cannot interrupt is ended with its worker, one that crashes or takes
            too much memory harms no other, and workers end with this process. `thread`: in threads
            of this process. SQLite checks the clock between two instructions only, so one
            instruction that takes minutes (`instr` of two long texts) cannot be stopped, a crash is
            a crash of this process, and memory is limited for all queries together.
        grace_s: For processes: how long a query may outlive its deadline before it is ended.
        max_connections: Idle connections that each worker process keeps, or all threads together.
        gold_cache_bytes: Memory that the gold results which each worker process remembers may take,
            or those of all threads together.
        verdict_cache_bytes: Memory that remembered verdicts on pairs may take, in this process.
        max_heap_bytes: For processes: memory that SQLite may take for one query. For threads:
            memory that it may take in this process, where the smallest limit that any engine asked
            for counts.

    Raises:
        InputError: A limit is not a positive number.
        BuildError: There is no SQLite library (see `library`), or no worker can be started.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 30.0,
        max_rows: int = 2_000_000,
        max_bytes: int = 1 << 30,
        workers: int | None = None,
        isolation: Isolation = "process",
        grace_s: float = 0.25,
        max_connections: int = 256,
        gold_cache_bytes: int = 256 << 20,
        verdict_cache_bytes: int = 64 << 20,
        max_heap_bytes: int = 2 << 30,
    ) -> None:
        if isolation not in get_args(Isolation):
            known = " or ".join(get_args(Isolation))
            raise InputError(f"isolation is {shown(isolation)}; expected {known}")
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self.isolation = isolation
        self.timeout_s = timeout_s
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        checked_limits(
            timeout_s=timeout_s,
            max_rows=max_rows,
            max_bytes=max_bytes,
            workers=self.workers,
            max_connections=max_connections,
            gold_cache_bytes=gold_cache_bytes,
            verdict_cache_bytes=verdict_cache_bytes,
            max_heap_bytes=max_heap_bytes,
            grace_s=grace_s,
        )
        self._settings: dict[str, Any] = {
            "timeout_s": timeout_s,
            "max_rows": max_rows,
            "max_bytes": max_bytes,
            "workers": workers,
            "isolation": isolation,
            "grace_s": grace_s,
            "max_connections": max_connections,
            "gold_cache_bytes": gold_cache_bytes,
            "verdict_cache_bytes": verdict_cache_bytes,
            "max_heap_bytes": max_heap_bytes,
        }
        library = open_library()
        self._core: _core.SqlEngine | _core.WorkerEngine
        if isolation == "process":
            numbers = (max_connections, gold_cache_bytes, max_heap_bytes)
            program = [
                sys.executable or "python3",
                "-I",
                "-S",
                WORKER,
                _core.__file__,
                library.path,
            ]
            self._core = _core.WorkerEngine(
                [*program, *map(str, numbers)],
                workers=self.workers,
                grace_s=grace_s,
                verdict_cache_bytes=verdict_cache_bytes,
            )
        else:
            self._core = _core.SqlEngine(
                library,
                threads=self.workers,
                max_connections=max_connections,
                gold_cache_bytes=gold_cache_bytes,
                max_heap_bytes=max_heap_bytes,
                verdict_cache_bytes=verdict_cache_bytes,
            )
        self._is_closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self._settings,)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop running queries, end all workers and close every connection, within a second."""
        self._is_closed = True
        self._core.close()

    @property
    def is_closed(self) -> bool:
        """Return whether the engine was closed."""
        return self._is_closed

    @property
    def counters(self) -> Counters:
        """Return what the engine has done so far."""
        return Counters(*self._core.counters())

    def run(
        self,
        jobs: Iterable[tuple[DatabasePath, str]],
        *,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Result]:
        """Run queries and return their rows.

        A query may also look at the schema: `EXPLAIN QUERY PLAN`, and the pragmas `table_info`,
        `table_xinfo`, `table_list`, `foreign_key_list`, `index_list` and `index_info`, each as a
        statement or as a table (`pragma_table_info('t')`).

        Args:
            jobs: Pairs of a database and a query.
            max_rows: Rows kept of each result; a longer one is cut and marked as truncated.
            max_bytes: Memory for the rows of each result; a larger one is cut and marked.
            timeout_s: Deadline of each query, from its own start.

        Returns:
            One result per job, in the order of the jobs. A query that is no text, or a database
            that is no path, is a failed job with a message that names its place.

        Raises:
            InputError: A limit is not positive, a job is no pair, or the engine is closed.
        """
        limits = self._limits(max_rows, max_bytes, timeout_s)
        queries, complaints = fit_to_run(jobs, "jobs", JOB_PARTS)
        with worker_errors():
            reports = self._core.run(queries, **limits)  # type: ignore[arg-type]
        results = [result_of(report) for report in reports]
        for (i, status), complaint in complaints.items():
            if results[i].status is status:
                results[i] = replace(results[i], message=complaint)
        return results

    def match(
        self,
        triples: Iterable[tuple[DatabasePath, str, Gold]],
        *,
        semantics: Semantics = "bird",
        float_tolerance: float = 0.0,
        keep_distinct: bool = False,
        early_exit: bool = True,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Match]:
        """Run predicted and gold queries and compare their results.

        A gold query and a pair run once however often they are asked for, also across calls, unless
        they depend on time or chance: then a gold runs once per call and each prediction by itself.
        A failure is remembered only if it would be the same again. (With worker processes, a gold
        may run once in each of them where several work on its pairs.) A failed
        query is equal to nothing, and neither is an empty one, also where the gold result is empty
        (BIRD's evaluator takes it for equal: a reward must not). Pragmas and `EXPLAIN QUERY PLAN`,
        which `run` allows, are denied.

        Args:
            triples: Database, predicted query, gold query. A list of gold queries are all accepted:
                the prediction is right if it equals any, and only if all fail their failure is
                reported; `Match.gold_index` says which one the verdict is about. The prediction
                then runs once for each of them.
            semantics: When two results are equal; see `compare`. Under `strict` the order of rows
                counts if the gold query's outermost SELECT has an ORDER BY, under `test_suite` if
                the gold query's text holds "order by". Under `bird` and `soft_f1` a result with
                text that is not UTF-8 is a failure, as it is for BIRD's evaluators.
            float_tolerance: For `strict`: the difference allowed between numbers.
            keep_distinct: For `test_suite`: whether the word DISTINCT stays in both queries; its
                evaluator drops it by default, which breaks `IS DISTINCT FROM`. The message of a
                query that then fails says so.
            early_exit: Whether a prediction is stopped once a row or the number of rows rules out
                that it equals its gold. It then counts as run, though it might have failed later.
            max_rows: Rows a result may have; a longer one is a failure.
            max_bytes: Memory the rows of a result may take; a larger one is a failure.
            timeout_s: Deadline of each query, from its own start.

        Returns:
            One verdict per triple, in their order. A query that is no text is one that failed,
            with a message that names its place; likewise a database that is no path.

        Raises:
            InputError: A limit is not positive, the semantics is unknown, an entry is no triple,
                or the engine is closed.
        """
        settings = checked_settings(semantics, False, float_tolerance, SEARCH_BUDGET)
        check_flag("keep_distinct", keep_distinct)
        check_flag("early_exit", early_exit)
        limits = self._limits(max_rows, max_bytes, timeout_s)
        single, counts = one_gold_each(triples)
        place_of = None if counts is None else [i for i, n in enumerate(counts) for _ in range(n)]
        fit, complaints = fit_to_run(single, "triples", TRIPLE_PARTS, place_of)
        pairs: list[Pair] = fit  # type: ignore[assignment]
        ordered = None
        dropped: list[set[Status]] = []
        if semantics == "test_suite":
            rewritten = [test_suite_pair(pair, keep_distinct) for pair in pairs]
            pairs, dropped = [pair for pair, _ in rewritten], [errors for _, errors in rewritten]
            ordered = ["order by" in gold.lower() for _, _, gold in pairs]
        elif semantics == "strict":
            orders = {gold: orders_rows(gold) for gold in {gold for _, _, gold in pairs}}
            ordered = [orders[gold] for _, _, gold in pairs]
        utf8_only = semantics in ("bird", "soft_f1")
        with worker_errors():
            reports = self._core.match(
                pairs, ordered, settings, early_exit=early_exit, utf8_only=utf8_only, **limits
            )
        matches = [match_of(report) for report in reports]
        for i, errors in enumerate(dropped):
            if matches[i].status in errors:
                matches[i] = replace(matches[i], message=matches[i].message + DROPPED_DISTINCT)
        for (i, status), complaint in complaints.items():
            if matches[i].status is status:
                matches[i] = replace(matches[i], message=complaint)
        return matches if counts is None else folded(matches, counts)

    async def run_async(
        self, jobs: Iterable[tuple[DatabasePath, str]], **limits: Any
    ) -> list[Result]:
        """Do as `run`, for a program with an event loop, which goes on meanwhile."""
        return await asyncio.to_thread(self.run, jobs, **limits)

    async def match_async(
        self, triples: Iterable[tuple[DatabasePath, str, Gold]], **how: Any
    ) -> list[Match]:
        """Do as `match`, for a program with an event loop, which goes on meanwhile."""
        return await asyncio.to_thread(self.match, triples, **how)

    def _limits(
        self, max_rows: int | None, max_bytes: int | None, timeout_s: float | None
    ) -> Limits:
        """Return the limits of one call: its own where it names them, else the engine's."""
        if self._is_closed:
            raise InputError("the engine is closed; expected one that is open")
        rows = self.max_rows if max_rows is None else max_rows
        size = self.max_bytes if max_bytes is None else max_bytes
        seconds = self.timeout_s if timeout_s is None else timeout_s
        checked_limits(max_rows=rows, max_bytes=size, timeout_s=seconds)
        return Limits(max_rows=rows, max_bytes=size, timeout_s=seconds)


WORKER = str(Path(__file__).with_name("worker.py"))


def _made(settings: dict[str, Any]) -> Engine:
    """Return an engine with the settings of one that was pickled."""
    return Engine(**settings)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turn the compiled module's error about workers that do not start into a BuildError."""
    try:
        yield
    except _core.WorkerStartError as error:
        raise BuildError(
            f"{error}; `isolation='thread'` needs no workers, and protects from less"
        ) from None


def test_suite_pair(pair: Pair, keep_distinct: bool) -> tuple[Pair, set[Status]]:
    """Return the pair with both queries as the test-suite evaluator runs them.

    Returns:
        The pair, and the status that it ends with where a query fails that lost the word DISTINCT.
    """
    path, predicted, gold = pair
    run_predicted, changes_predicted = _core.spider_query(predicted, keep_distinct)
    run_gold, changes_gold = _core.spider_query(gold, keep_distinct)
    errors = {
        status
        for status, changes in (
            (Status.PREDICTED_ERROR, changes_predicted),
            (Status.GOLD_ERROR, changes_gold),
        )
        if changes
    }
    return (path, run_predicted, run_gold), errors


def orders_rows(sql: str) -> bool:
    """Return whether the outermost query orders its rows."""
    # Imported here: only `strict` needs sqlglot.
    from finestep_fast.sql.analysis import outermost_order

    return outermost_order(sql)
