"""Queries in worker processes: what hangs, crashes or is killed there harms no neighbour."""

from __future__ import annotations

import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finestep_fast import sql
from finestep_fast.errors import BuildError, InputError
from finestep_fast.sql import Engine, Status
from support.programs import printed
from support.queries import ENDLESS, NUMBERS

pytestmark = pytest.mark.native

# One instruction that compares millions of bytes at millions of places: hours, not interruptible.
WEDGE = "SELECT instr(hex(zeroblob(6000000)), hex(zeroblob(3000000)) || '1')"
LONG = "SELECT count(*) FROM (" + NUMBERS.format(n=400_000) + ")"


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(workers=2, timeout_s=0.4) as engine:
        yield engine


def children_of(process: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except FileNotFoundError:
            continue
        if int(parent) == process and state != "Z":
            found.append(int(stat.parent.name))
    return found


def is_running(process: int) -> bool:
    """Return whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(processes: list[int], seconds: float) -> bool:
    """Return whether all of the processes end in time."""
    end = time.monotonic() + seconds
    while any(map(is_running, processes)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(is_running, processes))


def test_results_are_those_of_threads(shop: Path, engine: Engine) -> None:
    queries = [
        "SELECT * FROM customer",
        "SELEC",
        "SELECT x'00ff', 2.5, NULL, 9223372036854775807, ''",
        "DELETE FROM customer",
        "SELECT '\ud800'",
        "SELECT CAST(x'ff' AS TEXT)",
        "SELECT 1 WHERE 0",
    ]
    triples = [(shop, query, queries[0]) for query in queries]
    triples += [(shop, query, query) for query in queries]
    with Engine(workers=2, timeout_s=0.4, isolation="thread") as plain:
        for ours, theirs in zip(
            engine.run([(shop, q) for q in queries]),
            plain.run([(shop, q) for q in queries]),
            strict=True,
        ):
            assert (ours.status, ours.columns, ours.rows, ours.message) == (
                theirs.status,
                theirs.columns,
                theirs.rows,
                theirs.message,
            )
            assert (ours.size_bytes, ours.invalid_utf8) == (theirs.size_bytes, theirs.invalid_utf8)
        for semantics in ("bird", "strict", "test_suite", "soft_f1"):
            assert [
                (m.equal, m.status, m.score, m.message)
                for m in engine.match(triples, semantics=semantics)
            ] == [
                (m.equal, m.status, m.score, m.message)
                for m in plain.match(triples, semantics=semantics)
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


def test_every_pair_of_a_gold_that_hangs_is_a_gold_timeout(shop: Path, engine: Engine) -> None:
    triples = [(shop, f"SELECT {i}", WEDGE) for i in range(30)]
    triples.append((shop, "SELECT 1", "SELECT 1"))
    matches = engine.match(triples)
    assert {m.status for m in matches[:30]} == {Status.GOLD_TIMEOUT}
    assert matches[30].equal


def test_an_honest_query_does_not_wait_for_slow_ones(shop: Path) -> None:
    with Engine(workers=1, timeout_s=20) as engine:
        engine.run([(shop, "SELECT 1")])
        slow = [
            threading.Thread(target=engine.run, args=([(shop, ENDLESS)],), daemon=True)
            for _ in range(3)
        ]
        for thread in slow:
            thread.start()
        while engine.counters.most_at_once < 3:
            time.sleep(0.01)
        started = time.monotonic()
        assert engine.run([(shop, "SELECT 2")])[0].rows == ((2,),)
        assert time.monotonic() - started < 5  # the slow ones take 20 s
        engine.close()
        for thread in slow:
            thread.join()


def test_workers_that_are_killed_change_no_verdict(shop: Path) -> None:
    numbers = random.Random(0)
    triples = [
        (shop, f"SELECT {i % 50} + {i % 3}", f"SELECT {i % 50} + {i % 2}") for i in range(3000)
    ]
    expected = [i % 3 == i % 2 for i in range(3000)]
    open_before = len(os.listdir("/proc/self/fd"))
    with Engine(workers=2, timeout_s=20, verdict_cache_bytes=1) as engine:
        ended = threading.Event()
        kills = [0]

        def kill_now_and_then() -> None:
            while not ended.is_set() and kills[0] < 20:
                workers = children_of(os.getpid())
                if workers:
                    os.kill(numbers.choice(workers), signal.SIGKILL)
                    kills[0] += 1
                time.sleep(0.05)

        thread = threading.Thread(target=kill_now_and_then)
        thread.start()
        while kills[0] < 20:
            assert [m.equal for m in engine.match(triples)] == expected
        ended.set()
        thread.join()
    assert kills[0] == 20
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_query_that_is_there_at_every_crash_is_at_fault(shop: Path) -> None:
    """SQLite has no known crash to try: whatever runs this query is killed."""
    with Engine(workers=1, timeout_s=20) as engine:
        ended = threading.Event()

        def kill_the_busy() -> None:
            while not ended.is_set():
                for worker in children_of(os.getpid()):
                    ticks = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
                    if int(ticks[11]) + int(ticks[12]) > 20:  # 0.2 s of processor time
                        os.kill(worker, signal.SIGKILL)
                time.sleep(0.01)

        thread = threading.Thread(target=kill_the_busy)
        thread.start()
        results = engine.run([(shop, "SELECT 1"), (shop, ENDLESS), (shop, "SELECT 2")])
        pairs = [("SELECT 1", ENDLESS), (ENDLESS, "SELECT 1"), ("SELECT 3", "SELECT 3")]
        matches = engine.match([(shop, *pair) for pair in pairs])
        ended.set()
        thread.join()
    assert [r.status for r in results] == [Status.OK, Status.ERROR, Status.OK]
    assert results[1].message == "the process that ran the query crashed"
    assert [m.status for m in matches] == [Status.GOLD_ERROR, Status.PREDICTED_ERROR, Status.OK]


HUNGRY = (
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < {rows}) "
    "SELECT length(json_group_array(hex(zeroblob(50000)))) FROM c"
)


def test_each_query_has_a_bound_of_memory_of_its_own(shop: Path) -> None:
    with Engine(workers=2, max_heap_bytes=24 << 20) as engine:
        jobs = [(shop, HUNGRY.format(rows=100)) for _ in range(20)]
        jobs[5:5] = [(shop, HUNGRY.format(rows=2000))] * 3
        results = engine.run(jobs)
        assert [r.status for r in results] == (
            [Status.OK] * 5 + [Status.TOO_LARGE] * 3 + [Status.OK] * 15
        )
        assert engine.counters.queries_run == 23  # nothing runs a second time
    # Another engine of this process has another bound.
    with Engine(workers=1, max_heap_bytes=8 << 20) as engine:
        assert engine.run([(shop, HUNGRY.format(rows=100))])[0].message == "out of memory"


def test_closing_comes_back_at_once(shop: Path) -> None:
    others = children_of(os.getpid())
    engine = Engine(timeout_s=30)
    matches: list[Status] = []
    thread = threading.Thread(
        target=lambda: matches.extend(m.status for m in engine.match([(shop, WEDGE, WEDGE)]))
    )
    thread.start()
    workers: list[int] = []
    while not workers:
        workers = list(set(children_of(os.getpid())).difference(others))
        time.sleep(0.1)
    engine.close()
    thread.join(timeout=10)
    assert matches == [Status.GOLD_TIMEOUT]
    assert gone_within(workers, 5)
    with pytest.raises(InputError, match="the engine is closed"):
        engine.run([(shop, "SELECT 1")])


ORPHANED = f"""
import os, sys, threading, time
from finestep_fast.sql import Engine
engine = Engine(workers=2, timeout_s=60)
thread = threading.Thread(target=engine.run, args=([(sys.argv[1], {WEDGE!r})] * 2,), daemon=True)
thread.start()
def has_parent(process, parent):
    try:
        return open(f"/proc/{{process}}/stat").read().rpartition(")")[2].split()[1] == str(parent)
    except FileNotFoundError:
        return False
workers = []
while not workers:
    time.sleep(1)
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
    workers = [process for process in processes if has_parent(process, os.getpid())]
print(*workers, flush=True)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), 9)
if sys.argv[2] == "exit":
    os._exit(0)
