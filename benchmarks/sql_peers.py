"""How predicted queries are run and compared elsewhere: the peers of `bench_sql_match`.

Each takes (database, predicted, gold) triples and returns one verdict per triple, with the
semantics of BIRD's evaluator: the set of rows of one is the set of rows of the other.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Sequence

Triple = tuple[str, str, str]
TIMEOUT_S = 30.0


def equal_sets(connection: sqlite3.Connection, predicted: str, gold: str) -> bool:
    """Run both queries on one connection, fetch all rows and compare sets."""
    cursor = connection.cursor()
    predicted_rows = cursor.execute(predicted).fetchall()
    return set(predicted_rows) == set(cursor.execute(gold).fetchall())


def new_connection(triple: Triple) -> bool:
    """Compare one pair on a connection of its own; whatever fails is not equal."""
    connection = sqlite3.connect(triple[0])
    try:
        return equal_sets(connection, *triple[1:])
    except (sqlite3.Error, sqlite3.Warning):
        return False
    finally:
        connection.close()


def bird(triples: Sequence[Triple]) -> list[bool]:
    """Evaluate as BIRD does: func_timeout around each pair, a connection each, Python's sets."""
    from func_timeout import FunctionTimedOut, func_timeout

    verdicts = []
    for triple in triples:
        try:
            verdicts.append(func_timeout(TIMEOUT_S, new_connection, args=(triple,)))
        except FunctionTimedOut:
            verdicts.append(False)
    return verdicts


def plain(triples: Sequence[Triple]) -> list[bool]:
    """Compare each pair on a connection of its own, without any deadline."""
    return [new_connection(triple) for triple in triples]


def best_python(triples: Sequence[Triple]) -> list[bool]:
    """Compare as careful Python can: cached connections, golds run once, a progress handler."""
    connections: dict[str, sqlite3.Connection] = {}
    golds: dict[tuple[str, str], frozenset[object]] = {}
    verdicts = []
    deadline = 0.0

    def is_late() -> bool:
        return time.monotonic() > deadline

    for path, predicted, gold in triples:
        connection = connections.get(path)
        if connection is None:
            connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
            connection.set_progress_handler(is_late, 10_000)
            connections[path] = connection
        try:
            deadline = time.monotonic() + TIMEOUT_S
            rows = golds.get((path, gold))
            if rows is None:
                rows = golds[path, gold] = frozenset(connection.execute(gold).fetchall())
            deadline = time.monotonic() + TIMEOUT_S
            verdicts.append(frozenset(connection.execute(predicted).fetchall()) == rows)
        except (sqlite3.Error, sqlite3.Warning):
            verdicts.append(False)
    for connection in connections.values():
        connection.close()
    return verdicts


def process_per_query(triples: Sequence[Triple]) -> list[bool]:
    """Compare each pair in a process of its own, killed at the deadline."""
    context = multiprocessing.get_context("fork")
    verdicts = []
    for triple in triples:
        reader, writer = context.Pipe(duplex=False)
        worker = context.Process(target=_send_verdict, args=(writer, triple))
        worker.start()
        verdicts.append(bool(reader.poll(TIMEOUT_S)) and reader.recv())
        worker.kill()
        worker.join()
        reader.close()
        writer.close()
    return verdicts


def _send_verdict(writer: multiprocessing.connection.Connection, triple: Triple) -> None:
    writer.send(new_connection(triple))
