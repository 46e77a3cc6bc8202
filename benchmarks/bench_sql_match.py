"""Matching predicted queries with their golds: pairs per second, and memory on big results.

    python -m benchmarks.bench_sql_match [--data DIR]

A batch as in reinforcement learning, 512 questions with 8 sampled queries each on small databases;
one pair at a time, as trainers call a reward; 64 callers at once; and two results of 1M x 5 rows.
DIR holds `questions.jsonl`, `predictions.jsonl` and `databases/` of real predictions; without it
databases, questions and samples are generated. Golds are remembered where a row is not "cold",
verdicts in "asked again" only. All verdicts are BIRD's; with others nothing is timed.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from random import Random

from benchmarks import sql_peers
from benchmarks.harness import Case, options, report
from benchmarks.sql_peers import Triple
from finestep_fast import sql
from finestep_fast.train.quickstart.demonstrations import DemonstrationConfig
from finestep_fast.train.quickstart.world import WorldConfig, write_world

QUESTIONS, SAMPLES = 512, 8
CALLERS = 64
FEW = 128  # pairs for what starts a process each
BIG_ROWS = 1_000_000
SIZES = (10, 1_000, 100_000, BIG_ROWS)
PREDICTIONS_OF = "gpt4_beam10"
# In a process of its own: what its memory grows by, from after its imports to its peak.
MEMORY = """
import sys
from benchmarks import bench_sql_match, sql_peers
from finestep_fast import sql
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
triple = bench_sql_match.big_triple(sys.argv[2])
before = peak()
if sys.argv[1] == "ours":
    with sql.Engine(workers=1, isolation="thread") as engine:
        verdicts = [match.equal for match in engine.match([triple])]
else:
    verdicts = sql_peers.plain([triple])
assert verdicts == [True]
print(peak() - before)
"""


def main() -> None:
    """Time the batch and the big results, then weigh the big results."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="folder of real questions and predictions")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        triples = real_triples(arguments.data) if arguments.data else made_triples(folder)
        big = folder / "big.sqlite"
        write_big(big)
        unique = len(set(triples)) / len(triples)
        name = f"{len(triples)} pairs, {unique:.0%} different"
        few = triples[:FEW]
        slow = {"process per query": sql_peers.process_per_query}
        everyday = {
            "best Python": sql_peers.best_python,
            "connection per pair": sql_peers.plain,
        }
        absent = {}
        if find_spec("func_timeout"):
            everyday["BIRD's way"] = slow["BIRD's way"] = sql_peers.bird
        else:
            absent["BIRD's way"] = "func-timeout is not installed"
        with (
            sql.Engine(workers=1, verdict_cache_bytes=1) as one,
            sql.Engine(workers=2, verdict_cache_bytes=1) as two,
            sql.Engine(workers=1, isolation="thread", verdict_cache_bytes=1) as thread,
            sql.Engine(workers=2, isolation="thread", verdict_cache_bytes=1) as threads,
            sql.Engine(workers=1) as remembering,
        ):
            ours = {
                "ours, 1 worker, cold": lambda given: matched_anew(given, 1),
                "ours, 1 worker": lambda given: matched(given, one),
                "ours, 2 workers, cold": lambda given: matched_anew(given, 2),
                "ours, 2 workers": lambda given: matched(given, two),
                "ours, 1 thread": lambda given: matched(given, thread),
                "ours, 2 threads": lambda given: matched(given, threads),
                "ours, asked again": lambda given: matched(given, remembering),
            }
            single = {
                "best Python": KeptPair(triples[0]).matched,
                "connection per pair": sql_peers.plain,
                "ours, 1 worker": lambda given: matched(given, one),
                "ours, 1 thread": lambda given: matched(given, thread),
                "sql.match": lambda given: [match.equal for match in sql.match(given)],
            }
            at_once = {
                "best Python": lambda given: by_callers(sql_peers.plain, given),
                "ours, 2 workers": lambda given: by_callers(lambda t: matched(t, two), given),
                "ours, 2 threads": lambda given: by_callers(lambda t: matched(t, threads), given),
            }
            cases = [
                case(name, triples, {**everyday, **ours}, absent),
                case("one pair", triples[:1], single, {}),
                case(f"{CALLERS} callers, a pair each", triples[: 8 * CALLERS], at_once, {}),
                case(f"{len(few)} pairs", few, {"best Python": sql_peers.best_python} | slow, {}),
            ]
            cases += [
                case(
                    f"{size} x 5 both sides",
                    [big_triple(str(big), size)],
                    {
                        "best Python": sql_peers.plain,
                        "ours, 1 worker": lambda given: matched(given, one),
                        "ours, 1 thread": lambda given: matched(given, thread),
                    },
                    {},
                )
                for size in SIZES
            ]
            timings = report(
                f"matching queries, milliseconds (SQLite {sql.library().version})",
                "best Python",
                cases,
                arguments,
            )
        sizes = {row.name: len(row.triples) for row in _measured}
        for row in timings:
            rate = 1e3 * sizes[row.case] / row.median_ms
            print(f"{row.case:28} {row.implementation:24} {rate:12,.0f} pairs/s")
        for how in ("Python", "ours"):
            print(f"memory of {BIG_ROWS} x 5 both sides, {how}: {peak_mb(how, big):.0f} MB")


