"""JSON-lines logs of a run that can be cut back to where a checkpoint was written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Logs:
    """The logs below a folder, each a file of one JSON object per line.

    Args:
        folder: of the run.
        active: whether this process writes; the others keep silent.
    """

    def __init__(self, folder: Path, *, active: bool) -> None:
        self.folder = folder
        self.active = active

    def write(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records to `<name>.jsonl`."""
        if self.active:
            with (self.folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    def read(self, name: str) -> list[dict[str, Any]]:
        """All records of a log."""
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def sizes(self) -> dict[str, int]:
        """Length of every log in bytes."""
        return {path.stem: path.stat().st_size for path in sorted(self.folder.glob("*.jsonl"))}

    def cut_back(self, sizes: Mapping[str, int]) -> None:
        """Drop what was written after `sizes` were taken."""
        if self.active:
            for path in self.folder.glob("*.jsonl"):
                os.truncate(path, min(sizes.get(path.stem, 0), path.stat().st_size))
