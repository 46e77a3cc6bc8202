"""NaN in, NaN out: what every implementation makes of a log-probability that is no number.

One rule for all: a NaN inside a step makes the loss NaN, and the gradient of its token and of those
that share its ratio; outside steps it is never read. Infinite ones lie far apart: the log ratio is
cut, and the token has no gradient by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from finestep_fast import LossConfig, StepBatch, available_impls, policy_loss
from finestep_fast.ops.head.implementations import ROWS
from support.entry_points import device_of, linear_policy_loss, logits_policy_loss

BATCH = StepBatch.from_spans([[(1, 3), (4, 6)], [(7, 9)]], [0, 0], num_tokens=10)
INSIDE, OUTSIDE, T, V = 4, 6, 10, 7
ADVANTAGE = torch.tensor([1.0, -1.0, 0.5])
SHARING = {"token": [4], "step": [4, 5], "rollout": [1, 2, 4, 5]}
IMPLS = [
    name for name, available in available_impls().items() if available is True and name != "torch"
]
ROW_IMPLS = ["reference", *(name for name in ROWS if name == "torch" or name in IMPLS)]
LOSSES = [
    LossConfig(kind=kind, ratio=ratio, kl=kl, kl_weight=0.1 if kl else 0.0)  # type: ignore[arg-type]
    for kind, ratio, kl in product(("ppo", "cispo"), SHARING, (None, "k1", "k2", "k3"))
]
# The interpreter of kernels computes with numpy, which warns of each.
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning"),
]


def tokens(name: str = "", value: float = 0.0, place: int = INSIDE) -> dict[str, Tensor]:
    given = {
        "token_logp": torch.full((T,), -1.0),
        "token_logp_old": torch.full((T,), -1.1),
        "token_logp_ref": torch.full((T,), -1.2),
        "token_weight": torch.full((T,), 0.9),
    }
    for changed in name.split("+") if name else ():
        given[changed][place] = value
    return given


def evaluated(impl: str, loss: LossConfig, given: dict[str, Tensor]) -> tuple[Tensor, Tensor, Any]:
    device = device_of(impl)
    moved = {name: value.to(device) for name, value in given.items()}
    moved["token_logp"].requires_grad_()
    if loss.kl is None:
        del moved["token_logp_ref"]
    logp = moved["token_logp"]
    out = policy_loss(
        batch=BATCH.to(device), step_advantage=ADVANTAGE.to(device), loss=loss, impl=impl, **moved
    )
    out.loss.backward()
    assert logp.grad is not None
    return out.loss.detach().cpu(), logp.grad.cpu(), out.metrics


def some(losses: list[LossConfig], impl: str) -> Iterator[LossConfig]:
    """Return all of them; of the kernels, if their launches are interpreted, every seventh."""
    return iter(losses[::7] if impl == "triton" and device_of(impl).type == "cpu" else losses)


@pytest.mark.parametrize("name", ["token_logp", "token_logp_old"])
@pytest.mark.parametrize("impl", IMPLS)
def test_a_nan_inside_a_step_is_seen_in_loss_and_gradient(impl: str, name: str) -> None:
    for loss in some(LOSSES, impl):
        value, gradient, metrics = evaluated(impl, loss, tokens(name, math.nan))
        assert value.isnan(), loss
        # A shared ratio of cispo is a constant weight, and a logp's NaN its own.
        sharing = SHARING[loss.ratio]
        assert gradient.isnan().nonzero().flatten().tolist() == sharing, loss
        assert all(metrics[seen].isnan() for seen in ("approx_kl", "ratio_mean", "ratio_max"))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_nan_of_the_reference_policy_is_seen_in_loss_and_gradient(impl: str) -> None:
    for loss in some([loss for loss in LOSSES if loss.kl is not None], impl):
        value, gradient, metrics = evaluated(impl, loss, tokens("token_logp_ref", math.nan))
        assert value.isnan(), loss
        assert gradient.isnan().nonzero().flatten().tolist() == [INSIDE], loss
        assert metrics["reference_kl"].isnan()


@pytest.mark.parametrize("impl", IMPLS)
def test_infinities_that_cancel_are_a_nan(impl: str) -> None:
    for value in (math.inf, -math.inf):
        loss, gradient, _ = evaluated(
            impl, LossConfig(), tokens("token_logp+token_logp_old", value)
        )
        assert loss.isnan()
        assert gradient.isnan().nonzero().flatten().tolist() == [INSIDE]


@pytest.mark.parametrize("impl", IMPLS)
def test_an_infinite_log_probability_is_cut_like_a_distant_one(impl: str) -> None:
    for loss in some([loss for loss in LOSSES if loss.kind == "ppo"], impl):
        for name, sign in product(("token_logp", "token_logp_old"), (-1, 1)):
            infinite = evaluated(impl, loss, tokens(name, sign * math.inf))
            far = evaluated(impl, loss, tokens(name, sign * 1e4))
            assert infinite[0].equal(far[0]), (loss, name)
            assert infinite[1].equal(far[1]), (loss, name)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_nan_outside_steps_changes_nothing(impl: str) -> None:
    for name in tokens():
        loss = LossConfig(kl="k1", kl_weight=0.1)
        with_nan = evaluated(impl, loss, tokens(name, math.nan, OUTSIDE))
        without = evaluated(impl, loss, tokens())
        assert with_nan[0].equal(without[0])
        assert with_nan[1].equal(without[1])


def rows(impl: str, value: float, place: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss and gradient of logits, then of hidden states, of which one holds a value."""
    device, target = device_of(impl), torch.arange(T) % V
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(T, V, generator=generator), torch.eye(V)
    hidden[place, 2] = value
    given = (target, torch.full((T,), -1.1), BATCH, ADVANTAGE)
    found = []
    for entry_point in (logits_policy_loss, linear_policy_loss):
        leaf = hidden.clone().to(device).requires_grad_()
        first = (leaf,) if entry_point is logits_policy_loss else (leaf, weight)
        out = entry_point(*first, *given, entropy_weight=0.1, impl=impl)
        out.loss.backward()
        assert leaf.grad is not None
        found += [out.loss.detach(), leaf.grad.cpu()]
    return found[0], found[1], found[2], found[3]


@pytest.mark.parametrize("impl", ROW_IMPLS)
def test_a_nan_in_a_row_of_logits_is_seen_in_loss_and_the_gradient_of_its_row(impl: str) -> None:
    loss, gradient, of_hidden_loss, of_hidden = rows(impl, math.nan, INSIDE)
    assert loss.isnan()
    assert of_hidden_loss.isnan()
    for made in (gradient, of_hidden):
        assert made[INSIDE].isnan().all()
        others = [place for place in range(T) if place != INSIDE]
        assert made[others].isfinite().all()
    clean = rows(impl, 0.0, OUTSIDE)
    for one, other in zip(rows(impl, math.nan, OUTSIDE), clean, strict=True):
        assert one.equal(other)