def matched(triples: Sequence[Triple], engine: sql.Engine) -> list[bool]:
    """Return the verdicts of an engine that remembers the golds of earlier calls."""
    return [match.equal for match in engine.match(triples)]


def matched_anew(triples: Sequence[Triple], workers: int) -> list[bool]:
    """Return the verdicts of an engine that is made for them; its workers must start first."""
    with sql.Engine(workers=workers) as fresh:
        return matched(triples, fresh)


def by_callers(
    matching: Callable[[Sequence[Triple]], list[bool]], triples: Sequence[Triple]
) -> list[bool]:
    """Return the verdicts found by many threads, each of which asks for a pair at a time."""
    with ThreadPoolExecutor(CALLERS) as callers:
        return [verdict for (verdict,) in callers.map(lambda t: matching([t]), triples)]


class KeptPair:
    """One pair in plain Python with all that can be kept: the connection and the gold's rows."""

    def __init__(self, triple: Triple) -> None:
        path, _, gold = triple
        self._connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        self._gold = set(self._connection.execute(gold).fetchall())

    def matched(self, triples: Sequence[Triple]) -> list[bool]:
        """Return the verdicts on predictions beside the kept gold."""
        return [
            set(self._connection.execute(predicted).fetchall()) == self._gold
            for _, predicted, _ in triples
        ]


class _Measured:
    """What a case is measured on."""

    def __init__(self, name: str, triples: Sequence[Triple]) -> None:
        self.name = name
        self.triples = triples


_measured: list[_Measured] = []


def case(
    name: str,
    triples: Sequence[Triple],
    ways: dict[str, Callable[[Sequence[Triple]], list[bool]]],
    absent: dict[str, str],
) -> Case:
    """Return a case that checks its verdicts against those of plain Python before it is timed."""
    truth = sql_peers.plain(triples)
    verdicts: dict[str, list[bool]] = {}
    _measured.append(_Measured(name, triples))

    def runner(way: str) -> Callable[[], None]:
        def run() -> None:
            verdicts[way] = ways[way](triples)

        return run

    def check(way: str) -> None:
        if verdicts[way] != truth:
            wrong = [t for t, a, b in zip(triples, verdicts[way], truth, strict=True) if a != b]
            raise AssertionError(f"{way}: {len(wrong)} verdicts differ, first {wrong[0]}")

    return Case(name, {way: runner(way) for way in ways}, check, absent=absent)


def real_triples(folder: Path) -> list[Triple]:
    """Return the first samples of the first questions of a folder."""
    triples = []
    questions = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    for question, predicted in zip(questions[:QUESTIONS], predictions, strict=False):
        asked = json.loads(question)
        path = folder / "databases" / asked["db_id"] / f"{asked['db_id']}.sqlite"
        samples = json.loads(predicted)["preds"][PREDICTIONS_OF][:SAMPLES]
        triples += [(str(path), sample, asked["gold"]) for sample in samples]
    return triples


def made_triples(folder: Path) -> list[Triple]:
    """Return questions on generated databases; of the samples many are alike, some are wrong."""
    config = WorldConfig(
        train_databases_per_theme=24,
        dev_databases_per_theme=1,
        train_questions=QUESTIONS,
        dev_questions=4,
        main_rows=40,
        child_rows=200,
        demonstrations=DemonstrationConfig(per_question=1),
    )
    write_world(folder / "world", config)
    questions = json.loads((folder / "world" / "train.json").read_text(encoding="utf-8"))
    by_database: dict[str, list[str]] = {}
    for question in questions:
        by_database.setdefault(question["db_id"], []).append(question["SQL"])
    rng = Random(0)
    triples = []
    for question in questions:
        gold, name = question["SQL"], question["db_id"]
        path = folder / "world" / "databases" / name / f"{name}.sqlite"
        others = [
            gold,
            gold + " ",
            gold.replace("SELECT", "select"),
            rng.choice(by_database[name]),
            gold.replace("SELECT", "SELECT DISTINCT"),
            f"{gold} LIMIT 3",
            gold.replace("FROM", "FORM", 1),
        ]
        for sample in rng.choices(others, weights=[10, 2, 2, 2, 1, 1, 1], k=SAMPLES):
            triples.append((str(path), sample, gold))
    return triples


def write_big(path: Path) -> None:
    """Write a table of 1M rows of five mixed columns."""
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE big(id INTEGER PRIMARY KEY, a INTEGER, b REAL, c TEXT, d TEXT)"
    )
    rows = (
        (i, i * 7919 % 10007, i / 7, f"name {i % 5003}", None if i % 11 == 0 else f"city{i}")
        for i in range(BIG_ROWS)
    )
    connection.executemany("INSERT INTO big VALUES (?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()


def big_triple(path: str, size: int = BIG_ROWS) -> Triple:
    """Return the first rows of the table beside themselves in another order."""
    rows = f"FROM big WHERE id <= {size}"
    return path, f"SELECT * {rows} ORDER BY id DESC", f"SELECT * {rows}"


def peak_mb(how: str, database: Path) -> float:
    """Return what the memory of a fresh process grows by."""
    command = [sys.executable, "-c", MEMORY, how, str(database)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    return int(done.stdout) / 1024


if __name__ == "__main__":
    main()
