"""The one engine that calls without an engine of their own share."""

from __future__ import annotations

import threading

from finestep_fast.sql.engine import Engine

_making = threading.Lock()
_made: list[Engine] = []


def default_engine() -> Engine:
    """Return the engine that `sql.run` and `sql.match` use, made on the first call.

    It has the default settings and lives as long as the process. Closing it frees its workers; the
    next call makes a new one.

    Raises:
        BuildError: There is no SQLite library; see `library`.
    """
    with _making:
        if not _made or _made[0].is_closed:
            _made[:] = [Engine()]
        return _made[0]
