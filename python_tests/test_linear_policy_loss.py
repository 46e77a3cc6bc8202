"""From hidden states to the policy loss: by hand, gradcheck, what is made and what is refused."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from finestep_fast import (
    InputError,
    LossConfig,
    StepBatch,
    linear_policy_loss,
)
from finestep_fast.config.loss import Ratio
from support.batches import SHAPES, Rollout, packed
from support.head_losses import LOSS_CONFIGS, evaluated, inputs, leaves_of
from support.heads import converted, outside, temperatures
from support.impls import ROW_IMPLS
from support.largest import Largest
from support.policy_losses import named

FAST = ROW_IMPLS
IMPLS = ["reference", *FAST]
RAGGED = SHAPES["odd sizes, groups interleaved"]
SMALL = SHAPES["a group of one beside a group of two"]


@pytest.mark.parametrize("impl", IMPLS)
def test_loss_entropy_and_gradient_by_hand(impl: str) -> None:
    # One step of two tokens, two words, p = 1/4, 3/4; A = 2; on policy: ratios are 1.
    hidden = torch.tensor([[0.0, math.log(3)]] * 2, dtype=torch.float64, requires_grad=True)
    batch = StepBatch.from_spans([[(0, 2)]], [0], num_tokens=2)
    out = linear_policy_loss(
        hidden,
        torch.eye(2, dtype=torch.float64),
        torch.tensor([0, 1]),
        torch.tensor([math.log(1 / 4), math.log(3 / 4)], dtype=torch.float64),
        batch,
        torch.tensor([2.0]),
        entropy_weight=0.5,
        impl=impl,
    )
    entropy = -(1 / 4 * math.log(1 / 4) + 3 / 4 * math.log(3 / 4))
    assert out.loss.item() == pytest.approx(-2 - 0.5 * entropy)
    assert out.metrics["entropy"].item() == pytest.approx(entropy)
    assert out.metrics["policy_tokens"] == 2
    out.loss.backward()
    # d loss / d logp = -A / 2 per token; d entropy / dz = -p (log p + entropy)
    bonus = 3 / 16 * math.log(3) * 0.5 / 2
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == pytest.approx(
        [-3 / 4 - bonus, 3 / 4 + bonus, 1 / 4 - bonus, -1 / 4 + bonus]
    )


# Of what is shared in value alone there is no gradient of the value: see test_policy_loss.
CHECKED = [loss for loss in LOSS_CONFIGS if loss.ratio in ("token", "rollout_averaged")]


@pytest.mark.parametrize("loss", [loss for loss in CHECKED if loss.kind == "ppo"], ids=named)
@pytest.mark.parametrize("impl", IMPLS)
def test_gradcheck(impl: str, loss: LossConfig) -> None:
    batch = packed(SMALL)
    given = inputs(batch, loss, vocabulary=5, size=2)
    observed = outside(batch)
    for name in ("hidden", "token_logp_old", "token_weight", "token_logp_ref"):
        if name in given:
            given[name][observed] = 0
    leaves = tuple(given.pop(name).requires_grad_() for name in ("hidden", "weight", "bias"))
    settings: dict[str, Any] = {"temperature": temperatures(batch), "entropy_weight": 0.2}
    settings["chunk_bytes"] = 200

    def value(*leaves: Tensor) -> Tensor:
        hidden, weight, bias = leaves
        return linear_policy_loss(
            hidden, weight, batch=batch, bias=bias, **given, loss=loss, impl=impl, **settings
        ).loss

    assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize("impl", FAST)
def test_only_the_gradients_that_are_asked_for_are_made(
    impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, loss = packed(RAGGED), LossConfig()
    given = inputs(batch, loss)
    expected = evaluated(given, batch, impl)
    products: list[tuple[int, int]] = []
    plain = torch.mm

    def counted(left: Tensor, right: Tensor, **kwargs: Any) -> Tensor:
        products.append((left.shape[0], right.shape[1]))
        return plain(left, right, **kwargs)

    monkeypatch.setattr(torch, "mm", counted)
    size, (vocabulary, width) = batch.num_policy_tokens, given["weight"].shape
    del given["bias"]
    logits, of_hidden, of_weight = (size, vocabulary), (size, width), (vocabulary, width)
    wanted: dict[tuple[str, ...], list[tuple[int, int]]] = {
        (): [logits],
        ("hidden",): [logits, of_hidden],
        ("weight",): [logits, of_weight],
        ("hidden", "weight"): [logits, of_hidden, of_weight],
    }
    for names, made in wanted.items():
        leaves = {name: given[name].detach().clone().requires_grad_() for name in names}
        products.clear()
        out = linear_policy_loss(**{**given, **leaves}, batch=batch, impl=impl)
        assert products == made
        assert out.loss.requires_grad == bool(names)
        if names:
            out.loss.backward()
    assert products == wanted["hidden", "weight"]  # none in the backward pass
    shared = LossConfig(ratio="step")
    leaves = {name: given[name].requires_grad_() for name in ("hidden", "weight")}
    products.clear()
    linear_policy_loss(**{**given, **leaves}, batch=batch, loss=shared, impl=impl)
    assert products == [logits, *wanted["hidden", "weight"]]
    with torch.no_grad():
        products.clear()
        linear_policy_loss(**given, batch=batch, impl=impl)
    assert products == [logits]
    assert expected["loss"].isfinite()


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
@pytest.mark.parametrize("ratio", ["token", "step"])
@pytest.mark.parametrize("impl", FAST)
def test_what_is_frozen_changes_no_other_gradient(impl: str, ratio: Ratio, frozen: str) -> None:
    batch, loss = packed(RAGGED), LossConfig(ratio=ratio)
    given = inputs(batch, loss)
    expected = evaluated(given, batch, impl, loss=loss, chunk_bytes=3000)
    leaves = leaves_of(given)
    given = {**given, **leaves, frozen: given[frozen]}
    linear_policy_loss(**given, batch=batch, loss=loss, chunk_bytes=3000, impl=impl).loss.backward()
    for name, leaf in leaves.items():
        if name == frozen:
            assert leaf.grad is None
        else:
            assert leaf.grad is not None
            assert leaf.grad.equal(expected[f"gradient of {name}"]), name


@pytest.mark.parametrize("impl", IMPLS)
def test_gradients_accumulate_and_a_call_does_not_touch_those_of_another(impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig()
    given = inputs(batch, loss)
    one = evaluated(given, batch, impl)
    two = evaluated(given, batch, impl, entropy_weight=0.5, scale=0.3)
    leaves = leaves_of(given)
    for weight, scale in ((0.0, 1.0), (0.5, 0.3)):
        out = linear_policy_loss(
            **{**given, **leaves}, batch=batch, entropy_weight=weight, impl=impl
        )
        (scale * out.loss).backward()
    for name, leaf in leaves.items():
        wanted = one[f"gradient of {name}"] + two[f"gradient of {name}"]
        torch.testing.assert_close(leaf.grad, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("ratio", get_args(Ratio))
@pytest.mark.parametrize("impl", FAST)
def test_no_tensor_of_all_logits_is_made_whatever_shares_a_ratio(impl: str, ratio: Ratio) -> None:
    batch = packed((Rollout(step_length=(200, 100), outcome=1.0),))
    given, loss = inputs(batch, LossConfig(), vocabulary=331, size=3), LossConfig(ratio=ratio)
    settings: dict[str, Any] = {"loss": loss, "entropy_weight": 0.1}
    with Largest() as seen:
        evaluated(given, batch, impl, chunk_bytes=20 * 331 * 8, **settings)
    assert 20 * 331 <= seen.numel <= 25 * 331
    with Largest() as seen:
        evaluated(given, batch, "reference", **settings)
    assert seen.numel >= 300 * 331


@pytest.mark.parametrize("ratio", ["token", "step"])
@pytest.mark.parametrize("impl", FAST)
def test_a_retained_graph_gives_the_gradient_again(impl: str, ratio: Ratio) -> None:
    batch, loss = packed(RAGGED), LossConfig(ratio=ratio)
    given = inputs(batch, loss)
    leaves = [given[name].requires_grad_() for name in ("hidden", "weight", "bias")]
    value = linear_policy_loss(**given, batch=batch, loss=loss, impl=impl).loss
    first = torch.autograd.grad(value, leaves, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    second = torch.autograd.grad(2 * value, leaves)
    for one, two in zip(kept, second, strict=True):
        torch.testing.assert_close(two, 2 * one)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(value, leaves)


def test_a_second_derivative_is_refused() -> None:
    batch = packed(RAGGED)
    given = inputs(batch, LossConfig())
    hidden = given["hidden"].requires_grad_()
    value = linear_policy_loss(**given, batch=batch).loss
    (gradient,) = torch.autograd.grad(value, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": None}, "batch is a NoneType; it must be a StepBatch"),
        ({"token_logp_old": torch.zeros(2)}, r"token_logp_old has shape \(2,\); expected"),
        ({"token_weight": torch.zeros(2)}, r"token_weight has shape \(2,\); expected"),
        ({"step_advantage": torch.zeros(1)}, r"step_advantage has shape \(1,\); expected"),
        ({"loss": LossConfig(kl="k3")}, "token_logp_ref is not given while loss.kl is 'k3'"),
        ({"num_policy_tokens": 0}, "num_policy_tokens is 0; it must be above 0"),
        ({"num_steps": 3}, "num_policy_tokens is not given while num_steps is"),
        ({"weight": torch.zeros(3, 9).double()}, r"weight has shape \(3, 9\); expected \[V, 8\]"),
        ({"weight": torch.zeros(2, 8).double()}, r"target holds \d+; expected 0 .. 1, V is 2"),
        ({"temperature": -1.0}, "temperature is -1; it must be > 0"),
        ({"impl": "fastest"}, "impl is 'fastest'; it must be one of 'auto', 'reference'"),
    ],
)
def test_the_entry_point_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    batch = packed(RAGGED)
    given = {**inputs(batch, LossConfig()), "batch": batch}
    if "weight" in changes:
        del given["bias"]
    with pytest.raises(InputError, match=message):
        linear_policy_loss(**{**given, **changes})


def test_auto_takes_cpp_on_a_cpu() -> None:
    batch = packed(RAGGED)
    given = converted(inputs(batch, LossConfig()), torch.float32)
    auto, cpp = (evaluated(given, batch, impl) for impl in ("auto", "cpp"))
    assert all(value.equal(cpp[name]) for name, value in auto.items())
