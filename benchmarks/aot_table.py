"""What the compiler makes of the kernels, without a GPU: registers, spills, shared memory, copies.

    python -m benchmarks.aot_table [--targets sm_90 gfx942] [--each] [--singles]

Every kernel is launched by its own launcher, with a driver in place that only compiles: what is
measured is what would run. The variants are a covering design: each pair of choices of `AXES`
stands together in at least one of them. Nothing is timed here. An asynchronous copy is a load that
is begun blocks before it is needed (`cp.async` of NVIDIA's machines): a loop that has any is
software-pipelined.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from finestep_fast import StepBatch, kernels
from finestep_fast.arguments import LogitRows, Rewards, TokenConstants, TokenTerms
from finestep_fast.batch import of_parts
from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.kernels import rows


class Target(NamedTuple):
    """What to compile for, and how much shared memory a program may have there."""

    gpu: GPUTarget
    shared_bytes: int


TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), 163 << 10),
    "sm_90": Target(GPUTarget("cuda", 90, 32), 227 << 10),
    "sm_100": Target(GPUTarget("cuda", 100, 32), 227 << 10),
    "sm_120": Target(GPUTarget("cuda", 120, 32), 99 << 10),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64 << 10),
}

AXES: dict[str, tuple[Any, ...]] = {
    "dtype": (torch.float32, torch.bfloat16, torch.float16, torch.float64),
    "kl": (None, "k1", "k2", "k3"),
    "kind": ("ppo", "ppo with a dual clip", "cispo"),
    "ratio": ("token", "step", "rollout", "rollout_averaged"),
    "aggregation": ("token_mean", "rollout_mean", "step_mean"),
    "advantages": ("pooled", "per_index", "trajectory", "state", "value", "given"),
    "channels": ("joint", "decoupled"),
    "with_trajectory": (False, True),
    "max_rollout_steps": (6, 20, 100, 400),
    "weighted": (False, True),
    "steps_ascend": (True, False),
}
"""What a launch can choose between and is compiled for; `constant` is as `token_mean`."""

ROW_AXES: dict[str, tuple[Any, ...]] = {
    "dtype": AXES["dtype"],
    "kl": AXES["kl"],
    "kind": ("ppo", "cispo"),
    "vocabulary": (37, 700, 151643),  # a block of one warp, of a few, and of all
    "weighted": (False, True),
    "with_entropy": (False, True),
}
"""The same for the kernels that read rows of logits. More columns make no other kernels."""


Design = Callable[[dict[str, tuple[Any, ...]]], list[dict[str, Any]]]
"""From axes to the variants that are compiled."""


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel needs; spilled registers live in (slow) memory of the thread."""

    target: str
    kernel: str
    variant: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    shared_limit_bytes: int
    warps: int
    async_copies: int


def main() -> None:
    """Compile all variants and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--each", action="store_true", help="a row for each variant")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each variant")
    parser.add_argument("--singles", action="store_true", help="every choice, not every pair")
    arguments = parser.parse_args()
    if knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: the interpreter compiles nothing")
    design = singles if arguments.singles else covering
    usages = [usage for name in arguments.targets for usage in compiled(name, design)]
    if arguments.json:
        for usage in usages:
            print(json.dumps(asdict(usage)))
    else:
        print_table(usages, each=arguments.each)


def compiled(target: str, design: Design) -> list[Usage]:
    """Compile every kernel in every variant of the design for one target."""
    usages: dict[str, Usage] = {}
    variants = [(launch, variant) for variant in design(AXES)]
    variants += [(launch_rows, variant) for variant in design(ROW_AXES)]
    for launcher, variant in variants:
        name = ", ".join(str(value).removeprefix("torch.") for value in variant.values())
        with compiling(TARGETS[target].gpu) as kernels_made:
            launcher(variant)
        for kernel in kernels_made:
            # What two variants share is compiled once.
            usages.setdefault(kernel.hash, usage_of(kernel, target, name))
    return list(usages.values())


def singles(axes: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return variants in which each choice stands at least once."""
    return [
        {name: values[place % len(values)] for name, values in axes.items()}
        for place in range(max(map(len, axes.values())))
    ]


