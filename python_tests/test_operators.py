"""The compiled implementations as operators of torch: traced, differentiated, threaded, refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from finestep_fast import (
    CreditConfig,
    InputError,
    LossConfig,
    StepBatch,
    available_impls,
    policy_loss,
    step_advantage,
    step_policy_loss,
)
from finestep_fast._core import step_spans
from finestep_fast.arguments import SCALAR_METRICS, Rewards, TokenConstants
from finestep_fast.config.credit import PRESETS
from finestep_fast.ops.operators import (
    ADVANTAGE,
    CPP,
    LOSS,
    REWARD_LOSS,
    AdvantageArguments,
    LossArguments,
    RewardLossArguments,
)
from finestep_fast.ops.schema import put_back, set_apart
from support.batches import (
    SHAPES,
    packed,
    padded,
    policy_values,
    rollout_outcome,
    some_states,
    some_values,
    step_reward,
)
from support.profile import LEFT_TO_THE_GATE
from support.programs import printed

STATE = available_impls()["cpp"]
pytestmark = pytest.mark.skipif(STATE is not True, reason=f"cpp: {STATE}")

ROLLOUTS = SHAPES["odd sizes, groups interleaved"]
BATCH = packed(ROLLOUTS)
LOSSES = [
    LossConfig(),
    LossConfig(kind="cispo", ratio="step", aggregation="step_mean", kl="k1", kl_weight=0.5),
    LossConfig(dual_clip=2.5, ratio="rollout", aggregation="constant", constant_tokens=9, kl="k2"),
    LossConfig(ratio="rollout_averaged", aggregation="rollout_mean"),
]


def tokens(batch: StepBatch, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(batch.num_tokens, generator=generator)
    return (old + 0.3 * torch.randn(old.shape, generator=generator)).to(dtype), old.to(dtype)


REWARDS = Rewards(step_reward(ROLLOUTS), rollout_outcome(ROLLOUTS))
OF_SCOPE: dict[str, Rewards] = {
    "state": REWARDS._replace(step_state=some_states(BATCH)),
    "value": REWARDS._replace(step_value=some_values(BATCH)),
}
"""Scope -> what it needs beside the rewards."""


def rewards_for(credit: CreditConfig) -> Rewards:
    return OF_SCOPE.get(credit.scope, REWARDS)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.ratio)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_opcheck_of_the_losses(loss: LossConfig, dtype: torch.dtype, with_gradient: bool) -> None:
    logp, old = tokens(BATCH, dtype=dtype)
    ref = None if loss.kl is None else old
    given = (logp.requires_grad_(with_gradient), TokenConstants(old, ref, None), BATCH)
    advantage = policy_values(0, BATCH)["step_advantage"].float()
    last = (None, with_gradient)
    by_advantage = LossArguments(*given, advantage, loss, *last)
    torch.library.opcheck(CPP.policy_loss_op, LOSS.flat(by_advantage))
    by_reward = RewardLossArguments(*given, REWARDS, CreditConfig(), loss, *last)
    torch.library.opcheck(CPP.step_policy_loss_op, REWARD_LOSS.flat(by_reward))


@pytest.mark.parametrize("scope", OF_SCOPE)
def test_opcheck_of_a_loss_that_is_given_states_or_values(scope: str) -> None:
    logp, old = tokens(BATCH)
    constants, rewards = TokenConstants(old, None, None), OF_SCOPE[scope]
    credit = CreditConfig.preset(f"finestep_{scope}")
    given = RewardLossArguments(
        logp.requires_grad_(), constants, BATCH, rewards, credit, LOSSES[0], None, True
    )
    torch.library.opcheck(CPP.step_policy_loss_op, REWARD_LOSS.flat(given))


def test_opcheck_of_the_advantages() -> None:
    for credit in (CreditConfig.preset(name) for name in PRESETS):
        given = AdvantageArguments(rewards_for(credit), BATCH, credit)
        torch.library.opcheck(CPP.step_advantage_op, ADVANTAGE.flat(given))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.ratio)
@pytest.mark.parametrize("divisor", [None, 7, 0.1, torch.tensor(3)])
def test_arguments_survive_their_way_through_an_operator(loss: LossConfig, divisor: Any) -> None:
    logp, old = tokens(BATCH)
    for name in PRESETS:
        credit = CreditConfig.preset(name, advantage_clip=None, leave_one_out=True, std="none")
        rewards, constants = rewards_for(credit), TokenConstants(old, None, 2 * old)
        given = RewardLossArguments(logp, constants, BATCH, rewards, credit, loss, divisor, True)
        flat = REWARD_LOSS.flat(given)
        assert not any(isinstance(part, tuple) for part in flat)
        back = REWARD_LOSS.bundled(flat)
        assert back._replace(batch=BATCH) == given
        assert (
            vars(back.batch).items()
            >= {
                "num_policy_tokens": BATCH.num_policy_tokens,
                "max_rollout_steps": BATCH.max_rollout_steps,
                "steps_ascend": BATCH.steps_ascend,
            }.items()
        )
        positions = ("step_start", "step_end", "step_offsets", "group_offsets", "group_rollouts")
        for position in positions:
            assert getattr(back.batch, position) is getattr(BATCH, position)


def test_every_argument_of_an_operator_has_a_name_of_its_own() -> None:
    for schema in (ADVANTAGE, LOSS, REWARD_LOSS):
        assert len(set(schema.names)) == len(schema.names)
    assert "float loss_clip_low" in LOSS.text
    assert "float? loss_dual_clip" in LOSS.text
    assert "Tensor? divisor_tensor, float? divisor" in LOSS.text
    assert "Tensor? rewards_step_state, Tensor? rewards_step_value" in ADVANTAGE.text


def test_tensors_that_were_set_apart_come_back_to_their_places() -> None:
    logp, old = tokens(BATCH)
    given = LossArguments(
        logp, TokenConstants(old, None, logp), BATCH, old, LossConfig(), torch.ones(()), False
    )
    marked, tensors = set_apart(given)
    assert len(tensors) == 5
    assert marked.batch is BATCH
    assert put_back(marked, tensors) == given


def trained(token_logp: Tensor, old: Tensor, batch: StepBatch, rewards: Any, loss: Any) -> Any:
    """Do what a training step does with the loss: something before, something after, metrics."""
    out = step_policy_loss(2 * token_logp, old, batch, *rewards, loss=loss, impl="cpp")
    return 3 * out.loss + out.metrics["approx_kl"], out.metrics


@pytest.mark.parametrize("loss", [LOSSES[0], LossConfig(ratio="step", aggregation="step_mean")])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=LEFT_TO_THE_GATE)])
def test_a_loss_compiles_without_a_break_and_once_for_all_lengths(
    loss: LossConfig, backend: str
) -> None:
    torch._dynamo.reset()
    graphs = 0

    def counted(module: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend(backend)(module, inputs)

    compiled: Callable[..., Any] = torch.compile(trained, fullgraph=True, backend=counted)
    with torch._inductor.utils.fresh_cache():
        known = []
        for extra in range(6):
            batch = padded(ROLLOUTS + ROLLOUTS[: extra % 3 + 1], extra=7 * extra)
            logp, old = (each.view(batch.num_rollouts, -1) for each in tokens(batch))
            rewards = (torch.rand(batch.num_steps), torch.rand(batch.num_rollouts).round())
            results = []
            for call in (trained, compiled):
                leaf = logp.clone().requires_grad_()
                value, metrics = call(leaf, old, batch, rewards, loss)
                value.backward()
                results.append([value, leaf.grad, *metrics.values()])
            for eager, traced in zip(*results, strict=True):
                torch.testing.assert_close(traced, eager, rtol=1e-6, atol=1e-8)
            known.append(graphs)
    assert known[0] == 1
    assert known[-1] == known[2] <= 3  # sizes that are seen to change are changeable from then on


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_a_retained_graph_gives_the_gradient_again_whatever_was_done_to_it(impl: str) -> None:
    logp, old = tokens(BATCH)
    logp.requires_grad_()
    advantage = policy_values(0, BATCH)["step_advantage"]
    loss = policy_loss(logp, old, BATCH, advantage, impl=impl).loss
    (first,) = torch.autograd.grad(loss, logp, retain_graph=True)
    expected = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(2 * loss, logp, retain_graph=True)
    torch.testing.assert_close(second, 2 * expected)
    loss.backward()
    torch.testing.assert_close(logp.grad, expected)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_a_gradient_that_is_asked_for_again_notices_that_its_inputs_changed() -> None:
    logp, old = tokens(BATCH)
    logp.requires_grad_()
    loss = policy_loss(logp, old, BATCH, torch.ones(BATCH.num_steps), impl="cpp").loss
    loss.backward(retain_graph=True)
    old.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_second_derivative_is_refused() -> None:
    logp, old = tokens(BATCH)
    logp.requires_grad_()
    loss = policy_loss(logp, old, BATCH, torch.ones(BATCH.num_steps), impl="cpp").loss
    (gradient,) = torch.autograd.grad(loss, logp, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_without_a_need_for_a_gradient_there_is_none(impl: str) -> None:
    logp, old = tokens(BATCH)
    advantage = torch.ones(BATCH.num_steps)
    values = [policy_loss(logp, old.requires_grad_(), BATCH, advantage, impl=impl).loss]
    with torch.no_grad():
        leaf = logp.clone().requires_grad_()
        values.append(policy_loss(leaf, old, BATCH, advantage, impl=impl).loss)
    assert not any(value.requires_grad for value in values)
    assert values[0].equal(values[1])


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.ratio)
def test_results_do_not_depend_on_the_number_of_threads(
    loss: LossConfig, threads: Callable[[int], None]
) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(768, 192, generator=generator) < 0.6
    group = torch.arange(768) // 5
    results = []
    for count in (1, 2, 5):
        threads(count)
        batch = StepBatch.from_mask(mask, group)
        assert batch.num_policy_tokens > 8 * 8192  # each of the threads has something to do
        logp, old = tokens(batch)
        logp.requires_grad_()
        noise = torch.Generator().manual_seed(1)
        reward = torch.rand(batch.num_steps, generator=noise)
        outcome = torch.rand(768, generator=noise).round()
        by_scope = [
            step_advantage(batch, reward, outcome, credit=credit, impl="cpp", **given)
            for credit, given in (
                ("finestep", {}),
                ("finestep_state", {"step_state": some_states(batch)}),
                ("finestep_value", {"step_value": some_values(batch)}),
            )
        ]
        ref = None if loss.kl is None else old
        out = step_policy_loss(
            logp, old, batch, reward, outcome, loss=loss, token_logp_ref=ref, impl="cpp"
        )
        (0.3 * out.loss).backward()
        assert logp.grad is not None
        spans = [batch.step_start, batch.step_end, batch.step_offsets]
        results.append([*spans, *by_scope, out.loss, logp.grad, *out.metrics.values()])
    for other in results[1:]:
        assert all(one.equal(two) for one, two in zip(results[0], other, strict=True))


def test_positions_beyond_2_to_the_31_are_reached() -> None:
    # Memory that is never touched costs nothing: only steps are read.
    num_tokens = 2**31 + 100
    batch = StepBatch.from_spans(
        [[(0, 3)], [(2**31 - 2, 2**31 + 2), (num_tokens - 1, num_tokens)]],
        [0, 0],
        num_tokens=num_tokens,
    )
    logp = torch.empty(num_tokens, dtype=torch.bfloat16)
    old = torch.empty(num_tokens, dtype=torch.bfloat16)
    logp[batch.policy_token], old[batch.policy_token] = -1.0, -1.5
    advantage = torch.tensor([1.0, 2.0, 4.0])
    loss = LossConfig(clip_high=9)
    out = policy_loss(logp, old, batch, advantage, loss=loss, impl="cpp")
    expected = -np.exp(0.5) * (3 * 1 + 4 * 2 + 1 * 4) / 8
    assert out.loss.item() == pytest.approx(expected)
    mask = np.zeros((1, num_tokens), dtype=np.uint8)
    mask[0, 2**31 - 2 : 2**31 + 2] = mask[0, -1] = 1
    start, end, _ = step_spans(mask)
    assert start.tolist() == [2**31 - 2, num_tokens - 1]
    assert end.tolist() == [2**31 + 2, num_tokens]


def test_an_implementation_refuses_tensors_of_another_device() -> None:
    meta = BATCH.to("meta")
    logp = torch.empty(BATCH.num_tokens, device="meta")
    advantage = torch.empty(BATCH.num_steps, device="meta")
    for impl, message in {
        "cpp": "impl is 'cpp', which cannot be used: it takes CPU tensors, and these are on meta",
        "triton": "impl is 'triton', which cannot be used",
        "auto": "impl is 'auto' for tensors on meta; it must be 'reference' there",
    }.items():
        with pytest.raises(InputError, match=message):
            policy_loss(logp, logp, meta, advantage, impl=impl)


def test_auto_takes_cpp_for_cpu_tensors() -> None:
    assert available_impls()["cpp"] is True
    logp, old = tokens(BATCH)
    advantage = policy_values(0, BATCH)["step_advantage"]
    results = {
        impl: policy_loss(logp.requires_grad_(), old, BATCH, advantage, impl=impl).loss
        for impl in ("auto", "cpp", "reference")
    }
    assert type(results["auto"].grad_fn) is type(results["cpp"].grad_fn)
    assert type(results["auto"].grad_fn) is not type(results["reference"].grad_fn)


def test_without_the_compiled_module_the_reference_runs_and_the_rest_says_why() -> None:
    program = """
