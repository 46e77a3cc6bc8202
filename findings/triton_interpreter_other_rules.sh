#!/usr/bin/env bash
# Two kernels: one runs in Triton's interpreter and does not compile, the other compiles and does not run there.
#
# Guess: what runs under TRITON_INTERPRET=1 compiles, and the other way round; only the numbers may differ.
# Seen with triton 3.7.1 and torch 2.13.0, both ways:
# 1. `total, _ = f(scalar)` before a loop and `x, _ = f(block)` inside it. `_` is an ordinary variable, so for the
#    compiler it is carried around the loop and changes its type: CompilationError, "Loop-carried variable _ has
#    initial type fp32 but is re-assigned ...". The interpreter runs it. Give the unused value a name of its own.
# 2. `(count < 1.0) | (x == 0.0)` with a scalar made by tl.full(()) that a tl.sum was added to, and a block x. The
#    compiler broadcasts the scalar. In the interpreter it has become an array of Python objects:
#    "ufunc 'bitwise_or' not supported for the input types". A block of equal values works in both.
# Who meets it: kernels that are tested without a GPU. Compile them ahead of time in the tests as well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 triton==3.7.1 numpy==2.4.6
cat >"$folder/kernels.py" <<'PYTHON'
import triton
import triton.language as tl


@triton.jit
def both(x):
    return x + 1.0, x


@triton.jit
def unused_name(source, target, n, SIZE: tl.constexpr):
    x = tl.load(source + tl.arange(0, SIZE))
    total, _ = both(tl.sum(x))
    for _i in range(n):
        x, _ = both(x)
        total += tl.sum(x)
    tl.store(target, total)


@triton.jit
def scalar_condition(source, target, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    x = tl.load(source + place)
    count = tl.full((), 0.0, tl.float32)
    count += tl.sum((x > 0.0).to(tl.float32))
    tl.store(target + place, ((count < 1.0) | (x == 0.0)).to(tl.float32))
PYTHON
cat >"$folder/interpreted.py" <<'PYTHON'
import torch
import triton
from kernels import scalar_condition, unused_name

print(f"triton {triton.__version__}, torch {torch.__version__}, interpreter")
source, target = torch.arange(4.0), torch.zeros(4)
unused_name[(1,)](source, target, 3, SIZE=4)
print("unused_name runs:", target[0].item())
assert target[0] == 49
try:
    scalar_condition[(1,)](source, target, SIZE=4)
except Exception as error:
    print("scalar_condition:", error.__cause__)
    assert "bitwise_or" in str(error.__cause__)
else:
    raise SystemExit("scalar_condition runs in the interpreter now")
PYTHON
cat >"$folder/compiled.py" <<'PYTHON'
import triton
from kernels import scalar_condition, unused_name
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {"source": "*fp32", "target": "*fp32"}


def compiled(kernel, **more):
    signature = {**POINTERS, **more, "SIZE": "constexpr"}
    constants = {(list(signature).index("SIZE"),): 4}
    return triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=constants), target=TARGET)


print("scalar_condition compiles:", len(compiled(scalar_condition).asm["ptx"]) > 0)
try:
    compiled(unused_name, n="i32")
except Exception as error:
    print("unused_name:", [line for line in str(error).splitlines() if "Loop-carried" in line][0])
else:
    raise SystemExit("unused_name compiles now")
PYTHON
cd "$folder"
TRITON_INTERPRET=1 "$folder/venv/bin/python" interpreted.py
"$folder/venv/bin/python" compiled.py
