#!/usr/bin/env bash
# torch's chunked linear_cross_entropy adds its chunks up in bfloat16: a mean loss of 6.75 becomes 2.0.
#
# Guess: `F.linear_cross_entropy(..., options=LinearCrossEntropyOptions(batch_chunk_size=16))` gives
# the loss of `options=None` in less memory; `acc_policy="accurate"` or `acc_dtype=torch.float32` buys
# the rest of the precision.
# Seen with torch 2.13.0 on CPU, bfloat16 hidden states and weights, 8192 rows, vocabulary 512:
#   float64                                   loss 6.749
#   options=None                              loss 6.75    weight gradient off by 0.2 %
#   chunks of 16 rows                         loss 2.0     weight gradient off by 4.1 %
#   the same, acc_policy="accurate"           loss 2.0     4.1 %
#   the same, acc_dtype=torch.float32         loss 2.0     4.1 %
#   the same, reduction="none", then a mean   loss 6.749   4.1 %
# Each chunk is a small share of the sum, and is rounded away once the running total is large. Chunks
# chosen by torch ("auto") are larger here and lose less. Who meets it: all who take the loss from
# hidden states in small chunks to save memory. reduction="none" mends the loss that is logged, not the
# gradient; float32 weights, or chunks as large as memory allows, mend both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
cat >"$folder/show.py" <<'PYTHON'
import torch
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import cross_entropy, linear_cross_entropy

print(f"torch {torch.__version__}")
torch.manual_seed(0)
rows, width, words = 8192, 64, 512
hidden = torch.randn(rows, width).bfloat16()
weight = (torch.randn(words, width) / width**0.5).bfloat16().requires_grad_()
target = torch.randint(words, (rows,))
exact = weight.detach().double().requires_grad_()
truth = cross_entropy(hidden.double() @ exact.T, target)
truth.backward()


def measured(reduction="mean", **options):
    """Loss, and the weight gradient's distance from float64's."""
    weight.grad = None
    chosen = LinearCrossEntropyOptions(**options) if options else None
    loss = linear_cross_entropy(hidden, weight, target, reduction=reduction, options=chosen)
    loss = loss.float().mean()
    loss.backward()
    off = (weight.grad.double() - exact.grad).norm() / exact.grad.norm()
    return loss.item(), off.item()


print(f"float64: loss {truth.item():.3f}")
whole = measured()
print(f"options=None: loss {whole[0]:.3f}, gradient off by {whole[1]:.2%}")
assert abs(whole[0] - truth.item()) < 0.02 and whole[1] < 0.005
for more in ({}, {"acc_policy": "accurate"}, {"acc_dtype": torch.float32}):
    loss, off = measured(batch_chunk_size=16, **more)
    print(f"chunks of 16, {more}: loss {loss:.3f}, gradient off by {off:.2%}")
    assert loss == 2.0 and off > 0.02
loss, off = measured("none", batch_chunk_size=16)
print(f"chunks of 16, reduction='none': loss {loss:.3f}, gradient off by {off:.2%}")
assert abs(loss - truth.item()) < 0.002 and off > 0.02
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py"
