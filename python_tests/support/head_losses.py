"""The losses from hidden states and from logits: settings, tensors, and all that comes back."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, get_args

import torch
from torch import Tensor

from finestep_fast import LossConfig, StepBatch
from finestep_fast.config.loss import KL, Aggregation, Kind, Ratio
from support.entry_points import linear_policy_loss, logits_policy_loss, poisoned
from support.heads import converted, head_inputs, token_values


def config(kind: Kind, ratio: Ratio, aggregation: Aggregation, kl: KL | None) -> LossConfig:
    return LossConfig(
        kind=kind,
        ratio=ratio,
        aggregation=aggregation,
        constant_tokens=9 if aggregation == "constant" else None,
        dual_clip=1.5 if kind == "ppo" and aggregation == "token_mean" else None,
        kl=kl,
        kl_weight=0.3 if kl else 0,
    )


_KLS: tuple[KL | None, ...] = (None, "k3")
LOSS_CONFIGS = [
    config(kind, ratio, aggregation, kl)
    for kind, ratio, aggregation, kl in product(
        get_args(Kind), get_args(Ratio), get_args(Aggregation), _KLS
    )
]


def inputs(
    batch: StepBatch, loss: LossConfig, *, temperature: float = 1.0, **head: Any
) -> dict[str, Any]:
    """Return all tensors of a call of the loss from hidden states, float64."""
    given = head_inputs(batch, **head)
    values = token_values(batch, given, temperature=temperature)
    if loss.kl is None:
        del values["token_logp_ref"]
    return {**given, **values}


def loss_of_row(row: Mapping[str, Any]) -> LossConfig:
    """Return the settings of the loss in a row of a covering design."""
    return LossConfig(
        kind=row["kind"],
        ratio=row["ratio"],
        aggregation=row["aggregation"],
        constant_tokens=9 if row["aggregation"] == "constant" else None,
        dual_clip=row.get("dual_clip") if row["kind"] == "ppo" else None,
        kl=row["kl"],
        kl_weight=0.2 if row["kl"] else 0.0,
    )


def narrow_and_exact(
    given: Mapping[str, Any], dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a call with logits of this dtype, and in float64 with the same numbers.

    What stands beside the logits has float32, beside float64 logits float64.
    """
    rest = {name: value for name, value in given.items() if name != "logits"}
    beside = torch.promote_types(dtype, torch.float32)
    narrow = {"logits": given["logits"].to(dtype), **converted(rest, beside)}
    return narrow, converted(narrow, torch.float64)


def logits_inputs(batch: StepBatch, loss: LossConfig, *, vocabulary: int = 37) -> dict[str, Any]:
    """Return all tensors of a call of the loss from logits, float64; NaN in observed rows."""
    return as_logits(inputs(batch, loss, vocabulary=vocabulary))


def as_logits(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same call of the loss from logits."""
    rest = dict(given)
    logits = rest.pop("hidden") @ rest.pop("weight").T + rest.pop("bias", 0)
    return {"logits": logits, **rest}


def leaves_of(given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return copies of what the loss is differentiated by."""
    return {
        name: given[name].detach().clone().requires_grad_()
        for name in ("hidden", "weight", "bias", "logits")
        if name in given
    }


def evaluated(
    given: Mapping[str, Any], batch: StepBatch, impl: str, *, scale: float = 1.0, **settings: Any
) -> dict[str, Tensor]:
    """Return loss, metrics, and the gradients of hidden, weight and bias, or of logits."""
    entry_point = logits_policy_loss if "logits" in given else linear_policy_loss
    leaves = leaves_of(given)
    # A clone of a leaf may be overwritten, and hands its gradient on as it is.
    copies = {name: leaf.clone() for name, leaf in leaves.items()}
    with poisoned():
        out = entry_point(**{**given, **copies}, batch=batch, impl=impl, **settings)
        (scale * out.loss).backward()
    found = {"loss": out.loss.detach(), **out.metrics}
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        found[f"gradient of {name}"] = leaf.grad
    return found
