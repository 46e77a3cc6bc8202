"""Step credit: from rewards to one advantage per step, and from a mask to steps.

    python -m benchmarks.bench_step_advantage

Beside our implementations stand the two ways in which it is done elsewhere: a loop over rows on the
driver, as estimators of RL frameworks are written, with the edges of each row's mask found in
Python; and vectorised torch (our reference). The loop does a part of the work only (pooled z-scores
of discounted returns, no smoothing), so it is flattered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import finestep_fast as ff
from benchmarks.harness import Case, options, report

_SHAPES = ((64, 2048, 4), (512, 4096, 6), (1280, 16384, 6))
_GROUP = 8
_CREDIT = ff.CreditConfig()


@dataclass(frozen=True)
class _Inputs:
    token_mask: Tensor
    group_of_rollout: Tensor
    batch: ff.StepBatch
    step_reward: Tensor
    rollout_outcome: Tensor


def main() -> None:
    """Time all shapes."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    arguments = parser.parse_args()
    cases = [_case(*shape, torch.device(arguments.device)) for shape in _SHAPES]
    report("step advantages, milliseconds", "reference", cases, arguments)


def _case(rollouts: int, length: int, steps: int, device: torch.device) -> Case:
    given = _inputs(rollouts, length, steps, device)
    truth = ff.step_advantage(
        given.batch, given.step_reward, given.rollout_outcome, credit=_CREDIT, impl="reference"
    )
    made: dict[str, Tensor] = {}

    def door(impl: str) -> Callable[[], None]:
        def run() -> None:
            made[impl] = ff.step_advantage(
                given.batch, given.step_reward, given.rollout_outcome, credit=_CREDIT, impl=impl
            )

        return run

    def check(name: str) -> None:
        if name in made:
            torch.testing.assert_close(made[name], truth, rtol=1e-5, atol=1e-5)

    runs: dict[str, Callable[[], object]] = {}
    absent = {}
    for impl, state in ff.available_impls().items():
        usable = impl == "reference" or (impl == "triton") == (device.type == "cuda")
        if state is True and usable:
            runs[impl] = door(impl)
        else:
            absent[impl] = str(state) if state is not True else f"not for {device.type}"
    runs["rows in Python"] = lambda: _rows_in_python(given)
    runs["from_mask"] = lambda: ff.StepBatch.from_mask(given.token_mask, given.group_of_rollout)
    return Case(f"{rollouts} x {length}, {steps} steps", runs, check, absent=absent)


def _inputs(rollouts: int, length: int, steps: int, device: torch.device) -> _Inputs:
    torch.manual_seed(0)
    width = length // steps
    position = torch.arange(length)
    written = torch.randint(width // 4, 3 * width // 4, (rollouts, steps))
    mask = (position % width)[None] < written[:, (position // width).clamp(max=steps - 1)]
    mask &= position[None] < width * steps
    group = torch.arange(rollouts) // _GROUP
    batch = ff.StepBatch.from_mask(mask, group)
    reward = torch.randint(0, 5, (batch.num_steps,)) / 4
    outcome = torch.randint(0, 2, (rollouts,)).float()
    return _Inputs(
        mask.to(device), group.to(device), batch.to(device), reward.to(device), outcome.to(device)
    )


def _rows_in_python(given: _Inputs) -> Tensor:
    """Per row: edges of the mask, returns to go, the group's z-scores, advantages per token."""
    mask = given.token_mask.cpu()
    reward, outcome = given.step_reward.tolist(), given.rollout_outcome.tolist()
    spans_of_row, returns_of_row = [], []
    first = 0
    for row in range(mask.shape[0]):
        padded = torch.nn.functional.pad(mask[row].to(torch.int8), (1, 1))
        edges = padded.diff().nonzero()[:, 0].tolist()
        spans = list(zip(edges[::2], edges[1::2], strict=True))
        process, last = 0.0, outcome[row]
        returns = []
        for step in reversed(range(len(spans))):
            process = 0.1 * (reward[first + step] - 1) + 0.9 * process
            returns.append(process + 0.97 ** (len(spans) - 1 - step) * last)
        first += len(spans)
        spans_of_row.append(spans)
        returns_of_row.append(returns[::-1])
    advantage = torch.zeros(mask.shape)
    for start in range(0, mask.shape[0], _GROUP):
        rows = range(start, min(start + _GROUP, mask.shape[0]))
        pool = torch.tensor([value for row in rows for value in returns_of_row[row]])
        mean, std = pool.mean(), pool.std().clamp(min=0.3)
        for row in rows:
            for (begin, end), value in zip(spans_of_row[row], returns_of_row[row], strict=True):
                advantage[row, begin:end] = (value - mean) / std
    return advantage


if __name__ == "__main__":
    main()
