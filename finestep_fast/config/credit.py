"""How rewards become advantages, as settings: `CreditConfig`, its presets, its balance.

Holds no mathematics of credit: that is `finestep_fast.reference`. Holds no reward weights of single
validators: those are `finestep_fast.rewards`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Self

from finestep_fast.config.check import check_whole, listing, placed, unknown_name
from finestep_fast.config.load import field_values
from finestep_fast.config.rules import Share, above, at_least, at_most, check_fields
from finestep_fast.errors import InputError, shown

Scope = Literal["pooled", "per_index", "trajectory", "state", "value"]
Std = Literal["sample", "population", "none"]
Channels = Literal["joint", "decoupled"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CreditConfig:
    """What a step is worth: rewards, returns, smoothing, comparison, combination. In that order."""

    process_baseline: Share = 1.0
    """b: the process reward of a step enters as p - b; at 1 a flawless step costs nothing."""
    process_weight: Annotated[float, at_least(0)] = 0.1
    """w_p: weight of the process rewards."""
    outcome_weight: Annotated[float, at_least(0)] = 1.0
    """w_o: weight of the outcome, paid at the last step."""
    process_discount: Share = 0.9
    """gamma_p: what a process reward loses per step on its way back."""
    outcome_discount: Share = 0.97
    """gamma_o: what the outcome loses per step on its way back; below 1, shorter is better."""
    smoothing: Annotated[float, above(0), at_most(1)] = 0.7
    """alpha of the causal moving average over a rollout's returns; 1 is off, bit for bit."""
    scope: Scope = "pooled"
    """What a step is held against. Inside its group: where all rollouts stood at its position,
    the steps at its position, whole rollouts, or what others got from the same `step_state`. Or
    the estimate `step_value`, whose rises and falls are the credit."""
    state_shrinkage: Annotated[float, at_least(0)] = 2.0
    """k_0 of scope `state`: how many visitors of the state the rest of the group counts for."""
    gae_lambda: Share = 0.5
    """lambda of scope `value`: what a rise of the value counts for the step before; 1 trusts only
    the outcome, 0 only the value."""
    channels: Channels = "joint"
    """Compare the mixed return, or the outcome and the process return apart."""
    std: Std = "sample"
    """Divide by the sample (ddof 1) or population (ddof 0) standard deviation, or by nothing."""
    std_floor: Annotated[float, at_least(0)] = 0.3
    """The standard deviation counts as at least this many outcome weights."""
    epsilon: Annotated[float, at_least(0)] = 1e-6
    """Added to the standard deviation."""
    leave_one_out: bool = False
    """Subtract the mean of the other members, not of all."""
    step_weight: Annotated[float, at_least(0)] = 1.0
    """lambda_step: weight of the advantage over `scope`."""
    rollout_weight: Annotated[float, at_least(0)] = 0.0
    """lambda_rollout: weight of the advantage that scope `trajectory` would give."""
    advantage_clip: Annotated[float, above(0)] | None = 5.0
    """Advantages are cut to plus and minus this; None leaves them."""
    allow_reward_imbalance: bool = False
    """Accept weights with which a wrong but tidy rollout can beat a right one."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A field has the wrong type or lies outside its range.
        """
        check_fields(self)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return the settings of a named method, with changes.

        Args:
            name: A key of `PRESETS`.
            **changes: Fields to set otherwise.

        Raises:
            InputError: The name or a field is unknown, or a value is out of range.
        """
        _check_preset("credit", name)
        known = [field.name for field in fields(cls)]
        for key in changes:
            if key not in known:
                raise InputError(unknown_name("credit", "key", key, known))
        return replace(cls(**PRESETS[name]), **changes)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, where: str) -> Self:
        """Build from a file's section: an optional `preset` (else `finestep`) plus changes."""
        if not isinstance(mapping, Mapping):
            raise InputError(placed(where, f"is {shown(mapping)}; it must be a mapping"))
        name = mapping.get("preset", "finestep")
        _check_preset(where, name)
        return replace(
            cls(**PRESETS[name]), **field_values(cls, mapping, where=where, extra=("preset",))
        )


