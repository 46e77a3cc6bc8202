"""Losses that begin at hidden states: ours, the eager one, and the installed peers' own code.

Liger-Kernel's chunked loss stands here as it is shipped, with its arithmetic compiled, and eager.
TRL's is what its trainers make of a model, `add_fused_lm_head`, around a model that has nothing but
hidden states and a head; the loss of its logps is `GRPOTrainer._compute_loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import finestep_fast as ff
from benchmarks import peers
from benchmarks.rollout_tokens import LOSS, Tokens, dense_loss, rollout, step_batch, tokens_of

OURS = "linear_policy_loss"
EAGER = "eager"


class Shape(NamedTuple):
    """A head, some rollouts, and how much of them is observed."""

    rollouts: int
    length: int
    vocabulary: int
    size: int
    dtype: torch.dtype
    observed: float

    @property
    def name(self) -> str:
        """Return the case in words."""
        kind = str(self.dtype).removeprefix("torch.")
        tokens = f"{self.rollouts} x {self.length}"
        return f"{tokens}, V {self.vocabulary}, D {self.size}, {kind}, {self.observed:.0%} observed"


class HeadInputs(NamedTuple):
    """What all losses are given."""

    hidden: Tensor
    """[R, L, D]"""
    weight: Tensor
    """[V, D]"""
    tokens: Tokens


Loss = Callable[[HeadInputs], Tensor]


def inputs(shape: Shape, device: torch.device) -> HeadInputs:
    """Return hidden states of variance 1 and a head that makes logits of variance 1."""
    generator = torch.Generator().manual_seed(0)
    places = (shape.rollouts, shape.length)
    hidden = torch.randn((*places, shape.size), generator=generator).to(device, shape.dtype)
    weight = torch.randn((shape.vocabulary, shape.size), generator=generator) / shape.size**0.5
    weight = weight.to(device, shape.dtype)
    target = torch.randint(0, shape.vocabulary, places, generator=generator).to(device)
    with torch.no_grad():
        wide = weight.float()
        logp = torch.cat([_logp(row.float(), wide, *at) for row, *at in _rows(hidden, target)])
    batch = step_batch(*places, shape.observed)
    tokens = tokens_of(batch, target, logp, generator)
    return HeadInputs(hidden.requires_grad_(), weight.requires_grad_(), tokens)


def exact(given: HeadInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss and gradients in float64, of one rollout at a time."""
    weight = given.weight.detach().double().requires_grad_()
    of_weight, of_hidden = torch.zeros_like(weight), []
    loss = weight.new_zeros(())
    policy_tokens = given.tokens.mask.sum()
    for row, (hidden,) in enumerate(_rows(given.hidden.detach())):
        one = rollout(given.tokens, row)
        states = hidden.double().requires_grad_()
        part = dense_loss(_logp(states, weight, one.target), one) * one.mask.sum() / policy_tokens
        gradients = torch.autograd.grad(part, (states, weight))
        loss += part.detach()
        of_hidden.append(gradients[0])
        of_weight += gradients[1]
    return loss, torch.cat(of_hidden), of_weight


def losses(device: torch.device, *, compiled: bool) -> tuple[dict[str, Loss], dict[str, str]]:
    """Return name -> loss, and why others are not here."""
    found: dict[str, Loss] = {OURS: ours, EAGER: eager}
    absent: dict[str, str] = {}
    if compiled:
        # Every shape has a graph of its own: the best that can be done for it.
        found["eager, compiled"] = torch.compile(eager, dynamic=False)
    if find_spec("liger_kernel") is None:
        absent["Liger"] = "not installed: pip install -e '.[bench]'"
    else:
        name = f"Liger {version('liger_kernel')}"
        if compiled:
            found[name] = _liger(compiled=True)
        found[f"{name}, eager"] = _liger(compiled=False)
    trl = trl_loss(device)
    if isinstance(trl, str):
        absent["TRL"] = trl
    else:
        found[peers.with_version("TRL")] = trl
    return found, absent


def ours(given: HeadInputs) -> Tensor:
    """Return our loss."""
    tokens = given.tokens
    return ff.linear_policy_loss(
        given.hidden,
        given.weight,
        tokens.target,
        tokens.token_logp_old,
        tokens.batch,
        tokens.step_advantage,
        loss=LOSS,
    ).loss


def eager(given: HeadInputs) -> Tensor:
    """Return the loss by way of all logits."""
    return dense_loss(_logp(given.hidden, given.weight, given.tokens.target), given.tokens)


def trl_loss(device: torch.device) -> Loss | str:
    """Return TRL's fused head with TRL's loss, or why it is not here."""
    of_logps = peers.trl_loss(LOSS, device)
    if isinstance(of_logps, str):
        return of_logps
    try:
        from trl.trainer.utils import add_fused_lm_head
    except ImportError:
        return f"{peers.with_version('TRL')} has no trl.trainer.utils.add_fused_lm_head"
    model: Any = _HeadAlone()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))

    def loss(given: HeadInputs) -> Tensor:
        tokens = given.tokens
        model.weight = given.weight
        labels = tokens.target.masked_fill(tokens.mask == 0, -100)
        made: Any = model.forward(given.hidden, shift_labels=labels, fused_lm_head=True)
        advantage = tokens.rollout_advantage[:, None].expand_as(labels)
        return of_logps(made.log_probs, tokens.token_logp_old, advantage, tokens.mask)

    return loss


class _HeadAlone:
    """A causal model, as far as TRL's fused head asks: hidden states go in where tokens do."""

    weight: Tensor

    def __init__(self) -> None:
        from transformers import PretrainedConfig

        self.config = PretrainedConfig()

    def forward(self, hidden: Tensor, **_: Any) -> Any:
        return self.base_model(hidden)

    def base_model(self, hidden: Tensor, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=hidden)

    def get_output_embeddings(self) -> Any:
        return SimpleNamespace(weight=self.weight, bias=None)


def _liger(*, compiled: bool) -> Loss:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    op = LigerFusedLinearGRPOLoss(
        beta=0.0,
        compiled=compiled,
        use_ref_model=False,
        epsilon_low=LOSS.clip_low,
        epsilon_high=LOSS.clip_high,
        loss_type="bnpo",
    )
    return partial(_liger_loss, op)


def _liger_loss(op: Any, given: HeadInputs) -> Tensor:
    tokens = given.tokens
    value: Tensor = op(
        given.hidden,
        given.weight,
        tokens.target,
        tokens.mask,
        tokens.rollout_advantage,
        old_per_token_logps=tokens.token_logp_old,
    )[0]
    return value


def _logp(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]


def _rows(*values: Tensor) -> zip[tuple[Tensor, ...]]:
    """Return one rollout after the other, as tensors [1, ...]."""
    return zip(*(value.split(1) for value in values), strict=True)
