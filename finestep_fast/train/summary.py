"""What a set of rollouts looks like in numbers: the one place where they are defined."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from finestep_fast.env.scoring import RolloutScore
from finestep_fast.train.rollout.transcript import Transcript


@dataclass
class Tally:
    """Counts over rollouts; sums of tallies are tallies, so processes can add theirs up.

    Attributes:
        rollouts: that count, infrastructure failures left out.
        failed: left out because something outside the policy failed.
        outcome: sum of outcomes.
        process: sum over rollouts of the mean process reward of their steps.
        calls: tool calls, the final submit included.
        silent: rollouts that looked at nothing before they answered.
        steps: assistant turns.
        malformed: of these, not exactly one well-formed call.
        redundant: of these, a repeat of an earlier call, as `novel` tells.
        policy_tokens: written by the policy.
        tokens: of whole rollouts.
    """

    rollouts: float = 0.0
    failed: float = 0.0
    outcome: float = 0.0
    process: float = 0.0
    calls: float = 0.0
    silent: float = 0.0
    steps: float = 0.0
    malformed: float = 0.0
    redundant: float = 0.0
    policy_tokens: float = 0.0
    tokens: float = 0.0

    def add(self, transcript: Transcript, score: RolloutScore) -> None:
        """Count one rollout."""
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
        self.steps += len(score.validators)
        self.malformed += malformed
        self.redundant += sum(
            values["format"] == 1 and values["novel"] < 1 for values in score.validators
        )
        self.policy_tokens += transcript.num_policy_tokens
        self.tokens += len(transcript.token_ids)

    def values(self) -> list[float]:
        """The counts as numbers, to be added over processes."""
        return [float(value) for value in asdict(self).values()]

    @classmethod
    def of(cls, values: Sequence[float]) -> Tally:
        """The tally that `values` were taken from."""
        return cls(*values)

    def rates(self) -> dict[str, float | None]:
        """Per rollout, per call and per step; None for a rate over nothing."""

        def rate(total: float, count: float) -> float | None:
            return total / count if count else None

        return {
            "ex": rate(self.outcome, self.rollouts),
            "process_reward": rate(self.process, self.rollouts),
            "calls": rate(self.calls, self.rollouts),
            "silent_rate": rate(self.silent, self.rollouts),
            "redundant_rate": rate(self.redundant, self.calls),
            "malformed_rate": rate(self.malformed, self.steps),
            "policy_tokens": rate(self.policy_tokens, self.rollouts),
            "tokens": rate(self.tokens, self.rollouts),
            "rollouts": float(self.rollouts),
            "failed": float(self.failed),
        }


def tally(transcripts: Sequence[Transcript], scores: Sequence[RolloutScore]) -> Tally:
    """Count rollouts."""
    total = Tally()
    for transcript, score in zip(transcripts, scores, strict=True):
        total.add(transcript, score)
    return total


def failures(scores: Sequence[RolloutScore], most: int = 3) -> str:
    """The most frequent reasons why rollouts do not count, each with its number."""
    reasons = Counter(f"{score.status}: {score.message}" for score in scores if not score.counted)
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(most))


def divergence_alarm(losses: Sequence[float | None]) -> str | None:
    """Say so when the losses of a warm start have risen from its first tenth to its last.

    Args:
        losses: one per step, in order; None for a step that was skipped.

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


def farming_alarm(records: Sequence[Mapping[str, float | None]], window: int = 10) -> str | None:
    """Say so when calls per question have risen by a fifth over two windows while EX has not.

    Args:
        records: one line of metrics per update, in order.
        window: updates per window.

    Returns:
        A warning, once per window at most, or None.
    """
    if len(records) < 2 * window or len(records) % window:
        return None

    def mean(key: str, part: Sequence[Mapping[str, float | None]]) -> float:
        values = [value for record in part if (value := record[key]) is not None]
        return sum(values) / len(values) if values else math.nan

    before, after = records[-2 * window : -window], records[-window:]
    calls = mean("calls", before), mean("calls", after)
    ex = mean("ex", before), mean("ex", after)
    if not (calls[1] > 1.2 * calls[0] and ex[1] <= ex[0]):  # false too where nothing was counted
        return None
    return (
        f"calls per question rose from {calls[0]:.2f} to {calls[1]:.2f} over {window} updates "
        f"while EX went from {ex[0]:.1%} to {ex[1]:.1%}: process rewards may be farmed"
    )
