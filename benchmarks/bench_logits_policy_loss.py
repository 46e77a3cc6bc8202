"""From logits that are there already to the policy loss and its gradient.

    python -m benchmarks.bench_logits_policy_loss

A policy token's row is V logits of b bytes. Read once, its gradient written while it is still in a
cache: 2 b V bytes, 4V in bfloat16 and 8V in float32. That is the floor that the table names, and
what `cpp` and `triton` are made for. Who reads it once for the loss and once more for the gradient,
as Liger-Kernel's Triton loss does, moves 3 b V: 6V and 12V. Beside it stands what copying all
logits, which moves 2 b V per token of any kind, would have moved in the time of a row. Rows outside
steps need nothing (on a CPU fresh memory is 0) except in place, where their zeros are written; a
dense loss reads and writes them all.

`eager` is how trainers write it. `TRL` is TRL's `selective_log_softmax` with the mask, then the
same loss. `in place` writes the gradient over the logits, which are laid out anew before each run,
untimed and for all. Operators and allocator peaks are counted on a GPU only: on a CPU the
zeros that no one writes to are not torch's.

Every result is compared with float64 before it is timed, row by row: the token that was drawn and
all others apart, rows outside steps exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

import finestep_fast as ff
from benchmarks import peers
from benchmarks.harness import Case, Floor, options, own_impls, report
from benchmarks.rollout_tokens import (
    LOSS,
    Tokens,
    assert_rows_close,
    dense_loss,
    rollout,
    step_batch,
    tokens_of,
)

Run = Callable[["LogitInputs"], tuple[Tensor, Tensor]]
"""Returns loss [] and gradient [R, L, V]."""

_EAGER = "eager"
_SHARES = (0.0, 0.5, 0.7)
_TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 8e-3}


class Shape(NamedTuple):
    """Rows of logits, and how much of them is observed."""

    rollouts: int
    length: int
    vocabulary: int
    dtype: torch.dtype
    observed: float

    @property
    def name(self) -> str:
        """Return the case in words."""
        kind = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.rollouts} x {self.length}, V {self.vocabulary}, {kind}, "
            f"{self.observed:.0%} observed"
        )


class LogitInputs(NamedTuple):
    """Logits, a copy of them that is never overwritten, and what losses are given beside them."""

    logits: Tensor
    """[R, L, V]; a leaf"""
    kept: Tensor
    tokens: Tokens


def main() -> None:
    """Time all shapes."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the shapes, from 0")
    parser.add_argument("--uncompiled", action="store_true", help="leave out torch.compile")
    arguments = parser.parse_args()
    # A compiler that met many shapes gives up; here each may have its own graph.
    torch._dynamo.config.recompile_limit = 64
    device = torch.device(arguments.device)
    every = shapes(device)
    chosen = range(len(every)) if arguments.only is None else arguments.only
    found, absent = losses(device, compiled=not arguments.uncompiled)
    cases = (case(every[place], found, absent, device) for place in chosen)
    title = "logits to loss, forward and backward"
    report(title, _EAGER, cases, arguments, notes={"peers": peers.versions()})


def shapes(device: torch.device) -> list[Shape]:
    """Return rows of three vocabularies: 256 MiB of float32 on a CPU, 16 times that on a GPU."""
    times = 16 if device.type == "cuda" else 1
    rows = ((512, 32768), (320, 50257), (112, 151936))
    return [
        Shape(4, times * length, vocabulary, dtype, share)
        for dtype in (torch.float32, torch.bfloat16)
        for length, vocabulary in rows
        for share in _SHARES
    ]


def inputs(shape: Shape, device: torch.device) -> LogitInputs:
    """Return logits of variance 1."""
    generator = torch.Generator().manual_seed(0)
    places = (shape.rollouts, shape.length)
    kept = torch.empty((*places, shape.vocabulary), dtype=shape.dtype, device=device)
    for row in kept:
        row.copy_(torch.randn(row.shape, generator=generator))
    target = torch.randint(0, shape.vocabulary, places, generator=generator).to(device)
    logp = torch.cat([_logp(*one) for one in zip(kept.split(1), target.split(1), strict=True)])
    tokens = tokens_of(step_batch(*places, shape.observed), target, logp, generator)
    return LogitInputs(kept.clone().requires_grad_(), kept, tokens)


def losses(device: torch.device, *, compiled: bool) -> tuple[dict[str, Run], dict[str, str]]:
    """Return name -> loss with its gradient, and why others are not here."""
    found: dict[str, Run] = {_EAGER: partial(_dense, eager)}
    absent: dict[str, str] = {}
    if compiled:
        # Every shape has a graph of its own: the best that can be done for it.
        found["eager, compiled"] = partial(_dense, torch.compile(eager, dynamic=False))
    for impl, reason in {**own_impls(device), "torch": None}.items():
        if reason is not None:
            absent[impl] = reason
            continue
        found[impl] = partial(ours, impl, inplace=False)
        found[f"{impl}, in place"] = partial(ours, impl, inplace=True)
    if find_spec("trl") is None:
        absent["TRL"] = "not installed: pip install -e '.[bench]'"
    else:
        found[peers.with_version("TRL")] = partial(_dense, trl_loss)
    if find_spec("liger_kernel") is None:
        absent["Liger"] = "not installed: pip install -e '.[bench]'"
    elif device.type != "cuda":
        absent["Liger"] = "its loss from logits is a Triton kernel"
    else:
        for inplace in (False, True):
            name = f"Liger {version('liger_kernel')}{', in place' if inplace else ''}"
            found[name] = LigerLoss(inplace=inplace)
    return found, absent


