"""From hidden states to the policy loss and its gradients: time, FLOP/s and memory, side by side.

    python -m benchmarks.bench_linear_policy_loss

`products` are the three matrix products of the policy tokens alone, chunk by chunk into memory that
is there already: 6 N V D operations at the machine's own rate, the floor. `eager` is how trainers
write it: logits of all tokens, log-softmax, a mask; `liger` is Liger-Kernel's chunked loss. Peaks
are the resident memory that one call adds to its inputs, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import finestep_fast as ff
from benchmarks.harness import Case, Timing, options, report
from finestep_fast.ops.head import CHUNK_BYTES

_STEPS = 4
_LOSS = ff.LossConfig()
_OURS = "linear_policy_loss"


@dataclass(frozen=True)
class _Shape:
    """A head scaled from Qwen2.5-Coder or Qwen3, and how much of a rollout is observed."""

    rollouts: int
    length: int
    vocabulary: int
    size: int
    dtype: torch.dtype
    observed: float

    @property
    def name(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        tokens = f"{self.rollouts} x {self.length}"
        return f"{tokens}, V {self.vocabulary}, D {self.size}, {kind}, {self.observed:.0%} observed"


def _shapes(full: bool) -> list[_Shape]:
    shapes = [_Shape(4, 256, 32768, 896, torch.float32, share) for share in (0.0, 0.3, 0.5, 0.7)]
    shapes += [_Shape(4, 256, 32768, 1024, torch.bfloat16, share) for share in (0.0, 0.5)]
    if full:  # the vocabulary of Qwen2.5 and Qwen3 as it is
        shapes.append(_Shape(4, 128, 151936, 896, torch.float32, 0.5))
        shapes.append(_Shape(4, 128, 151936, 1024, torch.bfloat16, 0.5))
    return shapes


@dataclass(frozen=True)
class _Inputs:
    hidden: Tensor
    weight: Tensor
    target: Tensor
    token_logp_old: Tensor
    batch: ff.StepBatch
    step_advantage: Tensor
    rollout_advantage: Tensor
    mask: Tensor


def main() -> None:
    """Time all shapes, then measure memory."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the shapes, from 0")
    parser.add_argument("--full", action="store_true", help="also vocabularies of 151936")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile; minutes more")
    parser.add_argument("--peak", nargs=2, metavar=("SHAPE", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shapes = _shapes(arguments.full or arguments.peak is not None)
    device = torch.device(arguments.device)
    if arguments.peak:
        print(_peak(shapes[int(arguments.peak[0])], arguments.peak[1], device))
        return
    chosen = range(len(shapes)) if arguments.only is None else arguments.only
    cases = [_case(shapes[place], device, compiled=arguments.compiled) for place in chosen]
    timings = report("hidden states to loss and gradients", "eager", cases, arguments)
    _report_rates(timings, {shapes[place].name: (place, shapes[place]) for place in chosen}, device)


def _case(shape: _Shape, device: torch.device, *, compiled: bool) -> Case:
    given = _inputs(shape, device)
    made: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def run_of(name: str, loss: Callable[[_Inputs], Tensor]) -> Callable[[], None]:
        def run() -> None:
            value = loss(given)
            gradients = torch.autograd.grad(value, (given.hidden, given.weight))
            made[name] = (value.detach(), *gradients)

        return run

    losses = _losses(compiled=compiled)
    runs: dict[str, Callable[[], object]] = {
        name: run_of(name, loss) for name, loss in losses.items()
    }
    runs["products"] = _products(given)

    def check(name: str) -> None:
        if name == "products":
            return
        # Log-probabilities of 16-bit logits differ by what a logit is rounded.
        tolerance = 1e-3 if shape.dtype == torch.float32 else 5e-2
        for value, truth in zip(made[name], made["eager"], strict=True):
            error = (value.float() - truth.float()).norm() / truth.float().norm()
            assert error < tolerance, f"{name}: off by {error:.2g}"

    absent = {} if "liger" in losses else {"liger": "not installed"}
    return Case(shape.name, runs, check, absent=absent)


def _losses(*, compiled: bool = False) -> dict[str, Callable[[_Inputs], Tensor]]:
    losses: dict[str, Callable[[_Inputs], Tensor]] = {"eager": _eager, _OURS: _ours}
    if find_spec("liger_kernel") is not None:
        losses["liger"] = _liger(compiled=False)
    if compiled:
        losses["eager, compiled"] = torch.compile(_eager)
        if "liger" in losses:
            losses["liger, compiled"] = _liger(compiled=True)
    return losses


def _ours(given: _Inputs) -> Tensor:
    return ff.linear_policy_loss(
        given.hidden,
        given.weight,
        given.target,
        given.token_logp_old,
        given.batch,
        given.step_advantage,
        loss=_LOSS,
    ).loss


def _eager(given: _Inputs) -> Tensor:
    logits = F.linear(given.hidden, given.weight).float()
    logp = logits.log_softmax(-1).gather(-1, given.target[..., None])[..., 0]
    ratio = (logp - given.token_logp_old).exp()
    clipped = ratio.clamp(1 - _LOSS.clip_low, 1 + _LOSS.clip_high)
    advantage = given.rollout_advantage[:, None]
    objective = torch.minimum(ratio * advantage, clipped * advantage)
    return -(objective * given.mask).sum() / given.mask.sum()


def _liger(*, compiled: bool) -> Callable[[_Inputs], Tensor]:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    op = LigerFusedLinearGRPOLoss(
        beta=0.0,
        compiled=compiled,
        use_ref_model=False,
        epsilon_low=_LOSS.clip_low,
        epsilon_high=_LOSS.clip_high,
        loss_type="bnpo",
    )

    def loss(given: _Inputs) -> Tensor:
        value: Tensor = op(
            given.hidden,
            given.weight,
            given.target,
            given.mask,
            given.rollout_advantage,
            old_per_token_logps=given.token_logp_old,
        )[0]
        return value

    return loss


def _products(given: _Inputs) -> Callable[[], object]:
    """Logits, gradient of hidden, gradient of weight, in chunks such as ours, for policy tokens."""
    tokens = given.batch.policy_token
    weight = given.weight.detach()
    hidden = given.hidden.detach().flatten(0, 1)[tokens]
    most = CHUNK_BYTES // (weight.shape[0] * weight.element_size())
    pieces = hidden.tensor_split(-(-len(hidden) // most))
    logits = weight.new_empty(len(pieces[0]), len(weight))
    of_weight, of_hidden = torch.zeros_like(weight), torch.empty_like(pieces[0])

    def run() -> None:
        for piece in pieces:
            part = logits[: len(piece)]
            torch.mm(piece, weight.t(), out=part)
            torch.mm(part, weight, out=of_hidden[: len(piece)])
            torch.mm(part.t(), piece, out=of_weight)

    return run


def _report_rates(
    timings: list[Timing], shapes: dict[str, tuple[int, _Shape]], device: torch.device
) -> None:
    """A second table: useful operations per second, share of the products' rate, and peaks."""
    table = Table(title="6 N V D of the policy tokens", title_justify="left")
    for column in ("shape", "implementation", "GFLOP/s", "x products", "peak MiB"):
        table.add_column(column)
    lines: list[dict[str, Any]] = []
    for row in timings:
        place, shape = shapes[row.case]
        floor = next(
            one.median_ms
            for one in timings
            if one.case == row.case and one.implementation == "products"
        )
        rate = _operations(shape) / row.median_ms / 1e6
        peak = None
        if device.type == "cpu" and row.implementation != "products":
            peak = _peak_elsewhere(place, row.implementation)
        table.add_row(
            row.case,
            row.implementation,
            f"{rate:.0f}",
            f"{row.median_ms / floor:.2f}",
            "-" if peak is None else f"{peak:.0f}",
        )
        lines.append(
            {"case": row.case, "implementation": row.implementation, "gflops": rate, "peak": peak}
        )
    Console(width=120).print(table)
    print(json.dumps(lines))


def _operations(shape: _Shape) -> int:
    batch = _batch(shape)
    return 6 * batch.num_policy_tokens * shape.vocabulary * shape.size


def _peak_elsewhere(place: int, name: str) -> float:
    program = [sys.executable, "-m", "benchmarks.bench_linear_policy_loss", "--device", "cpu"]
    done = subprocess.run(
        [*program, "--peak", str(place), name], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def _peak(shape: _Shape, name: str, device: torch.device) -> float:
    """MiB that one call adds to the resident memory of this process."""
    from finestep_fast.train.memory import forget_peak, peak_mib

    given = _inputs(shape, device)
    loss = _losses(compiled="compiled" in name)[name]
    forget_peak(device)
    before = peak_mib(device)
    torch.autograd.grad(loss(given), (given.hidden, given.weight))
    return peak_mib(device) - before


def _batch(shape: _Shape) -> ff.StepBatch:
    width = shape.length // _STEPS
    written = max(1, round((1 - shape.observed) * width))
    spans = [
        [(step * width, step * width + written) for step in range(_STEPS)]
        for _ in range(shape.rollouts)
    ]
    return ff.StepBatch.from_spans(
        spans,
        [0] * shape.rollouts,
        num_tokens=shape.rollouts * shape.length,
        row_length=shape.length,
    )


def _inputs(shape: _Shape, device: torch.device) -> _Inputs:
    generator = torch.Generator().manual_seed(0)
    batch = _batch(shape)
    tokens = (shape.rollouts, shape.length)
    hidden = torch.randn((*tokens, shape.size), generator=generator).to(device, shape.dtype)
    weight = torch.randn((shape.vocabulary, shape.size), generator=generator) / shape.size**0.5
    weight = weight.to(device, shape.dtype)
    target = torch.randint(0, shape.vocabulary, tokens, generator=generator).to(device)
    with torch.no_grad():
        own = ff.token_logp(hidden, weight, target).logp
    advantage = torch.randn(shape.rollouts, generator=generator).to(device)
    mask = torch.zeros(batch.num_tokens)
    mask[batch.policy_token] = 1
    return _Inputs(
        hidden.requires_grad_(),
        weight.requires_grad_(),
        target,
        own + 0.1 * torch.randn(tokens, generator=generator).to(device),
        batch.to(device),
        advantage.repeat_interleave(_STEPS),
        advantage,
        mask.view(tokens).to(device),
    )


if __name__ == "__main__":
    main()
