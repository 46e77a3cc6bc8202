"""Settings as frozen dataclasses, checked when made, and the strict loader that fills them.

The trainer's own settings live beside the trainer and pass through the same loader.
"""

from __future__ import annotations

from finestep_fast.config.credit import PRESETS, CreditConfig, as_credit, check_reward_balance
from finestep_fast.config.load import (
    apply_overrides,
    as_mapping,
    build,
    field_values,
    read_yaml,
    write_yaml,
)
from finestep_fast.config.loss import LossConfig

__all__ = [
    "PRESETS",
    "CreditConfig",
    "LossConfig",
    "apply_overrides",
    "as_credit",
    "as_mapping",
    "build",
    "check_reward_balance",
    "field_values",
    "read_yaml",
    "write_yaml",
]