def case(shape: Shape, found: dict[str, Run], absent: dict[str, str], device: torch.device) -> Case:
    """Return the case of a shape: every loss with its gradient, and a copy."""
    given = inputs(shape, device)
    if device.type != "cuda" and shape.dtype.itemsize < 4:
        found = {name: loss for name, loss in found.items() if not name.startswith("TRL")}
        absent = {**absent, "TRL, 16 bits": "on a CPU its logps are of 16 bits, ratios 4 % off"}
    made: dict[str, tuple[Tensor, Tensor]] = {}

    def run(name: str) -> None:
        made[name] = found[name](given)

    def prepare() -> None:
        made.clear()
        given.logits.detach().copy_(given.kept)
        for loss in found.values():
            if isinstance(loss, LigerLoss):
                loss.lay_out(given)

    def check(name: str) -> None:
        if name in found:
            assert_right(*made[name], given, _TOLERANCE[shape.dtype])

    runs: dict[str, Callable[[], object]] = {name: partial(run, name) for name in found}
    runs["copy"] = partial(given.logits.detach().copy_, given.kept)
    row_bytes = shape.vocabulary * shape.dtype.itemsize
    copy_bytes = 2 * row_bytes * shape.rollouts * shape.length
    floor = Floor(2 * row_bytes, given.tokens.batch.num_policy_tokens, "copy", copy_bytes)
    counting = device.type == "cuda"
    return Case(
        shape.name, runs, check, absent=absent, floor=floor, counting=counting, prepare=prepare
    )


def assert_right(loss: Tensor, gradient: Tensor, given: LogitInputs, tolerance: float) -> None:
    """Raise AssertionError where loss or gradient are off by more than their tolerance."""
    tokens = given.tokens
    policy_tokens = tokens.mask.sum()
    truth = 0.0
    for row, kept in enumerate(given.kept.split(1)):
        one = rollout(tokens, row)
        logits = kept.double().requires_grad_()
        value = dense_loss(_logp(logits, one.target), one) * one.mask.sum() / policy_tokens
        (true_gradient,) = torch.autograd.grad(value, logits)
        truth += value.item()
        rows = gradient[row].detach().double(), true_gradient[0]
        drawn = [each.gather(-1, one.target[0, :, None]) for each in rows]
        assert_rows_close(*drawn, tolerance=tolerance, what="gradient of drawn tokens")
        others = [each.scatter(-1, one.target[0, :, None], 0) for each in rows]
        assert_rows_close(*others, tolerance=tolerance, what="gradient of other tokens")
    scale = float(tokens.rollout_advantage.abs().mean())
    assert abs(loss.item() - truth) <= tolerance * scale, (
        f"loss: {loss.item():.4g}, not {truth:.4g}"
    )


def ours(impl: str, given: LogitInputs, *, inplace: bool) -> tuple[Tensor, Tensor]:
    """Return our loss and its gradient."""
    tokens = given.tokens
    logits = _Model.apply(given.logits) if inplace else given.logits  # type: ignore[no-untyped-call]
    loss = ff.logits_policy_loss(
        logits,
        tokens.target,
        tokens.token_logp_old,
        tokens.batch,
        tokens.step_advantage,
        loss=LOSS,
        inplace=inplace,
        impl=impl,
    ).loss
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def eager(logits: Tensor, tokens: Tokens) -> Tensor:
    """Return the loss of all rows, masked."""
    return dense_loss(_logp(logits, tokens.target), tokens)


def trl_loss(logits: Tensor, tokens: Tokens) -> Tensor:
    """Return the loss of TRL's log-probabilities."""
    from trl.trainer.utils import selective_log_softmax

    return dense_loss(selective_log_softmax(logits, tokens.target, row_mask=tokens.mask), tokens)


class LigerLoss:
    """Liger's Triton loss, which wants a row more per rollout than it reads."""

    def __init__(self, *, inplace: bool) -> None:
        self.inplace = inplace
        self.logits: Tensor | None = None

    def lay_out(self, given: LogitInputs) -> None:
        """Lay the logits out as Liger takes them: [R, L + 1, V]."""
        rollouts, length, vocabulary = given.kept.shape
        if self.logits is None or self.logits.shape != (rollouts, length + 1, vocabulary):
            self.logits = given.kept.new_zeros((rollouts, length + 1, vocabulary)).requires_grad_()
        self.logits.detach()[:, :-1].copy_(given.kept)

    def __call__(self, given: LogitInputs) -> tuple[Tensor, Tensor]:
        """Return loss and gradient."""
        from liger_kernel.transformers.grpo_loss import triton_grpo_loss

        tokens, logits = given.tokens, self.logits
        assert logits is not None
        loss: Tensor = triton_grpo_loss(
            logits,
            tokens.token_logp_old,
            None,
            tokens.target,
            tokens.rollout_advantage,
            tokens.mask,
            temperature=1.0,
            beta=0.0,
            eps_low=LOSS.clip_low,
            eps_high=LOSS.clip_high,
            inplace=self.inplace,
            loss_type="bnpo",
            reduce=True,
        )[0]
        (gradient,) = torch.autograd.grad(loss, logits)
        return loss.detach(), gradient[:, :-1]


class _Model(torch.autograd.Function):
    """What logits come from: of a leaf the gradient cannot take the place. Same memory, no view."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        same: Tensor = logits.new_empty(0)
        return same.set_(logits.untyped_storage(), 0, logits.shape, logits.stride())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _dense(loss: Callable[[Tensor, Tokens], Tensor], given: LogitInputs) -> tuple[Tensor, Tensor]:
    value = loss(given.logits, given.tokens)
    (gradient,) = torch.autograd.grad(value, given.logits)
    return value.detach(), gradient


def _logp(logits: Tensor, target: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.log_softmax(-1).gather(-1, target[..., None])[..., 0]


if __name__ == "__main__":
    main()
