"""Step-level credit and policy losses for reinforcement learning, made fast."""

from __future__ import annotations

from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.errors import BuildError, FinestepError, InputError

__all__ = ["BuildError", "CreditConfig", "FinestepError", "InputError", "LossConfig"]
