"""Step credit: from rewards to advantages.

    python -m benchmarks.bench_step_advantage

Five pieces of work, each by every implementation of it:

- `steps`: advantages per step [S] where the steps are known.
- `scopes`: the same over every scope; `reference` is that of `per_index`.
- `mask`: from a mask [R, L] to advantages per step; what our policy loss needs.
- `tokens`: from a mask to advantages per token [R, L]; what a foreign trainer needs.
- `GRPO`: the same for outcomes alone, where verl's own estimators (the installed package) compute
  the same numbers. TRL's has no function of its own.

`reference` is our plain PyTorch, with the edges of a mask found by torch for all rows at once.
`rows in Python` is how frameworks write estimators, a loop over rows on the driver: Python numbers,
one mean and standard deviation of torch per group, edges of a mask found row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor

import finestep_fast as ff
from benchmarks import peers
from benchmarks.harness import Case, options, own_impls, report
from finestep_fast.config.credit import Scope

_SHAPES = ((64, 2048, 4), (512, 4096, 6), (1280, 16384, 6))
_GROUP = 8
_CREDIT = ff.CreditConfig()
_GRPO = ff.CreditConfig.preset("grpo")

Runs = dict[str, Callable[[], Tensor]]
Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Inputs:
    """One batch, in the form of every implementation."""

    token_mask: Tensor
    group_of_rollout: Tensor
    batch: ff.StepBatch
    step_reward: Tensor
    rollout_outcome: Tensor

    @property
    def name(self) -> str:
        """Return the shape in words."""
        rollouts, length = self.token_mask.shape
        return f"{rollouts} x {length}, {self.batch.max_rollout_steps} steps"


def main() -> None:
    """Time all shapes."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    pieces = {
        "steps": steps_case,
        "scopes": scopes_case,
        "mask": mask_case,
        "tokens": tokens_case,
        "GRPO": grpo_case,
    }
    parser.add_argument(
        "--work", nargs="+", choices=pieces, default=list(pieces), help="pieces of work to time"
    )
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    cases = [
        pieces[work](given)
        for given in (inputs(*shape, device=device) for shape in _SHAPES)
        for work in arguments.work
    ]
    notes = {"peers": peers.versions()}
    report("step advantage, milliseconds", "reference", cases, arguments, notes=notes)


def steps_case(given: Inputs) -> Case:
    """Return the case of [S] advantages for known steps."""
    rewards = given.batch, given.step_reward, given.rollout_outcome
    spans = _spans_of_row(given.batch)
    runs: Runs = {
        "reference": partial(ff.step_advantage, *rewards, impl="reference"),
        "reference, compiled": lambda: _compiled()(*rewards, impl="reference"),
        "rows in Python": lambda: _flat(_credit_of_rows(spans, given)),
    }
    return _case("steps", given, runs, lambda impl: ff.step_advantage(*rewards, impl=impl))


def scopes_case(given: Inputs) -> Case:
    """Return the case of [S] advantages over every scope, `per_index` of the reference first."""
    generator = torch.Generator().manual_seed(1)
    found = torch.randint(3, (given.batch.num_steps,), generator=generator)
    position = given.batch.position_of_step.cpu()
    state = torch.where(position == 0, 0, position * 3 + found).to(given.batch.device)
    value = torch.rand(given.batch.num_steps, generator=generator).to(given.batch.device)
    rewards = given.batch, given.step_reward, given.rollout_outcome

    def advantage(scope: Scope, impl: str) -> Tensor:
        return ff.step_advantage(
            *rewards,
            step_state=state if scope == "state" else None,
            step_value=value if scope == "value" else None,
            credit=ff.CreditConfig(scope=scope),
            impl=impl,
        )

    truth = {scope: advantage(scope, "reference") for scope in get_args(Scope)}
    runs: Runs = {"reference": partial(advantage, "per_index", "reference")}
    absent = {}
    for impl, reason in own_impls(given.token_mask.device).items():
        if reason is not None:
            absent[impl] = reason
            continue
        for scope in get_args(Scope):
            runs[f"{impl}, {scope}"] = partial(advantage, scope, impl)

    def check(name: str) -> None:
        scope = name.partition(", ")[2] or "per_index"
        torch.testing.assert_close(runs[name](), truth[scope], rtol=1e-4, atol=1e-5)

    return Case(f"{given.name}: scopes", runs, check, absent=absent, counting=True)


