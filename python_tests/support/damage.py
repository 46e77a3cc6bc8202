"""Ways in which a file is damaged on a disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path) -> None:
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(text)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(Random(path.name).randbytes(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": _cut_short,
    "flipped": _flipped,
    "removed": Path.unlink,
    "emptied": _emptied,
    "garbage": _garbage,
}
"""What happens to a file: half of it is lost, one bit is flipped, and so on."""
