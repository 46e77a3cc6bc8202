"""Rows of token ids as one padded tensor, and which of them share a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Lengths are rounded up to this: fewer distinct shapes, and matrix products of friendly sizes.
_MULTIPLE = 16


@dataclass(frozen=True)
class PaddedRows:
    """Token ids and attention mask, both [R, L], padded on the right."""

    token_ids: Tensor
    mask: Tensor


def padded_length(length: int) -> int:
    """Return the width of a batch whose longest row has `length` tokens."""
    return -(-length // _MULTIPLE) * _MULTIPLE


def pad_rows(rows: Sequence[Sequence[int]], device: torch.device) -> PaddedRows:
    """Pad rows of token ids on the right to a common, rounded width."""
    width = padded_length(max(len(row) for row in rows))
    token_ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):
        token_ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return PaddedRows(token_ids.to(device), mask.to(device))


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of like length so that each group, padded, has at most `budget` tokens.

    Args:
        lengths: [R] tokens per row.
        budget: Padded tokens per group; a single row longer than that is a group of its own.

    Returns:
        Groups of row indices, shortest rows first; every row is in exactly one.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if groups and (len(groups[-1]) + 1) * padded_length(lengths[row]) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