def mask_case(given: Inputs) -> Case:
    """Return the case of [S] advantages from a mask."""
    runs: Runs = {
        "reference": lambda: _advantage(given, _batch_by_torch(given), "reference"),
        "rows in Python": lambda: _flat(_credit_of_rows(_spans_of_mask(given), given)),
    }
    return _case("mask", given, runs, lambda impl: _advantage(given, _batch(given), impl))


def tokens_case(given: Inputs) -> Case:
    """Return the case of [R, L] advantages from a mask."""
    runs: Runs = {
        "reference": lambda: _by_token(given, _batch_by_torch(given), "reference"),
        "rows in Python": lambda: _rows_in_python(given),
    }
    return _case("tokens", given, runs, lambda impl: _by_token(given, _batch(given), impl))


def grpo_case(given: Inputs) -> Case:
    """Return the case of GRPO's [R, L] advantages from a mask, with verl's own estimators."""
    runs: Runs = {"reference": lambda: _by_token(given, _batch_by_torch(given), "reference", _GRPO)}
    token_reward = torch.zeros(given.token_mask.shape, device=given.token_mask.device)
    token_reward[:, -1] = given.rollout_outcome
    mask, names = given.token_mask.long(), peers.group_names(given.group_of_rollout)
    absent = {}
    for kind, vectorized in (("rows", False), ("vectorized", True)):
        estimator = peers.verl_grpo(vectorized=vectorized)
        if isinstance(estimator, str):
            absent[f"verl, {kind}"] = estimator
        else:
            name = f"{peers.with_version('verl')}, {kind}"
            runs[name] = partial(estimator, token_reward, mask, names)
    case = _case("GRPO", given, runs, lambda impl: _by_token(given, _batch(given), impl, _GRPO))
    case.absent.update(absent)
    return case


def inputs(rollouts: int, length: int, steps: int, *, device: torch.device) -> Inputs:
    """Return a batch of rollouts with that many steps of random lengths, in groups of 8."""
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
    return Inputs(
        mask.to(device), group.to(device), batch.to(device), reward.to(device), outcome.to(device)
    )


def _case(work: str, given: Inputs, runs: Runs, own: Callable[[str], Tensor]) -> Case:
    """Return the case of one piece of work, everything against the first of the runs."""
    truth = next(iter(runs.values()))()
    absent = {}
    for impl, reason in own_impls(given.token_mask.device).items():
        if reason is None:
            runs[impl] = partial(own, impl)
        else:
            absent[impl] = reason
    made: dict[str, Tensor] = {}

    def run(name: str) -> None:
        made.pop(name, None)
        made[name] = runs[name]()

    def check(name: str) -> None:
        torch.testing.assert_close(made.pop(name).to(truth), truth, rtol=1e-4, atol=1e-5)

    return Case(
        f"{given.name}: {work}",
        {name: partial(run, name) for name in runs},
        check,
        absent=absent,
        counting=True,
    )


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(ff.step_advantage, dynamic=True)


def _batch(given: Inputs) -> ff.StepBatch:
    return ff.StepBatch.from_mask(given.token_mask, given.group_of_rollout)


def _batch_by_torch(given: Inputs) -> ff.StepBatch:
    rollouts, length = given.token_mask.shape
    change = torch.nn.functional.pad(given.token_mask.to(torch.int8), (1, 1)).diff()
    row, start = (change == 1).nonzero().unbind(1)
    end = (change == -1).nonzero()[:, 1]
    steps = torch.bincount(row, minlength=rollouts)
    offsets = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    by_group = given.group_of_rollout.argsort(stable=True)
    _, sizes = given.group_of_rollout.unique(return_counts=True)
    group_offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    spans = start + row * length, end + row * length
    return ff.StepBatch(*spans, offsets, group_offsets, by_group, rollouts * length)


