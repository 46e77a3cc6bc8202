"""The entry points of the policy loss: what they refuse and choose, and that nothing waits."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import finestep_fast
from finestep_fast import (
    CreditConfig,
    InputError,
    LossConfig,
    available_impls,
    policy_loss,
    step_advantage,
    step_policy_loss,
    token_advantage,
)
from finestep_fast.config.loss import Ratio
from finestep_fast.ops.head.implementations import ROWS
from finestep_fast.ops.implementations import IMPLEMENTATIONS
from support.batches import SHAPES, packed
from support.impls import IMPLS

BATCH = packed(SHAPES["a group of one beside a group of two"])
T, S, R = BATCH.num_tokens, BATCH.num_steps, BATCH.num_rollouts


def call(impl: str, **changes: Any) -> Any:
    given = {
        "token_logp": torch.zeros(T),
        "token_logp_old": torch.zeros(T),
        "batch": BATCH,
        "step_advantage": torch.zeros(S),
    }
    return policy_loss(**{**given, **changes}, impl=impl)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_logp": torch.zeros(T + 1)}, rf"token_logp has shape \({T + 1},\); expected {T}"),
        ({"token_logp": torch.zeros(T).long()}, "token_logp is torch.int64; expected floating"),
        ({"token_logp_old": torch.zeros(1, T)}, rf"token_logp_old has shape \(1, {T}\); expected"),
        ({"token_logp_old": torch.zeros(T, device="meta")}, "token_logp_old is on meta; expected"),
        ({"token_weight": torch.zeros(2)}, r"token_weight has shape \(2,\); expected"),
        ({"step_advantage": torch.zeros(T)}, rf"step_advantage has shape \({T},\); expected"),
        ({"token_logp_ref": torch.zeros(T)}, "token_logp_ref is given while loss.kl is None"),
        ({"loss": LossConfig(kl="k3")}, "token_logp_ref is not given while loss.kl is 'k3'"),
        ({"batch": None}, "batch is a NoneType; it must be a StepBatch"),
        ({"num_policy_tokens": 0}, "num_policy_tokens is 0; it must be above 0"),
        ({"num_policy_tokens": float("nan")}, "num_policy_tokens is nan; it must be above 0"),
        ({"num_policy_tokens": torch.ones(2)}, r"num_policy_tokens has shape \(2,\)"),
        (
            {"num_policy_tokens": 9, "loss": LossConfig(aggregation="rollout_mean")},
            "num_rollouts is not given while num_policy_tokens is; aggregation 'rollout_mean'",
        ),
    ],
)
@pytest.mark.parametrize("impl", IMPLS)
def test_the_entry_point_names_what_is_wrong(
    impl: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(impl, **changes)


def test_an_unknown_implementation_is_refused_by_every_entry_point() -> None:
    message = "impl is 'fastest'; it must be one of 'auto', 'reference'"
    with pytest.raises(InputError, match=message):
        call("fastest")
    rewards = (torch.zeros(S), torch.zeros(R))
    with pytest.raises(InputError, match=message):
        step_advantage(BATCH, *rewards, impl="fastest")
    with pytest.raises(InputError, match=message):
        step_policy_loss(torch.zeros(T), torch.zeros(T), BATCH, *rewards, impl="fastest")


def test_plain_pytorch_is_always_available_and_every_implementation_is_named() -> None:
    available = available_impls()
    assert available["reference"] is True
    assert available["torch"] is True
    assert set(available) == {*IMPLEMENTATIONS, *ROWS}


def test_token_advantage_refuses_what_is_not_one_number_per_step() -> None:
    with pytest.raises(InputError, match=rf"step_advantage has shape \({R},\); expected \({S},\)"):
        token_advantage(BATCH, torch.zeros(R))


def test_public_names_are_all_there() -> None:
    assert all(hasattr(finestep_fast, name) for name in finestep_fast.__all__)


class RefuseToWait(TorchDispatchMode):
    """Fails on operations that make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    WAITING = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten._unique2.default,
        torch.ops.aten.equal.default,
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        assert func not in self.WAITING, f"{func} waits for the device"
        if func is torch.ops.aten.repeat_interleave.Tensor:
            assert kwargs.get("output_size") is not None, "repeat_interleave waits for its size"
        if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, "indexing by a mask waits for its size"
        return func(*args, **kwargs)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("scope", ["pooled", "per_index", "trajectory"])
@pytest.mark.parametrize("ratio", get_args(Ratio))
def test_neither_credit_nor_loss_waits_for_the_device(impl: str, scope: Any, ratio: Any) -> None:
    batch = packed(SHAPES["a group of one beside a group of two"])
    assert batch.num_policy_tokens == 12  # a batch knows its sizes before it is moved
    assert batch.max_rollout_steps == 2
    assert batch.steps_ascend
    logp = torch.zeros(T, requires_grad=True)
    token: dict[str, Tensor] = {"token_weight": torch.ones(T), "token_logp_ref": torch.zeros(T)}
    with RefuseToWait():
        out = step_policy_loss(
            logp,
            torch.zeros(T),
            batch,
            torch.zeros(S),
            torch.ones(R),
            credit=CreditConfig(scope=scope, channels="decoupled", rollout_weight=0.5),
            loss=LossConfig(ratio=ratio, dual_clip=3, kl="k3", kl_weight=0.1),
            impl=impl,
            **token,
        )
        out.loss.backward()
    with pytest.raises(AssertionError, match="waits"), RefuseToWait():
        out.loss.item()
