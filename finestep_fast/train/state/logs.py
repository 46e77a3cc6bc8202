"""JSON-lines logs of a run that can be cut back to where a checkpoint was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finestep_fast.errors import InputError

LOGS = ("warm_start", "metrics", "rollouts", "evaluations", "skipped")
"""Their names; no other file of the folder is touched."""


@dataclass(frozen=True)
class LogMark:
    """How far a log went, and what it was until there."""

    num_bytes: int
    sha256: str


class Logs:
    """The logs of a folder, each a file of one JSON object per line.

    Args:
        folder: Of the run.
        active: Whether this process writes; the others keep silent.
    """

    def __init__(self, folder: Path, *, active: bool) -> None:
        self.folder = folder
        self.active = active
        # Of every log that was begun: its length, and the hash of all of it.
        self._written: dict[str, tuple[int, Any]] = {}

    def write(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records to `<name>.jsonl`; without records, no file is made."""
        assert name in LOGS
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        if not self.active or not lines:
            return
        # Half a surrogate pair, which a model may write, becomes JSON's escape for it.
        text = lines.encode("utf-8", "backslashreplace")
        with self._path(name).open("ab") as file:
            file.write(text)
        length, sha256 = self._written.setdefault(name, (0, hashlib.sha256()))
        sha256.update(text)
        self._written[name] = length + len(text), sha256

    def read(self, name: str) -> list[dict[str, Any]]:
        """Return all records of a log; a silent process has none."""
        path = self._path(name)
        if not self.active or not path.exists():
            return []
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    def marks(self) -> dict[str, LogMark]:
        """Return how far every log goes; until there it is on the disk."""
        for name in self._written:
            with self._path(name).open("rb") as file:
                os.fsync(file.fileno())
        return {
            name: LogMark(length, sha256.copy().hexdigest())
            for name, (length, sha256) in self._written.items()
        }

    def cut_back(self, marks: Mapping[str, LogMark]) -> list[str]:
        """Drop what was written after `marks` were taken.

        A log that is shorter than its mark is cut back to whole lines.

        Returns:
            What is lost of which file, a sentence each.

        Raises:
            InputError: What was written before has been changed.
        """
        if not self.active:
            return []
        whole = {name: self._whole(self._path(name), mark) for name, mark in marks.items()}
        lost = []
        self._written = {}
        for name in LOGS:
            path = self._path(name)
            length, sha256 = whole.get(name, (0, hashlib.sha256()))
            if path.exists():
                os.truncate(path, length)
                self._written[name] = length, sha256
            if name in marks and length < marks[name].num_bytes:
                lost.append(f"{path}: the last {marks[name].num_bytes - length} bytes are lost")
        return lost

    @staticmethod
    def _whole(path: Path, mark: LogMark) -> tuple[int, Any]:
        """Return how many bytes of a log stay, and their hash."""
        length, sha256 = _hashed(path, mark.num_bytes)
        unchanged = sha256.hexdigest() == mark.sha256
        if length < mark.num_bytes:
            text = path.read_bytes() if path.exists() else b""
            text = text[: text.rfind(b"\n") + 1]
            length, sha256 = len(text), hashlib.sha256(text)
            unchanged = all(_is_record(line) for line in text.splitlines())
        if not unchanged:
            raise InputError(
                f"{path} is not as it was written: put back what it was, or move it away to go on "
                "without its lines"
            )
        return length, sha256

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


def _hashed(path: Path, num_bytes: int) -> tuple[int, Any]:
    """Return how many of the first bytes of a file there are, and their hash."""
    sha256, left = hashlib.sha256(), num_bytes
    if path.exists():
        with path.open("rb") as file:
            while left and (part := file.read(min(left, 2**20))):
                sha256.update(part)
                left -= len(part)
    return num_bytes - left, sha256


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
