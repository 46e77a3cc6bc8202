#!/usr/bin/env bash
# The log-probabilities of transformers' continuous batching are those of the distribution after
# temperature and top-k, not the model's.
#
# Guess: `generate_batch(..., return_logprobs=True)` gives log-softmax of the logits, as a trainer
# computes it again and as serving engines do unless set otherwise.
# Seen with transformers 5.23.0, torch 2.13.0 on CPU, a random Qwen3:
#   temperature 1, no top-k      the model's to 1e-4
#   temperature 2                those of logits / 2; the model's differ by nats
#   top_k 5                      renormalised over five tokens: higher than the model's for every token
# Who meets it: importance ratios from a sampler's log-probabilities. With top-k even a learner that
# divides by the temperature finds every ratio below 1 on the first, on-policy step. Remedy: top_k=0, and
# the same temperature on both sides.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 psutil==7.2.2
cat >"$folder/show.py" <<'PYTHON'
import torch
import transformers
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
model = Qwen3ForCausalLM(
    Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
).eval()
with torch.no_grad():
    model.lm_head.weight.mul_(40)  # random logits as large as a trained model's


def sampled(temperature, top_k):
    """What the sampler says of its tokens, and their logits."""
    (output,) = model.generate_batch(
        inputs=[[1, 2, 3, 4]],
        generation_config=GenerationConfig(
            max_new_tokens=24,
            do_sample=True,
            temperature=temperature,
            top_k=top_k,
            eos_token_id=63,
            pad_token_id=0,
        ),
        continuous_batching_config=ContinuousBatchingConfig(return_logprobs=True),
    ).values()
    start, tokens = len(output.prompt_ids), torch.tensor(output.generated_tokens)
    ids = torch.cat([torch.tensor(output.prompt_ids), tokens])[None]
    with torch.no_grad():
        logits = model(ids).logits[0, start - 1 : -1].float()
    return torch.tensor(output.logprobs), logits, tokens


def logp(logits, tokens):
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


given, logits, tokens = sampled(1.0, 0)
print(f"temperature 1: off the model's by {(given - logp(logits, tokens)).abs().max():.6f}")
assert torch.allclose(given, logp(logits, tokens), atol=1e-3)
given, logits, tokens = sampled(2.0, 0)
print(f"temperature 2: off the model's by {(given - logp(logits, tokens)).abs().max():.3f}")
assert torch.allclose(given, logp(logits / 2, tokens), atol=1e-3)
assert not torch.allclose(given, logp(logits, tokens), atol=0.1)
given, logits, tokens = sampled(1.0, 5)
above = given - logp(logits, tokens)
print(f"top_k 5: above the model's by {above.min():.3f} to {above.max():.3f}")
fifth = logits.topk(5).values[:, -1:]
assert torch.allclose(given, logp(logits.masked_fill(logits < fifth, -torch.inf), tokens), atol=1e-3)
assert above.min() > 0
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py" 2>"$folder/messages" || { cat "$folder/messages"; exit 1; }
