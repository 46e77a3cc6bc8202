#!/usr/bin/env bash
# Spreading one bfloat16 value per step over its tokens by `value[step_of_token]` loses its gradient at
# 256 tokens; `torch.gather` and `scatter_add` do not.
#
# Guess: indexing, `gather`, `repeat_interleave` and an embedding are four spellings of one operation,
# and sums over segments are one sum.
# Seen with torch 2.13.0 on CPU, 4096 ones in bfloat16 (the right answer is 4096, the mean 1):
#   gradient of value[index]                        256
#   gradient of repeat_interleave(value, tensor)    256     with a Python int: 4096
#   gradient of an embedding                        256
#   gradient of torch.gather, of expand             4096
#   index_add_ of a vector                          256     of rows of width 4: 4096
#   index_put_(accumulate=True)                     256
#   scatter_add_, scatter_reduce_, cumsum, sum      4096
#   segment_reduce "sum", "mean"                    256, 0.0625
# Where the running sum is itself bfloat16, adding 1 to 256 gives 256. Who meets it: per-step values,
# advantages or learned baselines kept in bfloat16 beside bfloat16 log-probabilities. Remedy: float32
# for anything per step, or gather and scatter_add.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
cat >"$folder/show.py" <<'PYTHON'
import torch

print(f"torch {torch.__version__}")
torch.set_num_threads(1)
tokens = 4096
ones = torch.ones(tokens, dtype=torch.bfloat16)
index = torch.zeros(tokens, dtype=torch.long)
zero = lambda *shape: torch.zeros(*shape, dtype=torch.bfloat16)


def gradient(spread):
    """Of one value that was spread over all tokens, each of which asks for 1."""
    value = zero(1).requires_grad_()
    spread(value).sum().backward()
    return value.grad.item()


def embedding_gradient():
    table = torch.nn.Embedding(1, 1, dtype=torch.bfloat16)
    table(index).sum().backward()
    return table.weight.grad.item()


everything = torch.tensor([tokens])
seen = {
    "gradient of value[index]": gradient(lambda value: value[index]),
    "gradient of repeat_interleave, tensor": gradient(
        lambda value: torch.repeat_interleave(value, everything)
    ),
    "gradient of an embedding": embedding_gradient(),
    "index_add_, vector": zero(1).index_add_(0, index, ones).item(),
    "index_put_": zero(1).index_put_((index,), ones, accumulate=True).item(),
    "segment_reduce sum": torch.segment_reduce(ones, "sum", lengths=everything).item(),
}
right = {
    "gradient of gather": gradient(lambda value: value.gather(0, index)),
    "gradient of repeat_interleave, int": gradient(lambda value: value.repeat_interleave(tokens)),
    "gradient of expand": gradient(lambda value: value.expand(tokens)),
    "index_add_, rows": zero(1, 4).index_add_(0, index, torch.ones(tokens, 4).bfloat16())[0, 0].item(),
    "scatter_add_": zero(1).scatter_add_(0, index, ones).item(),
    "scatter_reduce_": zero(1).scatter_reduce_(0, index, ones, "sum").item(),
    "cumsum": ones.cumsum(0)[-1].item(),
    "sum": ones.sum().item(),
}
mean = torch.segment_reduce(ones, "mean", lengths=everything).item()
for name, value in {**seen, **right, "segment_reduce mean": mean}.items():
    print(f"{name}: {value}")
assert set(seen.values()) == {256.0}
assert set(right.values()) == {4096.0}
assert mean == 0.0625
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py"
