"""The database files that questions name: found by name, and opened once before they are needed.

Not the schema, and no watch over a run: a file that goes away later shows as a failed rollout.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finestep_fast.errors import InputError
from finestep_fast.sql.schema import database_schema

if TYPE_CHECKING:
    from finestep_fast.env.question import Question

EXTENSIONS = ("sqlite", "db", "sqlite3")
MOST_NAMED = 50


def database_file(folder: Path, db_id: str) -> Path:
    """Return a database's file: the first that is there, else where it is looked for first.

    Looked for are `<db_id>/<db_id>` and `<db_id>` with each of `EXTENSIONS`, in the folder and, if
    it is Spider's with its `tables.json`, in the folder `database` inside it.
    """
    folders = [folder, folder / "database"] if os.path.isfile(folder / "tables.json") else [folder]
    files = [
        place / f"{name}.{extension}"
        for place in folders
        for name in (f"{db_id}/{db_id}", db_id)
        for extension in EXTENSIONS
    ]
    return next((file for file in files if os.path.isfile(file)), files[0])


def unreadable_databases(questions: Sequence[Question]) -> dict[str, str]:
    """Open every database once; return by name why one cannot be read, or holds no table."""
    reasons = {}
    for name, path in {question.db_id: question.database for question in questions}.items():
        try:
            if not database_schema(path).tables:
                reasons[name] = "holds no table"
        except InputError as error:
            reasons[name] = str(error).removeprefix(f"database {str(path)!r}: ")
    return reasons


def checked_databases(
    questions: Sequence[Question], *, what: str, max_share: float, setting: str
) -> str:
    """Open every database that questions name; refuse them if too few can be answered.

    Args:
        questions: At least one.
        what: Where the databases were looked for, for the message.
        max_share: Share of the questions that may lack a readable database.
        setting: The name of that share, for the message.

    Returns:
        A sentence that names the databases that cannot be read; empty if all can.

    Raises:
        InputError: No database can be read, or those of too many questions cannot.
    """
    reasons = unreadable_databases(questions)
    if not reasons:
        return ""
    num_names = len({question.db_id for question in questions})
    listed = (
        f"{what}: {len(reasons)} of {num_names} databases cannot be read: {named(reasons)}; "
        f"expected <db_id>/<db_id>.{EXTENSIONS[0]} or <db_id>.{EXTENSIONS[0]}, also "
        f"with .{' or .'.join(EXTENSIONS[1:])}"
    )
    num_lost = sum(question.db_id in reasons for question in questions)
    return checked_share(listed, num_lost, len(questions), max_share=max_share, setting=setting)


def checked_share(
    listed: str, num_unusable: int, num_questions: int, *, max_share: float, setting: str
) -> str:
    """Return what is wrong with some questions, said as a warning where the others are enough.

    Raises:
        InputError: All are unusable, or a larger share than is allowed.
    """
    lost = f"{listed}; {num_unusable} of {num_questions} questions cannot be used"
    if num_unusable == num_questions:
        raise InputError(f"{lost}: none is left")
    if num_unusable > max_share * num_questions:
        raise InputError(f"{lost}, and {setting} is {max_share:g}: mend them, or allow for more")
    return lost


def named(reasons: Mapping[str, str]) -> str:
    """Return `reason: names; reason: names`, the names of at most `MOST_NAMED` databases."""
    names_of: dict[str, list[str]] = {}
    for name in list(reasons)[:MOST_NAMED]:
        names_of.setdefault(reasons[name], []).append(repr(name))
    listed = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in names_of.items())
    more = len(reasons) - MOST_NAMED
    return listed if more <= 0 else f"{listed}; and {more} more"
