#!/usr/bin/env bash
# transformers keeps packed sequences apart by restarting `position_ids` only without a cache and without
# a mask: gradient checkpointing, which turns the cache off, changes the logits.
#
# Guess: [a b] in one row with position_ids 0..n, 0..m is two sequences (padding-free training); and
# `gradient_checkpointing_enable()` changes memory, not numbers.
# Seen with transformers 5.23.0, torch 2.13.0, Qwen3, Llama and Phi-3 with random weights, sdpa and eager:
# how far the second sequence's logits are from those it has alone,
#   model(ids, position_ids=...)                                      far: it sees the first
#   use_cache=False                                                   equal
#   attention_mask of ones, with use_cache=False or without           far
#   in train mode                                                     far
#   in train mode after gradient_checkpointing_enable()               equal
# The only warning is that checkpointing turns the cache off. Who meets it: old log-probabilities from a
# pass without checkpointing beside new ones from a pass with it; evaluation of a model that was trained
# on packed rows. Remedy: use_cache=False in every pass over packed rows, no mask of ones, and one check
# of the equality.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
cat >"$folder/show.py" <<'PYTHON'
import torch
import transformers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
FIRST, SECOND = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[5, 6, 7]])
PACKED = torch.cat([FIRST, SECOND], 1)
POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
ONES = torch.ones_like(PACKED)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@torch.no_grad()
def distances(model):
    alone = model(SECOND).logits[0]

    def distance(**given):
        packed = model(PACKED, position_ids=POSITIONS, **given).logits[0, FIRST.shape[1] :]
        return (packed - alone).abs().max().item()

    seen = {
        "positions alone": distance(),
        "use_cache=False": distance(use_cache=False),
        "a mask of ones": distance(attention_mask=ONES),
        "both": distance(attention_mask=ONES, use_cache=False),
    }
    model.train()
    seen["train mode"] = distance()
    model.gradient_checkpointing_enable()
    seen["train mode, checkpointing"] = distance()
    return seen


for model_class, config_class in (
    (Qwen3ForCausalLM, Qwen3Config),
    (LlamaForCausalLM, LlamaConfig),
    (Phi3ForCausalLM, Phi3Config),
):
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = model_class(config_class(**SIZES)).eval()
        model.set_attn_implementation(attention)
        seen = distances(model)
        print(model_class.__name__, attention, {name: round(far, 5) for name, far in seen.items()})
        apart = {"use_cache=False", "train mode, checkpointing"}
        assert all((far < 1e-3) == (name in apart) for name, far in seen.items())
        assert all(far > 0.1 for name, far in seen.items() if name not in apart)
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py" 2>"$folder/messages" || { cat "$folder/messages"; exit 1; }
