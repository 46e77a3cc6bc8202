"""The policy: a causal language model, its tokenizer, and its log-probabilities."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from finestep_fast.errors import InputError, shown
from finestep_fast.train.config import Precision
from finestep_fast.train.learn.padding import PaddedRows


def check_folder(path: Path) -> None:
    """Refuse what is no local folder, and say how to get one.

    Raises:
        InputError: It is none.
    """
    if os.path.isdir(path):
        return
    kind = "a file" if os.path.exists(path) else "not there"
    raise InputError(
        f"model is {shown(str(path))}, which is {kind}; it must be a local folder with a "
        "model and its tokenizer, for nothing is downloaded here: to get a model from the Hugging "
        "Face Hub, run `hf download OWNER/NAME --local-dir DIR` and set model=DIR"
    )


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Read a tokenizer from a local folder.

    Raises:
        InputError: There is none that can be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model is {str(path)!r}; no tokenizer can be read there: {error}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"model is {str(path)!r}; its tokenizer is a {type(tokenizer).__name__}; "
            "it must be a fast one (tokenizer.json)"
        )
    return tokenizer


def load_model(path: Path) -> PreTrainedModel:
    """Read a causal language model in float32 from a local folder.

    Raises:
        InputError: There is none that can be read.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"model is {str(path)!r}; no causal language model can be read there: {error}"
        ) from error


def training_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of training passes.

    `auto` takes bfloat16 where the processor multiplies in it.
    """
    if precision == "auto":
        fast = (
            torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_multiplies_bfloat16()
        )
        return torch.bfloat16 if fast else torch.float32
    return getattr(torch, precision)  # type: ignore[no-any-return]


def _cpu_multiplies_bfloat16() -> bool:
    # The capability that vector kernels were chosen for says nothing of bfloat16; the flags do.
    supports = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supports and supports())


def learning_attention(model: PreTrainedModel) -> str:
    """Return the attention implementation that trains fastest where the model lies."""
    fastest = "eager" if model.device.type == "cpu" else model.config._attn_implementation
    return str(fastest)


@contextmanager
def attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Use another attention implementation for a while.

    On CPUs the explicit product trains faster than the fused one, and the fused one samples faster.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def model_logits(model: nn.Module, rows: PaddedRows) -> Tensor:
    """Return the logits [R, L, V] of rows; the model, wrapped or not, is called once."""
    logits: Tensor = model(
        input_ids=rows.token_ids, attention_mask=rows.mask, use_cache=False
    ).logits
    return logits


def written_logp(
    model: nn.Module,
    rows: PaddedRows,
    spans: Sequence[Sequence[tuple[int, int]]],
    temperature: float,
) -> Tensor:
    """Return log-probabilities of the tokens that the policy wrote, from the model's own logits.

    Args:
        model: The model, wrapped or not; called once.
        rows: Token ids and mask, [R, L].
        spans: [R] lists of half-open spans in each row.
        temperature: Logits are divided by it.

    Returns:
        [R, L] float32, differentiable; 0 outside the spans.
    """
    row, column = _positions(spans, rows.token_ids.device)
    logits = model_logits(model, rows)
    chosen = logits[row, column - 1].float() / temperature
    target = rows.token_ids[row, column]
    logp = chosen.log_softmax(-1).gather(-1, target[:, None])[:, 0]
    return logp.new_zeros(rows.token_ids.shape).index_put((row, column), logp)


def _positions(
    spans: Sequence[Sequence[tuple[int, int]]], device: torch.device
) -> tuple[Tensor, Tensor]:
    pairs = [
        (row, column)
        for row, steps in enumerate(spans)
        for span in steps
        for column in range(*span)
    ]
    places = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2)
    return places[:, 0], places[:, 1]
