"""Warnings that a run goes wrong, from the metrics it logs. They change nothing in the run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from finestep_fast.train import metrics


def divergence_alarm(losses: Sequence[float | None]) -> str | None:
    """Warn when the losses of a warm start have risen from its first tenth to its last.

    Args:
        losses: One per step, in order; None for a step that was skipped.

    Returns:
        A warning, or None; a rise of less than a fifth is no rise.
    """
    known = [loss for loss in losses if loss is not None]
    part = max(len(known) // 10, 1)
    if len(known) < 2 * part:
        return None
    first, last = sum(known[:part]) / part, sum(known[-part:]) / part
    if last <= 1.2 * first:
        return None
    return (
        f"the warm start has diverged: its loss rose from {first:.3g} to {last:.3g}; "
        "a lower warm_start.optim.learning_rate may help"
    )


class FarmingWatch:
    """Watches whether calls per question rise by a fifth over two windows while EX does not.

    Args:
        records: Metrics of the updates that are done, one record per update, in order.
        window: Updates per window.
    """

    def __init__(
        self, records: Iterable[Mapping[str, float | None]] = (), window: int = 10
    ) -> None:
        self.window = window
        self._num_updates = 0
        self._recent: deque[tuple[float | None, float | None]] = deque(maxlen=2 * window)
        for record in records:
            self._note(record)

    def add(self, record: Mapping[str, float | None]) -> str | None:
        """Note the metrics of one more update; return a warning, at most once per window."""
        self._note(record)
        window = self.window
        if len(self._recent) < 2 * window or self._num_updates % window:
            return None
        calls_before, ex_before = _means(list(self._recent)[:window])
        calls, ex = _means(list(self._recent)[window:])
        if not (calls > 1.2 * calls_before and ex <= ex_before):  # false too where all is NaN
            return None
        return (
            f"calls per question rose from {calls_before:.2f} to {calls:.2f} over {window} updates "
            f"while EX went from {ex_before:.1%} to {ex:.1%}: process rewards may be farmed"
        )

    def _note(self, record: Mapping[str, float | None]) -> None:
        self._num_updates += 1
        self._recent.append((record[metrics.CALLS], record[metrics.EX]))


class UnsubmittedWatch:
    """Watches whether more rollouts end without an answer: what costs of flawed steps can teach.

    It warns where the share of a window is 10 points above the lowest window before it.

    Args:
        records: Metrics of the updates that are done, one record per update, in order.
        window: Updates per window.
    """

    def __init__(
        self, records: Iterable[Mapping[str, float | None]] = (), window: int = 10
    ) -> None:
        self.window = window
        self._lowest = math.inf
        self._part: list[float] = []
        self._num_updates = 0
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, float | None]) -> str | None:
        """Note the metrics of one more update; return a warning, at most once per window."""
        self._num_updates += 1
        share = record[metrics.UNSUBMITTED_RATE]
        if share is not None:
            self._part.append(share)
        if self._num_updates % self.window or not self._part:
            return None
        now, self._part = sum(self._part) / len(self._part), []
        lowest, self._lowest = self._lowest, min(self._lowest, now)
        if now < lowest + 0.1 or lowest == math.inf:
            return None
        return (
            f"rollouts that end without a submit rose from {lowest:.1%} to {now:.1%}: the cost of "
            "flawed steps may teach never to answer; a lower credit.process_weight may help"
        )


def _means(part: Sequence[tuple[float | None, float | None]]) -> list[float]:
    """Return the mean of calls and of EX, NaN where nothing was counted."""
    known = [[value for value in values if value is not None] for values in zip(*part, strict=True)]
    return [sum(values) / len(values) if values else math.nan for values in known]
