"""What a step earns: four validators, each a small pure function over plain facts of the step.

Not the outcome: that is an execution match of the final query and is worked out where queries run.
A validator looks at one step and at the steps before it in the same rollout, never at the outcome
or at other rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, NamedTuple

from finestep_fast.config.rules import above, at_least, check_fields
from finestep_fast.config.semantics import Semantics
from finestep_fast.errors import InputError

_Weight = Annotated[float, at_least(0)]


@dataclass(frozen=True)
class RewardConfig:
    """How the outcome is decided and how the validators of a step are weighed."""

    semantics: Semantics = "bird"
    """When the results of the final and of the gold query are equal."""
    match_timeout_s: Annotated[float, above(0)] = 30.0
    """Deadline of a final query and of a gold query."""
    format_weight: _Weight = 1.0
    """Weight of: exactly one well-formed call, or one final answer."""
    executes_weight: _Weight = 1.0
    """Weight of: the call ran without error or timeout."""
    novel_weight: _Weight = 1.0
    """Weight of: the call repeats no earlier one of the rollout."""
    novel_by_result: bool = False
    """Whether a different call with the same rows as an earlier one is a repeat too."""
    grounded_weight: _Weight = 1.0
    """Weight of: the share of the named tables and columns that exist."""

    def __post_init__(self) -> None:
        """Check every field, and that some validator counts.

        Raises:
            InputError: A field has the wrong type or lies outside its range, or all weights are 0.
        """
        check_fields(self)
        if not any(self.weights.values()):
            raise InputError("all validator weights are 0; expected one above 0")

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each validator by its name."""
        return {name: float(getattr(self, f"{name}_weight")) for name in VALIDATORS}


VALIDATORS = tuple(
    field.name.removesuffix("_weight")
    for field in fields(RewardConfig)
    if field.name.endswith("_weight")
)
"""The names of the validators, in the order of their weights in `RewardConfig`."""


class CallKey(NamedTuple):
    """A call in a normal form; calls with equal keys ask for the same."""

    tool: str
    """The tool's name."""
    request: str
    """The arguments, or the query, without what makes no difference."""
    query_executed: bool | None = None
    """Whether the query ran; None for calls without one. A query that SQLite refuses may have the
    normal form of one that runs: correcting it is no repeat."""


@dataclass(frozen=True)
class StepFacts:
    """What the validators need to know of one step."""

    well_formed: bool
    """Whether the step is exactly one usable call, or one final answer that is not empty."""
    executed: bool = False
    """Whether the call ran without error and in time."""
    call_key: CallKey | None = None
    """What the call asks for; None for a malformed step."""
    result_digest: str = ""
    """Stands for the rows that an executed query returned; empty if it returned none."""
    named: tuple[str, ...] = ()
    """The tables and columns the call names."""
    existing: tuple[str, ...] = ()
    """Those of them that exist."""


def well_formed(step: StepFacts) -> float:
    """Return 1 for exactly one well-formed call or one final answer, else 0 (`format`).

    Source: ours, one of the process rewards that the paper's abstract asks for.
    """
    return float(step.well_formed)


def executes(step: StepFacts) -> float:
    """Return 1 if the call ran without error or timeout, else 0.

    Source: ours, one of the process rewards that the paper's abstract asks for.
    """
    return float(step.executed)


def novel(step: StepFacts, earlier: Sequence[StepFacts], *, by_result: bool = False) -> float:
    """Return 1 if the call repeats none of the earlier steps, else 0.

    A malformed step asks for nothing, so there is nothing new in it: 0. With `by_result` a
    different call is a repeat too if it returned the same rows, but never if it returned none: two
    different filters that find nothing are two findings.

    Source: ours, one of the process rewards that the paper's abstract asks for.
    """
    if step.call_key is None:
        return 0.0
    repeats = any(
        step.call_key == before.call_key
        or (by_result and step.result_digest != "" and step.result_digest == before.result_digest)
        for before in earlier
    )
    return float(not repeats)


def grounded(step: StepFacts) -> float:
    """Return the share of the named tables and columns that exist.

    A call that names nothing is grounded: 1. A malformed step is not: 0.

    Source: ours, one of the process rewards that the paper's abstract asks for.
    """
    if step.call_key is None:
        return 0.0
    return len(step.existing) / len(step.named) if step.named else 1.0


def validators(
    step: StepFacts, earlier: Sequence[StepFacts], *, novel_by_result: bool = False
) -> dict[str, float]:
    """Return every validator of one step by its name.

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
    """Return the weighted mean of a step's validators, in [0, 1]; the mean and never the sum."""
    weights = config.weights
    return sum(weights[name] * values[name] for name in VALIDATORS) / sum(weights.values())
