"""Why an arm learns faster or slower: the bias and the noise of its gradient.

    python -m benchmarks.credit_study.gradients runs/credit_study/runs/NAME --world explore

Many updates of rollouts are sampled from one policy that stays as it is. Each arm turns the same
rollouts into advantages, and each update into one gradient of the policy loss. Then, with g the
mean gradient of an arm over all updates and t that of plain policy gradient with a leave-one-out
baseline, which has no bias:

- cosine: between g and t; 1 means no bias in direction.
- SNR: |g|^2 over the variance of one update's gradient.
- useful SNR: the same of g's part along t.

Products of means are taken between two halves of the updates, so noise does not add to them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
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
from finestep_fast.train.rollout.value import Critic
from finestep_fast.train.setup import make_accelerator, make_parts

_UNBIASED = (
    "credit.preset=grpo",
    "credit.std=none",
    "credit.leave_one_out=true",
    "credit.advantage_clip=null",
)
_TRUTH = "(leave one out)"


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
    figures = measured(configs, options.updates)
    for name, row in figures.items():
        print(f"{name:24}", *(f"{key} {value:8.4f}" for key, value in row.items()))
    if options.results:
        with options.results.open("a", encoding="utf-8") as file:
            place = {"world": options.world, "label": options.label, "updates": options.updates}
            file.write(json.dumps({**place, "prompts": options.prompts, "arms": figures}) + "\n")


def measured(configs: dict[str, TrainConfig], num_updates: int) -> dict[str, dict[str, float]]:
    """Return the figures of each configuration, the unbiased one first."""
    config = next(iter(configs.values()))
    critics = {
        name: Critic(each.value, max_steps=each.env.max_steps, memory=each.value_memory)
        for name, each in configs.items()
    }
    sums: dict[str, list[Tensor]] = {}
    squares: dict[str, float] = {}
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
            for name, gradient in _gradients(parts.policy, parameters, rollouts, by_arm, config):
                halves = sums.setdefault(name, [torch.zeros_like(gradient) for _ in range(2)])
                halves[update % 2] += gradient
                squares[name] = squares.get(name, 0.0) + float(gradient.square().sum())
    return _figures(sums, squares, num_updates)


def _gradients(
    policy: Any,
    parameters: Sequence[Tensor],
    rollouts: list[Rollout],
    by_arm: dict[str, list[Rollout]],
    config: TrainConfig,
) -> list[tuple[str, Tensor]]:
    """Return each arm's gradient [P] of the policy loss of the same rollouts, credited by it."""
    learnt = [
        place
        for place in range(len(rollouts))
        if all(made[place].learnt for made in by_arm.values())
    ]
    items = [rollouts[place].transcript for place in learnt]
    rows = pad_rows([item.token_ids for item in items], torch.device("cpu"))
    length = rows.token_ids.shape[1]
    logits = policy(input_ids=rows.token_ids, attention_mask=rows.mask, use_cache=False).logits
    logp = logits.log_softmax(-1)[:, :-1].gather(-1, rows.token_ids[:, 1:, None])[..., 0]
    logp = torch.nn.functional.pad(logp, (0, 1))
    spans = [[(start - 1, end - 1) for start, end in item.step_spans] for item in items]
    batch = StepBatch.from_spans(
        spans, [0] * len(items), num_tokens=logp.numel(), row_length=length
    )
    made = []
    for name, rollouts_of_arm in by_arm.items():
        advantages = [rollouts_of_arm[place].step_advantage for place in learnt]
        out = policy_loss(
            logp,
            logp.detach(),
            batch,
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


def _figures(
    sums: dict[str, list[Tensor]], squares: dict[str, float], num_updates: int
) -> dict[str, dict[str, float]]:
    half = num_updates / 2
    means = {name: [part.double() / half for part in parts] for name, parts in sums.items()}
    truth = means[_TRUTH]
    length = math.sqrt(max(float(truth[0] @ truth[1]), 1e-30))
    figures = {}
    for name, (first, second) in means.items():
        signal = float(first @ second)
        along = float(first @ truth[1] + second @ truth[0]) / 2 / length
        total = float((first + second).square().sum()) / 4
        variance = (squares[name] / num_updates - total) * num_updates / (num_updates - 1)
        figures[name] = {
            "cosine": along / math.sqrt(max(signal, 1e-30)),
            "snr": signal / variance,
            "useful_snr": along * abs(along) / variance,
        }
    return figures


if __name__ == "__main__":
    main()
