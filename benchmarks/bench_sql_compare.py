"""Comparing results with rows that are Python lists already: milliseconds, and memory.

    python -m benchmarks.bench_sql_compare

Both results hold five columns (integer, text, real, small integer, text or NULL); the predicted one
is shuffled. Beside `sql.compare` stand Python's sets, a set beside one kept ready, Counter, sorting
by repr, pandas, and the test-suite evaluator's algorithm as its source describes it. Hashes of text
are remembered by Python's objects, so the sets do better here than on rows that were just fetched.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.harness import Case, options, report
from finestep_fast import sql

_SIZES = (10, 1_000, 100_000, 1_000_000)
_SLOW = 100_000  # above, what takes seconds is left out
_BATCH = (512, 1_000)
_MEMORY_ROWS = 1_000_000
_NEEDED = {
    "rows alone": "",
    "set == set": "set(predicted) == set(gold)",
    "bird": "sql.compare(predicted, gold)",
    "multiset": "sql.compare(predicted, gold, semantics='multiset')",
    "test_suite": "sql.compare(predicted, gold, semantics='test_suite')",
    "soft_f1": "sql.compare(predicted, gold, semantics='soft_f1')",
    "strict, tolerance": "sql.compare(predicted, gold, semantics='strict', float_tolerance=1e-9)",
}

Rows = list[sql.Row]


def main() -> None:
    """Time all sizes, then the batch, then measure memory."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, nargs="+", default=_SIZES, help="sizes to time")
    parser.add_argument("--memory-of", choices=_NEEDED, help="only print the peak memory of this")
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(_peak_megabytes(arguments.memory_of))
        return
    cases = [_case(size) for size in arguments.rows] + [_batch(*_BATCH)]
    report("comparing results, milliseconds", "set == set", cases, arguments)
    command = [sys.executable, "-m", "benchmarks.bench_sql_compare", "--memory-of"]
    for name in _NEEDED:
        done = subprocess.run([*command, name], capture_output=True, text=True, check=True)
        print(f"peak memory, {_MEMORY_ROWS:,} rows a side, {name}: {done.stdout.strip()} MB")


def _rows(size: int, seed: int = 0) -> Rows:
    source = random.Random(seed)
    return [
        (
            place,
            f"name {source.randrange(10**6)}",
            source.random() * 100,
            source.randrange(50),
            None if source.random() < 0.1 else f"city {source.randrange(1000)}",
        )
        for place in range(size)
    ]


def _shuffled(rows: Rows) -> Rows:
    return random.Random(1).sample(rows, len(rows))


def _case(size: int) -> Case:
    gold, predicted = _rows(size), _shuffled(_rows(size))
    permuted = [row[::-1] for row in predicted]
    ready = frozenset(gold)
    verdicts: dict[str, object] = {}
    absent: dict[str, str] = {}
    runs: dict[str, Callable[[], object]] = {
        "set == set": lambda: set(predicted) == set(gold),
        "set == set kept ready": lambda: frozenset(predicted) == ready,
        "bird": lambda: sql.compare(predicted, gold),
        "multiset": lambda: sql.compare(predicted, gold, semantics="multiset"),
        "ordered": lambda: sql.compare(gold, gold, semantics="ordered"),
        "test_suite": lambda: sql.compare(predicted, gold, semantics="test_suite"),
        "test_suite, permuted": lambda: sql.compare(permuted, gold, semantics="test_suite"),
        "strict, tolerance": lambda: sql.compare(
            predicted, gold, semantics="strict", float_tolerance=1e-9
        ),
        "soft_f1": lambda: sql.score_f1(predicted, gold) < 1,
    }
    if size <= _SLOW:
        runs |= {
            "Counter == Counter": lambda: Counter(predicted) == Counter(gold),
            "sorted by repr": lambda: sorted(predicted, key=repr) == sorted(gold, key=repr),
            "test-suite algorithm": lambda: _equal_in_test_suite(predicted, gold),
        }
        if find_spec("pandas"):
            runs["pandas"] = lambda: _equal_in_pandas(predicted, gold)
        else:
            absent["pandas"] = "not installed; it is in the extra `bench`"
    else:
        absent["Counter, repr, pandas, test-suite"] = "take seconds"
    return Case(
        f"{size:,} rows",
        {name: _kept(name, run, verdicts) for name, run in runs.items()},
        _must_be_true(verdicts),
        absent=absent,
    )


def _batch(num_pairs: int, size: int) -> Case:
    golds = [_rows(size, seed) for seed in range(num_pairs)]
    pairs = [(_shuffled(gold), gold) for gold in golds]
    verdicts: dict[str, object] = {}

    def batch(threads: int) -> Callable[[], object]:
        return lambda: all(sql.compare_batch(pairs, threads=threads))

    runs: dict[str, Callable[[], object]] = {
        "set == set": lambda: all(set(predicted) == set(gold) for predicted, gold in pairs),
        "one by one": lambda: all(sql.compare(predicted, gold) for predicted, gold in pairs),
        "compare_batch, 1 thread": batch(1),
        "compare_batch, 2 threads": batch(2),
    }
    return Case(
        f"{num_pairs} x {size:,} rows",
        {name: _kept(name, run, verdicts) for name, run in runs.items()},
        _must_be_true(verdicts),
    )


def _kept(
    name: str, run: Callable[[], object], verdicts: dict[str, object]
) -> Callable[[], object]:
    def keep() -> None:
        verdicts[name] = run()

    return keep


def _must_be_true(verdicts: dict[str, object]) -> Callable[[str], None]:
    def check(name: str) -> None:
        assert verdicts[name] is True, f"{name}: {verdicts[name]}"

    return check


def _equal_in_pandas(predicted: Rows, gold: Rows) -> bool:
    import pandas

    frames = []
    for rows in (predicted, gold):
        frame = pandas.DataFrame(rows)
        frames.append(frame.sort_values(list(frame.columns)).reset_index(drop=True))
    return bool(frames[0].equals(frames[1]))


def _equal_in_test_suite(predicted: Rows, gold: Rows) -> bool:
    """Do what that evaluator does when the first permutation of columns that it tries fits.

    Unordered rows as sets, values of each column as sets, 20 sampled rows against them, then sets
    and bags of rows. Its search over n^n tuples of columns is left out, which flatters it.
    """
    unordered = [
        {tuple(sorted(row, key=lambda x: str(x) + str(type(x)))) for row in rows}
        for rows in (gold, predicted)
    ]
    if unordered[0] != unordered[1]:
        return False
    of_column = [{row[column] for row in gold} for column in range(len(gold[0]))]
    for row in random.choices(predicted, k=20):
        if not all(value in values for value, values in zip(row, of_column, strict=True)):
            return False
    permuted = [tuple(row[column] for column in range(len(row))) for row in predicted]
    return set(gold) == set(permuted) and Counter(gold) == Counter(permuted)


def _peak_megabytes(name: str) -> int:
    """Return how much this process needed at the most, in megabytes.

    Not getrusage's figure, which a new process inherits from the one that started it.
    """
    gold = _rows(_MEMORY_ROWS)
    predicted = random.Random(1).sample(gold, len(gold))
    exec(_NEEDED[name] or "pass", {"sql": sql, "predicted": predicted, "gold": gold})
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) // 1024


if __name__ == "__main__":
    main()
