"""SQL at scale: run model-written queries safely, compare their results, look schemas up.

Not a database layer: queries only read. `run` and `match` use one engine of this process, made when
it is first needed (`default_engine`); make an `Engine` for settings of your own.
"""

from __future__ import annotations

from collections.abc import Iterable

from finestep_fast.config.semantics import Semantics
from finestep_fast.sql.comparison import compare, compare_batch, score_f1
from finestep_fast.sql.completion import query_in
from finestep_fast.sql.default_engine import default_engine
from finestep_fast.sql.engine import Counters, DatabasePath, Engine
from finestep_fast.sql.golds import Gold
from finestep_fast.sql.library import Library, library
from finestep_fast.sql.outcome import Match, Result, Row, Status, Value
from finestep_fast.sql.schema import Column, DatabaseSchema, Table, database_schema

__all__ = [
    "Column",
    "Counters",
    "DatabaseSchema",
    "Engine",
    "Library",
    "Match",
    "Result",
    "Row",
    "Semantics",
    "Status",
    "Table",
    "Value",
    "compare",
    "compare_batch",
    "database_schema",
    "default_engine",
    "library",
    "match",
    "query_in",
    "run",
    "score_f1",
]


def run(
    jobs: Iterable[tuple[DatabasePath, str]],
    *,
    max_rows: int = 2_000_000,
    max_bytes: int = 1 << 30,
    timeout_s: float = 30.0,
) -> list[Result]:
    """Run queries, each given as (database, query), on the default engine; see `Engine.run`."""
    return default_engine().run(jobs, max_rows=max_rows, max_bytes=max_bytes, timeout_s=timeout_s)


def match(
    triples: Iterable[tuple[DatabasePath, str, Gold]],
    *,
    semantics: Semantics = "bird",
    float_tolerance: float = 0.0,
    keep_distinct: bool = False,
    early_exit: bool = True,
    max_rows: int = 2_000_000,
    max_bytes: int = 1 << 30,
    timeout_s: float = 30.0,
) -> list[Match]:
    """Compare queries, each given as (database, predicted, gold or golds), on the default engine.

    See `Engine.match`.
    """
    return default_engine().match(
        triples,
        semantics=semantics,
        float_tolerance=float_tolerance,
        keep_distinct=keep_distinct,
        early_exit=early_exit,
        max_rows=max_rows,
        max_bytes=max_bytes,
        timeout_s=timeout_s,
    )
