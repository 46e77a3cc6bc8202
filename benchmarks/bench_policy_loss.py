"""The clipped policy loss on log-probabilities: forward and backward, some tokens observed.

    python -m benchmarks.bench_policy_loss

`masked` is how trainers write it: dense [R, L] tensors, a mask, advantages per token, sums of
products; `masked, compiled` is torch.compile of that. A loss on log-probabilities is about 1 % of a
training step of a 7B model: what is measured here is overhead, not training time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import finestep_fast as ff
from benchmarks.harness import Case, options, report

_SHAPES = ((64, 2048, 0.5), (512, 4096, 0.0), (512, 4096, 0.5), (512, 4096, 0.9))
_STEPS = 6
_LOSS = ff.LossConfig()


@dataclass(frozen=True)
class _Inputs:
    token_logp: Tensor
    token_logp_old: Tensor
    batch: ff.StepBatch
    step_advantage: Tensor
    mask: Tensor
    token_advantage: Tensor


def main() -> None:
    """Time all shapes."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    arguments = parser.parse_args()
    compiled = torch.compile(_masked_loss, dynamic=True)
    cases = [_case(*shape, torch.device(arguments.device), compiled) for shape in _SHAPES]
    report("policy loss, forward and backward, milliseconds", "masked", cases, arguments)


def _case(
    rollouts: int,
    length: int,
    observed: float,
    device: torch.device,
    compiled: Callable[..., Tensor],
) -> Case:
    given = _inputs(rollouts, length, observed, device)
    made: dict[str, tuple[Tensor, Tensor]] = {}

    def door(impl: str) -> Callable[[], None]:
        def run() -> None:
            out = ff.policy_loss(
                given.token_logp,
                given.token_logp_old,
                given.batch,
                given.step_advantage,
                loss=_LOSS,
                impl=impl,
            )
            made[impl] = out.loss.detach(), _gradient(out.loss, given.token_logp)

        return run

    def dense(name: str, loss: Callable[..., Tensor]) -> Callable[[], None]:
        def run() -> None:
            value = loss(given.token_logp, given.token_logp_old, given.token_advantage, given.mask)
            made[name] = value.detach(), _gradient(value, given.token_logp)

        return run

    runs: dict[str, Callable[[], object]] = {"masked": dense("masked", _masked_loss)}
    runs["masked, compiled"] = dense("masked, compiled", compiled)
    absent = {}
    for impl, state in ff.available_impls().items():
        usable = impl == "reference" or (impl == "triton") == (device.type == "cuda")
        if state is True and usable:
            runs[impl] = door(impl)
        else:
            absent[impl] = str(state) if state is not True else f"not for {device.type}"

    def check(name: str) -> None:
        loss, gradient = made[name]
        truth, true_gradient = made["masked"]
        torch.testing.assert_close(loss, truth, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient, true_gradient, rtol=1e-4, atol=1e-9)

    # Two logps read and a gradient written per policy token, zeros written for the others.
    moved = 12 * given.batch.num_policy_tokens + 4 * (
        given.token_logp.numel() - given.batch.num_policy_tokens
    )
    name = f"{rollouts} x {length}, {observed:.0%} observed"
    return Case(name, runs, check, moved_bytes=moved, absent=absent)


def _gradient(loss: Tensor, token_logp: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, token_logp)
    return gradient


def _masked_loss(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    ratio = (logp - old).clamp(-20, 20).exp()
    clipped = ratio.clamp(1 - _LOSS.clip_low, 1 + _LOSS.clip_high)
    objective = torch.minimum(ratio * advantage, clipped * advantage)
    return -(objective * mask).sum() / mask.sum()


def _inputs(rollouts: int, length: int, observed: float, device: torch.device) -> _Inputs:
    torch.manual_seed(0)
    width = length // _STEPS
    written = max(1, round((1 - observed) * width))
    position = torch.arange(length)
    mask = ((position % width < written) & (position < width * _STEPS)).expand(rollouts, length)
    spans = [
        [(step * width, step * width + written) for step in range(_STEPS)] for _ in range(rollouts)
    ]
    group = [rollout // 8 for rollout in range(rollouts)]
    batch = ff.StepBatch.from_spans(
        spans, group, num_tokens=rollouts * length, row_length=length
    ).to(device)
    old = -torch.rand(rollouts, length)
    logp = old + 0.2 * torch.randn(rollouts, length)
    advantage = torch.randn(batch.num_steps).to(device)
    return _Inputs(
        logp.to(device).requires_grad_(),
        old.to(device),
        batch,
        advantage,
        mask.contiguous().float().to(device),
        ff.token_advantage(batch, advantage).reshape(rollouts, length),
    )


if __name__ == "__main__":
    main()
