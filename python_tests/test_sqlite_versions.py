"""Copies of SQLite answer as the table of recorded outcomes says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.sqlite_packages import PACKAGES, Package, unpacked
from benchmarks.sqlite_probes import PROBES
from benchmarks.sqlite_versions import (
    COLLECTIONS,
    TABLE,
    Outcomes,
    answers,
    differences,
    digests,
    gold_jobs,
    load_table,
    of_version_only,
    outcomes_of,
    outcomes_under,
    probe_jobs,
    recorded,
    table_of,
    written,
)
from finestep_fast import sql
from finestep_fast.errors import BuildError
from finestep_fast.sql.library_process import LibraryProcess
from support.profile import left_to_the_gate


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that wheels are unpacked into."""
    return tmp_path_factory.mktemp("packages")


def recorded_of_this_copy() -> Outcomes:
    """Return what the table has for the version that this process runs on."""
    table, version = load_table(), sql.library().version
    if version not in table["libraries"]:
        pytest.skip(f"SQLite {version} is not in {TABLE.name}")
    return recorded(table, version)


def test_this_copy_answers_the_probes_as_recorded(tmp_path: Path) -> None:
    expected = recorded_of_this_copy()
    outcomes = of_version_only(outcomes_of(answers(probe_jobs(tmp_path)), {}))
    assert len(outcomes["probes"]) > 40
    assert differences(expected, outcomes) == []


def test_this_copy_gives_the_recorded_results_of_gold_queries(shared_data: Path) -> None:
    expected = recorded_of_this_copy()
    golds = {name: digests(gold_jobs(shared_data / name)) for name in COLLECTIONS}
    outcomes = {
        name: {str(i): digest for i, digest in enumerate(found)} for name, found in golds.items()
    }
    assert {name: len(found) for name, found in outcomes.items()} == {
        name: len(expected[name]) for name in COLLECTIONS
    }
    assert differences(expected, outcomes) == []


@left_to_the_gate
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.requirement)
def test_every_packaged_copy_answers_as_recorded(
    package: Package, packages: Path, tmp_path: Path, shared_data: Path
) -> None:
    path, reason = unpacked(package, packages)
    if path is None:
        pytest.skip(reason)
    golds = {name: gold_jobs(shared_data / name) for name in COLLECTIONS}
    try:
        process = LibraryProcess(path)
    except BuildError as error:
        pytest.skip(str(error))
    with process:
        assert process.library.version == package.sqlite
        outcomes = outcomes_under(process, probe_jobs(tmp_path), golds)
    assert differences(recorded(load_table(), package.sqlite), outcomes) == []


def test_the_table_is_of_the_packages_and_probes_that_are_listed() -> None:
    table = load_table()
    listed = {package.sqlite: package.requirement for package in PACKAGES}
    assert table["libraries"] == {"3.40.1": "Debian 12", **listed}
    assert list(table["probes"]) == list(PROBES)
    assert table["golds"].keys() == set(COLLECTIONS)


def test_the_table_holds_what_is_read_in_it() -> None:
    table = load_table()
    before, since = (recorded(table, version)["probes"] for version in ("3.42.0", "3.43.1"))
    assert before["sum of ten 0.1"].startswith("[(0.9999999999999999, ")
    assert since["sum of ten 0.1"] == "[(1.0, 0.1, 1.0)]"
    # 0.285, as a double, lies just below its decimal: 0.284999...
    assert "0.29" in before["round of halves"]
    assert "0.28," in since["round of halves"]


def test_a_table_remembers_where_outcomes_change() -> None:
    def outcomes(*probes: str, gold: str) -> Outcomes:
        golds = {"dev": ["same", gold]}
        return outcomes_of([*probes, *["x"] * (len(PROBES) - len(probes))], golds)

    first, second = list(PROBES)[:2]
    found = {
        "3.9.2": ("old", outcomes("a", "b", gold="g")),
        "3.10.0": ("middle", outcomes("c", "b", gold="g")),
        "3.41.0": ("new", outcomes("a", "b", gold="h")),
    }
    table = table_of(dict(reversed(found.items())))
    assert list(table["libraries"].items()) == [
        *(("3.9.2", "old"), ("3.10.0", "middle"), ("3.41.0", "new"))
    ]
    assert table["probes"][first] == [("3.9.2", "a"), ("3.10.0", "c"), ("3.41.0", "a")]
    assert table["probes"][second] == [("3.9.2", "b")]
    assert table["golds"] == {
        "dev": {"oldest": "same g", "changes": {"1": [("3.9.2", "g"), ("3.41.0", "h")]}}
    }
    for version, (_, of_version) in found.items():
        assert recorded(table, version) == of_version
    assert differences(found["3.9.2"][1], found["3.41.0"][1]) == ["dev, 1: h; expected g"]


def test_the_file_of_the_table_is_as_it_would_be_written() -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert written(load_table()) == text
    assert not re.search(r"SELECT|/usr", text)
