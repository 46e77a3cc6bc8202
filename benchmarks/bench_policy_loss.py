"""The clipped policy loss on log-probabilities: forward and backward, some tokens observed.

    python -m benchmarks.bench_policy_loss

`masked` is how trainers write it: dense [R, L] tensors, a mask, advantages per token, sums of
products. `reference` is our plain PyTorch, with all its metrics. `compiled` is torch.compile of
either. `from rewards` works the advantages out, too. TRL and verl are the installed packages, see
`benchmarks.peers`.

A loss must move 12 bytes per policy token (two logps read, a gradient written) and write 4 bytes of
zeros for every other token; a reference policy and token weights would add 8. Beside it stands what
`torch.add`, which reads two tensors [R, L] and makes a new one, moves in the time of a row.

A loss on log-probabilities is about 1 % of a training step of a 7B model: what is measured here is
overhead, not training time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import finestep_fast as ff
from benchmarks import peers
from benchmarks.counts import compilations
from benchmarks.harness import Case, Floor, options, own_impls, report

Loss = Callable[["Inputs"], Tensor]

_SHAPES = ((64, 2048, 0.5), (512, 4096, 0.0), (512, 4096, 0.5), (512, 4096, 0.9))
_SHAPES_GPU = ((4096, 16384, 0.5),)  # larger than any cache
_STEPS = 6
_LOSS = ff.LossConfig()


@dataclass(frozen=True)
class Inputs:
    """One batch, in the form of every implementation."""

    token_logp: Tensor
    token_logp_old: Tensor
    batch: ff.StepBatch
    step_reward: Tensor
    rollout_outcome: Tensor
    step_advantage: Tensor
    token_advantage: Tensor
    mask: Tensor
    """[R, L] int64, as TRL and verl hold it."""
    float_mask: Tensor


def main() -> None:
    """Time all shapes."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--lengths", type=int, default=50, help="how many to count compilations over"
    )
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    compiled = {
        name: compilations_over_lengths(loss, arguments.lengths, device)
        for name, loss in _compiled_losses(device).items()
        if arguments.lengths
    }
    print(f"compilations over {arguments.lengths} lengths: {compiled}")
    losses, absent = eager_losses(device)
    losses.update(_compiled_losses(device))
    shapes = (*_SHAPES, *(_SHAPES_GPU if device.type == "cuda" else ()))
    cases = [case(inputs(*shape, device=device), losses, absent, shape[2]) for shape in shapes]
    notes = {
        "peers": peers.versions(),
        "lengths": arguments.lengths,
        "compilations_over_lengths": compiled,
    }
    report("policy loss, forward and backward", "masked", cases, arguments, notes=notes)


