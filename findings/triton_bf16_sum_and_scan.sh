#!/usr/bin/env bash
# Compiled Triton adds a bfloat16 block up in bfloat16 in `tl.sum`, and in float32 in `tl.cumsum`.
#
# Guess: both accumulate in float32, as `torch.sum` and `torch.cumsum` do, or neither.
# Seen with triton 3.7.1, compiled for sm_90 without a GPU: the combine region of `tt.reduce` works on
# bf16 and its result is bf16, while `tt.scan` works on f32. So the last element of `tl.cumsum(x)` is
# another number than `tl.sum(x)`. Integers narrower than 32 bits are widened by both. `tl.sum(x,
# dtype=tl.float32)` adds in float32. Who meets it: kernels that count tokens, or add weights or
# log-probabilities up in the dtype of the model: 1 + 256 is 256 in bfloat16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q triton==3.7.1 numpy==2.4.6
cat >"$folder/show.py" <<'PYTHON'
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

print(f"triton {triton.__version__}")


@triton.jit
def total(source, target, COUNT: tl.constexpr):
    tl.store(target, tl.sum(tl.load(source + tl.arange(0, COUNT)), 0))


@triton.jit
def total_in_float32(source, target, COUNT: tl.constexpr):
    tl.store(target, tl.sum(tl.load(source + tl.arange(0, COUNT)), 0, dtype=tl.float32))


@triton.jit
def running(source, target, COUNT: tl.constexpr):
    place = tl.arange(0, COUNT)
    tl.store(target + place, tl.cumsum(tl.load(source + place), 0))


def added_in(kernel, dtype):
    """The type in which the kernel's combine region adds."""
    source = ASTSource(
        fn=kernel,
        signature={"source": f"*{dtype}", "target": "*fp32", "COUNT": "constexpr"},
        constexprs={"COUNT": 1024},
    )
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ttgir"]
    region = re.search(r'"tt\.(?:reduce|scan)".*?\n\s*%\S+ = arith\.add[fi] [^:]*: (\w+)', code, re.DOTALL)
    return region.group(1)


for kernel, dtype, expected in (
    (total, "bf16", "bf16"),
    (total, "fp16", "f16"),
    (total_in_float32, "bf16", "f32"),
    (running, "bf16", "f32"),
    (running, "fp16", "f16"),
    (total, "i8", "i32"),
    (running, "i8", "i32"),
):
    seen = added_in(kernel, dtype)
    print(f"{kernel.fn.__name__} of {dtype}: adds in {seen}")
    assert seen == expected, (kernel.fn.__name__, dtype, seen)
print("as described")
PYTHON
TRITON_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" -W ignore "$folder/show.py"
