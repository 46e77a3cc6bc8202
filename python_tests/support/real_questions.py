"""Questions and queries of the collections in `../shared/data`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.json_lines import json_lines

COLLECTIONS = ("spider_dev", "spider_train", "spider_dk", "spider_german", "defog")


def database_of(folder: Path, entry: dict[str, Any]) -> Path:
    """Return the database of a question or prediction."""
    name: str = entry["db_id"]
    return folder / "databases" / name / f"{name}.sqlite"


def golds(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every gold query of a collection with its database."""
    for entry in json_lines(folder / "questions.jsonl"):
        for query in entry.get("gold_alternatives") or [entry["gold"]]:
            yield database_of(folder, entry), query