def case(
    given: Inputs, losses: dict[str, Loss], absent: dict[str, str], observed: float = 0.5
) -> Case:
    """Return the case of one batch: every loss, forward and backward, against float64."""
    made: dict[str, tuple[Tensor, Tensor]] = {}

    def run(name: str) -> None:
        made.pop(name, None)
        made[name] = _with_gradient(losses[name](given), given.token_logp)

    exact = given.token_logp.detach().double().requires_grad_()
    value = _masked(exact, given.token_logp_old, given.token_advantage, given.float_mask)
    truth, true_gradient = _with_gradient(value, exact)

    def check(name: str) -> None:
        if name in losses:
            loss, gradient = made.pop(name)
            torch.testing.assert_close(loss.double(), truth, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(gradient.double(), true_gradient, rtol=1e-4, atol=1e-9)

    runs: dict[str, Callable[[], object]] = {name: partial(run, name) for name in losses}
    runs["torch.add"] = partial(torch.add, given.token_logp.detach(), given.token_logp_old)
    # Two logps read and a gradient written per policy token, zeros written for the others.
    (rollouts, length), written = given.mask.shape, given.batch.num_policy_tokens
    tokens = rollouts * length
    floor = Floor(12 + 4 * (tokens - written) / written, written, "torch.add", 12 * tokens)
    name = f"{rollouts} x {length}, {observed:.0%} observed"
    return Case(name, runs, check, absent=absent, floor=floor, counting=True)


def compilations_over_lengths(loss: Loss, num_lengths: int, device: torch.device) -> int:
    """Return how often something was compiled for batches of that many different lengths."""
    batches = [inputs(8, 256 + 37 * number, 0.5, device=device) for number in range(num_lengths)]
    with compilations() as count:
        for given in batches:
            _with_gradient(loss(given), given.token_logp)
        return count()


def inputs(rollouts: int, length: int, observed: float, *, device: torch.device) -> Inputs:
    """Return a batch of 6 steps a rollout, each followed by an observation, in groups of 8."""
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
    change = 0.2 * torch.randn(rollouts, length)
    # Within rounding of a bound it is chance whether a token is clipped.
    for bound in (1 - _LOSS.clip_low, 1 + _LOSS.clip_high):
        change[(change.exp() - bound).abs() < 1e-4] = 0
    reward = (torch.randint(0, 5, (batch.num_steps,)) / 4).to(device)
    outcome = torch.randint(0, 2, (rollouts,)).float().to(device)
    advantage = ff.step_advantage(batch, reward, outcome)
    return Inputs(
        (old + change).to(device).requires_grad_(),
        old.to(device),
        batch,
        reward,
        outcome,
        advantage,
        ff.token_advantage(batch, advantage).reshape(rollouts, length),
        mask.long().to(device),
        mask.float().to(device),
    )


def eager_losses(device: torch.device) -> tuple[dict[str, Loss], dict[str, str]]:
    """Return what needs no torch.compile, name -> loss, and why others are not here."""
    losses: dict[str, Loss] = {
        "masked": partial(_dense, _masked),
        "reference": partial(policy_loss, "reference"),
    }
    absent: dict[str, str] = {}
    for name, peer in {
        "TRL": peers.trl_loss(_LOSS, device),
        "verl": peers.verl_loss(_LOSS),
    }.items():
        if isinstance(peer, str):
            absent[name] = peer
        else:
            losses[peers.with_version(name)] = partial(_foreign, peer)
    for impl, reason in own_impls(device).items():
        if reason is not None:
            absent[impl] = reason
        else:
            losses[impl] = partial(policy_loss, impl)
            losses[f"{impl}, from rewards"] = partial(step_policy_loss, impl)
    return losses, absent


def _compiled_losses(device: torch.device) -> dict[str, Loss]:
    """Return the losses that compile something when they see a new length, or might."""
    losses: dict[str, Loss] = {
        "masked, compiled": partial(_dense, torch.compile(_masked, dynamic=True)),
        "reference, compiled": torch.compile(partial(policy_loss, "reference"), dynamic=True),
    }
    if device.type == "cuda":
        losses["triton, from rewards"] = partial(step_policy_loss, "triton")
    return losses


def policy_loss(impl: str, given: Inputs) -> Tensor:
    """Return our loss of given advantages."""
    tokens = given.token_logp, given.token_logp_old
    return ff.policy_loss(*tokens, given.batch, given.step_advantage, loss=_LOSS, impl=impl).loss


def step_policy_loss(impl: str, given: Inputs) -> Tensor:
    """Return our loss straight from rewards."""
    tokens = given.token_logp, given.token_logp_old
    rewards = given.step_reward, given.rollout_outcome
    return ff.step_policy_loss(*tokens, given.batch, *rewards, loss=_LOSS, impl=impl).loss


def _dense(loss: peers.DenseLoss, given: Inputs) -> Tensor:
    return loss(given.token_logp, given.token_logp_old, given.token_advantage, given.float_mask)


def _foreign(loss: peers.DenseLoss, given: Inputs) -> Tensor:
    return loss(given.token_logp, given.token_logp_old, given.token_advantage, given.mask)


def _masked(logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    ratio = (logp - logp_old).clamp(-20, 20).exp()
    clipped = ratio.clamp(1 - _LOSS.clip_low, 1 + _LOSS.clip_high)
    objective = torch.minimum(ratio * advantage, clipped * advantage)
    return -(objective * mask).sum() / mask.sum()


def _with_gradient(loss: Tensor, token_logp: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(loss, token_logp)
    return loss.detach(), gradient


if __name__ == "__main__":
    main()
