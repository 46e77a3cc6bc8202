"""The whole method in plain PyTorch, in pipeline order: credit, loss, logits. Read this first.

It is the oracle of the tests, the baseline of the benchmarks and an implementation of its own
(`impl="reference"`). It checks no input: the entry points in `finestep_fast.ops` do.
"""

from __future__ import annotations

from finestep_fast.reference.credit import step_advantage, step_return
from finestep_fast.reference.logits import (
    TokenLogp,
    linear_policy_loss,
    logits_policy_loss,
    token_logp,
)
from finestep_fast.reference.loss import (
    AGGREGATIONS,
    LossCounts,
    LossOutput,
    policy_loss,
    token_advantage,
)

__all__ = [
    "AGGREGATIONS",
    "LossCounts",
    "LossOutput",
    "TokenLogp",
    "linear_policy_loss",
    "logits_policy_loss",
    "policy_loss",
    "step_advantage",
    "step_return",
    "token_advantage",
    "token_logp",
]
