"""Random-weight models of many families, as small as they go: hidden 32, two layers."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_ATTENTION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
_MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
_MAMBA2 = {"num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16}
_HYBRID_MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": _ATTENTION,
    "llama": {**_ATTENTION, "attention_dropout": 0.1},
    "gemma2": _ATTENTION,
    "gemma3_text": {**_ATTENTION, "sliding_window": 16},
    "phi3": {**_ATTENTION, "resid_pdrop": 0.1, "embd_pdrop": 0.1},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "mistral": {**_ATTENTION, "sliding_window": 16},
    "granite": {**_ATTENTION, "logits_scaling": 4.0},
    "cohere": {**_ATTENTION, "logit_scale": 0.25},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    "mamba": _MAMBA,
    "mamba2": {**_MAMBA, **_MAMBA2},
    "falcon_mamba": _MAMBA,
    "jamba": {
        **{key: value for key, value in _ATTENTION.items() if key != "head_dim"},
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "num_experts": 2,
        "mamba_d_state": 8,
    },
    "bamba": {**_ATTENTION, **_HYBRID_MAMBA2, "attn_layer_indices": [1]},
    "granitemoehybrid": {
        **_ATTENTION,
        **_HYBRID_MAMBA2,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 32,
    },
    "lfm2": {**_ATTENTION, "layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {
        **{k: v for k, v in _ATTENTION.items() if k != "num_key_value_heads"},
        "lru_width": 32,
        "attention_window_size": 16,
        "block_types": ["recurrent", "attention"],
    },
    "rwkv": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "attention_hidden_size": 32,
        "intermediate_size": 64,
        "context_length": 512,
    },
}
"""Settings by `model_type`; dropout is on where a family knows it."""


def family_model(
    model_type: str, vocab_size: int, *, seed: int = 0, **changes: Any
) -> PreTrainedModel:
    """Return a model of a family, with weights that are large enough for its layers to matter."""
    config = AutoConfig.for_model(
        model_type,
        vocab_size=vocab_size,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.3,
        **{**FAMILIES[model_type], **changes},
    )
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.eval()
    return model
