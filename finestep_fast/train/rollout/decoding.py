"""A model's passes over rows under way: prompts padded on the left, then one token per row a pass.

The cache is the model's own, under the name by which the model takes it. Nothing is sampled here.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from finestep_fast.errors import InputError
from finestep_fast.train.rollout.cache import rollout_cache, select_rows

# Models of recurrent states alone call it so; they read the mask of padding in the first pass only.
_RECURRENT_CACHE = "cache_params"
_CACHES = ("past_key_values", _RECURRENT_CACHE)


def cache_argument(model: PreTrainedModel) -> str:
    """Return the name by which a model takes its cache.

    Raises:
        InputError: The model takes no cache, or no mask of padding.
    """
    takes = inspect.signature(model.forward).parameters
    kind = type(model).__name__
    name = next((name for name in _CACHES if name in takes), None)
    if name is None:
        raise InputError(
            f"model: {kind} takes no cache by the name of {' or '.join(_CACHES)}; "
            "sampling needs one that can be cut to the rollouts that go on"
        )
    if "attention_mask" not in takes:
        raise InputError(
            f"model: {kind} takes no attention_mask; "
            "prompts of different lengths cannot be sampled together without one"
        )
    return name


class Decoding:
    """Rows of token ids that a model reads.

    Args:
        model: A causal language model in evaluation mode.
        max_tokens: No position grows beyond this.

    Raises:
        InputError: The model takes no cache.
    """

    def __init__(self, model: PreTrainedModel, max_tokens: int) -> None:
        self._model, self._max_tokens = model, max_tokens
        self._cache_argument = cache_argument(model)
        self._takes = inspect.signature(model.forward).parameters.keys()
        self._cache = rollout_cache(model.config)

    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts [B], once; returns the logits [B, V] after them in float32."""
        width = max(len(ids) for ids in prompts)
        token = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, ids in enumerate(prompts):
            token[row, width - len(ids) :] = torch.tensor(ids)
            mask[row, width - len(ids) :] = 1
        device = self._model.device
        position = (mask.cumsum(-1) - 1).clamp_min(0).to(device)
        self._mask, self._position = mask.to(device), position[:, -1:]
        return self._forward(token.to(device), self._mask, position)

    def advance(self, token: Tensor) -> Tensor:
        """Feed one token [B, 1] per row; returns the next logits [B, V] in float32."""
        self._mask = torch.cat([self._mask, torch.ones_like(token)], dim=1)
        # Rows that have ended are carried along for a while; no position grows beyond the limit.
        self._position = (self._position + 1).clamp_max(self._max_tokens - 1)
        mask = None if self._cache_argument == _RECURRENT_CACHE else self._mask
        return self._forward(token, mask, self._position)

    def select(self, rows: Tensor) -> None:
        """Keep the rows [B], in that order; a row may be named twice."""
        select_rows(self._cache, rows)
        self._mask, self._position = self._mask[rows], self._position[rows]

    def _forward(self, token: Tensor, mask: Tensor | None, position: Tensor) -> Tensor:
        wanted = {"position_ids": position, "logits_to_keep": 1}
        output = self._model(
            input_ids=token,
            attention_mask=mask,
            use_cache=True,
            **{self._cache_argument: self._cache},
            **{name: value for name, value in wanted.items() if name in self._takes},
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits
