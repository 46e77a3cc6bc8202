"""Laws of the policy loss: what cancels, what is left out, how batches add up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from finestep_fast import LossConfig, StepBatch
from finestep_fast.config.loss import Ratio
from support.batches import Rollout, packed, padded, parts, rollout_lists
from support.impls import IMPLS
from support.policy_losses import CONFIGS, NAN, RAGGED, inputs, loss_and_gradient

pytestmark = pytest.mark.parametrize("impl", IMPLS)
RATIOS_OF_ROLLOUTS: tuple[Ratio, ...] = ("rollout", "rollout_averaged")


@given(rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), seed=st.integers(0, 99))
def test_advantages_that_cancel_over_a_rollout_still_teach(
    rollouts: list[Rollout], loss: LossConfig, seed: int, impl: str
) -> None:
    # The second half of each rollout's steps costs what the first half is worth.
    twice = [replace(rollout, step_length=rollout.step_length * 2) for rollout in rollouts]
    batch, loss = packed(twice), replace(loss, kl=None, kl_weight=0)
    generator = torch.Generator().manual_seed(seed)
    halves = [torch.rand(len(each.step_length), generator=generator) + 0.1 for each in rollouts]
    tensors = inputs(batch, loss, seed)
    tensors["step_advantage"] = torch.cat([torch.cat([half, -half]) for half in halves]).double()
    tensors["token_logp_old"] = tensors["token_logp"]
    del tensors["token_weight"]
    _, own = loss_and_gradient(batch, tensors, replace(loss, ratio="token"), "reference")
    assert own[batch.policy_token].ne(0).all()
    _, gradient = loss_and_gradient(batch, tensors, loss, impl)
    cancels = loss.ratio == "rollout_averaged" and loss.kind == "ppo"
    expected = torch.zeros_like(own) if cancels else own
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-12)


@given(rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), seed=st.integers(0, 99))
def test_with_one_advantage_for_a_rollout_the_mean_moves_each_token_as_its_own_ratio_does(
    rollouts: list[Rollout], loss: LossConfig, seed: int, impl: str
) -> None:
    assume(loss.aggregation != "step_mean")  # weighs the tokens of a rollout differently
    batch = packed(rollouts)
    tensors = inputs(batch, loss, seed)
    del tensors["token_weight"]
    generator = torch.Generator().manual_seed(seed)
    of_rollout = torch.randn(batch.num_rollouts, generator=generator, dtype=torch.float64)
    tensors["step_advantage"] = of_rollout[batch.rollout_of_step]
    results = []
    for ratio in RATIOS_OF_ROLLOUTS:
        config = replace(loss, ratio=ratio, dual_clip=1.1 if loss.kind == "ppo" else None)
        results.append(loss_and_gradient(batch, tensors, config, impl))
    for own, averaged in zip(*results, strict=True):
        torch.testing.assert_close(own, averaged, rtol=1e-7, atol=1e-12)


@given(
    rollouts=rollout_lists(),
    loss=st.sampled_from(CONFIGS),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_of_a_steps_ratio_the_mean_differs_from_each_tokens_own_only_by_token_weights(
    rollouts: list[Rollout], loss: LossConfig, weighted: bool, seed: int, impl: str
) -> None:
    assume(loss.aggregation in ("token_mean", "step_mean"))
    own = replace(loss, ratio="step", kl=None, kl_weight=0)
    averaged = replace(own, ratio="rollout_averaged")
    # Where a rollout has one step, what is averaged over the rollout is averaged over the step.
    batch = packed(rollouts)
    spans = list(zip(batch.step_start.tolist(), batch.step_end.tolist(), strict=True))
    alone = StepBatch.from_spans(
        [[span] for span in spans], [0] * batch.num_steps, num_tokens=batch.num_tokens
    )
    tensors = inputs(batch, own, seed)
    if not weighted:
        del tensors["token_weight"]
    _, gradient = loss_and_gradient(batch, tensors, own, impl)
    _, of_mean = loss_and_gradient(alone, tensors, averaged, impl)
    pairs = [(gradient, of_mean)]
    if weighted:  # what its tokens get differs, and adds up to the same
        pairs = [(gradient[one:end].sum(), of_mean[one:end].sum()) for one, end in spans]
    for token_by_token, together in pairs:
        torch.testing.assert_close(token_by_token, together, rtol=1e-7, atol=1e-12)


@given(
    rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), planted=st.sampled_from([NAN, 1e38])
)
def test_what_stands_outside_steps_changes_nothing(
    rollouts: list[Rollout], loss: LossConfig, planted: float, impl: str
) -> None:
    batch = packed(rollouts)
    clean = loss_and_gradient(batch, inputs(batch, loss, fill=0.0), loss, impl)
    for fill in (planted, math.inf, -math.inf):
        value, gradient = loss_and_gradient(batch, inputs(batch, loss, fill=fill), loss, impl)
        assert value.equal(clean[0])
        assert gradient.equal(clean[1])
    outside = torch.ones(batch.num_tokens, dtype=torch.bool)
    outside[batch.policy_token] = False
    assert clean[1][outside].eq(0).all()


@given(rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), extra=st.integers(0, 5))
def test_packed_and_padded_layouts_and_longer_observations_agree(
    rollouts: list[Rollout], loss: LossConfig, extra: int, impl: str
) -> None:
    longer = [replace(rollout, gap=(7, 0)) for rollout in rollouts]
    results = []
    for batch in (packed(rollouts), padded(rollouts, extra=extra), packed(longer)):
        value, gradient = loss_and_gradient(batch, inputs(batch, loss), loss, impl)
        results.append((value, gradient[batch.policy_token]))
    for value, gradient in results[1:]:
        assert value.equal(results[0][0])
        assert gradient.equal(results[0][1])


@given(
    rollouts=rollout_lists(min_size=2, max_size=9),
    loss=st.sampled_from(CONFIGS),
    cuts=st.lists(st.integers(0, 9), max_size=3),
)
def test_micro_batches_with_global_counts_add_up_to_the_whole(
    rollouts: list[Rollout], loss: LossConfig, cuts: list[int], impl: str
) -> None:
    whole = packed(rollouts)
    tensors = inputs(whole, loss)
    value, gradient = loss_and_gradient(whole, tensors, loss, impl)
    counts = {
        "num_policy_tokens": whole.num_policy_tokens,
        "num_rollouts": whole.num_rollouts,
        "num_steps": whole.num_steps,
    }
    part_value, part_gradient = torch.zeros_like(value), []
    for part, tokens, steps in parts(rollouts, cuts):
        some = {
            name: tensor[steps if name == "step_advantage" else tokens]
            for name, tensor in tensors.items()
        }
        each = loss_and_gradient(part, some, loss, impl, **counts)
        part_value += each[0]
        part_gradient.append(each[1])
    torch.testing.assert_close(part_value, value)
    torch.testing.assert_close(torch.cat(part_gradient), gradient, rtol=1e-12, atol=1e-15)


def test_counts_may_be_tensors_from_a_reduction(impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig(aggregation="step_mean")
    tensors = inputs(batch, loss)
    whole, _ = loss_and_gradient(batch, tensors, loss, impl, num_steps=torch.tensor([20]))
    alone, _ = loss_and_gradient(batch, tensors, loss, impl)
    torch.testing.assert_close(whole * 20, alone * batch.num_steps)
