"""From logits to the policy loss: parity row by row, masked rows, the gradient in their place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from finestep_fast import InputError, LossConfig, StepBatch, logits_policy_loss
from finestep_fast.arguments import COUNT_OF_AGGREGATION
from finestep_fast.config.loss import KL, Aggregation, Kind, Ratio
from finestep_fast.ops.head.implementations import ROWS
from support.batches import SHAPES, packed, padded
from support.covering import covering
from support.head_losses import evaluated, logits_inputs, loss_of_row, narrow_and_exact
from support.heads import NAN, converted, outside, temperatures
from support.impls import ROW_IMPLS
from support.tolerance import assert_as_exact

FAST = ROW_IMPLS
IMPLS = ["reference", *FAST]
RAGGED = SHAPES["odd sizes, groups interleaved"]


@pytest.mark.parametrize("impl", IMPLS)
def test_loss_and_gradient_by_hand(impl: str) -> None:
    # p = 1/4, 3/4; on policy; A = 2: d loss / dz = -A (onehot - p) / 2 tokens
    logits = torch.tensor([[0.0, math.log(3)]] * 3, dtype=torch.float64, requires_grad=True)
    batch = StepBatch.from_spans([[(0, 1), (2, 3)]], [0], num_tokens=3)
    old = torch.tensor([math.log(1 / 4), NAN, math.log(3 / 4)], dtype=torch.float64)
    target, advantage = torch.tensor([0, -1, 1]), torch.tensor([2.0, 2.0])
    out = logits_policy_loss(logits, target, old, batch, advantage, impl=impl)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(-2)
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-3 / 4, 3 / 4, 0, 0, 1 / 4, -1 / 4])


# Of what is shared in value alone there is no gradient of the value: see test_policy_loss.
@pytest.mark.parametrize("ratio", ["token", "rollout_averaged"])
@pytest.mark.parametrize("impl", IMPLS)
def test_gradcheck(impl: str, ratio: Ratio) -> None:
    batch = packed(SHAPES["a group of one beside a group of two"])
    loss = LossConfig(ratio=ratio, kl="k3", kl_weight=0.3, aggregation="step_mean")
    given = logits_inputs(batch, loss, vocabulary=5)
    logits = given.pop("logits")[batch.policy_token].requires_grad_()
    settings: dict[str, Any] = {"entropy_weight": 0.2, "temperature": temperatures(batch)}

    def value(rows: Tensor) -> Tensor:
        every = torch.zeros(batch.num_tokens, 5, dtype=torch.float64)
        every = every.index_put((batch.policy_token,), rows)
        call: Callable[..., Any] = logits_policy_loss
        return call(every, batch=batch, **given, loss=loss, impl=impl, **settings).loss  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(value, (logits,))


FACTORS: dict[str, Sequence[Any]] = {
    "shape": list(SHAPES),
    "dtype": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "vocabulary": (1, 2, 37, 1031),
    "layout": ("packed", "padded", "rows"),
    "kind": get_args(Kind),
    "ratio": get_args(Ratio),
    "aggregation": get_args(Aggregation),
    "kl": (None, *get_args(KL)),
    "token_weight": (False, True),
    "count": ("own", "number", "tensor"),
    "temperature": (1.0, 0.7, "each"),
    "entropy_weight": (0.0, 0.1),
    "inplace": (False, True),
}
DESIGN = covering(FACTORS)


@pytest.mark.parametrize("row", DESIGN, ids=lambda row: ",".join(map(str, row.values())))
@pytest.mark.parametrize("impl", FAST)
def test_everything_is_as_exact_as_the_references(impl: str, row: dict[str, Any]) -> None:
    rollouts, dtype = SHAPES[row["shape"]], row["dtype"]
    batch = packed(rollouts) if row["layout"] == "packed" else padded(rollouts, extra=3)
    loss = loss_of_row(row)
    given = logits_inputs(batch, loss, vocabulary=row["vocabulary"])
    if not row["token_weight"]:
        del given["token_weight"]
    settings: dict[str, Any] = {"loss": loss, "entropy_weight": row["entropy_weight"]}
    each = row["temperature"] == "each"
    settings["temperature"] = temperatures(batch) if each else row["temperature"]
    if row["count"] != "own":
        count = 20.5 if row["count"] == "number" else torch.tensor([20])
        settings[COUNT_OF_AGGREGATION[row["aggregation"]]] = count
    narrow, exact = narrow_and_exact(given, dtype)
    if row["layout"] == "rows" and rollouts:
        for tensors in (narrow, exact):
            for name, value in tensors.items():
                if name != "step_advantage":
                    tensors[name] = value.view(len(rollouts), -1, *value.shape[1:])
        if each:
            settings["temperature"] = settings["temperature"].view(len(rollouts), -1)
    truth, plain = (evaluated(one, batch, "reference", **settings) for one in (exact, narrow))
    found = evaluated(narrow, batch, impl, inplace=row["inplace"], **settings)
    assert found.keys() == truth.keys()
    for name, value in found.items():
        if name in ("loss", "gradient of logits", "entropy"):
            assert_as_exact(value, plain[name], truth[name])
        else:  # differences of like numbers: a rounded logp is many units of an estimate of KL
            torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-6)
    gradient = found["gradient of logits"].reshape(batch.num_tokens, row["vocabulary"])
    assert gradient[outside(batch)].eq(0).all()


@pytest.mark.parametrize("ratio", ["token", "step"])
@pytest.mark.parametrize("impl", FAST)
def test_chunks_of_any_size_give_the_same_bits(
    impl: str, ratio: Ratio, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, loss = packed(SHAPES["one more than a block of 64"]), LossConfig(ratio=ratio)
    given = converted(logits_inputs(batch, loss), torch.float32)
    whole = evaluated(given, batch, impl, loss=loss, entropy_weight=0.1)
    assert batch.num_policy_tokens * 37 * 4 < (ROWS[impl].chunk_bytes or 0)
    for rows in (1, 7, 64):
        monkeypatch.setattr(ROWS[impl], "chunk_bytes", rows * 37 * 4)
        parts = evaluated(given, batch, impl, loss=loss, entropy_weight=0.1)
        for name, value in parts.items():
            assert value.equal(whole[name]), name


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("planted", [NAN, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("impl", FAST)
def test_rows_outside_steps_change_nothing(impl: str, planted: float, inplace: bool) -> None:
    batch, loss = packed(RAGGED), LossConfig(kl="k3", kl_weight=0.1)
    given = logits_inputs(batch, loss)
    clean = evaluated(given, batch, impl, loss=loss)
    observed = outside(batch)
    for name in given.keys() - {"target", "step_advantage"}:
        given[name][observed] = planted
    given["target"][observed] = -1
    for name, value in evaluated(given, batch, impl, loss=loss, inplace=inplace).items():
        assert value.isfinite().all()
        assert value.equal(clean[name]), name


@pytest.mark.parametrize("impl", FAST)
def test_without_a_place_in_the_logits_they_stay_as_they_are(impl: str) -> None:
    batch = packed(RAGGED)
    given = logits_inputs(batch, LossConfig())
    before, version = given["logits"].clone(), given["logits"]._version
    evaluated(given, batch, impl)
    logits = given["logits"].requires_grad_()
    logits_policy_loss(**given, batch=batch, impl=impl).loss.backward()
    assert logits._version == version
    assert logits.detach()[batch.policy_token].equal(before[batch.policy_token])


@pytest.mark.parametrize("ratio", ["token", "rollout"])
@pytest.mark.parametrize("impl", FAST)
def test_the_gradient_lies_where_the_logits_were(impl: str, ratio: Ratio) -> None:
    batch, loss = packed(RAGGED), LossConfig(ratio=ratio)
    given = logits_inputs(batch, loss)
    expected = evaluated(given, batch, impl, loss=loss)
    leaf = given["logits"].requires_grad_()
    logits = leaf.clone()
    version = logits._version
    place = logits.data_ptr()
    value = logits_policy_loss(
        **{**given, "logits": logits}, batch=batch, loss=loss, inplace=True, impl=impl
    ).loss
    assert logits._version > version
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.data_ptr() == place
    torch.testing.assert_close(gradient, expected["gradient of logits"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("impl", FAST)
def test_saved_logits_that_are_overwritten_raise_in_the_backward_pass(impl: str) -> None:
    batch = packed(RAGGED)
    given = logits_inputs(batch, LossConfig())
    leaf = given.pop("logits").nan_to_num().requires_grad_()
    capped = leaf.tanh()  # its backward pass needs its result
    value = logits_policy_loss(capped, batch=batch, **given, inplace=True, impl=impl).loss
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("impl", FAST)
def test_a_retained_graph_gives_the_gradient_again_unless_it_was_in_place(impl: str) -> None:
    batch = packed(RAGGED)
    given = logits_inputs(batch, LossConfig())
    leaf = given.pop("logits").requires_grad_()
    value = logits_policy_loss(leaf, batch=batch, **given, impl=impl).loss
    (first,) = torch.autograd.grad(value, leaf, retain_graph=True)
    kept = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(3 * value, leaf, retain_graph=True)
    torch.testing.assert_close(second, 3 * kept)
    value = logits_policy_loss(leaf.clone(), batch=batch, **given, inplace=True, impl=impl).loss
    torch.autograd.grad(value, leaf, retain_graph=True)
    with pytest.raises(RuntimeError, match="there is no second backward pass"):
        torch.autograd.grad(value, leaf)


@pytest.mark.parametrize("impl", FAST)
def test_without_a_need_for_a_gradient_nothing_is_overwritten(impl: str) -> None:
    batch = packed(RAGGED)
    given = logits_inputs(batch, LossConfig())
    before = given["logits"].clone()
    value = logits_policy_loss(**given, batch=batch, inplace=True, impl=impl).loss
    assert not value.requires_grad
    assert given["logits"].nan_to_num().equal(before.nan_to_num())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(3)}, r"logits has shape \(3,\); expected \[T, V\] or \[R, L, V\]"),
        ({"logits": torch.zeros(3, 4).long()}, "logits is torch.int64; expected floating point"),
        (
            {"logits": torch.zeros(4, 5)},
            r"target has shape .* expected \(4,\), the shape of logits",
        ),
        ({"inplace": True, "impl": "reference"}, "inplace is True for impl 'reference'"),
        ({"inplace": True}, "inplace is True for logits that are a leaf"),
        ({"impl": "fastest"}, "impl is 'fastest'; it must be one of"),
        ({"temperature": 0}, "temperature is 0; it must be > 0"),
    ],
)
def test_the_entry_point_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    batch = packed(RAGGED)
    given = {**logits_inputs(batch, LossConfig()), "batch": batch}
    given["logits"] = given["logits"].requires_grad_()
    with pytest.raises(InputError, match=message):
        logits_policy_loss(**{**given, **changes})


def test_logits_with_gaps_cannot_be_overwritten() -> None:
    batch = packed(RAGGED)
    given = logits_inputs(batch, LossConfig())
    wide = torch.cat([given["logits"]] * 2, 1).requires_grad_().clone()
    given["logits"] = wide[:, :37]
    with pytest.raises(InputError, match="inplace is True for logits that are not contiguous"):
        logits_policy_loss(**given, batch=batch, inplace=True)
