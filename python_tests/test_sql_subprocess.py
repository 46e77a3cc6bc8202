"""Queries in a process of their own: what hangs or crashes there costs its neighbours nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from finestep_fast.sql import Engine, Status, subprocess_worker
from finestep_fast.sql.subprocess_engine import SubprocessEngine
from support.programs import printed

# One instruction that compares millions of bytes at millions of places: hours, not interruptible.
WEDGE = "SELECT instr(hex(zeroblob(6000000)), hex(zeroblob(3000000)) || '1')"


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(workers=2, timeout_s=0.4, subprocess=True) as engine:
        yield engine


def test_results_are_those_of_an_engine_in_this_process(shop: Path, engine: Engine) -> None:
    queries = [
        "SELECT * FROM customer",
        "SELEC",
        "SELECT x'00ff', 2.5, NULL",
        "DELETE FROM customer",
    ]
    queries += ["SELECT '\ud800'", "SELECT CAST(x'ff' AS TEXT)"]
    triples = [(shop, query, queries[0]) for query in queries]
    with Engine(workers=2, timeout_s=0.4) as plain:
        for ours, theirs in zip(
            engine.run([(shop, q) for q in queries]),
            plain.run([(shop, q) for q in queries]),
            strict=True,
        ):
            assert (ours.status, ours.columns, ours.rows) == (
                theirs.status,
                theirs.columns,
                theirs.rows,
            )
            assert ours.message == theirs.message
        for semantics in ("bird", "strict"):
            assert [(m.equal, m.status) for m in engine.match(triples, semantics=semantics)] == [
                (m.equal, m.status) for m in plain.match(triples, semantics=semantics)
            ]


def test_a_query_that_cannot_be_interrupted_is_ended_and_its_neighbours_run(
    shop: Path, engine: Engine
) -> None:
    honest = [(shop, f"SELECT {i}", f"SELECT {i} + 0") for i in range(20)]
    triples = [*honest[:10], (shop, WEDGE, "SELECT 1"), (shop, "SELECT 1", WEDGE), *honest[10:]]
    matches = engine.match(triples)
    assert matches[10].status is Status.PREDICTED_TIMEOUT
    assert matches[11].status is Status.GOLD_TIMEOUT
    assert "ending the process" in matches[10].message
    assert [m.equal for m in matches[:10] + matches[12:]] == [True] * 20
    results = engine.run([(shop, "SELECT 7"), (shop, WEDGE), (shop, "SELECT 8")])
    assert [r.status for r in results] == [Status.OK, Status.TIMEOUT, Status.OK]
    assert [r.rows for r in results] == [((7,),), (), ((8,),)]


def test_a_process_that_is_gone_before_it_is_asked_is_started_anew(
    shop: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, gone = subprocess_worker.send, "SELECT 'gone'"
    ended = []

    def send_too_late(pipe: IO[bytes], message: object) -> None:
        if gone in str(message):
            (process,) = [one for one in started if one.stdin is pipe]
            process.kill()
            process.wait()
            ended.append(process)
        send(pipe, message)

    started: list[subprocess.Popen[bytes]] = []
    running = SubprocessEngine._running

    def noted(self: SubprocessEngine) -> subprocess.Popen[bytes]:
        process = running(self)
        if process not in started:
            started.append(process)
        return process

    monkeypatch.setattr(SubprocessEngine, "_running", noted)
    monkeypatch.setattr(subprocess_worker, "send", send_too_late)
    results = engine.run([(shop, gone), (shop, "SELECT 2")])
    assert [r.status for r in results] == [Status.ERROR, Status.OK]
    assert ended
    assert all(one.stdin is not None and one.stdin.closed for one in ended)
    assert all(one.stdout is not None and one.stdout.closed for one in ended)


def test_a_process_that_crashes_is_started_anew(
    shop: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has no known crash to try: the process is killed when it gets a certain query."""
    send = SubprocessEngine._ask
    crashes = "SELECT 'crash'"

    def ask(self: SubprocessEngine, what: str, *arguments: object) -> object:
        process = self._running()
        if crashes in str(arguments):
            process.kill()
        return send(self, what, *arguments)

    monkeypatch.setattr(SubprocessEngine, "_ask", ask)
    triples = [(shop, "SELECT 1", "SELECT 1"), (shop, crashes, "SELECT 1")]
    triples += [(shop, "SELECT 1", crashes)]
    matches = engine.match(triples)
    assert [m.status for m in matches] == [Status.OK, Status.PREDICTED_ERROR, Status.GOLD_ERROR]
    assert matches[0].equal
    results = engine.run([(shop, crashes), (shop, "SELECT 2")])
    assert [r.status for r in results] == [Status.ERROR, Status.OK]
    assert "crashed" in results[0].message


def test_closing_comes_back_at_once(shop: Path) -> None:
    engine = Engine(subprocess=True, timeout_s=30)
    matches: list[Status] = []
    thread = threading.Thread(
        target=lambda: matches.extend(m.status for m in engine.match([(shop, WEDGE, WEDGE)]))
    )
    thread.start()
    time.sleep(0.5)
    engine.close()
    thread.join(timeout=10)
    assert matches == [Status.GOLD_TIMEOUT]


IN_PROCESS = f"""
import sys, threading, time
from finestep_fast.sql import Engine
engine = Engine(workers=1, timeout_s=30)
thread = threading.Thread(target=engine.run, args=([(sys.argv[1], {WEDGE!r})],), daemon=True)
thread.start()
while engine.counters.queries_run < 1:
    time.sleep(0.01)
time.sleep(0.3)
started = time.monotonic()
engine.close()
thread.join(timeout=10)
print(thread.is_alive(), time.monotonic() - started < 5)
"""
INTERRUPTED = f"""
import sys
from finestep_fast.sql import Engine
print("ready", flush=True)
try:
    Engine(workers=1, timeout_s=60).run([(sys.argv[1], {WEDGE!r})])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_closing_and_interrupting_do_not_wait_for_what_hangs(shop: Path) -> None:
    # In processes of their own: a thread that hangs ends with its process only.
    assert printed("-c", IN_PROCESS, shop, timeout_s=60).split() == ["False", "True"]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(shop)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
