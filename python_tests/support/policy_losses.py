"""Settings and inputs of the policy loss that its tests share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, get_args

from torch import Tensor

from finestep_fast import LossConfig, StepBatch
from finestep_fast.config.loss import KL, Aggregation, Kind, Ratio
from support.batches import SHAPES, placed, policy_values
from support.entry_points import policy_loss

NAN = float("nan")
CONFIGS = [
    LossConfig(
        kind=kind,
        ratio=ratio,
        aggregation=aggregation,
        constant_tokens=9 if aggregation == "constant" else None,
        dual_clip=1.5 if kind == "ppo" and ratio == "token" else None,
        kl=kl,
        kl_weight=0.3 if kl else 0,
    )
    for kind, ratio, aggregation, kl in product(
        get_args(Kind), get_args(Ratio), get_args(Aggregation), [None, *get_args(KL)]
    )
]


def named(loss: LossConfig) -> str:
    return "-".join(filter(None, [loss.kind, loss.ratio, loss.aggregation, loss.kl]))


RAGGED = SHAPES["odd sizes, groups interleaved"]


def inputs(batch: StepBatch, loss: LossConfig, seed: int = 0, fill: float = NAN) -> dict[str, Any]:
    """Return the arguments of `policy_loss` that are tensors; what belongs to no step is `fill`."""
    values = policy_values(seed, batch)
    advantage = values.pop("step_advantage")
    placed_values = {name: placed(batch, value, fill=fill) for name, value in values.items()}
    if loss.kl is None:
        del placed_values["token_logp_ref"]
    return {**placed_values, "step_advantage": advantage}


def loss_and_gradient(
    batch: StepBatch, tensors: Mapping[str, Tensor], loss: LossConfig, impl: str, **counts: Any
) -> tuple[Tensor, Tensor]:
    logp = tensors["token_logp"].detach().clone().requires_grad_()
    rest: dict[str, Any] = {name: value for name, value in tensors.items() if name != "token_logp"}
    out = policy_loss(logp, batch=batch, **rest, loss=loss, impl=impl, **counts)
    out.loss.backward()
    assert logp.grad is not None
    return out.loss.detach(), logp.grad