"""


@pytest.mark.parametrize("how", ["kill", "exit", "end"])
def test_workers_end_with_their_parent_whatever_they_do(shop: Path, how: str) -> None:
    # That `run` comes back at all shows that no worker holds the pipe of the program's output.
    done = subprocess.run(
        [sys.executable, "-P", "-c", ORPHANED, str(shop), how],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    workers = [int(process) for process in done.stdout.split()]
    assert workers
    assert gone_within(workers, 5)


FORKED = """
import os, sys
from finestep_fast.sql import Engine
engine = Engine(workers=1, verdict_cache_bytes=1)
engine.run([(sys.argv[1], "SELECT 1")])
child = os.fork()
if child == 0:
    del engine
    os._exit(0)
os.waitpid(child, 0)
golds = engine.match([(sys.argv[1], "SELECT 1", "SELECT 1")])
child = os.fork()
if child == 0:
    engine.close()
    os._exit(0)
os.waitpid(child, 0)
engine.match([(sys.argv[1], "SELECT 2", "SELECT 1")])
print(engine.counters.golds_reused)
"""


def test_a_forked_process_leaves_the_workers_of_its_parent_alone(shop: Path) -> None:
    assert printed("-P", "-c", FORKED, shop, timeout_s=60) == "1\n"


LEFT = f"""
import sys, threading, time
from finestep_fast.sql import Engine
engine = Engine(workers=1, timeout_s=60, isolation=sys.argv[2])
for query in ({ENDLESS!r}, "SELECT 1"):
    jobs = [(sys.argv[1], query)] * (1 if query != "SELECT 1" else 100_000)
    threading.Thread(target=engine.run, args=(jobs,), daemon=True).start()
