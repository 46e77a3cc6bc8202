"""Engines and threads: shared, forked, interrupted, closed; results never depend on them."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import get_args

import pytest

from finestep_fast import sql
from finestep_fast.sql import Engine, Semantics, Status
from support.programs import printed
from support.queries import ENDLESS, NUMBERS

pytestmark = pytest.mark.native


FORKED = """
import os, sys
from finestep_fast.sql import Engine
with Engine(workers=2) as engine:
    jobs = [(sys.argv[1], "SELECT 1")] * 8
    assert [r.rows for r in engine.run(jobs)] == [((1,),)] * 8
    child = os.fork()
    assert [r.rows for r in engine.run(jobs)] == [((1,),)] * 8
    if child == 0:
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_an_engine_works_on_in_a_forked_process(shop: Path) -> None:
    assert printed("-P", "-c", FORKED, shop, timeout_s=60) == "7\n"


def test_a_gold_query_runs_once_however_many_threads_ask_for_it(shop: Path) -> None:
    slow = f"SELECT count(*) FROM ({NUMBERS.format(n=300_000)})"
    with Engine(workers=4, isolation="thread") as engine:
        triples = [(shop, "SELECT 300000", slow)]
        threads = [threading.Thread(target=engine.match, args=(triples,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.counters.queries_run == 1 + 6


def test_many_threads_may_share_an_engine(shop: Path) -> None:
    failures: list[object] = []
    with Engine(workers=2, max_connections=2) as engine:

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
    with Engine(workers=3, timeout_s=0.2, isolation="thread") as engine:
        results = engine.run([(shop, ENDLESS)] * 6)
        assert engine.counters.most_at_once == 3
    assert [r.status for r in results] == [Status.TIMEOUT] * 6


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_results_do_not_depend_on_the_number_of_threads(shop: Path, threads: int) -> None:
    queries = [f"SELECT id, name FROM customer WHERE id > {i % 5}" for i in range(60)]
    queries += ["SELEC", "DELETE FROM customer", "SELECT nam FROM customer"] * 5
    triples = [(shop, q, queries[i % 7]) for i, q in enumerate(queries)]
    with Engine(workers=threads) as engine, Engine(workers=1) as other:
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
    with Engine(workers=1) as engine:
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
    engine = Engine(workers=1)
    results: list[sql.Result] = []
    thread = threading.Thread(target=lambda: results.extend(engine.run([(shop, ENDLESS)])))
    thread.start()
    time.sleep(0.2)
    engine.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert results[0].status is Status.TIMEOUT
    assert "cancelled" in results[0].message


def test_an_interrupt_from_the_keyboard_gets_through_a_running_query(shop: Path) -> None:
    for jobs in (1, 3):
        timer = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
        started = time.monotonic()
        with Engine(workers=2) as engine:
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                engine.run([(shop, ENDLESS)] * jobs, timeout_s=30)
        timer.join()
        assert time.monotonic() - started < 10
