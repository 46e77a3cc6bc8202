"""Every implementation against the reference, forward and backward, by the tolerance rule.

The truth is the reference in float64 on the very numbers the candidate is given. Settings come from
covering designs (`support.covering`): every pair of choices occurs, with each shape, too. Observed
tokens hold NaN in every case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import pytest
import torch
from torch import Tensor

from finestep_fast import CreditConfig, LossConfig, StepBatch
from finestep_fast.arguments import COUNT_OF_AGGREGATION, LOG_RATIO_LIMIT
from finestep_fast.config.credit import PRESETS, Channels, Scope, Std
from finestep_fast.config.loss import KL, Aggregation, Ratio
from finestep_fast.reference import LossOutput
from support.batches import (
    SHAPES,
    Rollout,
    groups,
    packed,
    padded,
    placed,
    policy_values,
    rollout_outcome,
    step_reward,
)
from support.covering import covering, pairs
from support.entry_points import policy_loss, step_advantage, step_policy_loss
from support.impls import IMPLS
from support.tolerance import assert_as_exact

CANDIDATES = [impl for impl in IMPLS if impl != "reference"]
NAN = float("nan")
SHAPES_AND_LONG = {
    **SHAPES,
    "more than the 4096 tokens that a thread takes at once": (
        Rollout(0, (4097,), (1,), 1),
        Rollout(0, (300, 1, 255), (0, 0.5, 1), 0),
        Rollout(0, (4000, 96), (0.5, 1), 1, gap=(0, 700)),
    ),
}
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def backwards(rollouts: Sequence[Rollout]) -> StepBatch:
    """Pack with the last rollout first: the steps do not ascend on the token axis."""
    start, spans = 0, []
    for rollout in reversed(rollouts):
        spans.append(rollout.spans(start))
        start += rollout.length
    return StepBatch.from_spans(spans[::-1], groups(rollouts), num_tokens=start)


LAYOUTS = {
    "packed": packed,
    "padded": lambda rollouts: padded(rollouts, extra=3),
    "backwards": backwards,
}

LOSS_FACTORS: dict[str, Sequence[Any]] = {
    "ratio": get_args(Ratio),
    "shape": list(SHAPES_AND_LONG),
    "dtype": FLOATS,
    "other_dtype": ("the same", torch.float32, torch.float64),
    "layout": list(LAYOUTS),
    "surrogate": ("ppo", "ppo, dual clip", "cispo"),
    "aggregation": get_args(Aggregation),
    "kl": (None, *get_args(KL)),
    "token_weight": (False, True),
    "count": ("own", "number", "tensor"),
    "values": ("plausible", "extreme"),
    "advantage_dtype": (torch.float32, torch.float64),
    "scale": (1.0, 0.37),
}
LOSS_ROWS = covering(LOSS_FACTORS)

CREDIT_FACTORS: dict[str, Sequence[Any]] = {
    "shape": list(SHAPES_AND_LONG),
    "dtype": (torch.float32, torch.float64),
    "rewards": ("any", "alike"),
    "process_baseline": (0.0, 1.0),
    "process_weight": (0.0, 0.1, 2.0),
    "process_discount": (0.0, 0.9, 1.0),
    "outcome_discount": (0.0, 0.97, 1.0),
    "smoothing": (0.3, 1.0),
    "scope": get_args(Scope),
    "channels": get_args(Channels),
    "std": get_args(Std),
    "std_floor": (0.0, 0.3),
    "leave_one_out": (False, True),
    "combination": ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0)),
    "advantage_clip": (None, 0.7),
}
CREDIT_ROWS = covering(CREDIT_FACTORS)


def named(row: Mapping[str, Any]) -> str:
    return ",".join(str(value).removeprefix("torch.") for value in row.values())


@pytest.mark.parametrize(
    ("factors", "rows"),
    [(LOSS_FACTORS, LOSS_ROWS), (CREDIT_FACTORS, CREDIT_ROWS)],
    ids=["loss", "credit"],
)
def test_every_pair_of_choices_occurs(
    factors: dict[str, Sequence[Any]], rows: list[dict[str, Any]]
) -> None:
    seen = set()
    for row in rows:
        index = [(name, factors[name].index(choice)) for name, choice in row.items()]
        seen |= {(one, two) for place, one in enumerate(index) for two in index[place + 1 :]}
    assert seen == pairs(factors)
    assert len(rows) < 100


class Evaluated(NamedTuple):
    loss: Tensor
    gradient: Tensor
    metrics: dict[str, Tensor]


def evaluated(out: LossOutput, token_logp: Tensor, scale: float) -> Evaluated:
    (scale * out.loss).backward()
    assert token_logp.grad is not None
    return Evaluated(out.loss.detach(), token_logp.grad, out.metrics)


def assert_parity(candidate: Evaluated, reference: Evaluated, truth: Evaluated) -> None:
    assert_as_exact(candidate.loss, reference.loss, truth.loss)
    assert_as_exact(candidate.gradient, reference.gradient, truth.gradient)
    assert candidate.metrics.keys() == truth.metrics.keys()
    for name, metric in candidate.metrics.items():
        assert_as_exact(metric, reference.metrics[name], truth.metrics[name])


def loss_config(row: Mapping[str, Any]) -> LossConfig:
    return LossConfig(
        kind=row["surrogate"].split(",")[0],
        dual_clip=1.3 if "dual" in row["surrogate"] else None,
        ratio=row["ratio"],
        aggregation=row["aggregation"],
        constant_tokens=7 if row["aggregation"] == "constant" else None,
        kl=row["kl"],
        kl_weight=0.2 if row["kl"] else 0.0,
    )


def token_inputs(batch: StepBatch, row: Mapping[str, Any], loss: LossConfig) -> dict[str, Tensor]:
    """Return the tensors of a row: the policy's logp in `dtype`, the others in `other_dtype`."""
    values = policy_values(len(row["shape"]), batch)
    if row["values"] == "extreme":  # beyond the limit of 20, exactly on policy, worth nothing
        apart = values["token_logp"] - values["token_logp_old"]
        values["token_logp"] = values["token_logp_old"] + 60 * apart
        values["token_logp"][::3] = values["token_logp_old"][::3]
        values["token_logp_ref"][::5] -= 50
        values["step_advantage"][::2] = 0
    dtype = row["dtype"]
    other = dtype if row["other_dtype"] == "the same" else row["other_dtype"]
    advantage = values.pop("step_advantage").to(row["advantage_dtype"])
    if loss.kl is None:
        del values["token_logp_ref"]
    if not row["token_weight"]:
        del values["token_weight"]
    tensors = {
        name: placed(batch, value.to(dtype if name == "token_logp" else other), fill=NAN)
        for name, value in values.items()
    }
    return {**tensors, "step_advantage": advantage}


