"""The implementations of the ops: the reference and the compiled ones, and which fits what device.

An implementation offers the three ops on a checked batch. A new one is one more entry here.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from finestep_fast import reference
from finestep_fast.arguments import COUNT_OF_AGGREGATION, Count, Rewards, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.errors import BuildError, InputError
from finestep_fast.ops import cpp
from finestep_fast.ops.operators import CPP, TRITON
from finestep_fast.reference import LossCounts, LossOutput


class Implementation(Protocol):
    """The three ops, as the entry points call them; a count of None is the batch's own."""

    def step_advantage(self, rewards: Rewards, batch: StepBatch, *, credit: CreditConfig) -> Tensor:
        """Return [S] advantages; see `finestep_fast.step_advantage`."""

    def policy_loss(
        self,
        token_logp: Tensor,
        constants: TokenConstants,
        batch: StepBatch,
        step_advantage: Tensor,
        *,
        loss: LossConfig,
        count: Count | None,
    ) -> LossOutput:
        """Return the loss; `count` is what the aggregation divides by."""

    def step_policy_loss(
        self,
        token_logp: Tensor,
        constants: TokenConstants,
        batch: StepBatch,
        rewards: Rewards,
        *,
        credit: CreditConfig,
        loss: LossConfig,
        count: Count | None,
    ) -> LossOutput:
        """Return the loss of the step advantages; `count` is what the aggregation divides by."""


class Reference:
    """Plain PyTorch, on every device."""

    def step_advantage(self, rewards: Rewards, batch: StepBatch, *, credit: CreditConfig) -> Tensor:
        """Return [S] advantages without gradient."""
        with torch.no_grad():
            return reference.step_advantage(
                batch,
                rewards.step_reward,
                rewards.rollout_outcome,
                step_state=rewards.step_state,
                step_value=rewards.step_value,
                credit=credit,
            )

    def policy_loss(
        self,
        token_logp: Tensor,
        constants: TokenConstants,
        batch: StepBatch,
        step_advantage: Tensor,
        *,
        loss: LossConfig,
        count: Count | None,
    ) -> LossOutput:
        """Return the loss; `count` is what the aggregation divides by."""
        return reference.policy_loss(
            token_logp,
            constants.logp_old,
            batch,
            step_advantage,
            loss=loss,
            counts=loss_counts(batch, count, loss),
            token_logp_ref=constants.logp_ref,
            token_weight=constants.token_weight,
        )

    def step_policy_loss(
        self,
        token_logp: Tensor,
        constants: TokenConstants,
        batch: StepBatch,
        rewards: Rewards,
        *,
        credit: CreditConfig,
        loss: LossConfig,
        count: Count | None,
    ) -> LossOutput:
        """Return the loss of the step advantages; `count` is what the aggregation divides by."""
        step_advantage = self.step_advantage(rewards, batch, credit=credit)
        return self.policy_loss(
            token_logp, constants, batch, step_advantage, loss=loss, count=count
        )


def loss_counts(batch: StepBatch, count: Count | None, loss: LossConfig) -> LossCounts:
    """Return what means divide by: the batch's own sizes, except the one that is given."""
    counts = LossCounts(batch.num_policy_tokens, batch.num_rollouts, batch.num_steps)
    if count is None:
        return counts
    one = count.reshape(()) if isinstance(count, Tensor) else count
    return counts._replace(**{COUNT_OF_AGGREGATION[loss.aggregation]: one})


REFERENCE = Reference()
IMPLEMENTATIONS: dict[str, Implementation] = {
    "reference": REFERENCE,
    "cpp": CPP,
    "triton": TRITON,
}
AUTO = {"cpu": "cpp", "cuda": "triton"}
"""Device type -> the fastest implementation. AMD's GPUs are `cuda` to torch, too."""


def available_impls() -> dict[str, bool | str]:
    """Return which implementations can run here: name -> True, or the reason why not.

    `torch` is offered by the ops from hidden states and logits alone.
    """
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    on_gpu = triton_why_not(gpu)
    interpreted = on_gpu is not None and triton_why_not(cpu) is None
    return {
        "reference": True,
        "torch": True,
        "cpp": cpp.why_not(cpu) or True,
        "triton": True if interpreted or on_gpu is None else on_gpu,
    }


def chosen(impl: str, device: torch.device) -> Implementation:
    """Return the implementation of that name for tensors on that device.

    Raises:
        InputError: There is none of that name, or it does not take tensors of that device.
        BuildError: It was not built.
    """
    if impl == "auto":
        if device.type not in AUTO:
            raise InputError(
                f"impl is 'auto' for tensors on {device}; it must be 'reference' there, only "
                f"{' and '.join(AUTO)} have anything faster"
            )
        impl = AUTO[device.type]
    if impl == "reference":
        return REFERENCE
    if impl == "cpp":
        if cpp.NOT_BUILT is not None:
            raise BuildError(
                f"impl is 'cpp': {cpp.NOT_BUILT}; build it with `pip install .`, or take "
                "impl='reference'"
            )
        reason = cpp.why_not(device)
    elif impl == "triton":
        reason = triton_why_not(device)
    else:
        known = ", ".join(repr(name) for name in ["auto", *IMPLEMENTATIONS])
        raise InputError(f"impl is {impl!r}; it must be one of {known}")
    if reason is not None:
        raise InputError(f"impl is {impl!r}, which cannot be used: {reason}")
    return IMPLEMENTATIONS[impl]


def triton_why_not(device: torch.device) -> str | None:
    """Return why the kernels cannot run on tensors of a device, or None where they can."""
    try:
        import finestep_fast.kernels as kernels
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    return kernels.why_not(device)
