#!/usr/bin/env bash
# Mamba models of transformers take no notice of a cache that is handed to them as `past_key_values`.
#
# Guess: the name that every decoder's forward pass takes its cache by is `past_key_values`, and a forward
# pass refuses a keyword that it does not know.
# Seen with transformers 5.23.0, torch 2.13.0, random weights, a hand-written loop that reads one token a pass:
#   Qwen3, LFM2 (convolutions and attention)   past_key_values: as without a cache; cache_params: not seen
#   Mamba, Mamba-2, Falcon-Mamba               cache_params: as without a cache; past_key_values: not seen
# "Not seen" is silent: the logits are, to the bit or nearly, those of the last token alone, as if nothing had
# come before it. `generate` knows the names. Who meets it: samplers and servers with a loop of their own,
# such as those of RL trainers; the first importance ratios are off by orders of magnitude. Remedy: hand the
# cache back by the name under which the output carries it, and compare one pass with the whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
cat >"$folder/show.py" <<'PYTHON'
import torch
import transformers
from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ATTENTION = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
KEYS, STATES = "past_key_values", "cache_params"


@torch.no_grad()
def distances(model, name):
    """How far the last logits are from those with, and without, what came before."""
    before = model(IDS[:, :-1], use_cache=True)
    cache = before.get(KEYS) if before.get(KEYS) is not None else before.get(STATES)
    step = model(IDS[:, -1:], use_cache=True, **{name: cache}).logits[0, -1]
    whole, alone = model(IDS).logits[0, -1], model(IDS[:, -1:]).logits[0, -1]
    return (step - whole).abs().max().item(), (step - alone).abs().max().item()


for model, own in (
    (Qwen3ForCausalLM(Qwen3Config(**SIZES, **ATTENTION)), KEYS),
    (Lfm2ForCausalLM(Lfm2Config(**SIZES, **ATTENTION, layer_types=["conv", "full_attention"])), KEYS),
    (MambaForCausalLM(MambaConfig(**SIZES, state_size=8)), STATES),
    (
        Mamba2ForCausalLM(
            Mamba2Config(**SIZES, state_size=8, num_heads=4, head_dim=16, n_groups=1, chunk_size=8)
        ),
        STATES,
    ),
    (FalconMambaForCausalLM(FalconMambaConfig(**SIZES, state_size=8)), STATES),
):
    with torch.no_grad():
        for parameter in model.eval().parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)  # so that context shows in the logits of random weights
    other = STATES if own == KEYS else KEYS
    used, unseen = distances(model, own), distances(model, other)
    name = type(model).__name__
    print(f"{name}: by {own} off the whole by {used[0]:.5f}; by {other} off by {unseen[0]:.5f}")
    assert used[0] < 1e-3 < used[1], name
    assert unseen[1] < 1e-3 < unseen[0], name
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py" 2>"$folder/messages" || { cat "$folder/messages"; exit 1; }
