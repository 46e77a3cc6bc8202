"""What torch.compile is to look into, and what it is to call."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Made = TypeVar("Made")


def untraced(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Let torch.compile call a function as it is: the graph breaks there.

    `torch.compiler.disable` does that, but imports the compiler for everybody; so it is asked only
    where somebody compiles.
    """

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        if torch.compiler.is_compiling():
            disabled: Callable[Given, Made] = torch.compiler.disable(function)
            return disabled(*args, **kwargs)
        return function(*args, **kwargs)

    return call
