"""What the kernels alone must get right: cuts of rollouts and groups, zeros, NaN, order, launches.

That they compute the method at all is shown by test_kernels_laws.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from finestep_fast import CreditConfig, LossConfig, StepBatch, kernels, reference
from finestep_fast.arguments import SCALAR_METRICS, Rewards, TokenConstants
from finestep_fast.config.credit import Scope
from finestep_fast.config.loss import Ratio
from finestep_fast.kernels import launch, reduction
from support import entry_points
from support.batches import SHAPES, Rollout, packed, placed, policy_values
from support.entry_points import device_of, poisoned
from support.launches import launched
from support.profile import LEFT_TO_THE_GATE, left_to_the_gate
from support.tolerance import assert_as_exact

DEVICE = device_of("triton")
INTERPRETED = DEVICE.type == "cpu"
NAN = float("nan")
RAGGED = SHAPES["odd sizes, groups interleaved"]
REWARD = {"step_reward": torch.linspace(0, 1, 10), "rollout_outcome": torch.eye(4)[1]}


def asked_by(scope: str, num_steps: int) -> dict[str, Tensor]:
    """Return the keyword that a scope asks for: keys of three states, or values."""
    generator = torch.Generator().manual_seed(5)
    if scope == "state":  # as hashes are: of all 64 bits, alike in the upper or the lower half
        key = torch.tensor([-(2**63), -(2**63) + 1, 1])
        return {"step_state": key[torch.randint(3, (num_steps,), generator=generator)]}
    if scope == "value":
        return {"step_value": torch.rand(num_steps, generator=generator)}
    return {}


def token_values(batch: StepBatch, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    values = policy_values(1, batch)
    del values["token_logp_ref"], values["step_advantage"]
    return {name: placed(batch, value.to(dtype), fill=NAN) for name, value in values.items()}


def evaluated(
    batch: StepBatch, impl: str, **given: Any
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return loss, gradient and metrics of an entry point, from advantages or from rewards."""
    given = {**token_values(batch), **given}
    token_logp = given.pop("token_logp").requires_grad_()
    entry_point = (
        entry_points.policy_loss if "step_advantage" in given else entry_points.step_policy_loss
    )
    out = entry_point(token_logp, batch=batch, **given, impl=impl)
    (gradient,) = torch.autograd.grad(out.loss, token_logp)
    return out.loss.detach(), gradient, out.metrics


def assert_agree(batch: StepBatch, **given: Any) -> None:
    """Assert that Triton is as exact as the reference, both float32, the truth in float64."""
    candidate, reference = (evaluated(batch, impl, **given) for impl in ("triton", "reference"))
    tensors = {**token_values(batch), **given}
    exact = {
        name: value.double() if isinstance(value, Tensor) else value
        for name, value in tensors.items()
    }
    truth = evaluated(batch, "reference", **exact)
    for got, same, true in zip(candidate[:2], reference[:2], truth[:2], strict=True):
        assert_as_exact(got, same, true)
    for name, metric in candidate[2].items():
        assert_as_exact(metric, reference[2][name], truth[2][name])


# How the work is cut


