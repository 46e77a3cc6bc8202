"""Agreement of processes: all have what one found, and all stop where one stops."""

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
    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = ask()
        except FinestepError as error:
            answer[1] = error
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]  # type: ignore[no-any-return]


def all_of(accelerator: Accelerator, mine: bool) -> bool:
    """Return whether it is so on every process."""
    others = torch.tensor(float(not mine), device=accelerator.device)
    return float(accelerator.reduce(others, "sum")) == 0.0
