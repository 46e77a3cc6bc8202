"""The peak of memory, as the device reports it."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")
_MIB = 2**20


def forget_peak(device: torch.device) -> None:
    """Begin anew: what was taken before is not counted."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return  # the peak of the whole process is what is left


def peak_mib(device: torch.device) -> float:
    """Return the peak in MiB: of the CUDA allocator, or the resident memory of this process.

    Where a system does not forget, the latter is the peak since the process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    try:
        status = (_PROCESS / "status").read_text(encoding="ascii").splitlines()
        (line,) = (line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
