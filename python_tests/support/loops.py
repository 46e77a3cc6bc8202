"""The method written a second time, in plain Python loops over lists: slow, independent of torch.

Written from the formulas, not from `finestep_fast.reference`, which it checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from finestep_fast import CreditConfig, LossConfig
from support.batches import Rollout


def loop_returns(rollout: Rollout, w_p: float, w_o: float, credit: CreditConfig) -> list[float]:
    n = len(rollout.reward)
    returns: list[float] = []
    for s in range(n):
        q = w_o * credit.outcome_discount ** (n - 1 - s) * rollout.outcome
        for k in range(s, n):
            p = rollout.reward[k] - credit.process_baseline
            q += w_p * credit.process_discount ** (k - s) * p
        returns.append(q)
    smooth: list[float] = []
    for q in returns:
        smooth.append(
            q if not smooth else credit.smoothing * q + (1 - credit.smoothing) * smooth[-1]
        )
    return smooth


def loop_relative(values: Sequence[float], floor: float, credit: CreditConfig) -> list[float]:
    n = len(values)
    if n < 2 or max(values) - min(values) < 1e-13:
        return [0.0] * n
    mean = math.fsum(values) / n
    squares = math.fsum((value - mean) ** 2 for value in values)
    divisor = {
        "sample": math.sqrt(squares / (n - 1)),
        "population": math.sqrt(squares / n),
        "none": None,
    }[credit.std]
    advantages = []
    for index, value in enumerate(values):
        others = [other for place, other in enumerate(values) if place != index]
        centre = math.fsum(others) / len(others) if credit.leave_one_out else mean
        scale = 1.0 if divisor is None else max(divisor, floor) + credit.epsilon
        advantages.append((value - centre) / scale)
    return advantages


def loop_scope(
    rollouts: Sequence[Rollout],
    scope: str,
    w_p: float,
    w_o: float,
    floor: float,
    credit: CreditConfig,
) -> list[list[float]]:
    values = {
        (r, s): value
        for r, rollout in enumerate(rollouts)
        for s, value in enumerate(loop_returns(rollout, w_p, w_o, credit))
    }
    if scope == "trajectory":
        values = {
            (r, 0): w_o * rollout.outcome
            + w_p * sum(p - credit.process_baseline for p in rollout.reward)
            for r, rollout in enumerate(rollouts)
            if rollout.reward
        }
    sets: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for r, s in values:
        key = (rollouts[r].group, s if scope == "per_index" else 0)
        sets.setdefault(key, []).append((r, s))
    advantage: dict[tuple[int, int], float] = {}
    for members in sets.values():
        compared = loop_relative([values[member] for member in members], floor, credit)
        advantage.update(zip(members, compared, strict=True))
    return [
        [advantage[r, 0 if scope == "trajectory" else s] for s in range(len(rollout.reward))]
        for r, rollout in enumerate(rollouts)
    ]


def loop_step_advantage(rollouts: Sequence[Rollout], credit: CreditConfig) -> list[float]:
    total = [[0.0] * len(rollout.reward) for rollout in rollouts]
    w_p, w_o, floor = credit.process_weight, credit.outcome_weight, credit.std_floor
    for weight, scope in (
        (credit.step_weight, credit.scope),
        (credit.rollout_weight, "trajectory"),
    ):
        if credit.channels == "joint":
            parts = [(1.0, loop_scope(rollouts, scope, w_p, w_o, floor * w_o, credit))]
        else:
            parts = [
                (w_p, loop_scope(rollouts, scope, 1, 0, floor, credit)),
                (w_o, loop_scope(rollouts, scope, 0, 1, floor, credit)),
            ]
        for factor, part in parts:
            for r, row in enumerate(part):
                for s, value in enumerate(row):
                    total[r][s] += weight * factor * value
    clip = math.inf if credit.advantage_clip is None else credit.advantage_clip
    return [max(-clip, min(clip, value)) for row in total for value in row]


def loop_grpo(rollouts: Sequence[Rollout], epsilon: float = 1e-6) -> list[float]:
    """Compute GRPO: z-scores of outcomes by group, one for each step of a rollout."""
    advantages = []
    for rollout in rollouts:
        others = [other.outcome for other in rollouts if other.group == rollout.group]
        mean = sum(others) / len(others)
        spread = sum((outcome - mean) ** 2 for outcome in others) / max(len(others) - 1, 1)
        z = (rollout.outcome - mean) / (math.sqrt(spread) + epsilon)
        advantages += [z] * len(rollout.reward)
    return advantages


def loop_policy_loss(
    rollouts: Sequence[Rollout],
    *,
    loss: LossConfig,
    token_logp: Sequence[float],
    token_logp_old: Sequence[float],
    token_logp_ref: Sequence[float],
    token_weight: Sequence[float],
    step_advantage: Sequence[float],
    token_bonus: Sequence[float] | None = None,
    held_logp: Sequence[float] | None = None,
) -> float:
    """Return the loss of the policy tokens of all rollouts, one after the other.

    Where `held_logp` is given, what carries no gradient is made of it, so that the derivative in
    `token_logp` at `held_logp` is the gradient of the loss.
    """
    logp, old, ref = token_logp, token_logp_old, token_logp_ref
    held = logp if held_logp is None else held_logp
    num_tokens = sum(sum(rollout.step_length) for rollout in rollouts)
    num_steps = sum(len(rollout.step_length) for rollout in rollouts)
    total, token, step = 0.0, 0, 0
    for rollout in rollouts:
        of_rollout = range(token, token + sum(rollout.step_length))
        for length in rollout.step_length:
            of_step = range(token, token + length)
            for t in of_step:
                shared = {"token": [t], "step": of_step}.get(loss.ratio, of_rollout)
                is_own = loss.kind == "ppo" and loss.ratio != "rollout_averaged"
                value = logp if loss.kind == "ppo" and not is_own else held
                ratio = math.exp(
                    sum(max(-20.0, min(20.0, value[i] - old[i])) for i in shared) / len(shared)
                )
                if is_own:
                    ratio *= math.exp(logp[t] - held[t])
                clipped = max(1 - loss.clip_low, min(1 + loss.clip_high, ratio))
                a = step_advantage[step]
                if loss.kind == "ppo":
                    gain = min(ratio * a, clipped * a)
                    if loss.dual_clip is not None and a < 0:
                        gain = max(gain, loss.dual_clip * a)
                else:
                    gain = clipped * a * logp[t]
                d = max(-20.0, min(20.0, ref[t] - logp[t]))
                kl = {None: 0.0, "k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[loss.kl]
                weight = {
                    "token_mean": 1 / num_tokens,
                    "rollout_mean": 1 / len(rollouts) / len(of_rollout),
                    "step_mean": 1 / num_steps / length,
                    "constant": 1 / len(rollouts) / (loss.constant_tokens or 1),
                }[loss.aggregation]
                bonus = token_bonus[t] if token_bonus else 0.0
                total += weight * (loss.kl_weight * kl - token_weight[t] * gain - bonus)
            token += length
            step += 1
    return total


def loop_logits(
    hidden: Sequence[Sequence[float]], weight: Sequence[Sequence[float]], bias: Sequence[float]
) -> list[list[float]]:
    return [
        [
            shift + math.fsum(w * h for w, h in zip(word, state, strict=True))
            for word, shift in zip(weight, bias, strict=True)
        ]
        for state in hidden
    ]


def loop_token_logp(
    logits: Sequence[Sequence[float]], target: Sequence[int], temperature: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return log-probability of each row's target, and the entropy of each row."""
    logps, entropies = [], []
    for row, word, heat in zip(logits, target, temperature, strict=True):
        total = math.fsum(math.exp((logit - max(row)) / heat) for logit in row)
        every = [(logit - max(row)) / heat - math.log(total) for logit in row]
        logps.append(every[word])
        entropies.append(-math.fsum(math.exp(logp) * logp for logp in every))
    return logps, entropies
