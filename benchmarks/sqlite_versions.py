"""What copies of SQLite answer to the same queries: the table in results/sqlite_versions.json.

    python -m benchmarks.sqlite_versions [NAME=FILE ...] [--packages DIR] [--data DIR] [--save]

Each copy runs the probes, and the gold queries of the collections in --data, in a process of its
own on this package's engine. FILE is a library, NAME says where it is from; --packages unpacks the
wheels of `sqlite_packages` into DIR and takes theirs. Without --save what differs from the table
is printed, and the exit status is 1 if anything does. The table holds a copy for each version.
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.sqlite_packages import PACKAGES, unpacked
from benchmarks.sqlite_probes import DATABASE, OF_VERSION, PROBES
from finestep_fast import sql
from finestep_fast.sql.library_process import LibraryProcess

TABLE = Path(__file__).with_name("results") / "sqlite_versions.json"
COLLECTIONS = ("spider_dev", "spider_train", "spider_dk", "spider_german", "defog")
DIGITS = 8  # of a digest
# What its day or chance decides is not compared.
UNSTEADY = re.compile(r"'now'|current_(date|time)|random\s*\(", re.IGNORECASE)
Jobs = list[tuple[str, str]]
Outcomes = dict[str, dict[str, str]]  # by collection, then by the probe's name or the gold's place


def answers(jobs: Jobs) -> list[str]:
    """Return the rows of each query as Python writes them, or its status and message."""
    return [
        repr(list(result.rows)) if not result.message else f"{result.status}: {result.message}"
        for result in sql.run(jobs)
    ]


def digests(jobs: Jobs) -> list[str]:
    """Return the first digits of each result's digest, or its status."""
    return [result.digest[:DIGITS] or result.status for result in sql.run(jobs)]


def probe_jobs(folder: Path) -> Jobs:
    """Return the probes on their database, which is written into a folder."""
    file = folder / "probes.sqlite"
    if not file.exists():
        with closing(sqlite3.connect(file)) as connection:
            connection.executescript(DATABASE)
    return [(str(file), query) for query in PROBES.values()]


def gold_jobs(folder: Path) -> Jobs:
    """Return every gold query of a collection with its database, if neither day nor chance count.

    Args:
        folder: Holds `questions.jsonl`, with the query under `gold` or several under
            `gold_alternatives`, and `databases/<db_id>/<db_id>.sqlite`.
    """
    jobs = []
    for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        name = entry["db_id"]
        database = str(folder / "databases" / name / f"{name}.sqlite")
        queries = entry.get("gold_alternatives") or [entry["gold"]]
        jobs += [(database, query) for query in queries if not UNSTEADY.search(query)]
    return jobs


def outcomes_of(probes: Sequence[str], golds: Mapping[str, Sequence[str]]) -> Outcomes:
    """Return what a copy answers to the probes, in their order, and to the golds."""
    found = {"probes": dict(zip(PROBES, probes, strict=True))}
    for collection, of_golds in golds.items():
        found[collection] = {str(i): digest for i, digest in enumerate(of_golds)}
    return found


def outcomes_under(process: LibraryProcess, probes: Jobs, golds: Mapping[str, Jobs]) -> Outcomes:
    """Return what the copy of a process answers."""
    return outcomes_of(
        process.call(answers, probes),
        {collection: process.call(digests, jobs) for collection, jobs in golds.items()},
    )


def version_key(version: str) -> list[int]:
    """Return what sorts versions."""
    return [int(part) for part in version.split(".")]


def table_of(found: Mapping[str, tuple[str, Outcomes]]) -> dict[str, Any]:
    """Return the table of copies, each by its version with where it is from and its outcomes.

    For each query it holds the outcome of the oldest copy, then one wherever it changes.
    """
    steps: dict[str, dict[str, list[tuple[str, str]]]] = {}
    versions = sorted(found, key=version_key)
    for version in versions:
        for collection, by_query in found[version][1].items():
            for query, outcome in by_query.items():
                so_far = steps.setdefault(collection, {}).setdefault(query, [])
                if not so_far or so_far[-1][1] != outcome:
                    so_far.append((version, outcome))
    return {
        "libraries": {version: found[version][0] for version in versions},
        "probes": steps.pop("probes"),
        "golds": {
            collection: {
                "oldest": " ".join(of_query[0][1] for of_query in by_query.values()),
                "changes": {
                    query: of_query for query, of_query in by_query.items() if of_query[1:]
                },
            }
            for collection, by_query in steps.items()
        },
    }


