"""Kernels compiled ahead of time, without a GPU: all variants compile and spill nothing.

In processes of their own, for here Triton may be interpreted. The table that a person reads is
printed by `python -m benchmarks.aot_table`. All pairs of choices for a target take a minute and a
half of one core: the everyday suite compiles every choice once for one target, the gate all pairs
for one target of each maker and every choice for two more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.profile import left_to_the_gate

IN_PAIRS = ("sm_90",)
TARGETS = (*IN_PAIRS, "gfx942", "sm_80", "sm_100")
STEP_KERNELS = {
    "policy_loss_forward",
    "policy_loss_reduction",
    "scale_gradient",
    "step_advantage_forward",
}
LOOPS_OVER_ROWS = {"logits_loss_rows", "read_logit_rows", "write_logit_gradients"}
ROW_KERNELS = LOOPS_OVER_ROWS | {"clear_logit_rows"}

# Registers of a multiprocessor of NVIDIA's: what they leave room for, shared memory must too.
REGISTERS = 65536

# Every launch of 50 batches of different lengths, counts, offsets in memory and rewards, in the
# scopes that read different tensors.
FIFTY_LENGTHS = """
import torch
from benchmarks.aot_table import TARGETS, compiling
from finestep_fast import CreditConfig, LossConfig, StepBatch, kernels
from finestep_fast.arguments import Rewards, TokenConstants

def values(size, place, dtype=torch.float32):  # not aligned to 16 bytes
    return torch.zeros(size + place % 4, dtype=dtype)[place % 4:]

with compiling(TARGETS["sm_90"].gpu) as made:
    for place in range(50):
        length = 1 + 37 * place
        spans = [[(0, length), (length + 1, length + 3)]] + [[(9, 20 + place)]] * (1 + place % 7)
        row_length = 2000 + 64 * place
        num_tokens = len(spans) * row_length
        groups = [rollout % 2 for rollout in range(len(spans))]
        batch = StepBatch.from_spans(spans, groups, num_tokens=num_tokens, row_length=row_length)
        reward, outcome = values(batch.num_steps, place), values(batch.num_rollouts, place)
        constants = TokenConstants(values(num_tokens, place), None, values(num_tokens, place))
        for scope, asked in (
            ("pooled", {}),
            ("state", {"step_state": values(batch.num_steps, place, torch.int64)}),
            ("value", {"step_value": values(batch.num_steps, place)}),
        ):
            rewards, credit = Rewards(reward, outcome, **asked), CreditConfig(scope=scope)
            _, gradient, _ = kernels.step_policy_loss(
                values(num_tokens, place), constants, batch, rewards,
                divisor=None if place % 2 else 3.5 * place, credit=credit, loss=LossConfig(),
                with_gradient=True)
            kernels.scale_gradient_(
                gradient, torch.ones(()), batch.step_start, batch.step_end)
            kernels.step_advantage(rewards, batch, credit=credit)
print(len(made), sorted({kernel.name for kernel in made}), len({kernel.hash for kernel in made}))
"""


# Rows of logits of 30 vocabularies of the same size of block, of other numbers of rows.
TWELVE_VOCABULARIES = """
import torch
from benchmarks.aot_table import TARGETS, compiling
from finestep_fast import LossConfig
from finestep_fast.arguments import LogitRows, TokenTerms
from finestep_fast.kernels import rows

with compiling(TARGETS["sm_90"].gpu) as made:
    for place in range(12):
        size = 1 + place
        each = torch.zeros(size + place % 4, dtype=torch.float64)[place % 4:]
        logits = torch.zeros(2 * size, 5000 + 97 * place, dtype=torch.bfloat16)
        row = torch.arange(size)
        given = LogitRows(logits, row, row, each + 1)
        sums = rows.read(given)
        rows.write(given, sums, each, each, logits)
        terms = TokenTerms(each.float(), None, None, each, each)
        rows.read_and_write(given, terms, loss=LossConfig(), entropy_weight=0.1, gradient=logits)
        rows.clear_others(logits, row)
print(len(made), sorted({kernel.name for kernel in made}), len({kernel.hash for kernel in made}))
"""


def started(root: Path, *words: str) -> subprocess.Popen[str]:
    environment = {name: os.environ[name] for name in os.environ if name != "TRITON_INTERPRET"}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output


@left_to_the_gate
@pytest.mark.parametrize("target", TARGETS)
def test_every_variant_compiles_spills_no_register_and_loads_rows_ahead(
    target: str, root: Path
) -> None:
    words = ["--json", "--targets", target, *([] if target in IN_PAIRS else ["--singles"])]
    output = finished(started(root, "-m", "benchmarks.aot_table", *words))
    usages: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    assert {usage["kernel"] for usage in usages} == STEP_KERNELS | ROW_KERNELS
    assert len(usages) >= (80 if target in IN_PAIRS else 15)
    for usage in usages:
        assert 0 < usage["registers"] <= 255, usage
        assert usage["spilled_bytes"] == 0, usage
        is_pipelined = usage["kernel"] in LOOPS_OVER_ROWS and target.startswith("sm")
        assert (usage["async_copies"] > 0) == is_pipelined, usage
        if is_pipelined:  # the blocks on their way wait in shared memory
            programs = REGISTERS // (32 * usage["warps"] * usage["registers"])
            assert programs * usage["shared_bytes"] <= usage["shared_limit_bytes"], usage
        else:
            assert usage["shared_bytes"] <= usage["shared_limit_bytes"] // 8, usage


@left_to_the_gate
def test_fifty_lengths_compile_each_kernel_once_a_scope(root: Path) -> None:
    num_launches, names = finished(started(root, "-c", FIFTY_LENGTHS)).split(maxsplit=1)
    assert int(num_launches) == 3 * 4 * 50
    assert names.strip() == f"{sorted(STEP_KERNELS)} {2 * 3 + 2}"


@pytest.mark.slow
def test_twelve_vocabularies_compile_each_kernel_once(root: Path) -> None:
    num_launches, names = finished(started(root, "-c", TWELVE_VOCABULARIES)).split(maxsplit=1)
    assert int(num_launches) == 4 * 12
    assert names.strip() == f"{sorted(ROW_KERNELS)} 4"


def test_importing_the_kernels_does_not_import_triton(root: Path) -> None:
    code = "import sys, finestep_fast.kernels; print('triton' in sys.modules)"
    assert finished(started(root, "-c", code)).strip() == "False"


def test_the_kernels_say_why_they_cannot_run(root: Path) -> None:
    code = (
        "import torch; from finestep_fast.kernels import why_not; "
        "print(why_not(torch.device('cpu'))); print(why_not(torch.device('meta')))"
    )
    assert finished(started(root, "-c", code)).splitlines() == [
        "tensors are on cpu, and TRITON_INTERPRET is not 1",
        "tensors are on meta; Triton runs on cuda",
    ]
