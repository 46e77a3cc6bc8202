"""A key/value cache that grows in place.

The cache that `transformers` grows by concatenation copies everything it holds for every new token.
Here keys and values lie in one slab with room to spare, and the model sees views of it.
"""

from __future__ import annotations

from typing import Any, cast

from torch import LongTensor, Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_FIRST_CAPACITY = 256


class SlabLayer(DynamicLayer):
    """One layer's keys and values, [B, heads, tokens, D]: views of slabs that double when full."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take dtype, device and widths from the first keys and values, [B, heads, new, D]."""
        super().lazy_initialization(key_states, value_states)
        self._size = 0
        self._key_slab = key_states[:, :, :0]
        self._value_slab = value_states[:, :, :0]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append new keys and values, [B, heads, new, D]; returns views of all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        size = self._size + key_states.shape[-2]
        if size > self._key_slab.shape[-2]:
            capacity = max(_FIRST_CAPACITY, 2 * size)
            self._key_slab = self._copied(self._key_slab, capacity)
            self._value_slab = self._copied(self._value_slab, capacity)
        self._key_slab[:, :, self._size : size] = key_states
        self._value_slab[:, :, self._size : size] = value_states
        self._size = size
        return self._expose()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx` of the batch, in that order; a row may be named twice."""
        self._key_slab = self._copied(self._key_slab, self._key_slab.shape[-2], beam_idx)
        self._value_slab = self._copied(self._value_slab, self._value_slab.shape[-2], beam_idx)
        self._expose()

    def _expose(self) -> tuple[Tensor, Tensor]:
        keys, values = self._key_slab[:, :, : self._size], self._value_slab[:, :, : self._size]
        self.keys, self.values = keys, values
        return keys, values

    def _copied(self, slab: Tensor, capacity: int, rows: Tensor | None = None) -> Tensor:
        held = slab[:, :, : self._size]
        num_rows = held.shape[0] if rows is None else rows.numel()
        copy = held.new_empty(num_rows, held.shape[1], capacity, held.shape[3])
        copy[:, :, : self._size] = held if rows is None else held.index_select(0, rows)
        return copy


def rollout_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return a cache: slabs if every layer attends to all tokens, else transformers' own."""
    cache = DynamicCache(config=config)
    if cache.layers and all(type(layer) is DynamicLayer for layer in cache.layers):
        # Their constructor has no types.
        cache.layers = [SlabLayer() for _ in cache.layers]  # type: ignore[no-untyped-call]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep the rows [B] of the batch, in that order; a row may be named twice."""
    cache.reorder_cache(cast(LongTensor, rows))
