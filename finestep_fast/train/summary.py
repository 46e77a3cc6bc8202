"""What a set of rollouts looks like in numbers: the one place where they are defined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from finestep_fast.env.scoring import RolloutScore
from finestep_fast.train import metrics
from finestep_fast.train.rollout.record import Rollout


@dataclass
class Tally:
    """Counts over rollouts; sums of tallies are tallies, so processes can add theirs up."""

    rollouts: float = 0.0
    """That count, infrastructure failures left out."""
    failed: float = 0.0
    """Left out because something outside the policy failed."""
    outcome: float = 0.0
    """Sum of outcomes."""
    process: float = 0.0
    """Sum over rollouts of the mean process reward of their steps."""
    calls: float = 0.0
    """Tool calls, the final submit included."""
    silent: float = 0.0
    """Rollouts that looked at nothing before they answered."""
    unsubmitted: float = 0.0
    """Rollouts that ended without a final answer."""
    steps: float = 0.0
    """Assistant turns."""
    malformed: float = 0.0
    """Of these, not exactly one well-formed call."""
    redundant: float = 0.0
    """Of these, a repeat of an earlier call, as the validator `novel` has it."""
    policy_tokens: float = 0.0
    """Written by the policy."""
    tokens: float = 0.0
    """Of whole rollouts."""

    def add(self, rollout: Rollout) -> None:
        """Count one rollout."""
        transcript, score = rollout.transcript, rollout.score
        if not score.counted:
            self.failed += 1
            return
        malformed = sum(values["format"] < 1 for values in score.validators)
        calls = len(score.validators) - malformed
        self.rollouts += 1
        self.outcome += score.outcome
        self.process += sum(score.process) / max(len(score.process), 1)
        self.calls += calls
        self.silent += calls <= 1
        self.unsubmitted += transcript.episode.final_sql is None
        self.steps += len(score.validators)
        self.malformed += malformed
        self.redundant += sum(
            values["format"] == 1 and values["novel"] < 1 for values in score.validators
        )
        self.policy_tokens += transcript.num_policy_tokens
        self.tokens += len(transcript.token_ids)

    def values(self) -> list[float]:
        """Return the counts as numbers, to be added over processes."""
        return [float(value) for value in asdict(self).values()]

    @classmethod
    def of(cls, values: Sequence[float]) -> Tally:
        """The tally that `values` were taken from."""
        return cls(*values)

    def rates(self) -> dict[str, float | None]:
        """Return rates per rollout, per call and per step; None for a rate over nothing."""

        def rate(total: float, count: float) -> float | None:
            return total / count if count else None

        return {
            metrics.EX: rate(self.outcome, self.rollouts),
            metrics.PROCESS_REWARD: rate(self.process, self.rollouts),
            metrics.CALLS: rate(self.calls, self.rollouts),
            metrics.SILENT_RATE: rate(self.silent, self.rollouts),
            metrics.UNSUBMITTED_RATE: rate(self.unsubmitted, self.rollouts),
            metrics.REDUNDANT_RATE: rate(self.redundant, self.calls),
            metrics.MALFORMED_RATE: rate(self.malformed, self.steps),
            metrics.POLICY_TOKENS: rate(self.policy_tokens, self.rollouts),
            metrics.TOKENS: rate(self.tokens, self.rollouts),
            metrics.ROLLOUTS: float(self.rollouts),
            metrics.FAILED: float(self.failed),
        }


def tally(rollouts: Iterable[Rollout]) -> Tally:
    """Return the counts of rollouts."""
    total = Tally()
    for rollout in rollouts:
        total.add(rollout)
    return total


def state_share(
    rollouts: Sequence[Rollout], *, gather: Callable[[list[Any]], list[Any]] = list
) -> list[float]:
    """Return how many steps have something to be compared with under the scope `state`.

    Args:
        rollouts: Those of this process; only those that count say something.
        gather: Return the items of all processes.

    Returns:
        For each position in a rollout: the share of the steps there that were taken in a state in
        which another rollout of the group was too, at whatever position.
    """
    visitors: dict[tuple[int, int], int] = {}
    counted = [rollout for rollout in rollouts if rollout.score.counted]
    for rollout in counted:
        for state in set(rollout.score.states):
            visitors[rollout.group, state] = visitors.get((rollout.group, state), 0) + 1
    shared: list[list[bool]] = gather(
        [
            [visitors[rollout.group, state] > 1 for state in rollout.score.states]
            for rollout in counted
        ]
    )
    by_place = ([step for step in steps if step is not None] for steps in zip_longest(*shared))
    return [sum(steps) / len(steps) for steps in by_place]


def failures(scores: Sequence[RolloutScore], most: int = 3) -> str:
    """Return the most frequent reasons why rollouts do not count, each with its number."""
    reasons = Counter(f"{score.status}: {score.message}" for score in scores if not score.counted)
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(most))
