"""Why an arm learns faster or slower: the bias and the noise of its gradient.

    python -m benchmarks.credit_study.gradients runs/credit_study/runs/NAME --world explore

Many updates of rollouts are sampled from one policy that stays as it is. Each arm turns the same
rollouts into advantages, and each update into one gradient of the policy loss. Then, with g the
mean gradient of an arm over all updates and t that of plain policy gradient with a leave-one-out
baseline, which has no bias:

- cosine: between g and t; 1 means no bias in direction.
- SNR: |g|^2 over the variance of one update's gradient.
- useful SNR: the same of g's part along t.
- progress: what one update gains at equal KL, against leave-one-out. A step d along one update's
  gradient changes the expected outcome by t d, and costs the KL divergence d' F d / 2, with F the
  mean over tokens of the squared slope of a token's log-probability. So a long row of steps gains
  t g / sqrt(E[d' F d]) each.
- steady progress: the same where steps follow a moving average of gradients, as Adam's first
  moment of 0.9 does; it leaves 1/19 of the noise.

Products of means are taken between two halves of the updates, so noise does not add to them. F is
that of another update's rollouts than those of the gradients.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.credit_study.arms import ARMS
from finestep_fast import StepBatch, policy_loss
from finestep_fast.sql import Engine
from finestep_fast.train.config import TrainConfig, load_config
from finestep_fast.train.learn.padding import pad_rows
from finestep_fast.train.rollout.credit import credited
from finestep_fast.train.rollout.engine import InProcessEngine
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.rollout.sampler import Sampler
from finestep_fast.train.rollout.transcript import Transcript
from finestep_fast.train.rollout.value import Critic
from finestep_fast.train.setup import make_accelerator, make_parts

_UNBIASED = (
    "credit.preset=grpo",
    "credit.std=none",
    "credit.leave_one_out=true",
    "credit.advantage_clip=null",
)
_TRUTH = "(leave one out)"
_MOMENTUM = 0.9  # Adam's first moment in the trainer
_LEFT_OF_NOISE = (1 - _MOMENTUM) / (1 + _MOMENTUM)  # in an exponentially weighted mean
_REACH = 1e-2  # norm of the steps that measure slopes


def main() -> None:
    """Print one line of figures for each arm, and keep them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="folder of a run that is done: its last policy")
    parser.add_argument("--world", required=True)
    parser.add_argument("--warm", type=Path, required=True, help="folder of its warm start")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS)[:12])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--updates", type=int, default=64)
    parser.add_argument("--label", default="", help="what the policy is, for the record")
    parser.add_argument("--results", type=Path, help="JSON lines to add to")
    options = parser.parse_args()
    os.nice(10)
    words = [
        f"model={options.run / 'model'}",
        f"data.questions={options.warm / 'world' / 'train.json'}",
        f"data.databases={options.warm / 'world' / 'databases'}",
        "warm_start.tokens=0",
        "env.describe_tools=false",
        f"rollout.prompts={options.prompts}",
    ]
    configs = {
        name: load_config(Path(options.world), [*words, *settings])
        for name, settings in {
            _TRUTH: _UNBIASED,
            **{arm: ARMS[arm] for arm in options.arms},
        }.items()
    }
    made = measured(configs, options.updates)
    for name, row in made.items():
        print(f"{name:24}", *(f"{key} {value:8.4f}" for key, value in row.items()))
    if options.results:
        with options.results.open("a", encoding="utf-8") as file:
            place = {"world": options.world, "label": options.label, "updates": options.updates}
            file.write(json.dumps({**place, "prompts": options.prompts, "arms": made}) + "\n")


def measured(configs: dict[str, TrainConfig], num_updates: int) -> dict[str, dict[str, float]]:
    """Return the figures of each configuration, the unbiased one first; see `figures`."""
    config = next(iter(configs.values()))
    critics = {
        name: Critic(each.value, max_steps=each.env.max_steps, memory=each.value_memory)
        for name, each in configs.items()
    }
    sums: dict[str, Sums] = {}
    with Engine(timeout_s=config.env.query_timeout_s) as engine:
        parts = make_parts(config, config.output, make_accelerator(), engine)
        sampler = Sampler(parts.policy, parts.chat, config.rollout)
        rollout_engine = InProcessEngine(
            sampler, engine, config.env, config.rewards, find_answers=True
        )
        parameters = list(parts.policy.parameters())
        for update in range(num_updates):
            questions = parts.data.questions_of_update(
                update, config.rollout.prompts, config.seed + 7919
            )
            rollouts = rollout_engine.play(
                questions, config.rollout.rollouts_per_prompt, seed=update
            )
            by_arm = {
                name: credited_as(rollouts, each, critics[name]) for name, each in configs.items()
            }
            learnt = [
                place
                for place in range(len(rollouts))
                if all(made[place].learnt for made in by_arm.values())
            ]
            tokens = _Tokens(parts.policy, [rollouts[place].transcript for place in learnt])
            for known in sums.values():
                known.add_cost(tokens.slopes)
            for name, gradient in _gradients(tokens, parameters, learnt, by_arm, config):
                sums.setdefault(name, Sums(gradient)).add(gradient)
    return figures(sums)


