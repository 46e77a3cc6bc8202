"""The engine: many read-only queries, run under a deadline and compared with their golds.

Not a database layer: a query may read the one database it is given and nothing else, and whatever
goes wrong with it comes back as a status.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from finestep_fast.errors import InputError
from finestep_fast.sql.comparison import (
    Gold,
    Semantics,
    checked_semantics,
    checked_tolerance,
    prepared_gold,
)
from finestep_fast.sql.connections import (
    ConnectionPool,
    FileIdentity,
    UnreadableDatabaseError,
    file_identity,
)
from finestep_fast.sql.execution import OUT_OF_MEMORY, Limits, fetched
from finestep_fast.sql.gold_cache import GoldCache
from finestep_fast.sql.outcome import Match, Result, Status

DatabasePath = str | os.PathLike[str]
Job = TypeVar("Job")
Answer = TypeVar("Answer")

VOLATILE = re.compile(
    r"\b(?:random|randomblob|current_date|current_time|current_timestamp|now)\b"
    r"|\b(?:date|time|datetime|julianday|unixepoch)\s*\(\s*\)"
    r"|\bstrftime\s*\(\s*'[^']*'\s*\)",
    re.IGNORECASE,
)


PATIENCE_S = 0.02
QUICK_JOBS = 20


class Engine:
    """Runs queries on SQLite databases; keeps connections and gold results between calls.

    A context manager, safe to use from several threads at once. Results never depend on which
    thread ran what.

    Args:
        timeout_s: Deadline of one query, where a call names none.
        max_rows: Rows a result may have, where a call names no cap.
        max_bytes: Memory that the rows of a result may take, where a call names no cap.
        threads: Queries run at the same time; by default one per available core.
        max_connections: Idle connections kept.
        gold_cache_bytes: Memory that remembered gold results may take.
        max_heap_bytes: Memory that SQLite may take. One process has one such limit: the smallest
            that any engine in it asked for.

    Raises:
        InputError: A limit is not a positive number.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 30.0,
        max_rows: int = 2_000_000,
        max_bytes: int = 1 << 30,
        threads: int | None = None,
        max_connections: int = 256,
        gold_cache_bytes: int = 256 << 20,
        max_heap_bytes: int = 2 << 30,
    ) -> None:
        self.threads = len(os.sched_getaffinity(0)) if threads is None else threads
        self.timeout_s = timeout_s
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        checked_limits(
            timeout_s=timeout_s,
            max_rows=max_rows,
            max_bytes=max_bytes,
            threads=self.threads,
            max_connections=max_connections,
            gold_cache_bytes=gold_cache_bytes,
            max_heap_bytes=max_heap_bytes,
        )
        self._connections = ConnectionPool(max_connections, max_heap_bytes)
        self._golds = GoldCache(gold_cache_bytes)
        self._workers: ThreadPoolExecutor | None = None
        self._starting = threading.Lock()

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
        """Stops running queries and closes every connection."""
        self._connections.cancel()
        if self._workers is not None:
            self._workers.shutdown()
            self._workers = None
        self._connections.close()

    def run(
        self,
        jobs: Iterable[tuple[DatabasePath, str]],
        *,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Result]:
        """Runs queries and returns their rows.

        Args:
            jobs: Pairs of a database and a query.
            max_rows: Rows kept of each result; a longer one is cut and marked as truncated.
            max_bytes: Memory for the rows of each result; a larger one is cut and marked.
            timeout_s: Deadline of each query, from its own start.

        Returns:
            One result per job, in the order of the jobs.

        Raises:
            InputError: A limit is not positive, or a query is no text.
        """
        limits = self._limits(max_rows, max_bytes, timeout_s)
        listed = [(path, checked_sql(sql)) for path, sql in jobs]
        if len(listed) == 1:  # the common call of an agent's tool: one query, no pool
            return [self._run_one(*listed[0], limits)]
        return self._each(lambda job: self._run_one(*job, limits), listed)

    def match(
        self,
        triples: Iterable[tuple[DatabasePath, str, str]],
        *,
        semantics: Semantics = "bird",
        float_tolerance: float = 0.0,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Match]:
        """Runs predicted and gold queries and compares their results.

        A gold query runs once however often it is asked for, also across calls, and a predicted
        query once per call. A failed query is equal to nothing.

        Args:
            triples: Database, predicted query, gold query.
            semantics: When two results are equal; see `compare`. Under `strict` the order of rows
                counts if the gold query's outermost SELECT has an ORDER BY. Under `bird` a result
                with text that is not UTF-8 is a failure, as it is for BIRD's evaluator.
            float_tolerance: For `strict`: the difference allowed between numbers.
            max_rows: Rows a result may have; a longer one is a failure.
            max_bytes: Memory the rows of a result may take; a larger one is a failure.
            timeout_s: Deadline of each query, from its own start.

        Returns:
            One verdict per triple, in their order.

        Raises:
            InputError: A limit is not positive, the semantics is unknown, or a query is no text.
        """
        checked_semantics(semantics)
        checked_tolerance(semantics, float_tolerance)
        limits = self._limits(max_rows, max_bytes, timeout_s)
        listed = [
            (os.fspath(path), checked_sql(predicted), checked_sql(gold))
            for path, predicted, gold in triples
        ]
        answers: dict[tuple[str, str, str], Match] = {}
        golds = self._golds_of(listed, semantics, float_tolerance, limits)
        todo = []
        for triple in dict.fromkeys(listed):
            gold = golds[triple[0], triple[2]]
            if isinstance(gold, Match):
                answers[triple] = gold
            else:
                todo.append((triple, gold))

        def verdict(job: tuple[tuple[str, str, str], Gold]) -> Match:
            (path, predicted, _), gold = job
            result = as_whole(self._run_one(path, predicted, limits), semantics)
            if result.status is not Status.OK:
                status = result.status.as_predicted
                return Match(False, status, result.message, result.elapsed_ms)
            return Match(gold.matches(result.rows), Status.OK, "", result.elapsed_ms)

        for (triple, _), answer in zip(todo, self._each(verdict, todo), strict=True):
            answers[triple] = answer
        return [answers[triple] for triple in listed]

    def _golds_of(
        self,
        triples: Sequence[tuple[str, str, str]],
        semantics: Semantics,
        float_tolerance: float,
        limits: Limits,
    ) -> dict[tuple[str, str], Gold | Match]:
        """Every gold result by database and query: prepared, or the reason why it is missing."""
        golds: dict[tuple[str, str], Gold | Match] = {}
        keys: dict[tuple[str, str], tuple[object, ...]] = {}
        identities: dict[str, FileIdentity | Match] = {}
        for path, _, gold_sql in triples:
            if path not in identities:
                try:
                    identities[path] = file_identity(path)
                except UnreadableDatabaseError as error:
                    identities[path] = Match(False, Status.DATABASE_UNREADABLE, str(error))
            if (path, gold_sql) in golds or (path, gold_sql) in keys:
                continue
            identity = identities[path]
            if isinstance(identity, Match):
                golds[path, gold_sql] = identity
                continue
            key = (
                identity,
                gold_sql,
                semantics,
                float_tolerance,
                limits.max_rows,
                limits.max_bytes,
            )
            known = self._golds.get(key)
            if known is None:
                keys[path, gold_sql] = key
            else:
                golds[path, gold_sql] = known

        def run_gold(job: tuple[str, str]) -> Gold | Match:
            path, gold_sql = job
            result = as_whole(self._run_one(path, gold_sql, limits), semantics)
            if result.status is not Status.OK:
                return Match(False, result.status.as_gold, f"gold query: {result.message}")
            gold = prepared_gold(
                result.rows,
                semantics=semantics,
                ordered=semantics == "strict" and orders_rows(gold_sql),
                float_tolerance=float_tolerance,
            )
            if not VOLATILE.search(gold_sql):
                self._golds.put(keys[job], gold, result.size_bytes)
            return gold

        missing = list(keys)
        golds.update(zip(missing, self._each(run_gold, missing), strict=True))
        return golds

    def _limits(
        self, max_rows: int | None, max_bytes: int | None, timeout_s: float | None
    ) -> Limits:
        """The limits of one call: its own where it names them, else the engine's."""
        limits = Limits(
            self.max_rows if max_rows is None else max_rows,
            self.max_bytes if max_bytes is None else max_bytes,
            self.timeout_s if timeout_s is None else timeout_s,
        )
        checked_limits(
            max_rows=limits.max_rows, max_bytes=limits.max_bytes, timeout_s=limits.timeout_s
        )
        return limits

    def _run_one(self, path: DatabasePath, sql: str, limits: Limits) -> Result:
        """Runs one query on a pooled connection."""
        try:
            connection = self._connections.borrow(file_identity(path))
        except UnreadableDatabaseError as error:
            return Result(Status.DATABASE_UNREADABLE, message=str(error))
        try:
            return fetched(connection, sql, limits)
        finally:
            self._connections.give_back(connection)

    def _each(self, work: Callable[[Job], Answer], jobs: Sequence[Job]) -> list[Answer]:
        """The answers to all jobs in their order; helper threads join in when it takes long."""
        num_helpers = min(self.threads, len(jobs)) - 1
        if num_helpers < 1:
            return [work(job) for job in jobs]
        answers: dict[int, Answer] = {}
        positions = iter(range(len(jobs)))
        finished = threading.Event()

        def take_turns() -> None:
            for position in positions:
                answers[position] = work(jobs[position])

        def help_if_slow() -> None:
            # Queries of microseconds run faster in one thread, which then never waits for the GIL.
            num_before = 0
            while not finished.wait(PATIENCE_S):
                if len(answers) - num_before < QUICK_JOBS:
                    return take_turns()
                num_before = len(answers)

        helpers: list[Future[None]] = []
        try:
            helpers = [self._pool().submit(help_if_slow) for _ in range(num_helpers)]
            take_turns()
            finished.set()
            for helper in helpers:
                helper.result()
        except BaseException:
            for _ in positions:  # nobody shall take another turn
                pass
            finished.set()
            self._connections.cancel()
            raise
        for position, answer in answers.items():
            if ran_out_of_memory(answer):  # perhaps by a neighbour's fault: once more, alone
                answers[position] = work(jobs[position])
        return [answers[position] for position in range(len(jobs))]

    def _pool(self) -> ThreadPoolExecutor:
        """The helper threads, started when first needed."""
        with self._starting:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(self.threads, thread_name_prefix="finestep-sql")
            return self._workers


