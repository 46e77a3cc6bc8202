"""The folder of a generated world: complete or not there."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from finestep_fast.errors import InputError
from finestep_fast.train.generated.demonstration import Demonstration


@contextmanager
def new_world(root: Path) -> Iterator[Path]:
    """Give a folder to write a world into; it becomes `root` when the block ends well.

    Raises:
        InputError: `root` exists and is not an empty folder.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"root is {root}, which exists; it must be a new or empty folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as workshop:
        world = Path(workshop) / "world"
        world.mkdir()
        yield world
        world.rename(root)


def write_database(world: Path, db_id: str, connection: sqlite3.Connection) -> None:
    """Write a database where runs look for it."""
    path = world / "databases" / db_id / f"{db_id}.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(connection.serialize())


def write_questions(world: Path, split: str, records: Sequence[dict[str, str]]) -> None:
    """Write the questions of a split as one JSON list."""
    text = json.dumps(records, indent=1) + "\n"
    (world / f"{split}.json").write_text(text, encoding="utf-8")


def write_demonstrations(world: Path, demonstrations: Sequence[Demonstration]) -> None:
    """Write demonstrations as JSON lines."""
    with (world / "demonstrations.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(d.record()) + "\n" for d in demonstrations)
