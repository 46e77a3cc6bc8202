"""The vote among several predictions for a question, and how often some of them hold a right one.

Not a choice by the gold query: the vote knows the predictions' results alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from finestep_fast.env.question import Question
from finestep_fast.sql import Engine, Result, Row, Semantics, Status, Value
from finestep_fast.sql.outcome import rows_digest

# Results are held as Python objects until they have a digest.
RESULTS_AT_ONCE = 64


def pass_at(k: int, num_samples: int, num_right: int) -> float:
    """Return the chance that of k samples, drawn without putting back, one is right at least.

    1 - C(n - c, k) / C(n, k)

    Source: the unbiased estimator of Chen et al., 2021 (arXiv:2107.03374).

    Args:
        k: How many are drawn, 1 to n.
        num_samples: n, how many there are.
        num_right: c, how many are right.
    """
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def elected(ballots: Sequence[str]) -> int | None:
    """Return the place of the first ballot of those cast most often; None if none was cast.

    Of equally frequent ones the one seen first wins. An empty ballot was not cast.
    """
    cast = [ballot for ballot in ballots if ballot]
    return ballots.index(max(cast, key=cast.count)) if cast else None


def ballots_of(
    jobs: Sequence[tuple[Question, str]], engine: Engine, semantics: Semantics
) -> list[str]:
    """Return a digest of the result of each query; empty for one that fails or is cut short.

    Equal for the same set of rows under `bird`, for the same rows in the same order under
    `ordered`, else for the same rows in any order. Column names do not matter.
    """
    wanted = list(dict.fromkeys((str(question.database), sql) for question, sql in jobs))
    digests: dict[tuple[str, str], str] = {}
    for start in range(0, len(wanted), RESULTS_AT_ONCE):
        part = wanted[start : start + RESULTS_AT_ONCE]
        for job, result in zip(part, engine.run(part), strict=True):
            digests[job] = ballot(result, semantics)
    return [digests[str(question.database), sql] for question, sql in jobs]


def ballot(result: Result, semantics: Semantics) -> str:
    """Return what a result says, as `ballots_of` has it."""
    if result.status is not Status.OK or result.truncated:
        return ""
    if semantics == "ordered":
        return result.digest
    rows = [as_compared(row) for row in result.rows]
    return rows_digest(sorted(set(rows) if semantics == "bird" else rows, key=repr))


def as_compared(row: Row) -> tuple[Value, ...]:
    """Return a row in which equal numbers are written alike: 2.0 as 2."""
    return tuple(int(v) if isinstance(v, float) and v.is_integer() else v for v in row)
