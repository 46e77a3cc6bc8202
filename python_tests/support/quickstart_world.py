"""A small quickstart world, written and read back."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from finestep_fast.train.quickstart import DemonstrationConfig, WorldConfig, write_world
from finestep_fast.train.quickstart.databases import Database, Style, make_database
from finestep_fast.train.quickstart.themes import THEMES
from support.json_lines import json_lines

SMALL = WorldConfig(
    seed=3,
    train_databases_per_theme=6,
    dev_databases_per_theme=3,
    train_questions=112,
    dev_questions=42,
    demonstrations=DemonstrationConfig(per_question=10),
)
STYLE_PATTERNS = {
    "plain": r"[a-z]+",
    "suffixed": r"[a-z]+_(id|name|val|day)",
    "mixed": r"[A-Z][a-z]+(Id|Name|Val|Day)",
    "quoted": r"[a-z]+ (id|name|val|day)",
}
Rows = list[tuple[Any, ...]]


@dataclass
class World:
    """What was written, read back; connections to the files are read-only."""

    root: Path
    train: list[dict[str, str]]
    dev: list[dict[str, str]]
    demonstrations: list[dict[str, Any]]
    connections: dict[str, sqlite3.Connection]

    def rows(self, db_id: str, sql: str) -> Rows:
        return self.connections[db_id].execute(sql).fetchall()

    def tables(self, db_id: str) -> list[str]:
        return [t for (t,) in self.rows(db_id, "SELECT name FROM sqlite_schema")]

    def columns(self, db_id: str, table: str) -> dict[str, str]:
        return {row[1]: row[2] for row in self.rows(db_id, f"PRAGMA table_info({table})")}

    def style(self, db_id: str) -> str:
        names = [n for t in self.tables(db_id) for n in self.columns(db_id, t)]
        styles = [s for s, p in STYLE_PATTERNS.items() if all(re.fullmatch(p, n) for n in names)]
        assert len(styles) == 1, f"{db_id} mixes styles: {names}"
        return styles[0]

    def gives_gold(self, question_id: str, sql: str) -> bool:
        (question,) = [q for q in self.train if q["question_id"] == question_id]
        gold = set(self.rows(question["db_id"], question["SQL"]))
        try:
            return set(self.rows(question["db_id"], sql)) == gold
        except sqlite3.Error:
            return False


@contextmanager
def written_world(root: Path) -> Iterator[World]:
    """Write a small world and read it back."""
    write_world(root, SMALL)
    paths = sorted(root.glob("databases/*/*.sqlite"))
    with ExitStack() as stack:
        connections = {
            path.stem: stack.enter_context(
                closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True))
            )
            for path in paths
        }
        yield World(
            root=root,
            train=json.loads((root / "train.json").read_text()),
            dev=json.loads((root / "dev.json").read_text()),
            demonstrations=json_lines(root / "demonstrations.jsonl"),
            connections=connections,
        )


def small_database(theme_index: int, style: Style, seed: int) -> Database:
    return make_database(
        THEMES[theme_index],
        db_id="database",
        style=style,
        rng=Random(seed),
        num_main_rows=30,
        num_child_rows=70,
        null_share=0.1,
        duplicate_share=0.1,
    )
