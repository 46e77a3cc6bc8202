"""One number per step, given to each of its tokens: compiled for CPU tensors, plain else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast import StepBatch, reference, token_advantage
from support.batches import Rollout, packed, padded, rollout_lists
from support.entry_points import device_of, poisoned
from support.impls import IMPLS

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def values(batch: StepBatch, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch.num_steps)
    return torch.randn(batch.num_steps, generator=generator).to(dtype)


@pytest.mark.native
def test_a_token_gets_the_value_of_its_step_and_0_elsewhere() -> None:
    batch = StepBatch.from_spans([[(1, 3), (4, 5)], [(7, 8)]], [0, 0], num_tokens=9)
    with poisoned():
        value = token_advantage(batch, torch.tensor([2.0, -1.0, 3.0]))
    assert value.tolist() == [0, 2, 2, 0, -1, 0, 0, 3, 0]


@pytest.mark.native
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_in_any_order_give_the_references_values(dtype: torch.dtype) -> None:
    spans = [[(100, 180)], [], [(0, 1), (20, 90)], [(181, 300)], [(90, 100)]]
    batch = StepBatch.from_spans(spans, [0] * 5, num_tokens=70_000)
    assert not batch.steps_ascend
    value = values(batch, dtype)
    with poisoned():
        by_token = token_advantage(batch, value)
    assert by_token.dtype == dtype
    assert torch.equal(by_token, reference.token_advantage(batch, value))


@pytest.mark.native
@given(rollouts=rollout_lists(), dtype=st.sampled_from(DTYPES))
def test_any_batch_gives_the_references_values(rollouts: list[Rollout], dtype: torch.dtype) -> None:
    for batch in (packed(rollouts), padded(rollouts, extra=3)):
        value = values(batch, dtype)
        with poisoned():
            by_token = token_advantage(batch, value)
        assert torch.equal(by_token, reference.token_advantage(batch, value))


@pytest.mark.native
def test_the_number_of_threads_changes_nothing() -> None:
    mask = torch.rand(64, 3000, generator=torch.Generator().manual_seed(0)) < 0.5
    batch = StepBatch.from_mask(mask, torch.zeros(64, dtype=torch.int64))
    value, threads = values(batch), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        by_token = token_advantage(batch, value)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(by_token, reference.token_advantage(batch, value))
    assert torch.equal(by_token != 0, mask.flatten())


def test_the_gradient_of_a_step_is_the_sum_over_its_tokens() -> None:
    batch = StepBatch.from_spans([[(1, 3), (4, 5)], [(7, 8)]], [0, 0], num_tokens=9)
    value = torch.tensor([2.0, -1.0, 3.0], requires_grad=True)
    (token_advantage(batch, value) * torch.arange(9.0)).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [3, 4, 7]


def test_a_compiled_function_may_use_it() -> None:
    batch = StepBatch.from_spans([[(1, 3), (4, 5)], [(7, 8)]], [0, 0], num_tokens=9)
    _ = batch.policy_token  # read from the device once, before
    double = torch.compile(lambda value: 2 * token_advantage(batch, value), backend="aot_eager")
    assert double(torch.ones(3)).tolist() == [0, 2, 2, 0, 2, 0, 0, 2, 0]


@pytest.mark.parametrize("impl", IMPLS)
def test_it_stays_on_the_device_of_the_batch(impl: str) -> None:
    batch = StepBatch.from_spans([[(1, 3)]], [0], num_tokens=4).to(device_of(impl))
    by_token = token_advantage(batch, torch.ones(1, device=batch.device))
    assert by_token.device.type == batch.device.type
    assert by_token.tolist() == [0, 1, 1, 0]
