"""The policy seen from its last hidden states and its head, with no logits made on the way."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from finestep_fast.errors import InputError
from finestep_fast.train.learn.padding import PaddedRows
from finestep_fast.train.stop import DivergedError

_PROBE_LOGIT = 100.0


class LinearHead(NamedTuple):
    """Logits are `weight hidden + bias`."""

    weight: Tensor
    """[V, D]"""
    bias: Tensor | None
    """[V]"""


def linear_head(policy: PreTrainedModel) -> LinearHead:
    """Return the head of a policy that makes its logits by nothing but a linear layer.

    Hidden states of known size are put in the place of the body's: scaled, capped or otherwise
    changed logits show, whatever the setting for them is called.

    Raises:
        InputError: Its logits are made in another way, or it cannot leave them out.
        DivergedError: They are not finite.
    """
    remedy = "set update.head=logits, which holds all logits of a pass"
    layer = policy.get_output_embeddings()
    if not isinstance(layer, nn.Linear) or policy.base_model is policy:
        raise InputError(
            f"model: its head is a {type(layer).__name__}, not a linear layer; {remedy}"
        )
    if "logits_to_keep" not in inspect.signature(policy.forward).parameters:
        raise InputError(
            f"model: {type(policy).__name__} takes no logits_to_keep, so logits cannot be left "
            f"out; {remedy}"
        )
    head = LinearHead(layer.weight, layer.bias)
    made, expected = _probed(policy, head)
    if not (made.isfinite().all() and expected.isfinite().all()):
        raise DivergedError(
            f"model: {type(policy).__name__} gives logits that are not finite; its weights have "
            "diverged"
        )
    error = float((made - expected).abs().max())
    if not error <= 1e-3 * _PROBE_LOGIT:
        raise InputError(
            f"model: {type(policy).__name__} does more to its logits than a linear layer (off by "
            f"{error:.3g} where logits are {_PROBE_LOGIT:g}), such as capping or scaling them; "
            f"{remedy}"
        )
    return head


def last_hidden(model: nn.Module, policy: PreTrainedModel, rows: PaddedRows) -> Tensor:
    """Return the states that the head sees, [R, L, D]; the head itself is not computed.

    Args:
        model: The policy as prepared for training, wrapped or not; called once.
        policy: The policy itself.
        rows: Token ids and mask, [R, L].
    """
    seen: list[Tensor] = []
    nothing = torch.empty(0, dtype=torch.long, device=rows.token_ids.device)
    with _hooked(policy.base_model, lambda output: seen.append(output.last_hidden_state)):
        model(
            input_ids=rows.token_ids,
            attention_mask=rows.mask,
            use_cache=False,
            logits_to_keep=nothing,
        )
    (hidden,) = seen
    return hidden


@torch.no_grad()
def _probed(policy: PreTrainedModel, head: LinearHead) -> tuple[Tensor, Tensor]:
    """Return logits of made-up hidden states: the policy's, and those of its head alone."""
    device, dtype = head.weight.device, head.weight.dtype
    generator = torch.Generator().manual_seed(0)
    states = torch.randn((1, 2, head.weight.shape[1]), generator=generator).to(device, dtype)
    states *= _PROBE_LOGIT / F.linear(states, head.weight, head.bias).abs().max()

    def put(output: Any) -> None:
        output.last_hidden_state = states

    was_training = policy.training
    policy.eval()  # dropout would take numbers from the run's generator
    try:
        with _hooked(policy.base_model, put):
            made = policy(input_ids=torch.zeros((1, 2), dtype=torch.long, device=device)).logits
    finally:
        policy.train(was_training)
    return made.float(), F.linear(states, head.weight, head.bias).float()


@contextmanager
def _hooked(body: nn.Module, look: Any) -> Iterator[None]:
    """Show what the body returns, for a while."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        look(output)
        return output

    handle = body.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