_MATCH_GRPO: dict[str, Any] = {
    "process_baseline": 0.0,
    "process_discount": 1.0,
    "outcome_discount": 1.0,
    "smoothing": 1.0,
    "scope": "trajectory",
    "std_floor": 0.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "finestep": {},
    "finestep_index": {"scope": "per_index"},
    "finestep_decoupled": {"process_weight": 0.3, "channels": "decoupled"},
    "finestep_state": {
        "smoothing": 1.0,
        "scope": "state",
        "step_weight": 0.5,
        "rollout_weight": 0.5,
    },
    "finestep_value": {
        "process_discount": 0.0,
        "smoothing": 1.0,
        "scope": "value",
        "std": "none",
        "rollout_weight": 0.3,
    },
    "grpo": {**_MATCH_GRPO, "process_weight": 0.0},
    "grpo_process": {**_MATCH_GRPO, "process_weight": 0.1},
    "matchtir": {
        "process_baseline": 0.0,
        "process_weight": 0.1,
        "process_discount": 0.9,
        "outcome_discount": 0.9,
        "smoothing": 1.0,
        "scope": "per_index",
        "std_floor": 0.0,
        "step_weight": 0.5,
        "rollout_weight": 0.5,
    },
}
"""Name -> the fields in which a method differs from `CreditConfig()`."""


def as_credit(credit: object) -> CreditConfig:
    """Return settings that are given as such or by the name of a preset.

    Raises:
        InputError: They are neither.
    """
    if isinstance(credit, CreditConfig):
        return credit
    if isinstance(credit, str):
        _check_preset("credit", credit)
        return _CONFIGS[credit]
    raise InputError(
        f"credit is {shown(credit)}; it must be a CreditConfig, or a preset: {listing(PRESETS)}"
    )


_CONFIGS = {name: CreditConfig(**changes) for name, changes in PRESETS.items()}


def _check_preset(where: str, name: object) -> None:
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(unknown_name(where, "preset", name, PRESETS))


def check_reward_balance(credit: CreditConfig, max_steps: int) -> None:
    """Refuse weights with which being wrong can pay; warn where stalling can.

    1. Right late beats wrong: with at most n steps neither the worst process sum outweighs a right
       answer at the last step, nor does the best one replace it:
       `w_p max(b, 1-b) (1 - gamma_p^n) / (1 - gamma_p) < w_o gamma_o^(n-1)`; `w_p <= w_o / 2` for
       decoupled channels, whose z-scores have unit size.
    2. No farming: with `b < 1` an extra sound step earns `w_p (1-b)`; logged as a warning.

    Source: ours, from measurements.

    Args:
        credit: The settings.
        max_steps: n, the most steps a rollout may have.

    Raises:
        InputError: Rule 1 is broken and `allow_reward_imbalance` is off.
    """
    check_whole("max_steps", max_steps, low=1)
    if not credit.allow_reward_imbalance:
        if credit.channels == "decoupled":
            _refuse_heavy_process_channel(credit)
        else:
            _refuse_heavy_process_sum(credit, max_steps)
    if credit.process_baseline < 1 and credit.process_weight > 0:
        _LOG.warning(_stalling_warning(credit))


def _refuse_heavy_process_channel(credit: CreditConfig) -> None:
    if credit.process_weight > credit.outcome_weight / 2:
        raise InputError(
            f"process_weight is {credit.process_weight:g}; for decoupled channels it must be at "
            f"most outcome_weight / 2 = {credit.outcome_weight / 2:g} "
            "(or set allow_reward_imbalance: true)"
        )


def _refuse_heavy_process_sum(credit: CreditConfig, max_steps: int) -> None:
    baseline, discount = credit.process_baseline, credit.process_discount
    steps = max_steps if discount == 1 else (1 - discount**max_steps) / (1 - discount)
    process = credit.process_weight * max(baseline, 1 - baseline) * steps
    outcome = credit.outcome_weight * credit.outcome_discount ** (max_steps - 1)
    if process >= outcome:
        raise InputError(
            f"process_weight is {credit.process_weight:g}: over {max_steps} steps process rewards "
            f"can add up to {process:.4g}, which must stay below {outcome:.4g}, what a right "
            "answer at the last step is worth (lower process_weight or max_steps, raise "
            "outcome_weight or outcome_discount, or set allow_reward_imbalance: true)"
        )


def _stalling_warning(credit: CreditConfig) -> str:
    gain = credit.process_weight * (1 - credit.process_baseline)
    loss = credit.outcome_weight * (1 - credit.outcome_discount)
    start = (
        f"process_baseline is {credit.process_baseline:g}, below 1: every extra sound step earns "
        f"{gain:.4g}"
    )
    if loss == 0:
        return f"{start} and delays the outcome at no price: stalling always pays"
    return (
        f"{start} and its price is {loss:.4g} times the chance of a right answer: stalling pays "
        f"while that chance is below {min(gain / loss, 1):.4g}"
    )
