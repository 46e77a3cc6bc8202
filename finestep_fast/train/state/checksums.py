"""Checksums of what a run keeps, so that damage is reported before anything is read from it.

A folder is written beside its place, with a list of checksums, and renamed when it is on the disk:
it is there whole or not at all. What the files mean is not known here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finestep_fast.errors import InputError

CHECKSUMS = "checksums.json"
"""File name -> SHA-256, in every folder that is written here."""

_SEAL = b"# SHA-256 of the lines below: "


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partial(path: Path) -> Path:
    """Return where the file or folder at `path` is written before it is renamed."""
    return path.with_name(f".partial-{path.name}")


def publish(path: Path) -> None:
    """Give the folder at `partial(path)` its checksums and its name, when it is on the disk."""
    written = partial(path)
    (written / CHECKSUMS).unlink(missing_ok=True)
    names = [item.relative_to(written).as_posix() for item in written.rglob("*") if item.is_file()]
    with ThreadPoolExecutor() as threads:
        sums = threads.map(file_sha256, [written / name for name in names])
        listed = dict(sorted(zip(names, sums, strict=True)))
    (written / CHECKSUMS).write_text(json.dumps(listed, indent=1), encoding="utf-8")
    for name in (*names, CHECKSUMS):
        sync(written / name)
    for folder in (*(item for item in written.rglob("*") if item.is_dir()), written):
        sync(folder)
    written.rename(path)
    sync(path.parent)


def remove(folder: Path) -> None:
    """Remove a folder that `publish` made; stopped halfway, it leaves nothing under the name."""
    gone = partial(folder)
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def sync(path: Path) -> None:
    """Force a file or the entries of a folder onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage(folder: Path) -> str | None:
    """Return what of a published folder is not as it was written, or None.

    Files that were added are no damage.
    """
    try:
        listed = json.loads((folder / CHECKSUMS).read_bytes())
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS} cannot be read: {error}"
    if not isinstance(listed, dict) or not listed:
        return f"{CHECKSUMS} is no list of checksums"
    with ThreadPoolExecutor() as threads:
        found = threads.map(lambda name: _file_damage(folder / name, name, listed[name]), listed)
        return next((problem for problem in found if problem is not None), None)


def refuse_damage(folder: Path) -> None:
    """Refuse a published folder that is not as it was written.

    Raises:
        InputError: It is not; the message names the file.
    """
    problem = damage(folder)
    if problem is not None:
        raise InputError(
            f"{folder}: {problem}; put back what it was, or remove the folder to have it made anew"
        )


def _file_damage(path: Path, name: str, expected: object) -> str | None:
    try:
        found = file_sha256(path)
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError) as error:
        return f"{name} cannot be read: {error}"
    return None if found == expected else f"{name} is not as it was written"


def seal(path: Path) -> None:
    """Put a checksum of the whole file on top of it, as a comment that starts with `#`."""
    text = path.read_bytes()
    path.write_bytes(_SEAL + hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def is_sealed(path: Path) -> bool:
    """Return whether a file begins with a checksum."""
    return path.read_bytes().startswith(_SEAL)


def seal_is_whole(path: Path) -> bool:
    """Return whether a sealed file is as it was written."""
    first, _, text = path.read_bytes().partition(b"\n")
    return first == _SEAL + hashlib.sha256(text).hexdigest().encode()
