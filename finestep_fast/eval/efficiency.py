"""R-VES, BIRD mini-dev's efficiency score: how fast a right query is beside its gold query.

Not reproducible to the digit: it is made of wall-clock times, and queries of microseconds time
noise. Two things differ from the published script. Where all ratios are the same its filter keeps
none and the division by zero scores 0; here all are kept. And it opens a connection for every
timed run, which small queries measure instead of themselves; here connections stay open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, pstdev

from finestep_fast.sql import Engine, Status

# (at least this ratio of the gold query's time to the predicted query's time, reward)
STEPS = ((2.0, 1.25), (1.0, 1.0), (0.5, 0.75), (0.25, 0.5), (0.0, 0.25))
SIGMAS = 3


@dataclass(frozen=True, slots=True)
class Efficiency:
    """How fast a right query is."""

    predicted_ms: float
    """Median time of the predicted query."""
    gold_ms: float
    """Median time of the gold query."""
    time_ratio: float
    """Mean ratio gold to predicted over the repeats that the filter kept."""
    reward: float
    """The step of R-VES that the ratio reaches."""

    @property
    def score(self) -> float:
        """Return what the question adds to the mean R-VES: the square root of the reward."""
        return math.sqrt(self.reward)


def kept_ratios(ratios: Sequence[float]) -> list[float]:
    """Return the ratios within three standard deviations of their mean; all if they are equal."""
    mean, deviation = fmean(ratios), pstdev(ratios)
    if deviation == 0:
        return list(ratios)
    return [ratio for ratio in ratios if abs(ratio - mean) < SIGMAS * deviation]


def reward_of(time_ratio: float) -> float:
    """Return the reward that a ratio of times earns, 0.25 to 1.25."""
    return next(reward for at_least, reward in STEPS if time_ratio >= at_least)


def efficiency_of(predicted_ms: Sequence[float], gold_ms: Sequence[float]) -> Efficiency:
    """Return what R-VES is for times taken in pairs.

    Source: BIRD mini-dev's `evaluation_ves.py`.

    Args:
        predicted_ms: [n] times of the predicted query, positive.
        gold_ms: [n] times of the gold query, each taken right after its partner.
    """
    ratios = [gold / predicted for predicted, gold in zip(predicted_ms, gold_ms, strict=True)]
    time_ratio = fmean(kept_ratios(ratios))
    return Efficiency(
        median(predicted_ms), median(gold_ms), time_ratio=time_ratio, reward=reward_of(time_ratio)
    )


def timed(
    database: Path, predicted_sql: str, gold_sql: str, engine: Engine, repeats: int
) -> Efficiency | None:
    """Time a right query and its gold in turns, alone on the engine; none if a run fails."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for sql, taken in zip((predicted_sql, gold_sql), times, strict=True):
            (result,) = engine.run([(database, sql)])
            if result.status is not Status.OK:
                return None
            taken.append(max(result.elapsed_ms, 1e-6))
    return efficiency_of(*times)
