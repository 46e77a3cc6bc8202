"""What one run does besides taking time: operators, allocations, memory, launches, host syncs.

Seen by torch's profiler in a run of its own, never in a timed one. Operators are those of torch:
code made by torch.compile and the C++ core are not seen as such, their allocations are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

# Else the profiler prints on every start that it starts.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

LAUNCH = re.compile(r"(cu|cuda|hip)\w*Launch\w*Kernel\w*")
"""What CUDA and HIP call the launch of a kernel."""
SYNC = re.compile(r"(cu|cuda|hip)(Stream|Device|Event|Ctx)Synchronize\w*")
"""What they call it when the host waits."""
_RUN = "benchmarks: the run"
_OPERATOR = re.compile(r"(?!autograd::)\w+::\w+")


@dataclass(frozen=True)
class Counts:
    """What one run did; what only a GPU can say is None on a CPU."""

    operators: int
    """Operators of torch called by Python or autograd, not those called by other operators."""
    allocations: int
    """Blocks of memory taken from torch's allocator."""
    peak_bytes: int
    """The most memory of torch's allocator that was in use beyond what was before."""
    launches: int | None
    """Kernels launched."""
    syncs: int | None
    """Times that the host waited for the device."""
    device_ms: float | None
    """Time of the device's kernels and copies, without the gaps between them."""


def counted(run: Callable[[], object], device: torch.device) -> Counts:
    """Run once under the profiler (it has run before) and return what it did."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    bytes_before = blocks_before = 0
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        bytes_before, blocks_before = torch.cuda.memory_allocated(), _blocks_taken()
    with profile(activities=activities, profile_memory=not on_gpu, acc_events=True) as seen:
        with record_function(_RUN):
            run()
        if on_gpu:
            torch.cuda.synchronize()
    events = seen.events()
    if not on_gpu:
        changes = _memory_changes(seen)
        allocations = sum(change > 0 for change in changes)
        return Counts(_operators(events), allocations, _peak(changes), None, None, None)
    names = list(_inside_the_run(events))
    return Counts(
        _operators(events),
        _blocks_taken() - blocks_before,
        torch.cuda.max_memory_allocated() - bytes_before,
        launches=sum(LAUNCH.fullmatch(name) is not None for name in names),
        syncs=sum(SYNC.fullmatch(name) is not None for name in names),
        device_ms=_device_ms(events),
    )


@contextmanager
def compilations() -> Iterator[Callable[[], int]]:
    """Count from here on what is compiled: graphs by torch.compile, kernels by Triton.

    Yields:
        What returns the count so far.
    """
    from torch._dynamo.utils import counters
    from triton import knobs

    torch._dynamo.reset()
    first = counters["stats"]["unique_graphs"]
    kernels = 0
    hook_before = knobs.runtime.jit_post_compile_hook

    def on_compile(**_: Any) -> None:
        nonlocal kernels
        kernels += 1

    knobs.runtime.jit_post_compile_hook = on_compile
    try:
        yield lambda: counters["stats"]["unique_graphs"] - first + kernels
    finally:
        knobs.runtime.jit_post_compile_hook = hook_before
        # Else a function that was compiled too often stays uncompiled.
        torch._dynamo.reset()


def _blocks_taken() -> int:
    blocks: int = torch.cuda.memory_stats()["allocation.all.allocated"]
    return blocks


def _operators(events: Iterable[Any]) -> int:
    def within_operator(event: Any) -> bool:
        parent = event.cpu_parent
        while parent is not None:
            if _OPERATOR.match(parent.name):
                return True
            parent = parent.cpu_parent
        return False

    return sum(
        event.device_type.name == "CPU"
        and _OPERATOR.match(event.name) is not None
        and not within_operator(event)
        for event in events
    )


def _memory_changes(seen: profile) -> list[int]:
    """Return bytes taken (above 0) and given back (below 0), in their order."""
    profiler: Any = seen.profiler
    events = profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]


def _peak(changes: Iterable[int]) -> int:
    held = highest = 0
    for change in changes:
        held += change
        highest = max(highest, held)
    return highest


def _inside_the_run(events: Iterable[Any]) -> Iterator[str]:
    """Return names of what the host did between begin and end of the run, on any thread."""
    events = [event for event in events if event.device_type.name == "CPU"]
    (run,) = (event.time_range for event in events if event.name == _RUN)
    return (event.name for event in events if run.start <= event.time_range.start <= run.end)


def _device_ms(events: Iterable[Any]) -> float:
    times: list[float] = [
        event.time_range.elapsed_us()
        for event in events
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]
    return 1e-3 * sum(times)
