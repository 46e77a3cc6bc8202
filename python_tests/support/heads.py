"""Hidden states, a linear head and token values for a batch of rollouts.

Observed rows hold NaN and a target that no vocabulary has, so reading one shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finestep_fast import StepBatch, reference
from support.batches import placed, policy_values

NAN = float("nan")


def head_inputs(
    batch: StepBatch, *, vocabulary: int = 37, size: int = 8, seed: int = 0, whole: bool = False
) -> dict[str, Any]:
    """Return hidden [T, D], weight [V, D], bias [V], target [T], float64.

    Args:
        batch: Which tokens belong to which step, rollout and group.
        vocabulary: V.
        size: D.
        seed: The seed of the numbers.
        whole: Whether they are small whole numbers, of which every product and sum is exact.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        if whole:
            return torch.randint(-3, 4, shape, generator=generator).double()
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tokens = batch.policy_token
    hidden = torch.full((batch.num_tokens, size), NAN, dtype=torch.float64)
    hidden[tokens] = drawn(tokens.shape[0], size)
    target = torch.full((batch.num_tokens,), -100)
    target[tokens] = torch.randint(0, vocabulary, tokens.shape, generator=generator)
    weight = drawn(vocabulary, size) / (4 if whole else size**0.5)
    return {"hidden": hidden, "weight": weight, "bias": drawn(vocabulary) / 4, "target": target}


def token_values(
    batch: StepBatch, head: dict[str, Tensor], *, seed: int = 0, temperature: float = 1.0
) -> dict[str, Tensor]:
    """Return token tensors [T] near the head's own logps, and `step_advantage` [S], float64."""
    values = policy_values(seed, batch)
    own = reference.token_logp(**head, batch=batch, temperature=temperature).logp[
        batch.policy_token
    ]
    apart = own - values.pop("token_logp")
    for name in ("token_logp_old", "token_logp_ref"):
        values[name] = values[name] + apart
    advantage = values.pop("step_advantage")
    tokens = {name: placed(batch, value, fill=NAN) for name, value in values.items()}
    return {**tokens, "step_advantage": advantage}


def temperatures(batch: StepBatch, seed: int = 0) -> Tensor:
    """Return one temperature for each token, [T]; NaN for observed tokens."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(batch.num_policy_tokens, generator=generator, dtype=torch.float64) + 0.5
    return placed(batch, drawn, fill=NAN)


def converted(tensors: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return the same with other floating point numbers."""
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in tensors.items()
    }


def outside(batch: StepBatch) -> Tensor:
    """Return [T] bool: which tokens are observed."""
    mask = torch.ones(batch.num_tokens, dtype=torch.bool)
    mask[batch.policy_token] = False
    return mask
