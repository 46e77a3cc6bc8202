"""What the compiled module reports of queries and pairs, as results and verdicts."""

from __future__ import annotations

from finestep_fast import _core
from finestep_fast.sql.outcome import QUERY_STATUS, Match, Result, Row, Status

RunReport = tuple[_core.QueryStatus, tuple[str, ...], tuple[Row, ...], bool, str, float, int, bool]
MatchReport = tuple[bool, _core.QueryStatus, str, float, _core.Verdict, float]

CANCELLED = "stopped because the work was cancelled"


def result_of(report: RunReport | None) -> Result:
    """Return the result in a report of the compiled module; None is work that was cancelled."""
    if report is None:
        return Result(Status.TIMEOUT, message=CANCELLED)
    ended, columns, rows, truncated, message, elapsed_ms, size_bytes, invalid_utf8 = report
    status = QUERY_STATUS[ended]
    return Result(status, columns, rows, truncated, message, elapsed_ms, size_bytes, invalid_utf8)


def match_of(report: MatchReport | None) -> Match:
    """Return the verdict in a report of the compiled module; None is work that was cancelled."""
    if report is None:
        return Match(False, Status.GOLD_TIMEOUT, CANCELLED)
    gold_failed, ended, message, elapsed_ms, verdict, score = report
    status = QUERY_STATUS[ended]
    if gold_failed:
        text = message if status is Status.DATABASE_UNREADABLE else f"gold query: {message}"
        return Match(False, status.as_gold, text)
    if status is not Status.OK:
        return Match(False, status.as_predicted, message, elapsed_ms)
    if verdict is _core.Verdict.undecided:
        return Match(False, Status.UNDECIDED, Status.UNDECIDED.sentence, elapsed_ms)
    return Match(verdict is _core.Verdict.equal, Status.OK, "", elapsed_ms, score)
