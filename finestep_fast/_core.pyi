"""
The compiled CPU core of finestep_fast. Doors to it: StepBatch and finestep_fast.ops.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "Memory",
    "policy_loss",
    "read_logit_rows",
    "scale_gradient",
    "step_advantage",
    "step_policy_loss",
    "step_spans",
    "write_logit_gradients",
]

class Memory:
    """
    A contiguous tensor that outlives the call: its address, number of elements, and dtype as an index into float32, float64, bfloat16, float16, int64.
    """
    def __init__(
        self,
        address: typing.SupportsInt | typing.SupportsIndex,
        size: typing.SupportsInt | typing.SupportsIndex,
        dtype: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...

def policy_loss(
    tokens: tuple[Memory, Memory, Memory | None, Memory | None],
    steps: tuple[Memory, Memory, Memory],
    step_advantage: Memory,
    loss: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    count: Memory | None,
    out: tuple[Memory, Memory | None, Memory],
    clear_between: bool,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write loss [1], the gradient of the policy tokens to their places in [T] (where it is asked for; with clear_between also zeros to all others: steps must then ascend) and metrics to `out`. tokens: token_logp, token_logp_old, token_logp_ref, token_weight; steps: step_start, step_end, step_offsets; loss: the fields of LossConfig; count [1]: what the aggregation divides by, else the batch's own.
    """

def read_logit_rows(
    rows: tuple[Memory, Memory, Memory, Memory],
    vocabulary: typing.SupportsInt | typing.SupportsIndex,
    out: tuple[Memory, Memory, Memory, Memory],
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write logp, entropy, maximum and total [C] of some rows to `out`. rows: logits [rows, V], row [C], target [C], temperature [C]; what is [C] and not a position is float64.
    """

def scale_gradient(
    gradient: Memory,
    scale: Memory,
    step_start: Memory,
    step_end: Memory,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Multiply gradient [T] by scale [1] in place, for the tokens inside steps.
    """

def step_advantage(
    groups: tuple[Memory, Memory, Memory],
    rewards: tuple[Memory, Memory],
    credit: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    out: Memory,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write the advantages [S] to `out`. groups: step_offsets, group_offsets, group_rollouts; rewards: step_reward [S], rollout_outcome [R]; credit: the fields of CreditConfig.
    """

def step_policy_loss(
    tokens: tuple[Memory, Memory, Memory | None, Memory | None],
    steps: tuple[Memory, Memory, Memory],
    groups: tuple[Memory, Memory, Memory],
    rewards: tuple[Memory, Memory],
    credit: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    loss: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    count: Memory | None,
    out: tuple[Memory, Memory | None, Memory],
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

def write_logit_gradients(
    rows: tuple[Memory, Memory, Memory, Memory],
    vocabulary: typing.SupportsInt | typing.SupportsIndex,
    sums: tuple[Memory, Memory, Memory, Memory],
    logp_slope: Memory,
    entropy_slope: Memory | None,
    out: Memory,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write d loss / d logit of those rows to the same rows of `out`, which may be the logits, from what read_logit_rows found and d loss / d logp, d loss / d entropy [C].
    """