def written(table: Mapping[str, Any]) -> str:
    """Return the table as JSON, with a line for each entry of two levels."""
    text = json.dumps(table, indent=1, ensure_ascii=False)
    return re.sub(r"\n {3,}|\n {2}(?=\])", " ", text).replace("[ ", "[").replace(" ]", "]") + "\n"


def load_table() -> dict[str, Any]:
    """Return the recorded table."""
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def recorded(table: Mapping[str, Any], version: str) -> Outcomes:
    """Return the outcomes that the table has for a version, like `outcomes_of`."""

    def at(steps: Sequence[tuple[str, str]]) -> str:
        wanted = version_key(version)
        return next(text for first, text in reversed(steps) if version_key(first) <= wanted)

    found = {"probes": {name: at(steps) for name, steps in table["probes"].items()}}
    for collection, golds in table["golds"].items():
        found[collection] = {str(i): digest for i, digest in enumerate(golds["oldest"].split())}
        found[collection] |= {query: at(steps) for query, steps in golds["changes"].items()}
    return found


def differences(expected: Outcomes, outcomes: Outcomes) -> list[str]:
    """Return a line for each outcome that is not the expected one."""
    return [
        f"{collection}, {query}: {outcome}; expected {expected[collection].get(query)}"
        for collection, by_query in outcomes.items()
        for query, outcome in by_query.items()
        if expected[collection].get(query) != outcome
    ]


def of_version_only(outcomes: Outcomes) -> Outcomes:
    """Return the outcomes without those that the build decides."""
    probes = {name: text for name, text in outcomes["probes"].items() if name in OF_VERSION}
    return {**outcomes, "probes": probes}


def named(text: str) -> tuple[str, str]:
    """Return the file and the name in NAME=FILE."""
    name, mark, file = text.partition("=")
    if not mark:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=FILE")
    return file, name


def libraries_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the file and the name of every package that can be unpacked into a folder."""
    for package in PACKAGES:
        path, reason = unpacked(package, folder)
        if path is None:
            print(f"left out: {package.requirement}: {reason}", file=sys.stderr)
        else:
            yield str(path), package.requirement


def main() -> int:
    """Run every copy; print what differs from the table, or save a new one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("libraries", metavar="NAME=FILE", type=named, nargs="*")
    parser.add_argument("--packages", metavar="DIR", type=Path, help="unpack the wheels here")
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder of the collections")
    parser.add_argument("--save", action="store_true", help="write the table (needs --data)")
    given = parser.parse_args()
    if given.save and given.data is None:
        parser.error("--save needs --data")
    golds = {name: gold_jobs(given.data / name) for name in COLLECTIONS if given.data}
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        probes = probe_jobs(Path(scratch))
        of_packages = libraries_of(given.packages) if given.packages else ()
        for path, name in (*given.libraries, *of_packages):
            with LibraryProcess(path) as process:
                found[process.library.version] = (name, outcomes_under(process, probes, golds))
            print(f"{process.library.version} {name}", file=sys.stderr)
    if given.save:
        TABLE.write_text(written(table_of(found)), encoding="utf-8")
        return 0
    table = load_table()
    status = 0
    for version, (name, outcomes) in found.items():
        if version not in table["libraries"]:
            print(f"{version} {name}: not in the table")
            continue
        if table["libraries"][version] != name:
            outcomes = of_version_only(outcomes)
        lines = differences(recorded(table, version), outcomes)
        print("\n  ".join([f"{version} {name}: {len(lines)} outcomes differ", *lines]))
        status = 1 if lines else status
    return status


if __name__ == "__main__":
    sys.exit(main())