def covering(axes: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return variants in which each pair of choices of two axes stands together at least once.

    Greedy: a variant begins with a missing pair and takes, axis by axis, the choice that completes
    most missing pairs; ties by turns.
    """
    place = {name: number for number, name in enumerate(axes)}

    def pair(*two: tuple[str, Any]) -> tuple[tuple[str, Any], ...]:
        return tuple(sorted(two, key=lambda choice: place[choice[0]]))

    def gain(variant: dict[str, Any], name: str, value: Any) -> int:
        return sum(pair(chosen, (name, value)) in missing for chosen in variant.items())

    choices = [[(name, value) for value in values] for name, values in axes.items()]
    missing = {
        pair(*two): None
        for one, other in itertools.combinations(choices, 2)
        for two in itertools.product(one, other)
    }
    variants: list[dict[str, Any]] = []
    while missing:
        variant = dict(next(iter(missing)))
        for name, values in axes.items():
            if name not in variant:
                turn = len(variants) % len(values)
                variant[name] = max(values[turn:] + values[:turn], key=partial(gain, variant, name))
        for two in itertools.combinations(variant.items(), 2):
            missing.pop(pair(*two), None)
        variants.append({name: variant[name] for name in axes})
    return variants


class _Compiler:
    """A driver of a device that is not there."""

    def __init__(self, gpu: GPUTarget) -> None:
        self.gpu = gpu

    def get_current_target(self) -> GPUTarget:
        return self.gpu

    def get_current_device(self) -> str:
        return str(self.gpu)

    def get_current_stream(self, device: str) -> int:
        return 0


@contextmanager
def compiling(gpu: GPUTarget) -> Iterator[list[Any]]:
    """Let every launch compile its kernel for a GPU, into the list, and not run it."""
    made: list[Any] = []
    run, hip = JITFunction.run, torch.version.hip

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        made.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    with tempfile.TemporaryDirectory() as cache, knobs.cache.scope():
        knobs.cache.dir = cache
        driver.set_active(_Compiler(gpu))
        JITFunction.run = compile_only
        torch.version.hip = "none" if gpu.backend == "hip" else None
        try:
            yield made
        finally:
            JITFunction.run = run
            torch.version.hip = hip


def launch(variant: dict[str, Any]) -> None:
    """Launch every kernel on a batch of one step, as a variant says."""
    kind, kl = variant["kind"], variant["kl"]
    loss = LossConfig(
        kind=kind.partition(" ")[0],
        dual_clip=3.0 if "dual" in kind else None,
        ratio=variant["ratio"],
        aggregation=variant["aggregation"],
        kl=kl,
        kl_weight=0.1 if kl else 0.0,
    )
    one_step = StepBatch.from_spans([[(0, 3)]], [0], num_tokens=4)
    batch = of_parts(
        **{field.name: getattr(one_step, field.name) for field in fields(one_step)},
        num_policy_tokens=3,
        max_rollout_steps=variant["max_rollout_steps"],
        steps_ascend=variant["steps_ascend"],
    )
    dtype = variant["dtype"]
    reward_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    step_value = torch.zeros(1, dtype=reward_dtype)

    def token_value() -> Tensor:
        return torch.zeros(4, dtype=dtype)

    constants = TokenConstants(
        token_value(),
        token_value() if kl else None,
        token_value() if variant["weighted"] else None,
    )
    options: dict[str, Any] = {"loss": loss, "divisor": None, "with_gradient": True}
    if variant["advantages"] == "given":
        _, gradient, _ = kernels.policy_loss(token_value(), constants, batch, step_value, **options)
    else:
        credit = CreditConfig(
            scope=variant["advantages"],
            channels=variant["channels"],
            rollout_weight=0.5 if variant["with_trajectory"] else 0.0,
        )
        rewards = Rewards(
            step_value,
            step_value,
            torch.zeros(1, dtype=torch.int64) if credit.scope == "state" else None,
            step_value if credit.scope == "value" else None,
        )
        _, gradient, _ = kernels.step_policy_loss(
            token_value(), constants, batch, rewards, credit=credit, **options
        )
        kernels.step_advantage(rewards, batch, credit=credit)
    one = torch.ones((), dtype=reward_dtype)
    kernels.scale_gradient_(gradient, one, batch.step_start, batch.step_end)


def launch_rows(variant: dict[str, Any]) -> None:
    """Launch every kernel that reads rows of logits, on one of two rows."""
    place, one = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64)
    logits = torch.zeros(2, variant["vocabulary"], dtype=variant["dtype"])
    given = LogitRows(logits, place, place, one)
    kl, other = variant["kl"], torch.zeros(1)
    terms = TokenTerms(
        other, other if kl else None, other if variant["weighted"] else None, one, one
    )
    sums = rows.read(given)
    rows.write(given, sums, one, one if variant["with_entropy"] else None, logits)
    loss = LossConfig(kind=variant["kind"], kl=kl, kl_weight=0.1 if kl else 0.0)
    rows.read_and_write(given, terms, loss=loss, entropy_weight=0.1, gradient=logits)
    rows.clear_others(logits, place)


def usage_of(kernel: Any, target: str, variant: str) -> Usage:
    """Read what a compiled kernel needs: from its binary, or on AMD from its assembly."""
    if "amdgcn" in kernel.asm:
        found = dict(re.findall(r"\.(\w+): +(\d+)$", kernel.asm["amdgcn"], re.MULTILINE))
        registers, spilled = found["vgpr_count"], int(found["private_segment_fixed_size"])
        spilled += 4 * int(found["vgpr_spill_count"])
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            words = [str(_NVIDIA_TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
            dump = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", dump))
        registers, spilled = found["REG"], int(found["STACK"]) + int(found["LOCAL"])
    return Usage(
        target,
        kernel.name,
        variant,
        registers=int(registers),
        spilled_bytes=spilled,
        shared_bytes=kernel.metadata.shared,
        shared_limit_bytes=TARGETS[target].shared_bytes,
        warps=kernel.metadata.num_warps,
        async_copies=len(re.findall(r"\bcp\.async\.c[ag]\b", kernel.asm.get("ptx", ""))),
    )


_NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def print_table(usages: list[Usage], *, each: bool) -> None:
    """Print a row for each variant, or the most that any variant of a kernel needs."""
    table = Table(title=f"ahead of time: triton {triton.__version__}, torch {torch.__version__}")
    numbers = ("variants", "registers", "spilled bytes", "shared bytes", "async copies")
    for heading in ("kernel", "target", *numbers):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    by_kernel: dict[tuple[str, str], list[Usage]] = {}
    for usage in usages:
        by_kernel.setdefault((usage.kernel, usage.target), []).append(usage)
    for (kernel, target), some in sorted(by_kernel.items()):
        for row in [[usage] for usage in some] if each else [some]:
            table.add_row(
                kernel,
                target,
                row[0].variant if each else str(len(row)),
                str(max(usage.registers for usage in row)),
                str(max(usage.spilled_bytes for usage in row)),
                str(max(usage.shared_bytes for usage in row)),
                str(max(usage.async_copies for usage in row)),
            )
    Console(width=None if Console().is_terminal else 120).print(table)


if __name__ == "__main__":
    main()
