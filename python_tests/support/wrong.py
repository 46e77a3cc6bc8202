"""Values that are wrong for most arguments, the same for all of them, by name."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")


class Opaque:
    """An object that no argument takes."""


def plain_values() -> dict[str, Any]:
    """Return values that are no tensors."""
    return {
        "None": None,
        "True": True,
        "zero": 0,
        "one": 1,
        "negative": -1,
        "a fraction": 1.5,
        "nan": NAN,
        "inf": INF,
        "-inf": -INF,
        "complex": 1 + 1j,
        "huge": 10**400,
        "more digits than Python writes": 10**5000,
        "text": "wrong",
        "empty text": "",
        "a lone surrogate": "\ud800",
        "bytes": b"wrong",
        "an empty list": [],
        "a list of numbers": [0.5, 0.5],
        "a list of text": ["wrong"],
        "a dict": {"wrong": 1},
        "an object": Opaque(),
        "a type": Opaque,
    }


def tensors_like(right: Tensor) -> dict[str, Any]:
    """Return tensors that differ from a right one in one respect, and the same as a list."""
    real = right.float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype, and what is to be removed
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
        quantised = torch.quantize_per_tensor(real, 0.1, 10, torch.quint8)
    return {
        "as a list": right.tolist(),
        "one more": torch.cat([real.flatten(), torch.zeros(1)]).to(right.dtype),
        "one dimension more": right[None],
        "no dimension": torch.zeros((), dtype=right.dtype),
        "empty": right.new_empty(0),
        "on meta": right.to("meta"),
        "complex tensor": real + 0j,
        "float8": real.to(torch.float8_e5m2),
        "sparse": real.to_sparse(),
        "quantised": quantised,
        "nested": nested,
        "nan inside": torch.full_like(real, NAN),
        "inf inside": torch.full_like(real, INF),
        "negative inside": torch.full_like(real, -1.0),
        "zeros": torch.zeros_like(real),
        "bools": torch.zeros_like(real).bool(),
        "integers": torch.zeros_like(real).long(),
        "huge inside": torch.full_like(real, 1e30),
    }


def values_for(right: Any) -> dict[str, Any]:
    """Return everything to be tried for an argument of which one right value is known."""
    values = plain_values()
    values["a tensor"] = torch.zeros(3, 5)
    values["one number as a tensor"] = torch.tensor(2.0)
    values["a complex number as a tensor"] = torch.tensor(2.0 + 1j)
    values["nan as a tensor"] = torch.tensor(NAN)
    if isinstance(right, Tensor):
        values.update(tensors_like(right))
    return values
