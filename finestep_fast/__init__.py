"""Step-level credit and policy losses for reinforcement learning of tool-using agents, made fast.

Rollouts are cut into *steps*: one assistant turn each, the tokens that the policy sampled between
two messages of the environment. Each step earns *rewards*. *Credit* turns rewards into one
advantage per step, by comparing it with the other attempts at the same prompt. The *policy loss*
spreads advantages over the tokens the policy wrote, and nowhere else.

    batch = StepBatch.from_mask(token_mask, group_of_rollout)
    advantage = step_advantage(batch, step_reward, rollout_outcome)
    out = policy_loss(token_logp, token_logp_old, batch, advantage)
    out.loss.backward()

Where a model's last hidden states and its head are at hand, `linear_policy_loss` goes from there to
the loss and never holds all logits; `logits_policy_loss` is for logits that are there already,
`token_logp` is for callers with a loss of their own.

Each op is defined once in plain PyTorch (`finestep_fast.reference`) and has one entry point, with
`impl="auto"` or the name of an implementation.

Letters, the same everywhere: T tokens on the flat axis, S steps, R rollouts, G groups (one prompt
each), V vocabulary, D hidden size, L row length of a padded layout. T may be a packed axis or a
padded [R, L] tensor seen flat; tokens are addressed by their flat position.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finestep_fast.batch import StepBatch
    from finestep_fast.config import CreditConfig, LossConfig
    from finestep_fast.errors import BuildError, FinestepError, InputError
    from finestep_fast.ops import (
        available_impls,
        linear_policy_loss,
        logits_policy_loss,
        policy_loss,
        step_advantage,
        step_policy_loss,
        token_advantage,
        token_logp,
    )
    from finestep_fast.reference import LossOutput, TokenLogp

__all__ = [
    "BuildError",
    "CreditConfig",
    "FinestepError",
    "InputError",
    "LossConfig",
    "LossOutput",
    "StepBatch",
    "TokenLogp",
    "available_impls",
    "linear_policy_loss",
    "logits_policy_loss",
    "policy_loss",
    "step_advantage",
    "step_policy_loss",
    "token_advantage",
    "token_logp",
]

# Imported when they are first used: who needs only a part, such as `finestep_fast.sql` in a worker
# of its own, does not wait for torch.
_HOME = {
    "BuildError": "errors",
    "CreditConfig": "config",
    "FinestepError": "errors",
    "InputError": "errors",
    "LossConfig": "config",
    "LossOutput": "reference",
    "StepBatch": "batch",
    "TokenLogp": "reference",
    "available_impls": "ops",
    "linear_policy_loss": "ops",
    "logits_policy_loss": "ops",
    "policy_loss": "ops",
    "step_advantage": "ops",
    "step_policy_loss": "ops",
    "token_advantage": "ops",
    "token_logp": "ops",
}


def __getattr__(name: str) -> Any:
    """Return a public name from the module that has it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return all names, also those that were not used yet."""
    return sorted({*globals(), *__all__})
