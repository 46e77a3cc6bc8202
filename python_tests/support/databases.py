"""Small SQLite databases for tests, written from SQL."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

SHOP = """
    CREATE TABLE customer (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT, joined DATE
    );
    CREATE TABLE "Order Item" (
        "Order" INTEGER PRIMARY KEY,
        customer INTEGER REFERENCES customer,
        "unit price" REAL,
        note BLOB
    );
    CREATE VIEW londoner AS SELECT name FROM customer WHERE city = 'London';
    INSERT INTO customer VALUES
        (1, 'Ada', 'London', '2020-01-02'), (2, 'Bo', 'Paris', NULL), (3, 'Cy', 'London', ''),
        (4, 'O''Neil', NULL, '2021-05-06');
    INSERT INTO "Order Item" VALUES
        (1, 1, 2.5, NULL), (2, 1, 4.0, x'00ff'), (3, 2, 2.5, 'text'), (4, NULL, NULL, NULL);
"""


def written(path: Path, script: str = SHOP) -> Path:
    """Write a database file with a script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    try:
        connection.executescript(script)
        connection.commit()
    finally:
        connection.close()
    return aged(path)


def aged(path: Path) -> Path:
    """Make a file look as if nobody had written to it for a minute."""
    long_ago = path.stat().st_mtime - 60
    os.utime(path, (long_ago, long_ago))
    return path
