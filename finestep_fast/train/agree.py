"""What one process finds, all processes have: none goes on where another stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from finestep_fast.errors import FinestepError

T = TypeVar("T")


def from_main(accelerator: Accelerator, ask: Callable[[], T]) -> T:
    """Ask on the main process alone; every process returns what came, or raises what came.

    Raises:
        FinestepError: What `ask` raised.
    """
    told: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            told[0] = ask()
        except FinestepError as error:
            told[1] = error
    broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]  # type: ignore[no-any-return]


def all_of(accelerator: Accelerator, mine: bool) -> bool:
    """Return whether it is so on every process."""
    others = torch.tensor(float(not mine), device=accelerator.device)
    return float(accelerator.reduce(others, "sum")) == 0.0
