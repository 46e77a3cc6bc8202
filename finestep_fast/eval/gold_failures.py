"""Why gold queries failed: in words, counted by question.

A gold query of one's own that fails costs its question, whatever the prediction is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from finestep_fast.env.question import Question
from finestep_fast.sql import Engine, Match, Status

DROPS_DISTINCT = "fails only because test_suite drops DISTINCT"
MOST_TOLD = 5


def with_reasons(
    questions: Sequence[Question], matches: Sequence[Match], engine: Engine
) -> list[Match]:
    """Return verdicts under `test_suite` that tell gold queries which run as they are written.

    Args:
        questions: [n] what was asked.
        matches: [n] verdicts under `test_suite`, where it drops the word DISTINCT.
        engine: Runs the gold queries that failed, with the word.
    """
    failed = [i for i, match in enumerate(matches) if match.status is Status.GOLD_ERROR]
    golds = [(i, gold) for i in failed for gold in questions[i].golds]
    found = engine.match(
        [(str(questions[i].database), gold, gold) for i, gold in golds],
        semantics="test_suite",
        keep_distinct=True,
    )
    runs = {i for (i, _), match in zip(golds, found, strict=True) if match.equal}
    return [
        replace(match, message=f"{match.message}; {DROPS_DISTINCT}") if i in runs else match
        for i, match in enumerate(matches)
    ]


def reason_of(message: str) -> str:
    """Return the reason in the message about a failed gold query."""
    if message.endswith(DROPS_DISTINCT):
        return DROPS_DISTINCT
    return message.removeprefix("gold query: ")


def reasons(messages: Sequence[str]) -> dict[str, int]:
    """Return how often each reason stands in messages about failed gold queries, most often first.

    Args:
        messages: One for each question whose gold query failed.
    """
    return dict(Counter(map(reason_of, messages)).most_common())


def told(failures: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return sentences on the reasons, by semantics; the same reasons once."""
    said: dict[str, list[str]] = {}
    for semantics, counts in failures.items():
        if counts:
            listed = [f"{reason} ({count})" for reason, count in list(counts.items())[:MOST_TOLD]]
            more = len(counts) - MOST_TOLD
            listed += [f"and {more} more reasons"] if more > 0 else []
            said.setdefault("; ".join(listed), []).append(semantics)
    return [
        f"why gold queries failed under {', '.join(names)}: {reason}"
        for reason, names in said.items()
    ]
