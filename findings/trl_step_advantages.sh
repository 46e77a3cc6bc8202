#!/usr/bin/env bash
# TRL accepts one advantage per token, but its sequence-level ratio averages them over the reply first;
# its CISPO shrinks every gradient to a fifth unless epsilon_high is set.
#
# Guess: `GRPOTrainer._compute_loss` takes `advantages` of shape (B, T), so a turn's tokens follow the
# turn's own advantage whatever `importance_sampling_level`; and where policy and sampler agree every
# loss type has the gradient of plain policy gradient.
# Seen with trl 1.16.0, gradients of the log-probabilities on policy, two replies of four tokens,
# advantages [+1, +1, -1, -1] and [+1, +1, +1, +1]:
#   token level, grpo bnpo dr_grpo dapo sapo luspo    as given, token by token
#   sequence level, the same six                      0 for the whole first reply; the second as before
#   cispo, vespo, either level                        as given
#   cispo with its defaults                           0.2 times the others: epsilon_high, 0.2, is the
#                                                     bound of the ratio itself, not of its excess over 1
# Who meets it: turn-level or step-level credit in TRL together with GSPO. A reply with turns that cancel
# teaches nothing, and no metric says so. Remedy: importance_sampling_level="token"; for CISPO a bound
# above 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 trl==1.16.0 accelerate==1.15.0 \
  datasets==5.2.0
cat >"$folder/show.py" <<'PYTHON'
import sys

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

print(f"trl {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
words = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
of_bytes = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=[]))
of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_bytes, eos_token="<eos>", pad_token="<pad>")
model = Qwen3ForCausalLM(
    Qwen3Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
)
ADVANTAGES = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]])


def gradient(loss_type, level):
    """Of both replies' log-probabilities; the policy is the sampler."""
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completions, **more: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=sys.argv[1],
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=4,
            loss_type=loss_type,
            importance_sampling_level=level,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 4),
        processing_class=tokenizer,
    )
    theirs = trainer._get_per_token_logps_and_entropies
    seen = []

    def watched(*given, **more):
        logps, *rest = theirs(*given, **more)
        seen.append(logps.detach().requires_grad_())
        return (seen[0], *rest)

    trainer._get_per_token_logps_and_entropies = watched
    trainer._compute_loss(
        model.eval(),
        {
            "prompt_ids": torch.tensor([[5, 6], [7, 8]]),
            "prompt_mask": torch.ones(2, 2, dtype=torch.long),
            "completion_ids": torch.tensor([[9, 10, 11, 12], [13, 14, 15, 16]]),
            "completion_mask": torch.ones(2, 4, dtype=torch.long),
            "advantages": ADVANTAGES,
            "num_items_in_batch": torch.tensor(8),
        },
    ).backward()
    return seen[0].grad


for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo", "sapo", "luspo", "cispo", "vespo"):
    token, sequence = gradient(loss_type, "token"), gradient(loss_type, "sequence")
    size = -token[1, 0].item()
    print(f"{loss_type}: token {token[0].tolist()}, sequence {sequence[0].tolist()}")
    assert torch.allclose(token, -size * ADVANTAGES), loss_type
    expected = {"luspo": 0.5, "cispo": 0.025}.get(loss_type, 0.125)
    assert abs(size - expected) < 1e-6, (loss_type, size)
    if loss_type in ("cispo", "vespo"):
        assert torch.allclose(sequence, token), loss_type
    else:
        assert not sequence[0].any() and torch.allclose(sequence[1], token[1]), loss_type
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py" "$folder/trainer" 2>"$folder/messages" || {
  cat "$folder/messages"
  exit 1
}
