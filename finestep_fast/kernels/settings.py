"""What the kernels of credit are compiled for, and the settings that they read on the device."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from finestep_fast.config import CreditConfig

TILES = ((8, 16), (32, 4), (128, 2), (512, 1))
"""Positions (steps of the longest rollout, at most) and rollouts of a tile. Longer rollouts are
taken one by one, and some registers spill."""

SETTINGS = (
    "process_baseline",
    "process_weight",
    "outcome_weight",
    "process_discount",
    "outcome_discount",
    "smoothing",
    "std_floor",
    "epsilon",
    "step_weight",
    "rollout_weight",
    "advantage_clip",
    "ddof",
    "leave_one_out",
    "state_shrinkage",
    "gae_lambda",
)
"""What the kernels read of a `CreditConfig`, as float64; `ddof` is -1 for mean only."""
BASELINE = tl.constexpr(0)
PROCESS_WEIGHT = tl.constexpr(1)
OUTCOME_WEIGHT = tl.constexpr(2)
PROCESS_DISCOUNT = tl.constexpr(3)
OUTCOME_DISCOUNT = tl.constexpr(4)
SMOOTHING = tl.constexpr(5)
STD_FLOOR = tl.constexpr(6)
EPSILON = tl.constexpr(7)
STEP_WEIGHT = tl.constexpr(8)
ROLLOUT_WEIGHT = tl.constexpr(9)
ADVANTAGE_CLIP = tl.constexpr(10)
DDOF = tl.constexpr(11)
LEAVE_ONE_OUT = tl.constexpr(12)
STATE_SHRINKAGE = tl.constexpr(13)
GAE_LAMBDA = tl.constexpr(14)

POOLED = tl.constexpr(0)
PER_INDEX = tl.constexpr(1)
TRAJECTORY = tl.constexpr(2)
STATE = tl.constexpr(3)
VALUE = tl.constexpr(4)
NO_SCOPE = tl.constexpr(5)
SCOPES = {"pooled": 0, "per_index": 1, "trajectory": 2, "state": 3, "value": 4}
DDOFS = {"sample": 1, "population": 0, "none": -1}


@lru_cache(maxsize=256)
def setting_tensor(credit: CreditConfig, device: torch.device) -> Tensor:
    """Return `SETTINGS` of a config on a device, copied there when first asked for."""
    clip = credit.advantage_clip
    value = {
        **vars(credit),
        "advantage_clip": math.inf if clip is None else clip,
        "ddof": DDOFS[credit.std],
    }
    numbers = [float(value[name]) for name in SETTINGS]
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def credit_constants(credit: CreditConfig, *, max_rollout_steps: int) -> dict[str, int | bool]:
    """Return what the kernels are compiled for: the scope, the channels and the tile."""
    return {
        "SCOPE": SCOPES[credit.scope] if credit.step_weight != 0 else NO_SCOPE.value,
        "WITH_TRAJECTORY": credit.rollout_weight != 0,
        "DECOUPLED": credit.channels == "decoupled",
        **tile_constants(max_rollout_steps),
    }


def tile_constants(max_rollout_steps: int) -> dict[str, int]:
    """Return the tile that holds rollouts of that many steps."""
    for positions, tile in TILES:
        if max_rollout_steps <= positions:
            return {"POSITIONS": positions, "TILE": tile}
    return {"POSITIONS": triton.next_power_of_2(max_rollout_steps), "TILE": 1}


def register_limit(num_registers: int) -> dict[str, int]:
    """Return the compiler option that limits registers per thread; AMD's has none."""
    return {} if torch.version.hip else {"maxnreg": num_registers}
