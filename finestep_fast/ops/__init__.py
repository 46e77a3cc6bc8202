"""The doors to the ops: each checks its input once, chooses an implementation and calls it.

Hold no mathematics: that is `finestep_fast.reference`, and every other implementation computes the
same thing faster. A value that cannot be used is an `InputError` here, never a silent fallback.

`credit` and `loss` are the doors, `check` what they refuse, `impls` who can be chosen, `fused` how
the compiled implementations are made known to torch, `cpp` the one for CPUs. The one for GPUs is
`finestep_fast.kernels`.

`token_logp` and `linear_loss` are the doors from hidden states, `logits_loss` the one from logits:
`head_check` is what they refuse,
`head` how a chunk of logits at a time is made, `rows` what is made of it and by whom,
`policy_tokens` the loss as seen from there.
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