time.sleep(0.5)
"""


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_leaving_python_beside_a_running_query_ends_cleanly(shop: Path, isolation: str) -> None:
    assert printed("-P", "-c", LEFT, shop, isolation, timeout_s=30) == ""


INTERRUPTED = f"""
import sys
from finestep_fast.sql import Engine
print("ready", flush=True)
try:
    Engine(workers=1, timeout_s=60).run([(sys.argv[1], {WEDGE!r})])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_interrupting_does_not_wait_for_what_hangs(shop: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", INTERRUPTED, str(shop)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "interrupted\n"


def test_a_worker_has_only_the_descriptors_that_it_needs(shop: Path) -> None:
    kept = os.open(shop, os.O_RDONLY)
    os.set_inheritable(kept, True)
    others = children_of(os.getpid())
    try:
        with Engine(workers=1) as engine:
            engine.run([(shop, "SELECT 1")])
            (worker,) = set(children_of(os.getpid())).difference(others)
            files = Path(f"/proc/{worker}/fd")
            targets = sorted(os.readlink(file) for file in files.iterdir())
            pages = Path(f"/proc/{worker}/statm").read_text().split()[1]
    finally:
        os.close(kept)
    assert targets.count(str(shop)) == 1  # the database that it reads, not ours
    assert len(targets) <= 7, targets
    if "asan" not in os.environ.get("LD_PRELOAD", ""):  # which has its own memory
        assert int(pages) * os.sysconf("SC_PAGE_SIZE") < 25 << 20


def test_a_worker_reads_the_database_that_was_meant(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.databases import written

    other = tmp_path / "other"
    other.mkdir()
    written(other / shop.name)
    monkeypatch.chdir(shop.parent)
    with Engine(workers=1) as engine:
        count = "SELECT count(*) FROM customer"
        (before,) = engine.run([(shop.name, count)])
        database = sqlite3.connect(other / shop.name)
        with database:
            database.execute("DELETE FROM customer")
        database.close()
        monkeypatch.chdir(other)
        (after,) = engine.run([(shop.name, count)])
    assert before.rows == ((4,),)
    assert after.rows == ((0,),)


def test_engines_are_pickled_with_their_settings(shop: Path) -> None:
    with Engine(workers=1, timeout_s=0.1, max_rows=3) as engine:
        pickled = pickle.dumps(engine)
    with pickle.loads(pickled) as copy:
        assert (copy.workers, copy.timeout_s, copy.max_rows) == (1, 0.1, 3)
        assert copy.run([(shop, ENDLESS)])[0].status is Status.TIMEOUT


ASYNC = """
import asyncio, sys, time
from finestep_fast.sql import Engine

async def main():
    with Engine(workers=1, timeout_s=0.5) as engine:
        ticks = 0
        pending = asyncio.create_task(engine.match_async([(sys.argv[1], sys.argv[2], "SELECT 1")]))
        while not pending.done():
            await asyncio.sleep(0.01)
            ticks += 1
        results = await engine.run_async([(sys.argv[1], "SELECT 5")], max_rows=1)
        print(ticks > 5, pending.result()[0].status, results[0].rows)

asyncio.run(main())
"""


def test_an_event_loop_goes_on_meanwhile(shop: Path) -> None:
    done = printed("-P", "-c", ASYNC, shop, ENDLESS, timeout_s=60)
    assert done == "True predicted_timeout ((5,),)\n"


def test_calls_without_an_engine_share_one_that_can_be_closed(shop: Path) -> None:
    sql.run([(shop, "SELECT 1")])
    engine = sql.default_engine()
    before = engine.counters.queries_run
    assert sql.match([(shop, "SELECT 1", "SELECT 2")])[0].status is Status.OK
    assert engine.counters.queries_run == before + 2
    engine.close()
    assert sql.run([(shop, "SELECT 3")])[0].rows == ((3,),)
    assert sql.default_engine() is not engine


def test_a_worker_that_cannot_start_is_an_error_that_says_why(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finestep_fast.sql import engine as module

    monkeypatch.setattr(module, "WORKER", "/no/such/worker.py")
    with (
        Engine(workers=1) as engine,
        pytest.raises(BuildError, match=r"no worker process could be started: .*worker\.py"),
    ):
        engine.run([(shop, "SELECT 1")])
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with (
        Engine(workers=1) as engine,
        pytest.raises(BuildError, match=r"`isolation='thread'` needs no workers"),
    ):
        engine.run([(shop, "SELECT 1")])


def test_what_isolation_may_be_is_checked() -> None:
    with pytest.raises(InputError, match="isolation is 'fork'; expected process or thread"):
        Engine(isolation="fork")  # type: ignore[arg-type]
