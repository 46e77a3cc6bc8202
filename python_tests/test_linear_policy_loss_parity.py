"""The loss from hidden states: its parts together, as exact as the reference, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch

from finestep_fast import (
    LossConfig,
    linear_policy_loss,
    policy_loss,
    token_logp,
)
from finestep_fast.arguments import COUNT_OF_AGGREGATION
from finestep_fast.config.loss import KL, Aggregation, Kind, Ratio
from support.batches import SHAPES, packed, padded, placed
from support.covering import covering
from support.head_losses import LOSS_CONFIGS, config, evaluated, inputs
from support.head_roundings import rounding_units
from support.heads import NAN, converted, outside, temperatures
from support.impls import ROW_IMPLS
from support.policy_losses import named
from support.tolerance import assert_as_exact, assert_as_exact_overall, assert_rounded_alone

FAST = ROW_IMPLS
RAGGED = SHAPES["odd sizes, groups interleaved"]


@pytest.mark.parametrize("loss", LOSS_CONFIGS, ids=named)
@pytest.mark.parametrize("impl", FAST)
def test_it_is_the_policy_loss_of_token_logp_less_the_entropy(impl: str, loss: LossConfig) -> None:
    batch = packed(RAGGED)
    given = inputs(batch, loss)
    found = evaluated(given, batch, impl, loss=loss, entropy_weight=0.2, chunk_bytes=2000)
    head = {name: given.pop(name) for name in ("hidden", "weight", "bias", "target")}
    leaves = {name: head[name].requires_grad_() for name in ("hidden", "weight", "bias")}
    lp = token_logp(**head, batch=batch, impl="reference")
    out = policy_loss(lp.logp, batch=batch, **given, loss=loss, impl="reference")
    bonus = linear_policy_loss(
        **head, batch=batch, **given, loss=loss, entropy_weight=1.0, impl="reference"
    )
    plain = linear_policy_loss(**head, batch=batch, **given, loss=loss, impl="reference")
    total = out.loss + 0.2 * (bonus.loss - plain.loss)
    total.backward()
    torch.testing.assert_close(found["loss"], total.detach())
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[f"gradient of {name}"], leaf.grad, rtol=1e-9, atol=1e-12)
    for name, metric in out.metrics.items():
        torch.testing.assert_close(found[name], metric)


FACTORS: dict[str, Sequence[Any]] = {
    "shape": list(SHAPES),
    "dtype": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "layout": ("packed", "padded"),
    "kind": get_args(Kind),
    "ratio": ("token", "step", "rollout_averaged"),  # to a head, one that is shared is as another
    "aggregation": get_args(Aggregation),
    "kl": (None, *get_args(KL)),
    "token_weight": (False, True),
    "count": ("own", "number", "tensor"),
    "temperature": (1.0, 0.7, "each"),
    "entropy_weight": (0.0, 0.1),
    "bias": (False, True),
    "vocabulary": (37, 131),
    "rows": (7, 1000),
    "scale": (1.0, 0.37),
}
ROWS_OF_DESIGN = covering(FACTORS)


@pytest.mark.parametrize("row", ROWS_OF_DESIGN, ids=lambda row: ",".join(map(str, row.values())))
@pytest.mark.parametrize("impl", FAST)
def test_everything_is_as_exact_as_the_references(impl: str, row: dict[str, Any]) -> None:
    """Logits are exact; gradients are products of matrices, which round in their own order.

    So each element is held to what roundings can do, and all of them together to the reference.
    """
    rollouts, dtype = SHAPES[row["shape"]], row["dtype"]
    batch = padded(rollouts, extra=3) if row["layout"] == "padded" else packed(rollouts)
    loss = config(row["kind"], row["ratio"], row["aggregation"], row["kl"])
    given = inputs(batch, loss, vocabulary=row["vocabulary"], whole=True)
    for name in ("token_weight", "bias"):
        if not row[name]:
            del given[name]
    settings: dict[str, Any] = {"loss": loss, "entropy_weight": row["entropy_weight"]}
    each = row["temperature"] == "each"
    settings["temperature"] = temperatures(batch) if each else row["temperature"]
    if row["count"] != "own":
        count = 20.5 if row["count"] == "number" else torch.tensor([20])
        settings[COUNT_OF_AGGREGATION[row["aggregation"]]] = count
    chunk_bytes = row["rows"] * row["vocabulary"] * dtype.itemsize
    narrow = converted(given, dtype)
    for name in ("token_logp_old", "token_logp_ref", "step_advantage"):
        if name in given:
            narrow[name] = given[name].to(torch.promote_types(dtype, torch.float32))
    exact = converted(narrow, torch.float64)
    truth = evaluated(exact, batch, "reference", scale=row["scale"], **settings)
    plain = evaluated(narrow, batch, "reference", scale=row["scale"], **settings)
    found = evaluated(narrow, batch, impl, scale=row["scale"], chunk_bytes=chunk_bytes, **settings)
    assert found.keys() == truth.keys()
    units = rounding_units(exact, batch, dtype, scale=row["scale"], **settings)
    for name, value in found.items():
        if name in units:
            assert_rounded_alone(value, truth[name], units[name])
            assert_as_exact_overall(value, plain[name], truth[name])
        else:
            assert_as_exact(value, plain[name], truth[name])
    assert found["gradient of hidden"][outside(batch)].eq(0).all()


@pytest.mark.parametrize("ratio", get_args(Ratio))
@pytest.mark.parametrize("impl", FAST)
def test_chunks_of_any_size_give_the_same_loss_from_the_same_logits(
    impl: str, ratio: Ratio
) -> None:
    """A product may round otherwise for another number of rows: these logits are exact."""
    batch, loss = packed(SHAPES["one more than a block of 64"]), LossConfig(ratio=ratio)
    given = converted(inputs(batch, loss, vocabulary=131, whole=True), torch.float32)
    settings: dict[str, Any] = {"loss": loss, "entropy_weight": 0.1}
    truth = evaluated(converted(given, torch.float64), batch, "reference", **settings)
    reference = evaluated(given, batch, "reference", **settings)
    whole = evaluated(given, batch, impl, **settings)
    for rows in (1, 7, 64):
        parts = evaluated(given, batch, impl, chunk_bytes=rows * 131 * 4, **settings)
        for name, value in parts.items():
            if name.startswith("gradient"):
                assert_as_exact_overall(value, reference[name], truth[name])
            else:
                assert value.equal(whole[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("impl", FAST)
def test_chunks_of_any_size_give_the_same_bits_where_gradients_are_exact(
    impl: str, dtype: torch.dtype
) -> None:
    """All words have one vector, so p is 1 / 32; on policy all sums are of short binary numbers."""
    batch = packed(SHAPES["one more than a block of 64"])
    given = inputs(batch, LossConfig(), vocabulary=32, whole=True)
    given["weight"], given["bias"] = given["weight"][:1].repeat(32, 1), torch.zeros(32).double()
    on_policy = torch.full((batch.num_policy_tokens,), -math.log(32), dtype=torch.float64)
    given["token_logp_old"] = placed(batch, on_policy, fill=NAN)
    given["step_advantage"] = (torch.arange(batch.num_steps) % 3 - 1).double()
    del given["token_weight"]
    narrow = {**converted(given, dtype), "token_logp_old": given["token_logp_old"]}
    settings = {"num_policy_tokens": 128}
    whole = evaluated(narrow, batch, impl, **settings)
    truth = evaluated(given, batch, "reference", **settings)
    assert whole["gradient of weight"].abs().max() > 0
    for rows in (1, 7, 64, 10**6):
        chunk_bytes = rows * 32 * dtype.itemsize
        parts = evaluated(narrow, batch, impl, chunk_bytes=chunk_bytes, **settings)
        for name, value in parts.items():
            assert value.equal(whole[name]), name
            if name.startswith("gradient"):
                assert value.double().equal(truth[name].to(dtype).double()), name
