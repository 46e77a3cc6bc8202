"""The method written a second time, in plain Python loops over lists: slow, independent of torch.

Written from the formulas, not from `finestep_fast.reference`, which it checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

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


def loop_compared(
    rollouts: Sequence[Rollout],
    scope: str,
    w_p: float,
    w_o: float,
    floor: float,
    credit: CreditConfig,
    state: Sequence[Sequence[int]],
) -> list[list[float]]:
    """Return the advantages of each rollout's steps over a scope that compares returns."""
    returns = [loop_returns(rollout, w_p, w_o, credit) for rollout in rollouts]
    advantage = [[0.0] * len(rollout.reward) for rollout in rollouts]
    for group in {rollout.group for rollout in rollouts}:
        members = [r for r, x in enumerate(rollouts) if x.group == group and x.reward]
        longest = max((len(returns[r]) for r in members), default=0)
        stand = {
            r: [returns[r][min(s, len(returns[r]) - 1)] for s in range(longest)] for r in members
        }
        if scope == "trajectory":
            totals = [
                w_o * rollouts[r].outcome
                + w_p * sum(p - credit.process_baseline for p in rollouts[r].reward)
                for r in members
            ]
            for r, value in zip(members, loop_relative(totals, floor, credit), strict=True):
                advantage[r] = [value] * len(returns[r])
        if scope == "state":
            every = [value for r in members for value in returns[r]]
            for r in members:
                others = [u for u in members if u != r]
                for s in range(len(returns[r])):
                    advantage[r][s] = loop_state(
                        r, s, others, returns, stand, state, every, floor, credit
                    )
        for s in range(longest if scope in ("pooled", "per_index") else 0):
            there = [r for r in members if scope == "pooled" or s < len(returns[r])]
            compared = loop_relative([stand[r][s] for r in there], floor, credit)
            for r, value in zip(there, compared, strict=True):
                if s < len(returns[r]):
                    advantage[r][s] = value
    return advantage


def loop_state(
    r: int,
    s: int,
    others: Sequence[int],
    returns: Sequence[Sequence[float]],
    stand: Mapping[int, Sequence[float]],
    state: Sequence[Sequence[int]],
    every: Sequence[float],
    floor: float,
    credit: CreditConfig,
) -> float:
    """Return the advantage of step s of rollout r over what others got from its state."""
    key, visit = state[r][s], list(state[r][:s]).count(state[r][s])
    got = []
    for u in others:
        visits = [returns[u][k] for k in range(len(returns[u])) if state[u][k] == key]
        if visits:
            got.append(visits[min(visit, len(visits) - 1)])
    weight = len(got) + credit.state_shrinkage
    if not others or weight == 0:
        return 0.0
    mean = math.fsum(stand[u][s] for u in others) / len(others)
    baseline = (math.fsum(got) + credit.state_shrinkage * mean) / weight
    deviation = returns[r][s] - baseline
    centre = math.fsum(every) / len(every)
    squares = math.fsum((value - centre) ** 2 for value in every)
    freedom = len(every) - (credit.std == "sample")
    scale = max(math.sqrt(squares / max(freedom, 1)), floor) + credit.epsilon
    if abs(deviation) < 1e-13:
        return 0.0
    return deviation if credit.std == "none" else deviation / scale


def loop_value(
    rollouts: Sequence[Rollout], r: int, value: Sequence[float], credit: CreditConfig
) -> list[float]:
    """Return the credit of one rollout by differences of its values."""
    rollout = rollouts[r]
    n = len(rollout.reward)
    outcomes = [x.outcome for x in rollouts if x.group == rollout.group and x.reward]
    mean = math.fsum(outcomes) / len(outcomes) if outcomes else 0.0
    squares = math.fsum((outcome - mean) ** 2 for outcome in outcomes)
    freedom = len(outcomes) - (credit.std == "sample")
    std = max(math.sqrt(squares / max(freedom, 1)), credit.std_floor)
    factor = 1.0 if credit.std == "none" else (0.0 if std == 0 else 1 / (std + credit.epsilon))
    delta = [
        (rollout.outcome if k == n - 1 else credit.outcome_discount * value[k + 1]) - value[k]
        for k in range(n)
    ]
    carried = credit.outcome_discount * credit.gae_lambda
    return [
        credit.outcome_weight * factor * sum(carried ** (k - s) * delta[k] for k in range(s, n))
        + credit.process_weight
        * sum(
            credit.process_discount ** (k - s) * (rollout.reward[k] - credit.process_baseline)
            for k in range(s, n)
        )
        for s in range(n)
    ]


def loop_step_advantage(
    rollouts: Sequence[Rollout],
    credit: CreditConfig,
    state: Sequence[int] = (),
    value: Sequence[float] = (),
) -> list[float]:
    ends = list(accumulate(len(rollout.reward) for rollout in rollouts))
    spans = [slice(end - len(x.reward), end) for end, x in zip(ends, rollouts, strict=True)]
    states = [state[span] for span in spans]
    total = [[0.0] * len(rollout.reward) for rollout in rollouts]
    w_p, w_o, floor = credit.process_weight, credit.outcome_weight, credit.std_floor
    for weight, scope in (
        (credit.step_weight, credit.scope),
        (credit.rollout_weight, "trajectory"),
    ):
        if weight == 0:
            continue
        if scope == "value":
            parts = [
                (1.0, [loop_value(rollouts, r, value[x], credit) for r, x in enumerate(spans)])
            ]
        elif credit.channels == "joint":
            parts = [(1.0, loop_compared(rollouts, scope, w_p, w_o, floor * w_o, credit, states))]
        else:
            parts = [
                (w_p, loop_compared(rollouts, scope, 1, 0, floor, credit, states)),
                (w_o, loop_compared(rollouts, scope, 0, 1, floor, credit, states)),
            ]
        for factor, part in parts:
            for r, row in enumerate(part):
                for s, advantage in enumerate(row):
                    total[r][s] += weight * factor * advantage
    clip = math.inf if credit.advantage_clip is None else credit.advantage_clip
    return [max(-clip, min(clip, advantage)) for row in total for advantage in row]


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
