"""How far roundings alone may take the gradients of a head: the forward error of a product.

The gradients of hidden, weight and bias are products `A @ B`, where A [N, V] is the gradient of the
logits, made of terms, and B is the head, the hidden states or ones. If each term of A is wrong by
at most its own count of roundings, then `|error| <= eps (roundings |A|) @ |B|`, element by element:
`|A|` adds up terms that may cancel in A itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finestep_fast import LossConfig, StepBatch, policy_loss, reference

_OF_A_TERM = 4
"""An exponential (2), what it is multiplied by, the term in its own type. `exp(x)` of an x that is
itself rounded is wrong by |x| more."""


def rounding_units(
    given: dict[str, Any],
    batch: StepBatch,
    dtype: torch.dtype,
    *,
    loss: LossConfig,
    temperature: float | Tensor,
    entropy_weight: float,
    scale: float,
    **count: Any,
) -> dict[str, Tensor]:
    """Return, for each gradient of `linear_policy_loss`, how much one eps may amount to.

    Args:
        given: All tensors of the call in float64, with the values of the narrower type.
        batch: Which tokens belong to which step, rollout and group.
        dtype: The narrower type.
        loss: Settings of the call; the rest are settings, too.
        temperature: That of the logits.
        entropy_weight: That of the bonus.
        scale: What the loss was multiplied by.
        **count: The count that means are divided by.
    """
    some = batch.policy_token
    hidden, weight = given["hidden"][some], given["weight"]
    logits = hidden @ weight.T + given.get("bias", 0)
    heat = temperature[some] if isinstance(temperature, Tensor) else torch.tensor(temperature)
    apart = (logits - logits.amax(-1, keepdim=True)) / heat.view(-1, 1)
    logp = apart.log_softmax(-1)
    share, entropy = logp.exp(), -(logp.exp() * logp).sum(-1)
    drawn = torch.nn.functional.one_hot(given["target"][some], len(weight))
    of_logp, of_entropy = (
        scale * slope[some].abs().view(-1, 1) for slope in _slopes(given, batch, loss, count, heat)
    )
    terms = of_logp * (drawn - share).abs()
    terms += entropy_weight * of_entropy * share * (logp.abs() + entropy.view(-1, 1))
    a = terms / heat.view(-1, 1) * (_OF_A_TERM + apart.abs())
    if a.numel():  # what is this much smaller than the largest has no digits in float16
        a += torch.finfo(dtype).eps * terms.max()
    units = {
        "hidden": torch.zeros_like(given["hidden"]).index_copy(0, some, a @ weight.abs()),
        "weight": a.T @ hidden.abs(),
        "bias": a.sum(0),
    }
    return {f"gradient of {name}": value for name, value in units.items()}


def _slopes(
    given: dict[str, Any], batch: StepBatch, loss: LossConfig, count: Any, heat: Tensor
) -> tuple[Tensor, Tensor]:
    """Return size of d loss / d logp, and the weight of each token's entropy, [T]."""
    tokens = {
        name: value
        for name, value in given.items()
        if name not in ("hidden", "weight", "bias", "target")
    }
    each = torch.ones(batch.num_tokens, dtype=torch.float64)
    each[batch.policy_token] = heat.double()
    head = {name: given[name] for name in ("hidden", "weight", "target", "bias") if name in given}
    logp = reference.token_logp(**head, batch=batch, temperature=each).logp.requires_grad_()
    value = policy_loss(logp, batch=batch, **tokens, loss=loss, impl="reference", **count).loss
    # At a ratio of 1 and an advantage of 1 the slope is the weight of the token.
    plain = LossConfig(aggregation=loss.aggregation, constant_tokens=loss.constant_tokens)
    ones = torch.ones(batch.num_steps, dtype=torch.float64)
    weight = policy_loss(
        logp, logp.detach(), batch, ones, loss=plain, impl="reference", **count
    ).loss
    (of_logp,), (of_entropy,) = (torch.autograd.grad(one, logp) for one in (value, weight))
    return of_logp, of_entropy