def counts(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["count"] == "own":
        return {}
    count = 20.5 if row["count"] == "number" else torch.tensor([20], dtype=torch.int32)
    return {COUNT_OF_AGGREGATION[row["aggregation"]]: count}


@pytest.mark.parametrize("row", LOSS_ROWS, ids=named)
@pytest.mark.parametrize("impl", CANDIDATES)
def test_loss_gradient_and_metrics_are_as_exact_as_the_references(
    impl: str, row: dict[str, Any]
) -> None:
    check_loss_row(impl, row)


def check_loss_row(impl: str, row: Mapping[str, Any]) -> None:
    batch = LAYOUTS[row["layout"]](SHAPES_AND_LONG[row["shape"]])
    loss = loss_config(row)
    tensors = token_inputs(batch, row, loss)

    def by(impl: str, tensors: Mapping[str, Tensor]) -> Evaluated:
        token_logp = tensors["token_logp"].clone().requires_grad_()
        rest = {name: value for name, value in tensors.items() if name != "token_logp"}
        out = policy_loss(token_logp, batch=batch, **rest, **counts(row), loss=loss, impl=impl)
        return evaluated(out, token_logp, row["scale"])

    exact = {name: value.double() for name, value in tensors.items()}
    candidate, reference = by(impl, tensors), by("reference", tensors)
    assert_parity(candidate, reference, by("reference", exact))
    outside = torch.ones(batch.num_tokens, dtype=torch.bool)
    outside[batch.policy_token] = False
    assert candidate.gradient[outside].eq(0).all()


def rewards(row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    rollouts = SHAPES_AND_LONG[row["shape"]]
    reward, outcome = step_reward(rollouts), rollout_outcome(rollouts)
    if row["rewards"] == "any":
        reward = torch.rand(reward.shape, generator=torch.Generator().manual_seed(3))
    else:
        reward, outcome = torch.full_like(reward, 0.3), torch.ones_like(outcome)
    return reward.to(row["dtype"]), outcome.to(row["dtype"])


def credit_config(row: Mapping[str, Any]) -> CreditConfig:
    step_weight, rollout_weight = row["combination"]
    other = {"shape", "dtype", "rewards", "combination"}
    fields = {name: value for name, value in row.items() if name not in other}
    return CreditConfig(**fields, step_weight=step_weight, rollout_weight=rollout_weight)


@pytest.mark.parametrize("row", CREDIT_ROWS, ids=named)
@pytest.mark.parametrize("impl", CANDIDATES)
def test_advantages_are_as_exact_as_the_references(impl: str, row: dict[str, Any]) -> None:
    check_credit_row(impl, row)


def check_credit_row(impl: str, row: Mapping[str, Any]) -> None:
    batch, credit = packed(SHAPES_AND_LONG[row["shape"]]), credit_config(row)
    reward, outcome = rewards(row)

    def by(impl: str, reward: Tensor, outcome: Tensor) -> Tensor:
        return step_advantage(batch, reward, outcome, credit=credit, impl=impl)

    truth = by("reference", reward.double(), outcome.double())
    assert_as_exact(by(impl, reward, outcome), by("reference", reward, outcome), truth)


@pytest.mark.parametrize("ratio", get_args(Ratio))
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("impl", CANDIDATES)
def test_the_loss_straight_from_rewards_is_as_exact_as_the_references(
    impl: str, preset: str, ratio: Ratio
) -> None:
    shape = "odd sizes, groups interleaved"
    batch = packed(SHAPES[shape])
    loss = LossConfig(ratio=ratio, kl="k3", kl_weight=0.1, aggregation="rollout_mean")
    row = {"shape": shape, "dtype": torch.float32, "rewards": "any"}
    reward, outcome = rewards(row)
    values = {name: value.float() for name, value in policy_values(1, batch).items()}
    del values["step_advantage"]
    tensors = {name: placed(batch, value, fill=NAN) for name, value in values.items()}
    tensors |= {"step_reward": reward, "rollout_outcome": outcome}

    def by(impl: str, tensors: Mapping[str, Tensor]) -> Evaluated:
        token_logp = tensors["token_logp"].clone().requires_grad_()
        rest = {name: value for name, value in tensors.items() if name != "token_logp"}
        credit = CreditConfig.preset(preset)
        out = step_policy_loss(token_logp, batch=batch, **rest, credit=credit, loss=loss, impl=impl)
        return evaluated(out, token_logp, 1.0)

    truth = by("reference", {name: value.double() for name, value in tensors.items()})
    assert_parity(by(impl, tensors), by("reference", tensors), truth)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("impl", IMPLS)
def test_log_ratios_are_cut_at_the_one_limit(impl: str, sign: int) -> None:
    batch = StepBatch.from_spans([[(0, 1)]], [0], num_tokens=1)
    old, advantage = torch.zeros(1, dtype=torch.float64), torch.ones(1)
    inside, beyond = (
        policy_loss(old + sign * log_ratio, old, batch, advantage, impl=impl).metrics["ratio_mean"]
        for log_ratio in (LOG_RATIO_LIMIT - 1e-6, LOG_RATIO_LIMIT + 1e-6)
    )
    assert beyond.log().item() == pytest.approx(sign * LOG_RATIO_LIMIT, abs=1e-9)
    assert inside.log().item() == pytest.approx(sign * (LOG_RATIO_LIMIT - 1e-6), abs=1e-9)
