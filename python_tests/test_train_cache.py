"""The growing slab cache holds what transformers' own cache holds."""

from __future__ import annotations

import torch
from transformers import DynamicCache, MistralConfig
from transformers.cache_utils import DynamicLayer

from finestep_fast.train.rollout.cache import SlabLayer, rollout_cache, select_rows
from support.tiny import Tiny


def test_a_slab_holds_what_a_concatenated_cache_holds_through_growth_and_selection() -> None:
    torch.manual_seed(0)
    slab, plain = SlabLayer(), DynamicLayer()  # type: ignore[no-untyped-call]
    num_rows = 4
    # 300 new tokens grow the first slab, 600 a grown one; selections shrink, reorder and repeat.
    for new_tokens, rows in ((7, [3, 0, 0, 1, 2]), (1, None), (300, [4, 4, 1]), (600, [0])):
        keys, values = torch.randn(2, num_rows, 2, new_tokens, 8).unbind(0)
        for mine, theirs in zip(slab.update(keys, values), plain.update(keys, values), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        if rows is not None:
            for layer in (slab, plain):
                layer.reorder_cache(torch.tensor(rows))  # type: ignore[arg-type]
            num_rows = len(rows)
        assert slab.keys is not None
        assert plain.keys is not None
        torch.testing.assert_close(slab.keys, plain.keys, rtol=0, atol=0)
        assert slab.get_seq_length() == plain.get_seq_length()


def test_a_slab_that_is_reset_starts_empty() -> None:
    slab = SlabLayer()  # type: ignore[no-untyped-call]
    slab.update(torch.ones(1, 1, 5, 2), torch.ones(1, 1, 5, 2))
    slab.reset()
    keys, _ = slab.update(torch.zeros(2, 1, 3, 2), torch.zeros(2, 1, 3, 2))
    assert keys.shape == (2, 1, 3, 2)
    assert not keys.any()


def test_slabs_are_used_where_every_layer_attends_to_everything_and_only_there(tiny: Tiny) -> None:
    assert {type(layer) for layer in rollout_cache(tiny.model.config).layers} == {SlabLayer}
    windowed = MistralConfig(num_hidden_layers=2, sliding_window=4)
    layers = rollout_cache(windowed).layers
    assert layers
    assert not any(isinstance(layer, SlabLayer) for layer in layers)


def test_rows_are_selected_in_every_layer(tiny: Tiny) -> None:
    cache = rollout_cache(tiny.model.config)
    token = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        tiny.model(input_ids=token, past_key_values=cache, use_cache=True)
        select_rows(cache, torch.tensor([1, 1]))
        after = tiny.model(input_ids=torch.tensor([[3], [3]]), past_key_values=cache).logits
        whole = tiny.model(input_ids=torch.tensor([[8, 9, 10, 3]])).logits[:, -1:]
    assert isinstance(cache, DynamicCache)
    torch.testing.assert_close(after, whole.expand_as(after))
