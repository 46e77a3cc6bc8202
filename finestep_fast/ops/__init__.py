"""The entry points of the ops: each checks its input, chooses an implementation and calls it.

Hold no mathematics: that is `finestep_fast.reference`, and every other implementation computes the
same thing faster. A value that cannot be used is an `InputError` here, never a silent fallback.

`credit` and `loss` are the entry points from rewards and log-probabilities, `head` those from
hidden states and logits. `check` says what they refuse, `implementations` what can be chosen.
`operators` makes the compiled implementations known to torch, `schema` spells their arguments out
for it. `cpp` is the implementation for CPUs; that for GPUs is `finestep_fast.kernels`.
"""

from __future__ import annotations

from finestep_fast.ops.credit import step_advantage, token_advantage
from finestep_fast.ops.head.linear_loss import linear_policy_loss
from finestep_fast.ops.head.logits_loss import logits_policy_loss
from finestep_fast.ops.head.token_logp import token_logp
from finestep_fast.ops.implementations import available_impls
from finestep_fast.ops.loss import policy_loss, step_policy_loss

__all__ = [
    "available_impls",
    "linear_policy_loss",
    "logits_policy_loss",
    "policy_loss",
    "step_advantage",
    "step_policy_loss",
    "token_advantage",
    "token_logp",
]