@pytest.fixture
def few_tokens_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut rollouts into parts as if 24 slots were worth a program."""
    monkeypatch.setattr(launch, "PART_SLOTS", 24)
    monkeypatch.setattr(launch, "BLOCK", 16)
    monkeypatch.setattr(launch, "WIDE_BLOCK", 32)


@pytest.mark.usefixtures("few_tokens_are_many")
@pytest.mark.parametrize("ratio", get_args(Ratio))
def test_rollouts_dealt_out_to_several_programs_give_the_same(ratio: Any) -> None:
    rollouts = [
        Rollout(0, (40, 3, 17), (1, 0, 0.5), 1, gap=(30, 0, 5)),
        Rollout(0, (1, 33), (0.5, 1), 0, gap=(2, 16)),
    ]
    batch = packed(rollouts)
    assert launch.num_parts(batch.num_tokens, 2) == 4
    config = LossConfig(ratio=ratio, aggregation="step_mean")
    reward = torch.tensor([1, 0, 0.5, 0.5, 1])
    assert_agree(batch, step_reward=reward, rollout_outcome=torch.tensor([1.0, 0]), loss=config)


def test_parts_are_few_for_many_rollouts_and_never_none() -> None:
    assert launch.num_parts(num_tokens=8 * 32768, num_rollouts=8) == 32
    assert launch.num_parts(num_tokens=512 * 4096, num_rollouts=512) == 2
    assert launch.num_parts(num_tokens=100_000 * 4096, num_rollouts=100_000) == 1
    assert launch.num_parts(num_tokens=1, num_rollouts=5) == 1


@pytest.mark.parametrize("num_steps", [9, 33, pytest.param(129, marks=LEFT_TO_THE_GATE)])
def test_rollouts_of_many_steps_fit_their_tile(num_steps: int) -> None:
    lengths = [num_steps, 2]
    rollouts = [Rollout(0, (1,) * length, (0,) * length, gap=(0, 1)) for length in lengths]
    batch = packed(rollouts)
    reward = torch.rand(batch.num_steps, generator=torch.Generator().manual_seed(0))
    outcome = torch.tensor([1.0, 0.0])
    assert_agree(batch, step_reward=reward, rollout_outcome=outcome, credit=CreditConfig())


def assert_advantages_agree(size: Sequence[int], outcome: Tensor, **settings: Any) -> None:
    """Assert that Triton is as exact as the reference for one group of rollouts of these sizes."""
    batch = packed([Rollout(0, (1,) * n, (0,) * n, gap=(0,)) for n in size])
    credit = CreditConfig(**settings)
    reward = torch.rand(batch.num_steps, generator=torch.Generator().manual_seed(0))
    asked = asked_by(credit.scope, batch.num_steps)
    candidate, reference, truth = (
        entry_points.step_advantage(
            batch, reward.to(dtype), outcome.to(dtype), **asked, credit=credit, impl=impl
        )
        for impl, dtype in (
            ("triton", torch.float32),
            ("reference", torch.float32),
            ("reference", torch.float64),
        )
    )
    assert_as_exact(candidate, reference, truth)
    assert truth.abs().max() > 0.1


@pytest.mark.parametrize(
    ("num_steps", "scope"),
    [
        *((n, scope) for n in (8, 33) for scope in ("pooled", "state", "value")),
        *(pytest.param(129, scope, marks=LEFT_TO_THE_GATE) for scope in ("pooled", "state")),
        pytest.param(600, "value", marks=LEFT_TO_THE_GATE),
    ],
)
def test_credit_of_many_steps_fits_its_tile(num_steps: int, scope: Scope) -> None:
    outcome = torch.tensor([1.0, 0, 1])
    assert_advantages_agree([2, num_steps, 5], outcome, scope=scope, smoothing=1)


@pytest.mark.parametrize("scope", get_args(Scope))
def test_groups_of_more_rollouts_than_a_tile_are_put_together(scope: Scope) -> None:
    # 19 rollouts, a tile holds 16; means far from 0, so that a wrong shift shows.
    size = [1 + place % 3 for place in range(19)]
    outcome = 50 + torch.rand(19, generator=torch.Generator().manual_seed(0))
    assert_advantages_agree(
        size, outcome, scope=scope, leave_one_out=True, std_floor=0, gae_lambda=1
    )


@pytest.mark.parametrize("shrinkage", [0.0, 2.0])
@pytest.mark.parametrize("channels", ["joint", "decoupled"])
def test_a_state_is_met_at_the_visit_of_the_same_number(channels: Any, shrinkage: float) -> None:
    # Seven steps in three states: each is visited more than once, in some rollouts less often.
    assert_advantages_agree(
        [7, 1, 0, 4, 7],
        torch.tensor([1.0, 0, 1, 1, 0]),
        scope="state",
        channels=channels,
        state_shrinkage=shrinkage,
        smoothing=1,
    )


def test_a_rollouts_group_is_found_among_many() -> None:
    # 600 groups, all but three of them empty: more than the kernel reads together.
    sizes = torch.zeros(600, dtype=torch.int64)
    sizes[[3, 255, 599]] = torch.tensor([2, 1, 2])
    group_offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    reward, outcome = torch.ones(5), torch.tensor([1.0, 0, 1, 0, 1])
    place = torch.arange(6)
    batch = StepBatch(place[:5], place[1:], place, group_offsets, place[:5], num_tokens=5)
    advantage = kernels.step_advantage(
        Rewards(reward.to(DEVICE), outcome.to(DEVICE)),
        batch.to(DEVICE),
        credit=CreditConfig.preset("grpo"),
    )
    z = 0.5 / 0.5**0.5
    assert advantage.tolist() == pytest.approx([z, -z, 0, -z, z], abs=1e-5)


@left_to_the_gate
def test_steps_of_a_row_beyond_65536_tokens_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "WIDE_BLOCK", 8192)  # fewer passes for the interpreter
    spans = [[(3, 5), (70_000, 70_003)], [(69_990, 70_010)]]
    batch = StepBatch.from_spans(spans, [0, 0], num_tokens=2 * 70_016, row_length=70_016)
    reward, outcome = torch.tensor([1, 0.5, 0]), torch.tensor([1.0, 0])
    assert_agree(batch, step_reward=reward, rollout_outcome=outcome)


def test_tokens_beyond_2_to_the_31_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PROGRAMS_WANTED", 1)
    num_tokens = 2**31 + 64
    batch = StepBatch.from_spans([[(5, 7), (2**31 + 3, 2**31 + 9)]], [0], num_tokens=num_tokens)
    try:  # never filled: only the pages that are read come into being
        logp, old = (torch.empty(num_tokens, dtype=torch.bfloat16, device=DEVICE) for _ in "12")
    except RuntimeError as error:
        pytest.skip(f"no 8 GB of addresses: {error}")
    policy_token = batch.policy_token.to(DEVICE)
    logp[policy_token], old[policy_token] = -1.0, -1.5
    moved, advantage = batch.to(DEVICE), torch.tensor([1.0, 2.0], device=DEVICE)
    value, _, metrics = kernels.policy_loss(
        logp,
        TokenConstants(old, None, None),
        moved,
        advantage,
        loss=LossConfig(clip_high=9),
        divisor=None,
        with_gradient=False,
    )
    ratio = torch.tensor(0.5).exp().item()
    assert value.item() == pytest.approx(-(2 * 1 + 6 * 2) / 8 * ratio)
    assert metrics[SCALAR_METRICS.index("ratio_max")].item() == pytest.approx(ratio)


# Zeros, NaN, order


def test_the_gradient_is_zero_outside_steps_in_whatever_order_they_lie() -> None:
    orders = {
        "ascending": [[(2, 5), (9, 10)], [(12, 20)]],
        "descending": [[(12, 20)], [(2, 5), (9, 10)]],
        "interleaved": [[(2, 5), (12, 20)], [(9, 10)]],
    }
    gradients = {}
    for name, spans in orders.items():
        batch = StepBatch.from_spans(spans, [0, 1], num_tokens=33)
        assert batch.steps_ascend == (name == "ascending")
        tokens = {"token_logp": torch.zeros(33), "token_logp_old": torch.zeros(33)}
        given = {**tokens, "step_advantage": torch.ones(3), "token_weight": None}
        gradients[name] = evaluated(batch, "triton", **given)[1]
    inside = torch.zeros(33, dtype=torch.bool)
    inside[[2, 3, 4, 9, *range(12, 20)]] = True
    for gradient in gradients.values():
        torch.testing.assert_close(gradient[inside], torch.full((12,), -1 / 12))
        assert gradient[~inside].eq(0).all()


@pytest.mark.parametrize("ratio", get_args(Ratio))
def test_a_nan_inside_a_step_shows_as_in_the_reference(ratio: Any) -> None:
    batch = packed(RAGGED)
    tokens = token_values(batch)
    tokens["token_logp"][batch.step_start[4]] = NAN
    given = {**tokens, "step_advantage": torch.linspace(-1, 1, batch.num_steps)}
    config = LossConfig(ratio=ratio, dual_clip=2.0)
    candidate, reference = (
        evaluated(batch, impl, **{name: t.clone() for name, t in given.items()}, loss=config)
        for impl in ("triton", "reference")
    )
    assert candidate[0].isnan()
    assert reference[0].isnan()
    assert candidate[1].isnan().equal(reference[1].isnan())
    for name, metric in candidate[2].items():
        assert metric.isnan().equal(reference[2][name].isnan()), name


@pytest.mark.parametrize("std", ["sample", "none"])
@pytest.mark.parametrize("scope", get_args(Scope))
def test_a_nan_reward_stays_in_its_group(scope: Scope, std: Any) -> None:
    batch, credit = packed(RAGGED), CreditConfig(scope=scope, std=std, state_shrinkage=0.5)
    reward, outcome = REWARD["step_reward"].clone(), REWARD["rollout_outcome"].clone()
    asked = asked_by(scope, batch.num_steps)
    for spoiled in (reward, outcome, asked.get("step_value")):
        if spoiled is None:
            continue
        before = spoiled[1].item()
        spoiled[1] = NAN
        # Not by way of the op: on the CPU, where the interpreter is, it refuses a NaN.
        rewards = Rewards(reward, outcome, asked.get("step_state"), asked.get("step_value"))
        moved = Rewards._make(each if each is None else each.to(DEVICE) for each in rewards)
        candidate = kernels.step_advantage(moved, batch.to(DEVICE), credit=credit).cpu()
        expected = reference.step_advantage(batch, **rewards._asdict(), credit=credit)
        assert candidate.isnan().equal(expected.isnan())
        assert 0 < candidate.isnan().sum() < len(candidate)
        torch.testing.assert_close(candidate, expected, equal_nan=True)
        spoiled[1] = before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, -3.0, NAN])
def test_the_backward_pass_scales_policy_tokens_and_nothing_else(
    scale: float, dtype: torch.dtype
) -> None:
    batch = packed(RAGGED)
    gradient = placed(batch, torch.arange(1.0, batch.num_policy_tokens + 1))
    state = gradient.to(kernels.gradient_dtype(dtype)).to(DEVICE)
    before = state.clone()
    moved = batch.to(DEVICE)
    one = torch.tensor(scale, dtype=torch.promote_types(dtype, torch.float32), device=DEVICE)
    kernels.scale_gradient_(state, one, moved.step_start, moved.step_end)
    expected = torch.where(before == 0, before, before * scale)
    torch.testing.assert_close(state, expected, equal_nan=True)


def test_small_gradients_of_float16_logps_survive_until_they_are_scaled() -> None:
    batch = StepBatch.from_spans([[(1, 3)]], [0], num_tokens=4)
    logp = torch.zeros(4, dtype=torch.float16, requires_grad=True)
    given = {"batch": batch, "step_advantage": torch.ones(1), "num_policy_tokens": 3e8}
    out = entry_points.policy_loss(
        logp, torch.zeros(4, dtype=torch.float16), **given, impl="triton"
    )
    (65536.0 * out.loss).backward()
    assert logp.grad is not None
    assert logp.grad.dtype == torch.float16
    assert logp.grad.tolist() == pytest.approx([0, *[-65536 / 3e8] * 2, 0], rel=1e-3)


def test_two_runs_give_the_same_bits() -> None:
    batch = packed(RAGGED)
    one, two = (evaluated(batch, "triton", **REWARD) for _ in range(2))
    assert one[0].equal(two[0])
    assert one[1].equal(two[1])
    assert all(metric.equal(two[2][name]) for name, metric in one[2].items())


def test_the_loss_without_a_gradient_is_the_same() -> None:
    batch = packed(RAGGED)
    tokens = token_values(batch)
    without = entry_points.step_policy_loss(**tokens, **REWARD, batch=batch, impl="triton")
    assert not without.loss.requires_grad
    assert without.loss.equal(evaluated(batch, "triton", **REWARD)[0])


# What is launched


class Operators(TorchDispatchMode):
    """Writes down which operators of torch run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scope", get_args(Scope))
