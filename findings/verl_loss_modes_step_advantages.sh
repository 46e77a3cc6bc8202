#!/usr/bin/env bash
# Two of verl's loss modes ignore `loss_agg_mode`, and one of them erases step advantages.
#
# Guess: `loss_agg_mode` decides how tokens are averaged whatever the loss mode, and advantages of shape
# (batch, tokens) count per token, as the signature of a policy loss says.
# Seen with verl 0.9.1, on policy, gradients of the log-probabilities:
#   - `geo_mean` and `sapo` average by sequence for "token-mean", "seq-mean-token-sum" and
#     "seq-mean-token-mean" alike: a token of a reply of two gets four times the gradient of one of eight.
#     vanilla, gspo, cispo, gpg, clip_cov, kl_cov, dppo_kl, dppo_tv do what their settings say.
#   - `geo_mean` averages the advantages of a row first: [+1, +1, -1, -1] gives a gradient of 0 for
#     every token, so a turn that was right and one that was wrong teach nothing. gspo, which
#     also has one ratio for the row, keeps each token's own advantage.
# Who meets it: turn-level or step-level advantages in verl, and comparisons of loss modes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.10.4 verl==0.9.1
cat >"$folder/show.py" <<'PYTHON'
from importlib.metadata import version

import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

print(f"verl {version('verl')}, torch {torch.__version__}")
CONFIG = FSDPActorConfig(strategy="fsdp", rollout_n=2, ppo_micro_batch_size_per_gpu=2, ppo_mini_batch_size=2)
AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean")
OBEDIENT = ("vanilla", "gspo", "cispo", "gpg", "clip_cov", "kl_cov", "dppo_kl", "dppo_tv")


def gradient(mode, mask, advantages, aggregation="token-mean"):
    old = torch.full_like(mask, -1.0)
    new = old.clone().requires_grad_()
    loss = get_policy_loss_fn(mode)(
        old_log_prob=old,
        log_prob=new,
        advantages=advantages,
        response_mask=mask,
        loss_agg_mode=aggregation,
        config=CONFIG,
        rollout_is_weights=None,
    )[0]
    loss.backward()
    return new.grad


lengths = torch.tensor([[8], [2]])
mask = (torch.arange(8) < lengths).float()
steps = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
for mode in (*OBEDIENT, "sapo", "geo_mean"):
    first = [gradient(mode, mask, mask, way)[:, 0] for way in AGGREGATIONS]
    ratios = [round((short / long).item(), 3) for long, short in first]
    sizes = [round(-long.item(), 4) for long, _ in first]
    own = gradient(mode, torch.ones(1, 4), steps)[0]
    print(f"{mode}: short reply over long one {ratios}, long one {sizes}; of steps {own.tolist()}")
    if mode in OBEDIENT:
        assert ratios == [1, 1, 4] and sizes == [0.1, 0.5, 0.0625], mode
    else:
        assert ratios == [4, 4, 4] and sizes == [0.0625] * 3, mode
    if mode == "geo_mean":
        assert not own.any()
    else:
        assert torch.allclose(own, -steps[0] / 4), mode
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py" 2>"$folder/messages" || { cat "$folder/messages"; exit 1; }