class Sums:
    """What is kept of an arm's gradients, each [P].

    Args:
        like: A tensor of their shape.
    """

    def __init__(self, like: Tensor) -> None:
        self.halves = [torch.zeros_like(like) for _ in range(2)]
        self.count = 0
        self.squared_norm = 0.0
        self.last = torch.zeros_like(like)
        self.costs: list[float] = []
        """g' F g of single gradients."""
        self.shared_costs: list[float] = []
        """g' F h of a gradient g and the mean h of those before it."""

    def add(self, gradient: Tensor) -> None:
        """Count one update's gradient [P]."""
        self.halves[self.count % 2] += gradient
        self.count += 1
        self.squared_norm += float(gradient.square().sum())
        self.last = gradient

    def add_cost(self, slopes: Callable[[Tensor], Tensor]) -> None:
        """Measure what a step along the last gradient costs.

        Args:
            slopes: From a direction [P] to the change [N] of each token's log-probability along it,
                on rollouts that none of the gradients so far has seen.
        """
        along = slopes(self.last)
        self.costs.append(float(along.square().mean()))
        if self.count > 1:
            before = (self.halves[0] + self.halves[1] - self.last) / (self.count - 1)
            self.shared_costs.append(float((along * slopes(before)).mean()))


class _Tokens:
    """The policy's tokens of some rollouts, and how their log-probabilities change."""

    def __init__(self, policy: Any, items: Sequence[Transcript]) -> None:
        self.policy = policy
        self.rows = pad_rows([item.token_ids for item in items], torch.device("cpu"))
        self.spans = [[(start - 1, end - 1) for start, end in item.step_spans] for item in items]
        length = self.rows.token_ids.shape[1]
        self.batch = StepBatch.from_spans(
            self.spans,
            [0] * len(items),
            num_tokens=self.rows.token_ids.numel(),
            row_length=length,
        )

    def logp(self) -> Tensor:
        """Return the log-probability [B, T] of each token, at the place that predicts it."""
        ids = self.rows.token_ids
        logits = self.policy(input_ids=ids, attention_mask=self.rows.mask, use_cache=False).logits
        logp = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
        return torch.nn.functional.pad(logp, (0, 1))

    @torch.no_grad()
    def slopes(self, direction: Tensor) -> Tensor:
        """Return the slope [N] of each policy token's log-probability along a direction [P].

        The policy is stepped to both sides and put back.
        """
        parameters = list(self.policy.parameters())
        kept = [parameter.clone() for parameter in parameters]
        length = float(direction.norm())
        step = _REACH / length if length else 0.0  # alike groups may teach nothing
        found = []
        for sign in (1, -1):
            parts = direction.split([parameter.numel() for parameter in parameters])
            for parameter, old, part in zip(parameters, kept, parts, strict=True):
                parameter.copy_(old + sign * step * part.view_as(old))
            logp = self.logp()
            found.append(
                torch.cat(
                    [
                        logp[row, start:end]
                        for row, spans in enumerate(self.spans)
                        for start, end in spans
                    ]
                )
            )
        for parameter, old in zip(parameters, kept, strict=True):
            parameter.copy_(old)
        return (found[0] - found[1]) / (2 * step) if step else torch.zeros_like(found[0])


def _gradients(
    tokens: _Tokens,
    parameters: Sequence[Tensor],
    learnt: Sequence[int],
    by_arm: dict[str, list[Rollout]],
    config: TrainConfig,
) -> list[tuple[str, Tensor]]:
    """Return each arm's gradient [P] of the policy loss of the same rollouts, credited by it."""
    logp = tokens.logp()
    made = []
    for name, rollouts_of_arm in by_arm.items():
        advantages = [rollouts_of_arm[place].step_advantage for place in learnt]
        out = policy_loss(
            logp,
            logp.detach(),
            tokens.batch,
            torch.cat([each for each in advantages if each is not None]),
            loss=config.loss,
        )
        gradient = torch.autograd.grad(out.loss, list(parameters), retain_graph=True)
        made.append((name, torch.cat([each.flatten() for each in gradient])))
    return made


def credited_as(rollouts: list[Rollout], config: TrainConfig, critic: Critic) -> list[Rollout]:
    """Return the rollouts with the credit of a configuration."""
    return credited(
        rollouts,
        config.credit,
        drop_uniform_groups=False,
        impl=config.impl,
        values_of=critic.step_values,
    )


def figures(sums: dict[str, Sums]) -> dict[str, dict[str, float]]:
    """Return the figures of each arm, from at least three gradients of each."""
    made = {name: _figures(each, sums[_TRUTH]) for name, each in sums.items()}
    for key in ("progress", "steady_progress"):
        unit = made[_TRUTH][key]
        for row in made.values():
            row[key] /= unit
    return made


def _figures(arm: Sums, unbiased: Sums) -> dict[str, float]:
    def means(of: Sums) -> list[Tensor]:
        counts = (of.count - of.count // 2, of.count // 2)
        return [half.double() / n for half, n in zip(of.halves, counts, strict=True)]

    (first, second), truth = means(arm), means(unbiased)
    length = math.sqrt(max(float(truth[0] @ truth[1]), 1e-30))
    signal = float(first @ second)
    along = float(first @ truth[1] + second @ truth[0]) / 2 / length
    total = float((arm.halves[0] + arm.halves[1]).double().square().sum()) / arm.count**2
    variance = (arm.squared_norm / arm.count - total) * arm.count / (arm.count - 1)
    cost = mean(arm.costs)
    # The mean before an early gradient is of few: it weighs less.
    weights = range(1, len(arm.shared_costs) + 1)
    of_mean = sum(w * c for w, c in zip(weights, arm.shared_costs, strict=True)) / sum(weights)
    of_mean = max(of_mean, 0.0)  # a square; few noisy gradients may estimate less
    steady_cost = of_mean + (cost - of_mean) * _LEFT_OF_NOISE
    return {
        "cosine": along / math.sqrt(max(signal, 1e-30)),
        "snr": signal / variance,
        "useful_snr": along * abs(along) / variance,
        "progress": along / math.sqrt(cost),
        "steady_progress": along / math.sqrt(steady_cost),
    }


if __name__ == "__main__":
    main()