def _advantage(
    given: Inputs, batch: ff.StepBatch, impl: str, credit: ff.CreditConfig = _CREDIT
) -> Tensor:
    rewards = given.step_reward, given.rollout_outcome
    return ff.step_advantage(batch, *rewards, credit=credit, impl=impl)


def _by_token(
    given: Inputs, batch: ff.StepBatch, impl: str, credit: ff.CreditConfig = _CREDIT
) -> Tensor:
    advantage = _advantage(given, batch, impl, credit)
    spread = ff.reference.token_advantage if impl == "reference" else ff.token_advantage
    return spread(batch, advantage).view(given.token_mask.shape)


def _rows_in_python(given: Inputs) -> Tensor:
    """Compute row by row: edges of the mask, credit, advantages per token."""
    spans_of_row = _spans_of_mask(given)
    advantage = torch.zeros(given.token_mask.shape)
    credit = _credit_of_rows(spans_of_row, given)
    for row, (spans, values) in enumerate(zip(spans_of_row, credit, strict=True)):
        for (begin, end), value in zip(spans, values, strict=True):
            advantage[row, begin:end] = value
    return advantage


def _spans_of_mask(given: Inputs) -> list[Spans]:
    spans_of_row = []
    for row in given.token_mask.cpu():
        padded = torch.nn.functional.pad(row.to(torch.int8), (1, 1))
        edges = padded.diff().nonzero()[:, 0].tolist()
        spans_of_row.append(list(zip(edges[::2], edges[1::2], strict=True)))
    return spans_of_row


def _credit_of_rows(spans_of_row: Sequence[Spans], given: Inputs) -> list[list[float]]:
    """Compute per row the returns to go, smoothed; per group and position their z-scores."""
    group = given.group_of_rollout.tolist()
    reward, outcome = given.step_reward.tolist(), given.rollout_outcome.tolist()
    returns_of_row: list[list[float]] = []
    rows_of_group: dict[int, list[int]] = {}
    first = 0
    for row, spans in enumerate(spans_of_row):
        process, returns = 0.0, []
        for step in reversed(range(len(spans))):
            process = (
                reward[first + step]
                - _CREDIT.process_baseline
                + (_CREDIT.process_discount * process)
            )
            awaited = outcome[row] * _CREDIT.outcome_discount ** (len(spans) - 1 - step)
            returns.append(_CREDIT.process_weight * process + awaited)
        returns.reverse()
        for step in range(1, len(spans)):
            returns[step] = (
                _CREDIT.smoothing * returns[step] + (1 - _CREDIT.smoothing) * returns[step - 1]
            )
        first += len(spans)
        returns_of_row.append(returns)
        rows_of_group.setdefault(group[row], []).append(row)
    assert _CREDIT.advantage_clip is not None
    clip = _CREDIT.advantage_clip
    for rows in rows_of_group.values():
        longest = max(len(returns_of_row[row]) for row in rows)
        stand = torch.tensor(
            [[*r, *([r[-1]] * (longest - len(r)))] for r in (returns_of_row[row] for row in rows)]
        )
        mean = stand.mean(0).tolist()
        std = (stand.std(0).clamp(min=_CREDIT.std_floor) + _CREDIT.epsilon).tolist()
        for row in rows:
            returns_of_row[row] = [
                min(max((value - mean[step]) / std[step], -clip), clip)
                for step, value in enumerate(returns_of_row[row])
            ]
    return returns_of_row


def _spans_of_row(batch: ff.StepBatch) -> list[Spans]:
    spans = list(zip(batch.step_start.tolist(), batch.step_end.tolist(), strict=True))
    bounds = batch.step_offsets.tolist()
    return [spans[begin:end] for begin, end in pairwise(bounds)]


def _flat(credit_of_row: list[list[float]]) -> Tensor:
    return torch.tensor([value for row in credit_of_row for value in row])


if __name__ == "__main__":
    main()
