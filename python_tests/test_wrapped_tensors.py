"""Tensors that are not what their memory says: they work, or are refused by name. None is misread.

Transforms of torch.func, forward-mode tangents, signs not yet applied, zeros that take no memory,
subclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

import finestep_fast as ff
from finestep_fast import InputError, _core
from support.impls import IMPLS, ROW_IMPLS

BATCH = ff.StepBatch.from_spans([[(1, 3), (4, 6)], [(7, 9)]], [0, 0], num_tokens=10)
T, S, D, V = 10, 3, 4, 7
NOISE = torch.Generator().manual_seed(0)
LOGP, OLD = -torch.rand(T, generator=NOISE), -torch.rand(T, generator=NOISE)
ADVANTAGE = torch.randn(S, generator=NOISE)
REWARD, OUTCOME = torch.rand(S, generator=NOISE), torch.tensor([1.0, 0.0])
VALUE = torch.rand(S, generator=NOISE)
HIDDEN = torch.randn(T, D, generator=NOISE)
WEIGHT = torch.randn(V, D, generator=NOISE)
TARGET = torch.arange(T) % V


def of_logp(impl: str) -> Callable[[Tensor], Tensor]:
    return lambda x: ff.policy_loss(x, OLD, BATCH, ADVANTAGE, impl=impl).loss


def of_logp_from_rewards(impl: str) -> Callable[[Tensor], Tensor]:
    return lambda x: ff.step_policy_loss(x, OLD, BATCH, REWARD, OUTCOME, impl=impl).loss


def of_logits(impl: str) -> Callable[[Tensor], Tensor]:
    return lambda x: ff.logits_policy_loss(x, TARGET, OLD, BATCH, ADVANTAGE, impl=impl).loss


def of_hidden(impl: str) -> Callable[[Tensor], Tensor]:
    given = (WEIGHT, TARGET, OLD, BATCH, ADVANTAGE)
    return lambda x: ff.linear_policy_loss(x, *given, impl=impl).loss


def logp_of_hidden(impl: str) -> Callable[[Tensor], Tensor]:
    return lambda x: ff.token_logp(x, WEIGHT, TARGET, impl=impl).logp.sum()


def of_rewards(impl: str) -> Callable[[Tensor], Tensor]:
    return lambda x: ff.step_advantage(BATCH, x, OUTCOME, impl=impl).square().sum()


def of_values(impl: str) -> Callable[[Tensor], Tensor]:
    def squared(x: Tensor) -> Tensor:
        given: dict[str, Any] = {"credit": "finestep_value", "step_value": x, "impl": impl}
        return ff.step_advantage(BATCH, REWARD, OUTCOME, **given).square().sum()

    return squared


DIFFERENTIABLE: dict[str, tuple[Callable[[str], Callable[[Tensor], Tensor]], Tensor]] = {
    "token_logp": (of_logp, LOGP),
    "token_logp of step_policy_loss": (of_logp_from_rewards, LOGP),
    "logits": (of_logits, HIDDEN @ WEIGHT.T),
    "hidden": (of_hidden, HIDDEN),
    "hidden of token_logp": (logp_of_hidden, HIDDEN),
}
OTHERS = {"step_reward": (of_rewards, REWARD), "step_value": (of_values, VALUE)}
TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "vmap": lambda f, x: vmap(f)(torch.stack([x, x / 2])),
    "grad": lambda f, x: grad(f)(x),
    "jvp": lambda f, x: jvp(f, (x,), (torch.ones_like(x),)),
}


def compiled_impls(name: str) -> list[str]:
    by_rows = "logits" in name or "hidden" in name
    names = ROW_IMPLS if by_rows else [impl for impl in IMPLS if impl != "reference"]
    return ["auto", *names]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *OTHERS])
def test_transforms_are_refused_by_name_except_by_the_reference(name: str, transform: str) -> None:
    make, value = (DIFFERENTIABLE | OTHERS)[name]
    for impl in compiled_impls(name):
        with pytest.raises(InputError, match=f"{name.split()[0]} is wrapped by torch.func"):
            TRANSFORMS[transform](make(impl), value)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_reference_is_right_under_transforms(name: str) -> None:
    make, value = DIFFERENTIABLE[name]
    function = make("reference")
    leaf = value.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf), leaf)
    torch.testing.assert_close(grad(function)(value), expected)
    by_hand = torch.stack([function(value), function(value / 2)])
    torch.testing.assert_close(vmap(function)(torch.stack([value, value / 2])), by_hand)
    tangent = jvp(function, (value,), (torch.ones_like(value),))[1]
    torch.testing.assert_close(tangent, expected.sum())


def test_token_advantage_is_right_under_transforms() -> None:
    def squared(value: Tensor) -> Tensor:
        return ff.token_advantage(BATCH, value).square().sum()

    expected = 2 * ADVANTAGE * torch.tensor([2.0, 2.0, 2.0])
    torch.testing.assert_close(grad(squared)(ADVANTAGE), expected)
    torch.testing.assert_close(vmap(squared)(ADVANTAGE[None]), squared(ADVANTAGE)[None])
    tangent = jvp(squared, (ADVANTAGE,), (torch.ones(S),))[1]
    torch.testing.assert_close(tangent, expected.sum())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(ADVANTAGE, torch.ones(S))
        torch.testing.assert_close(forward_ad.unpack_dual(squared(dual)).tangent, expected.sum())


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_tangent_is_refused_except_by_the_reference(name: str) -> None:
    make, value = DIFFERENTIABLE[name]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(value, torch.ones_like(value))
        for impl in compiled_impls(name):
            with pytest.raises(InputError, match=f"{name.split()[0]} has a tangent of forward"):
                make(impl)(dual)
        assert forward_ad.unpack_dual(make("reference")(dual)).tangent is not None


def with_sign_to_apply(value: Tensor) -> Tensor:
    """Return the same numbers, in memory that holds them with the other sign."""
    lazy = torch.complex(torch.zeros_like(value), -value).conj().imag
    lazy = torch._neg_view(-value) if not lazy.is_contiguous() else lazy
    assert lazy.is_neg()
    assert lazy.is_contiguous()
    assert lazy.equal(value)
    return lazy


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *OTHERS])
def test_a_sign_that_is_still_to_be_applied_is_applied(name: str) -> None:
    make, value = (DIFFERENTIABLE | OTHERS)[name]
    for impl in ["reference", *compiled_impls(name)]:
        function = make(impl)
        assert function(with_sign_to_apply(value)).equal(function(value))


def test_a_sign_of_any_constant_is_applied() -> None:
    weight, negated = torch.rand(T, generator=NOISE), with_sign_to_apply
    loss = ff.LossConfig(kl="k2", kl_weight=0.1)
    for impl in IMPLS:
        given = (LOGP, OLD, BATCH, ADVANTAGE)
        plain = ff.policy_loss(
            *given, loss=loss, token_logp_ref=OLD, token_weight=weight, impl=impl
        )
        lazy = ff.policy_loss(
            *(LOGP, negated(OLD), BATCH, negated(ADVANTAGE)),
            loss=loss,
            token_logp_ref=negated(OLD),
            token_weight=negated(weight),
            num_policy_tokens=negated(torch.tensor(6.0)),
            impl=impl,
        )
        assert lazy.loss.equal(plain.loss)
    assert ff.token_advantage(BATCH, negated(ADVANTAGE)).equal(ff.token_advantage(BATCH, ADVANTAGE))


def test_states_may_lie_apart_in_memory_and_may_not_be_batched() -> None:
    state = torch.tensor([5, -1, 5])
    apart = torch.stack([state, state + torch.arange(S)], dim=1)[:, 0]
    assert not apart.is_contiguous()

    def advantage(step_state: Tensor, *, impl: str) -> Tensor:
        given: dict[str, Any] = {"credit": "finestep_state", "step_state": step_state, "impl": impl}
        return ff.step_advantage(BATCH, REWARD, OUTCOME, **given)

    for impl in IMPLS:
        assert advantage(apart, impl=impl).equal(advantage(state, impl=impl))
    for impl in compiled_impls("step_state"):
        with pytest.raises(InputError, match=r"step_state is wrapped by torch.func"):
            vmap(partial(advantage, impl=impl))(torch.stack([state, apart]))


def test_zeros_without_memory_are_zeros() -> None:
    zeros = torch._efficientzerotensor(T)
    for impl in IMPLS:
        loss = ff.policy_loss(zeros, zeros, BATCH, ADVANTAGE, impl=impl).loss
        given = (torch.zeros(T), torch.zeros(T), BATCH, ADVANTAGE)
        assert loss.equal(ff.policy_loss(*given, impl=impl).loss)


def test_a_gradient_of_many_scales_is_that_of_each() -> None:
    leaf = LOGP.clone().requires_grad_()
    loss = of_logp("cpp")(leaf)
    scale = torch.tensor([1.0, 3.0])
    (both,) = torch.autograd.grad(loss, leaf, scale, is_grads_batched=True, retain_graph=True)
    (one,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(both, torch.stack([one, 3 * one]))


class Tagged(Tensor):
    """A subclass with memory of its own, as users make them to carry a name along."""


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *OTHERS])
def test_a_subclass_with_memory_of_its_own_works(name: str) -> None:
    make, value = (DIFFERENTIABLE | OTHERS)[name]
    for impl in compiled_impls(name):
        function = make(impl)
        found = function(value.as_subclass(Tagged))
        torch.testing.assert_close(found.as_subclass(Tensor), function(value))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_fake_tensor_gives_a_fake_result_of_the_right_shape(name: str) -> None:
    make, value = DIFFERENTIABLE[name]
    real = make("auto")(value)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = make("auto")(mode.from_tensor(value))
    assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
    assert type(fake).__name__ == "FakeTensor"


class InPieces(Tensor):
    """Looks like a DTensor to who asks."""

    def full_tensor(self) -> Tensor:
        return self.as_subclass(Tensor)


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *OTHERS])
def test_a_tensor_in_pieces_is_refused_by_name(name: str) -> None:
    make, value = (DIFFERENTIABLE | OTHERS)[name]
    with pytest.raises(InputError, match=f"{name.split()[0]} is a DTensor, in pieces"):
        make("auto")(value.as_subclass(InPieces))


@pytest.mark.native
def test_the_compiled_module_takes_no_tensor_without_memory_as_torch_reads_it() -> None:
    wrapped: list[Tensor] = []

    def kept(value: Tensor) -> Tensor:
        wrapped.append(value)
        return value

    vmap(kept)(torch.zeros(2, S))
    with FakeTensorMode():
        fake = torch.zeros(S)
    refused = {
        "wrapped by vmap": wrapped[0],
        "fake": fake,
        "on meta": torch.zeros(S, device="meta"),
        "sparse": torch.zeros(S).to_sparse(),
        "negated": with_sign_to_apply(torch.ones(S)),
        "without memory": torch._efficientzerotensor(S),
    }
    assert _core.all_within(torch.zeros(S), 0, 1)
    for value in refused.values():
        with pytest.raises((TypeError, RuntimeError)):
            _core.all_within(value, 0, 1)
