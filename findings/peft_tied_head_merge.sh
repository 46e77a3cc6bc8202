#!/usr/bin/env bash
# peft's merge adds a tied LoRA update twice: ensure_weight_tying=True, then merge_and_unload, gives another model.
#
# Guess: with ensure_weight_tying=True the adapters of a tied embedding and head are one, and the merged model
# computes what the adapted one did.
# Seen with peft 0.21.2, transformers 5.23.0 and torch 2.13.0, a Qwen3 of random weights with tie_word_embeddings:
# the two adapters are tied, and so are the two base weights. merge_and_unload goes through the modules and adds each
# one's update to its base weight; as that is one tensor, it gets the update twice. The head stays tied, no error.
# Who meets it: LoRA on lm_head or embed_tokens of small models (tied: Qwen3 up to 4B, Gemma, Llama 3.2) that is merged
# to save or to sample. Leave the tied layers out of target_modules, or add the update once by hand, as below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2
cat >"$folder/show.py" <<'PYTHON'
import warnings

warnings.simplefilter("ignore")

import peft
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

torch.manual_seed(0)
config = Qwen3Config(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    tie_word_embeddings=True,
)
lora = peft.LoraConfig(r=2, target_modules=["lm_head"], ensure_weight_tying=True)
model = peft.get_peft_model(Qwen3ForCausalLM(config), lora).eval()
ids = torch.tensor([[1, 2, 3, 4]])
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
for _ in range(20):
    optimizer.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()

with torch.no_grad():
    inner = model.base_model.model
    head, embedding = inner.lm_head, inner.model.embed_tokens
    update = head.get_delta_weight("default")
    assert head.base_layer.weight is embedding.base_layer.weight
    assert torch.allclose(update, embedding.get_delta_weight("default"), atol=1e-6)
    base = head.base_layer.weight.clone()
    adapted = model(input_ids=ids).logits
    by_hand = Qwen3ForCausalLM(config).eval()
    merged = model.merge_and_unload()
    times = ((merged.lm_head.weight - base) * update).sum() / (update * update).sum()
    off = (merged(input_ids=ids).logits - adapted).abs().max()
    by_hand.load_state_dict(merged.state_dict())
    by_hand.lm_head.weight.copy_(base + update)
    right = (by_hand(input_ids=ids).logits - adapted).abs().max()
print(f"peft {peft.__version__}: the base weight got {times:.4f} times the update; logits differ by {off:.2f}")
print(f"with the update added once they differ by {right:.1e}")
assert abs(times - 2) < 1e-3 and off > 0.1 and right < 1e-4
assert merged.lm_head.weight is merged.model.embed_tokens.weight
print("as described")
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
