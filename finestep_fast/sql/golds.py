"""Several gold queries of one question, any of which is accepted: their verdicts made one.

Not a comparison: the engine compares a prediction with one gold query at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from finestep_fast.sql.comparison import listed
from finestep_fast.sql.outcome import Match, Status

Gold = str | list[str] | tuple[str, ...]
"""The gold query of a question, or all that are accepted."""


def one_gold_each(triples: Iterable[Any]) -> tuple[Any, list[int] | None]:
    """Return triples with one gold query each, and from how many each given one was made.

    Args:
        triples: Database, predicted query, and a gold query or a list of them. What is no triple,
            and an empty list of golds, is left to who checks triples.

    Returns:
        The triples and [n] counts; without counts if every triple has one gold query already.
    """
    given = listed(triples)
    if given is None:
        return triples, None
    golds = [several_golds(entry) for entry in given]
    if not any(golds):
        return given, None
    single: list[Any] = []
    for entry, accepted in zip(given, golds, strict=True):
        single += [(*entry[:2], gold) for gold in accepted] if accepted else [entry]
    return single, [max(1, len(accepted)) for accepted in golds]


def several_golds(entry: Any) -> Sequence[Any]:
    """Return the gold queries of an entry of a batch if they are a list; else nothing."""
    if isinstance(entry, tuple | list) and len(entry) == 3 and isinstance(entry[2], list | tuple):
        return entry[2]
    return ()


def folded(matches: Sequence[Match], counts: Sequence[int]) -> list[Match]:
    """Return one verdict for each run of so many verdicts."""
    verdicts, start = [], 0
    for count in counts:
        verdicts.append(best_of(matches[start : start + count]))
        start += count
    return verdicts


def best_of(matches: Sequence[Match]) -> Match:
    """Return the verdict on a prediction of which each gold query says something.

    Right if it equals any; else undecided if one comparison is; else the verdict with the highest
    score of those whose queries ran, or how the prediction failed beside a gold query that ran. The
    failure of a gold query only if all failed. Of equally good ones the first counts.

    Args:
        matches: [n] verdict beside each gold query, at least one.
    """
    if len(matches) == 1:
        return matches[0]
    index = max(range(len(matches)), key=lambda i: rank(matches[i]))
    num_failed = sum(match.status.is_infrastructure for match in matches)
    return replace(matches[index], gold_index=index, golds_failed=num_failed)


def rank(match: Match) -> tuple[int, float]:
    """Return what a verdict is worth beside those on other golds; the highest one counts."""
    if match.equal:
        return 4, match.score
    if match.status is Status.UNDECIDED:
        return 3, 0.0
    if match.status is Status.OK:
        return 2, match.score
    return int(not match.status.is_infrastructure), 0.0
