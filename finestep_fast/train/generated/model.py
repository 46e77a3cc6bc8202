"""The quickstart's tokenizer and model, made from nothing in a second.

A byte-level BPE fitted to the demonstrations, and a Qwen3-architecture model of under a million
parameters. They exist so that the whole way can be run without a download; they know no English.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from finestep_fast.config.rules import above, at_least, at_most, check_fields
from finestep_fast.errors import InputError

_TURN_START, _TURN_END, _TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_NUM_CONTROLS = 3

# The syntax of a call, a token a piece: a small model should spend its tokens on the SQL.
_CALL_PIECES = (
    '<tool_call>\n{"name": "list_tables", "arguments": {}}\n</tool_call>',
    '<tool_call>\n{"name": "describe_table", "arguments": {"table": "',
    '<tool_call>\n{"name": "search_values", "arguments": {"text": "',
    '<tool_call>\n{"name": "execute_sql", "arguments": {"sql": "',
    '<tool_call>\n{"name": "submit", "arguments": {"sql": "',
    '"}}\n</tool_call>',
    "<tool_call>",
    "</tool_call>",
)

# Keywords in capitals take the spaces around them, names the bar before them, a number the space.
_KEYWORDS_AND_NAMES = r" ?[A-Z]{2,} ?|_?[A-Za-z][a-z]*| ?[0-9]+|[^A-Za-z0-9 ]+ ?| "

_LEAST_WORDS = len(pre_tokenizers.ByteLevel.alphabet()) + len(_CALL_PIECES) + _NUM_CONTROLS

_Size = Annotated[int, at_least(1), at_most(2**20)]

# Newlines are written as expressions: the template engine drops one that follows a block tag.
_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


@dataclass(frozen=True, kw_only=True)
class SmallModelConfig:
    """Size of a model trained from scratch."""

    vocab_size: Annotated[int, at_least(_LEAST_WORDS), at_most(2**20)] = 912
    """Tokens of the byte-level BPE, the call syntax and control tokens included."""
    layers: Annotated[int, at_least(1), at_most(2**10)] = 3
    """Transformer blocks."""
    hidden_size: _Size = 128
    """Width D of the hidden states."""
    heads: _Size = 4
    """Query heads."""
    kv_heads: _Size = 2
    """Key and value heads."""
    mlp_size: _Size = 384
    """Width of the gated feed-forward layer."""
    initializer_range: Annotated[float, above(0), at_most(1)] = 0.02
    """Standard deviation of the weights at the start. A narrow model learns to copy several times
    sooner near 1 / sqrt(hidden_size) than at the 0.02 of wide ones."""
    split_names: bool = False
    """Keep names apart from the spaces around them, so that a name is the same token wherever it
    stands and can be copied; if not, a word and the space before it are one token. The bar of
    `users_id` belongs to what follows."""
    max_tokens: _Size = 2048
    """Positions the model can address."""

    def __post_init__(self) -> None:
        """Check every field, and that they fit together.

        Raises:
            InputError: A value is out of range, or does not divide another.
        """
        check_fields(self)
        # Rotary positions turn pairs of a head's numbers.
        if self.hidden_size % (2 * self.heads):
            raise InputError(
                f"heads is {self.heads}; it must divide half of hidden_size, {self.hidden_size} / 2"
            )
        if self.heads % self.kv_heads:
            raise InputError(f"kv_heads is {self.kv_heads}; it must divide heads, {self.heads}")


def small_tokenizer(texts: Iterable[str], config: SmallModelConfig) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE fitted to `texts`, with a chat template and tokens for the calls."""
    tokenizer = Tokenizer(models.BPE())
    if config.split_names:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_KEYWORDS_AND_NAMES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pieces = [AddedToken(piece, normalized=False) for piece in _CALL_PIECES]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(pieces),
        special_tokens=[_TEXT_END, _TURN_START, _TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(pieces)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_TURN_END,
        pad_token=_TEXT_END,
        additional_special_tokens=[_TURN_START],
        clean_up_tokenization_spaces=False,
        model_max_length=config.max_tokens,
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def small_model(
    tokenizer: PreTrainedTokenizerFast, config: SmallModelConfig, *, seed: int
) -> Qwen3ForCausalLM:
    """Return a randomly initialised Qwen3-architecture model for `tokenizer`."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=max(config.vocab_size, len(tokenizer)),
            hidden_size=config.hidden_size,
            intermediate_size=config.mlp_size,
            initializer_range=config.initializer_range,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.hidden_size // config.heads,
            max_position_embeddings=config.max_tokens,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
