"""The most memory that one call from hidden states to loss and gradients adds to its inputs.

    python -m benchmarks.bench_head_memory

Resident memory on a CPU, the allocator's on a GPU; each number from a process of its own, of its
second call: the first takes what stays, such as pools of threads and the code of compilers. `beyond
gradients` leaves out the gradients of hidden states and head, which any of them must return.
Tokens are doubled twice, then the vocabulary; logits of all tokens would grow as `all logits` says.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NoReturn

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.harness import machine, options, save
from benchmarks.head_losses import EAGER, OURS, Shape, inputs, losses
from finestep_fast.train.memory import forget_peak, peak_mib

_MIB = 2**20
_BASE = Shape(4, 256, 32768, 896, torch.float32, 0.5)
_SHAPES = (
    _BASE,
    Shape(4, 512, 32768, 896, torch.float32, 0.5),
    Shape(4, 1024, 32768, 896, torch.float32, 0.5),
    Shape(4, 256, 65536, 896, torch.float32, 0.5),
    Shape(4, 256, 131072, 896, torch.float32, 0.5),
    Shape(4, 256, 32768, 1024, torch.bfloat16, 0.5),
)


@dataclass(frozen=True)
class Peak:
    """What one implementation takes for one shape, in MiB."""

    case: str
    implementation: str
    peak: float
    beyond_gradients: float
    all_logits: float
    """Logits of all tokens in the dtype of the head, for comparison."""


def main() -> None:
    """Measure all shapes, each in a process of its own."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--every", action="store_true", help="all peers on all shapes, not one")
    parser.add_argument("--peak", nargs=2, metavar=("SHAPE", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.peak:
        place, name = arguments.peak
        found, _ = losses(device, compiled="compiled" in name or "Liger" in name)
        given = inputs(_SHAPES[int(place)], device)

        def call() -> None:
            torch.autograd.grad(found[name](given), (given.hidden, given.weight))

        print(added_mib(call, device))
        return
    found, absent = losses(device, compiled=True)
    peaks: list[Peak] = []
    for place, shape in enumerate(_SHAPES):
        # A doubling says of each what it says of ours and of eager.
        all_of_them = arguments.every or shape == _BASE or shape.dtype != torch.float32
        for name in found if all_of_them else (OURS, EAGER):
            peaks.append(_peak(place, name, arguments.device))
            print(f"{peaks[-1].case}, {name}: {peaks[-1].peak:.0f} MiB", flush=True)
    _print(peaks)
    for name, reason in absent.items():
        print(f"left out: {name}: {reason}")
    line = {
        **machine(device),
        "absent": absent,
        "peers": peers.versions(),
        "peaks_mib": [asdict(peak) for peak in peaks],
    }
    print(json.dumps(line))
    if arguments.save:
        save(line, benchmark="hidden_states_to_loss_memory")


def added_mib(call: Callable[[], object], device: torch.device) -> float:
    """Return the most MiB that a second call holds beyond what was held before it."""
    call()
    gc.collect()
    _give_back()
    forget_peak(device)
    before = peak_mib(device)
    call()
    return peak_mib(device) - before


def _give_back() -> None:
    """Hand freed memory to the system: else it hides what the next call takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _peak(place: int, name: str, device: str) -> Peak:
    shape = _SHAPES[place]
    command = [sys.executable, "-m", "benchmarks.bench_head_memory", "--device", device]
    words = [*command, "--threads", str(torch.get_num_threads()), "--peak", str(place), name]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        _give_up(done.stderr)
    peak = float(done.stdout.split()[-1])
    tokens = shape.rollouts * shape.length
    element = shape.dtype.itemsize / _MIB
    gradients = (tokens + shape.vocabulary) * shape.size * element
    logits = tokens * shape.vocabulary * element
    numbers = (round(number, 1) for number in (peak, peak - gradients, logits))
    return Peak(shape.name, name, *numbers)


def _give_up(reason: str) -> NoReturn:
    raise RuntimeError(f"a process that was to be measured failed:\n{reason}")


def _print(peaks: list[Peak]) -> None:
    table = Table(title="peak memory of a call, MiB", title_justify="left")
    for column in ("shape", "implementation", "peak", "beyond gradients", "all logits"):
        justify = "left" if column in {"shape", "implementation"} else "right"
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    case = None
    for peak in peaks:
        if peak.case != case:
            table.add_section()
        numbers = (peak.peak, peak.beyond_gradients, peak.all_logits)
        shown = "" if peak.case == case else peak.case
        table.add_row(shown, peak.implementation, *(f"{number:.0f}" for number in numbers))
        case = peak.case
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
