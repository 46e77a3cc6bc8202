"""Settings that several tests share."""

from __future__ import annotations

from finestep_fast import CreditConfig

VALUE_ALONE = CreditConfig.preset(
    "finestep_value",
    process_weight=0.2,
    outcome_discount=1.0,
    std="sample",
    rollout_weight=0.0,
)
"""Credit by the differences of a value and nothing beside it, divided by the group's spread."""
