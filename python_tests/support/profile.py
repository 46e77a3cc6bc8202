"""How much the tests try: `--hypothesis-profile=dev` adds what the everyday run leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import settings

Test = TypeVar("Test", bound=Callable[..., Any])

THOROUGH = settings().max_examples > 50
"""Whether the profile asks for more than the everyday suite."""

LEFT_TO_THE_GATE = (
    pytest.mark.gate,
    pytest.mark.skipif(not THOROUGH, reason="takes long; the gate runs it"),
)
"""Marks of a parameter with which a test is skipped every day."""


def left_to_the_gate(test: Test) -> Test:
    """Mark a test that is skipped every day."""
    for mark in LEFT_TO_THE_GATE:
        test = mark(test)
    return test
