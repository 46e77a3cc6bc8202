#!/usr/bin/env bash
# verl's estimators give advantages to groups in which all rollouts earned the same, and to groups of one.
#
# Guess: a group-relative advantage is 0 where all rewards of the group are equal, and where a prompt
# has one reply.
# Seen with verl 0.9.1 (token rewards in float32, as its trainer makes them):
#   - `grpo`, eight replies with reward 0.7 each: 0.056 for all of them; 0.1: 0.007. Groups of four, and
#     rewards of 0, 0.5 and 1: 0. The mean is one rounding off, the deviation as well, and the quotient
#     of the two is no longer small. The same for sixteen replies. `rloo` stays below 1e-6.
#   - one reply with reward 0.8: `grpo`, `grpo_vectorized`, `rloo`, `opo` and `gpg` give its raw 0.8,
#     `rloo_vectorized` 0. Two spellings of one estimator disagree where a group lost its other members
#     (filtered, failed, or the last of an uneven batch).
# Who meets it: soft rewards (partial credit, format bonuses) and any filter on replies. The pull is
# towards whatever was sampled. Remedy: drop groups of one reward or one reply before the estimator.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.10.4 verl==0.9.1
cat >"$folder/show.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

print(f"verl {version('verl')}, torch {torch.__version__}")


def advantages(estimator, rewards, prompts):
    """One per reply; replies have six tokens, the reward is on the last."""
    mask = torch.ones(len(rewards), 6)
    token_rewards = torch.zeros_like(mask)
    token_rewards[:, -1] = torch.tensor(rewards)
    index = np.array(prompts, dtype=object)
    found, _ = get_adv_estimator_fn(estimator)(
        token_level_rewards=token_rewards, response_mask=mask, index=index
    )
    return found[:, 0]


for count in (4, 8, 16):
    for reward in (0.0, 0.1, 0.5, 0.7, 1.0):
        seen = {
            name: advantages(name, [reward] * count, ["p"] * count).abs().max().item()
            for name in ("grpo", "rloo")
        }
        print(f"{count} replies with reward {reward}: {seen}")
        assert seen["rloo"] < 1e-6
        if count > 4 and reward in (0.1, 0.7):
            assert seen["grpo"] > (0.05 if reward == 0.7 else 0.005)
        else:
            assert seen["grpo"] == 0
alone = {
    name: round(advantages(name, [0.8], ["p"]).item(), 4)
    for name in ("grpo", "grpo_vectorized", "rloo", "opo", "gpg", "rloo_vectorized")
}
print(f"one reply with reward 0.8: {alone}")
assert alone.pop("rloo_vectorized") == 0
assert set(alone.values()) == {0.8}
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py" 2>"$folder/messages" || { cat "$folder/messages"; exit 1; }
