"""From chunks of logits to their gradients: when rows are read, when their gradient is written.

Where each token has a ratio of its own, the gradient of a chunk is written while its rows are still
in a cache. A ratio that tokens share needs the logps of all chunks before the first gradient. Where
the logits come from is not known here: they are given, or made by `linear_head` chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from finestep_fast.arguments import LogitRows
from finestep_fast.ops.head.policy_tokens import PolicyTokens, Slopes
from finestep_fast.ops.head.rows import RowImplementation, SinglePassRows


class Chunk(NamedTuple):
    """Logits of some of the N tokens, in memory until the next chunk is asked for."""

    part: slice
    """Which of the N tokens."""
    rows: LogitRows
    hidden: Tensor | None
    """[C, D] what the logits were made of; None where they were given."""
    gradient: Tensor
    """[rows, V]: where their gradient goes, which may be the logits."""


Chunks = Callable[[], Iterable[Chunk]]
"""Begins a pass over all chunks, in the order of the tokens."""


def read_rows(chunks: Chunks, rows: RowImplementation, sums: Tensor) -> None:
    """Write what is read of all rows to sums [4, N]."""
    for chunk in chunks():
        sums[:, chunk.part] = rows.read(chunk.rows)


def row_gradients(
    chunks: Chunks,
    rows: RowImplementation,
    source: PolicyTokens | Slopes,
    sums: Tensor,
    *,
    lifted: bool = False,
) -> Iterator[tuple[Chunk, Tensor | None]]:
    """Write the gradients of all rows, and yield each chunk when its own is there.

    Args:
        chunks: Of logits.
        rows: The implementation that reads and writes them.
        source: A loss of the logps, or slopes that are known; then `sums` are, too.
        sums: [4, N] float64 of the rows; written where the source is a loss.
        lifted: Whether gradients are multiplied by a power of 2, for float16.

    Yields:
        The chunk, and what its gradient was multiplied by, or None.
    """
    single_pass = None
    if isinstance(source, PolicyTokens):
        if source.shares_ratios:
            read_rows(chunks, rows, sums)
            source = source.slopes(sums[0])
        elif isinstance(rows, SinglePassRows) and not lifted:  # a lift needs the slopes first
            single_pass = rows, source.terms, source
    for chunk in chunks():
        part, lift = chunk.part, None
        if single_pass is not None:
            pass_rows, terms, policy = single_pass
            sums[:, part] = pass_rows.read_and_write(
                chunk.rows,
                terms.part(part),
                loss=policy.loss,
                entropy_weight=policy.entropy_weight,
                gradient=chunk.gradient,
            )
        else:
            if isinstance(source, PolicyTokens):
                sums[:, part] = rows.read(chunk.rows)
                slopes = source.own_slopes(part, sums[0, part])
            else:
                slopes = source.part(part)
            if lifted:
                lift = _lift(slopes)
                slopes = slopes.times(lift)
            rows.write_gradient(chunk.rows, sums[:, part], *slopes, chunk.gradient)
        yield chunk, lift


def _lift(slopes: Slopes) -> Tensor:
    """The power of 2 that makes the steepest slope about 1/16: well inside float16's range."""
    steepest = slopes.logp.abs().amax()
    if slopes.entropy is not None:
        steepest = torch.maximum(steepest, slopes.entropy.abs().amax())
    return torch.exp2((-4 - steepest.clamp(min=1e-300).log2()).clamp(-40, 40).floor())