def as_whole(result: Result, semantics: str) -> Result:
    """The result, or the failure it is where only a whole and decodable result can be compared."""
    if result.status is not Status.OK:
        return result
    if result.truncated:
        message = f"the result exceeds the limits after {len(result.rows)} rows"
        return Result(Status.TOO_LARGE, message=message, elapsed_ms=result.elapsed_ms)
    if result.invalid_utf8 and semantics == "bird":
        message = "the result holds text that is not valid UTF-8"
        return Result(Status.ERROR, message=message, elapsed_ms=result.elapsed_ms)
    return result


def ran_out_of_memory(answer: object) -> bool:
    """Whether a query failed for want of memory, which all queries of a process share."""
    return isinstance(answer, (Result, Match)) and answer.message.endswith(OUT_OF_MEMORY)


def orders_rows(sql: str) -> bool:
    """Whether the outermost query orders its rows."""
    # Imported here: only `strict` needs sqlglot.
    from finestep_fast.sql.analysis import outermost_order

    return outermost_order(sql)


def checked_sql(sql: str) -> str:
    """The query, unless it is no text."""
    if not isinstance(sql, str):
        raise InputError(f"a query is {sql!r}; expected text")
    return sql


def checked_limits(**limits: float) -> None:
    """Raises InputError for a limit that is not a positive number."""
    for name, value in limits.items():
        if not value > 0 or math.isinf(value):
            raise InputError(f"{name} is {value}; expected a finite number > 0")
