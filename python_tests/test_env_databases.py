"""Database files: found under their usual names, and opened once before they are needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from finestep_fast.env.databases import EXTENSIONS, checked_databases, database_file
from finestep_fast.env.question import Question
from finestep_fast.errors import InputError
from support.databases import written


def questions(folder: Path, names: str) -> list[Question]:
    """Return one question per letter, on the database of that letter."""
    return [Question("0", "?", "SELECT 1", name, database_file(folder, name)) for name in names]


def checked(folder: Path, names: str, share: float = 0.1) -> str:
    return checked_databases(
        questions(folder, names), what=f"databases {folder}", max_share=share, setting="the share"
    )


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_usual_extension_is_found(tmp_path: Path, extension: str) -> None:
    path = written(tmp_path / "a" / f"a.{extension}")
    assert database_file(tmp_path, "a") == path
    assert checked(tmp_path, "a") == ""


def test_of_several_files_the_first_extension_is_taken_and_a_missing_one_is_named_so(
    tmp_path: Path,
) -> None:
    assert EXTENSIONS == ("sqlite", "db", "sqlite3")
    for extension in EXTENSIONS:
        written(tmp_path / "a" / f"a.{extension}")
    assert database_file(tmp_path, "a") == tmp_path / "a" / "a.sqlite"
    assert database_file(tmp_path, "b") == tmp_path / "b" / "b.sqlite"
    assert database_file(tmp_path, "x" * 300).name == "x" * 300 + ".sqlite"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_files_without_folders_are_found_after_those_in_folders(
    tmp_path: Path, extension: str
) -> None:
    path = written(tmp_path / f"a.{extension}")
    assert database_file(tmp_path, "a") == path
    assert checked(tmp_path, "a") == ""
    inside = written(tmp_path / "a" / "a.sqlite3")
    assert database_file(tmp_path, "a") == inside


def test_the_folder_of_spider_is_known_by_its_tables(tmp_path: Path) -> None:
    path = written(tmp_path / "database" / "a" / "a.sqlite")
    assert database_file(tmp_path, "a") == tmp_path / "a" / "a.sqlite"
    (tmp_path / "tables.json").write_text("[]")
    assert database_file(tmp_path, "a") == path
    assert database_file(tmp_path, "b") == tmp_path / "b" / "b.sqlite"


def test_databases_that_cannot_be_read_are_listed_by_name_and_reason(tmp_path: Path) -> None:
    written(tmp_path / "a" / "a.db")
    for name, content in (("b", b""), ("c", b"version https://git-lfs.github.com/spec/v1\n" * 9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.sqlite").write_bytes(content)
    assert checked(tmp_path, "aaaabcd", share=0.5) == (
        f"databases {tmp_path}: 3 of 4 databases cannot be read: holds no table: 'b'; file is not "
        "a database: 'c'; No such file or directory: 'd'; expected <db_id>/<db_id>.sqlite or "
        "<db_id>.sqlite, also with .db or .sqlite3; 3 of 7 questions cannot be used"
    )


def test_too_many_are_an_error_and_so_are_all(tmp_path: Path) -> None:
    written(tmp_path / "a" / "a.sqlite")
    assert "1 of 10 questions" in checked(tmp_path, "aaaaaaaaab")
    with pytest.raises(
        InputError, match=r"2 of 10 questions cannot .*, and the share is 0\.1: mend"
    ):
        checked(tmp_path, "aaaaaaaabb")
    with pytest.raises(InputError, match=r"'b', 'c'; .*2 of 2 questions cannot be used: none is"):
        checked(tmp_path, "bc", share=1.0)