def test_the_loss_is_one_launch_and_a_tiny_one_and_fills_and_copies_nothing(scope: Scope) -> None:
    here, credit = packed(RAGGED), CreditConfig(scope=scope)
    tokens = {name: value.to(DEVICE) for name, value in token_values(here).items()}
    batch, reward, outcome = here.to(DEVICE), *(value.to(DEVICE) for value in REWARD.values())
    asked = asked_by(scope, here.num_steps)
    rewards = Rewards(reward, outcome, **{name: value.to(DEVICE) for name, value in asked.items()})

    def run() -> Tensor:
        _, gradient, _ = kernels.step_policy_loss(
            tokens["token_logp"],
            TokenConstants(tokens["token_logp_old"], None, tokens["token_weight"]),
            batch,
            rewards,
            credit=credit,
            loss=LossConfig(),
            divisor=None,
            with_gradient=True,
        )
        return gradient

    run()  # the settings are copied to the device when they are first seen
    with poisoned(), launched() as launches, Operators() as operators:
        gradient = run()
    assert launches == ["policy_loss_forward", "policy_loss_reduction"]
    of_the_interpreter = {"set_", "copy_"} if INTERPRETED else set()
    moving_nothing = {"empty", "empty_like", "new_empty", "promote_types"}
    assert set(operators.names) <= moving_nothing | of_the_interpreter
    with launched() as launches:
        kernels.step_advantage(rewards, batch, credit=credit)
    assert launches == ["step_advantage_forward"]
    with launched() as launches:
        kernels.scale_gradient_(
            gradient, torch.ones((), device=DEVICE), batch.step_start, batch.step_end
        )
    assert launches == ["scale_gradient"]


def test_metrics_stand_in_the_order_of_the_reference() -> None:
    assert (*SCALAR_METRICS, "loss") == reduction.SUMS
