"""The doors to the ops: each checks its input once, chooses an implementation and calls it.

Hold no mathematics: that is `finestep_fast.reference`, and every other implementation computes the
same thing faster. A value that cannot be used is an `InputError` here, never a silent fallback.

`credit` and `loss` are the doors, `check` what they refuse, `impls` who can be chosen, `fused` how
the compiled implementations are made known to torch, `cpp` the one for CPUs. The one for GPUs is
`finestep_fast.kernels`.
"""

from __future__ import annotations

from finestep_fast.ops.credit import step_advantage, token_advantage
from finestep_fast.ops.impls import available_impls
from finestep_fast.ops.loss import policy_loss, step_policy_loss

__all__ = [
    "available_impls",
    "policy_loss",
    "step_advantage",
    "step_policy_loss",
    "token_advantage",
]
