"""What a step earns: four validators, each a small pure function over plain facts of the step.

Not the outcome: that is an execution match of the final query and is worked out where queries run.
A validator looks at one step and at the steps before it in the same rollout, never at the outcome
or at other rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from finestep_fast.config.semantics import Semantics
from finestep_fast.errors import InputError

VALIDATORS = ("format", "executes", "novel", "grounded")


@dataclass(frozen=True)
class RewardConfig:
    """How the outcome is decided and how the validators of a step are weighed."""

    semantics: Semantics = "bird"
    """When the results of the final and of the gold query are equal."""
    match_timeout_s: float = 30.0
    """Deadline of a final query and of a gold query."""
    format_weight: float = 1.0
    """Weight of: exactly one well-formed call, or one final answer."""
    executes_weight: float = 1.0
    """Weight of: the call ran without error or timeout."""
    novel_weight: float = 1.0
    """Weight of: the call repeats no earlier one of the rollout."""
    novel_by_result: bool = False
    """Whether a different call with the same rows as an earlier one is a repeat too."""
    grounded_weight: float = 1.0
    """Weight of: the share of the named tables and columns that exist."""

    def __post_init__(self) -> None:
        """Raises InputError when a value is out of its range."""
        if self.semantics not in get_args(Semantics):
            known = ", ".join(get_args(Semantics))
            raise InputError(f"semantics is {self.semantics!r}; expected one of {known}")
        if not 0 < self.match_timeout_s < float("inf"):
            raise InputError(
                f"match_timeout_s is {self.match_timeout_s}; expected a finite number > 0"
            )
        if not isinstance(self.novel_by_result, bool):
            raise InputError(f"novel_by_result is {self.novel_by_result!r}; expected true or false")
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"{name}_weight is {weight:g}; expected a finite number >= 0")
        if not any(self.weights.values()):
            raise InputError("all validator weights are 0; expected one above 0")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each validator by its name."""
        return {name: float(getattr(self, f"{name}_weight")) for name in VALIDATORS}


@dataclass(frozen=True)
class StepFacts:
    """What the validators need to know of one step.

    Attributes:
        well_formed: Whether the step is exactly one usable call, or one final answer that is not
            empty.
        executed: Whether the call ran without error and in time.
        call_key: The call in a normal form: equal for calls that ask for the same. Empty for a
            malformed step.
        result_digest: Stands for the rows that an executed query returned; empty if it returned
            none.
        named: The tables and columns the call names.
        existing: Those of them that exist.
    """

    well_formed: bool
    executed: bool = False
    call_key: str = ""
    result_digest: str = ""
    named: tuple[str, ...] = ()
    existing: tuple[str, ...] = ()


def well_formed(step: StepFacts) -> float:
    """1 for exactly one well-formed call or one final answer, else 0 (`format`).

    Source: ours, one of the process rewards that the paper's abstract asks for.
    """
    return float(step.well_formed)


def executes(step: StepFacts) -> float:
    """1 if the call ran without error or timeout, else 0.

    Source: ours, one of the process rewards that the paper's abstract asks for.
    """
    return float(step.executed)


def novel(step: StepFacts, earlier: Sequence[StepFacts], *, by_result: bool = False) -> float:
    """1 if the call repeats none of the earlier steps, else 0.

    A malformed step asks for nothing, so there is nothing new in it: 0. With `by_result` a
    different call is a repeat too if it returned the same rows, but never if it returned none: that
    two different filters find nothing are two findings.

    Source: ours, one of the process rewards that the paper's abstract asks for.
    """
    if not step.call_key:
        return 0.0
    repeats = any(
        step.call_key == before.call_key
        or (by_result and step.result_digest != "" and step.result_digest == before.result_digest)
        for before in earlier
    )
    return float(not repeats)


def grounded(step: StepFacts) -> float:
    """The share of the named tables and columns that exist.

    A call that names nothing is grounded: 1. A malformed step is not: 0.

    Source: ours, one of the process rewards that the paper's abstract asks for.
    """
    if not step.call_key:
        return 0.0
    return len(step.existing) / len(step.named) if step.named else 1.0


def validators(
    step: StepFacts, earlier: Sequence[StepFacts], *, novel_by_result: bool = False
) -> dict[str, float]:
    """Every validator of one step by its name.

    Args:
        step: The step.
        earlier: The steps before it in the same rollout.
        novel_by_result: See `RewardConfig`.

    Returns:
        Values in [0, 1].
    """
    return {
        "format": well_formed(step),
        "executes": executes(step),
        "novel": novel(step, earlier, by_result=novel_by_result),
        "grounded": grounded(step),
    }


def process_reward(values: Mapping[str, float], config: RewardConfig) -> float:
    """The weighted mean of a step's validators, in [0, 1]; the mean and never the sum."""
    weights = config.weights
    return sum(weights[name] * values[name] for name in VALIDATORS) / sum(weights.values())