import sys
sys.modules["finestep_fast._core"] = None  # what an import of a missing module finds
import torch, finestep_fast as ff
print(ff.available_impls()["cpp"])
batch = ff.StepBatch.from_spans([[(0, 2)]], [0], num_tokens=2)
given = (torch.zeros(2), torch.zeros(2), batch, torch.ones(1))
print(ff.policy_loss(*given, impl="reference").loss.item())
for impl in ("cpp", "auto"):
    try:
        ff.policy_loss(*given, impl=impl)
    except ff.BuildError as error:
        print(error)
"""
    reason, loss, *errors = printed("-c", program, timeout_s=300).splitlines()
    assert reason.startswith("finestep_fast._core was not built: ")
    assert float(loss) == -1
    assert len(errors) == 2
    assert all(error.startswith(f"impl is 'cpp': {reason}; build it with") for error in errors)


def test_metrics_come_back_under_the_names_of_the_reference() -> None:
    logp, old = tokens(BATCH)
    advantage = torch.ones(BATCH.num_steps)
    for loss in LOSSES:
        ref = None if loss.kl is None else old
        given: dict[str, Any] = {"loss": loss, "token_logp_ref": ref}
        names = [
            set(policy_loss(logp, old, BATCH, advantage, **given, impl=impl).metrics)
            for impl in ("reference", "cpp")
        ]
        assert names[0] == names[1]
        assert names[0] - {"advantage_by_position"} <= set(SCALAR_METRICS)
