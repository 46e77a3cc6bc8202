"""
The compiled CPU core of finestep_fast. Doors to it: StepBatch and finestep_fast.ops.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing
import torch

__all__: list[str] = [
    "policy_loss",
    "scale_gradient",
    "step_advantage",
    "step_policy_loss",
    "step_spans",
    "token_values",
]

def policy_loss(
    tokens: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    steps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    step_advantage: torch.Tensor,
    loss: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    count: torch.Tensor | None,
    out: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor],
    clear_between: bool,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write loss [1], the gradient of the policy tokens to their places in [T] (where it is asked for; with clear_between also zeros to all others: steps must then ascend) and metrics to `out`. tokens: token_logp, token_logp_old, token_logp_ref, token_weight; steps: step_start, step_end, step_offsets; loss: the fields of LossConfig; count [1]: what the aggregation divides by, else the batch's own.
    """

def scale_gradient(
    gradient: torch.Tensor,
    scale: torch.Tensor,
    step_start: torch.Tensor,
    step_end: torch.Tensor,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Multiply gradient [T] by scale [1] in place, for the tokens inside steps.
    """

def step_advantage(
    groups: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rewards: tuple[torch.Tensor, torch.Tensor],
    credit: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    out: torch.Tensor,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write the advantages [S] to `out`. groups: step_offsets, group_offsets, group_rollouts; rewards: step_reward [S], rollout_outcome [R]; credit: the fields of CreditConfig.
    """

def step_policy_loss(
    tokens: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    steps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    groups: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rewards: tuple[torch.Tensor, torch.Tensor],
    credit: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    loss: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    count: torch.Tensor | None,
    out: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor],
    clear_between: bool,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    policy_loss of step_advantage, without its way through memory.
    """

@typing.overload
def step_spans(
    mask: numpy.typing.NDArray[numpy.bool],
    num_threads: typing.SupportsInt | typing.SupportsIndex = 1,
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]:
    """
    Return the runs of True of each row as flat half-open spans: (start [S], end [S], offsets [R+1]). `mask` is [R, L], C-contiguous.
    """

@typing.overload
def step_spans(
    mask: numpy.typing.NDArray[numpy.uint8],
    num_threads: typing.SupportsInt | typing.SupportsIndex = 1,
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]:
    """
    Return the runs of True of each row as flat half-open spans: (start [S], end [S], offsets [R+1]). `mask` is [R, L], C-contiguous.
    """

def token_values(
    step_value: torch.Tensor,
    step_start: torch.Tensor,
    step_end: torch.Tensor,
    out: torch.Tensor,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write step_value [S] to the tokens of each step and 0 to all others of `out` [T].
    """
