"""Packages on PyPI that bring a copy of SQLite whose functions a program can call.

Wheels are unpacked into a folder each and never imported: only the library in them is opened. An
extension module of Python's opens under the minor version of Python that it was built for.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel, and the copy of SQLite in it."""

    sqlite: str
    """The version of SQLite."""
    requirement: str
    """What pip is asked for; its name in the table."""
    pattern: str
    """Where the library lies in the wheel."""


_MODULE = "{}/_sqlite3*.so"
_BESIDE = "{}.libs/libsqlite3*.so*"
_APSW = "apsw/sqlite_extra_binaries/libsqlite3*.so*"
PACKAGES = (
    Package("3.40.0", "pysqlite3-binary==0.5.2", _BESIDE.format("pysqlite3_binary")),
    Package("3.42.0", "pyproj==3.6.1", _BESIDE.format("pyproj")),
    Package("3.43.1", "pysqlite3-binary==0.5.2.post3", _BESIDE.format("pysqlite3_binary")),
    Package("3.45.1", "sqlean.py==3.45.1", _MODULE.format("sqlean")),
    Package("3.46.1", "pyproj==3.7.2", _BESIDE.format("pyproj")),
    Package("3.47.0", "sqlean.py==3.47.0", _MODULE.format("sqlean")),
    Package("3.49.1", "sqlean.py==3.49.1", _MODULE.format("sqlean")),
    Package("3.50.4", "sqlean.py==3.50.4.5", _MODULE.format("sqlean")),
    Package("3.51.1", "pysqlite3-binary==0.5.4.post2", _MODULE.format("pysqlite3")),
    Package("3.51.3", "apsw==3.51.3.0", _APSW),
    Package("3.53.0", "apsw==3.53.0.0", _APSW),
    Package("3.53.4", "pysqlite3==0.6.1", _MODULE.format("pysqlite3")),
    Package("3.54.1", "apsw==3.54.1.0", _APSW),
)


def unpacked(package: Package, folder: Path) -> tuple[Path | None, str]:
    """Return the library of a package, unpacked below a folder, or none and why.

    Args:
        package: What to unpack; nothing is fetched again for a folder that has it.
        folder: Where packages are, one folder each.
    """
    target = folder / package.requirement
    if not target.is_dir():
        words = ("install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target")
        done = subprocess.run(
            [sys.executable, "-m", "pip", *words, str(target), package.requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            return None, (done.stderr.strip() or "pip failed").splitlines()[-1]
    found = sorted(target.glob(package.pattern))
    return (found[0], "") if found else (None, f"the wheel has no {package.pattern}")
