"""
The compiled CPU core of finestep_fast. Doors to it: StepBatch.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = ["step_spans"]

@typing.overload
def step_spans(
    mask: numpy.typing.NDArray[numpy.bool],
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]:
    """
    Return the runs of True of each row as flat half-open spans: (start [S], end [S], offsets [R+1]). `mask` is [R, L], C-contiguous.
    """

@typing.overload
def step_spans(
    mask: numpy.typing.NDArray[numpy.uint8],
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]:
    """
    Return the runs of True of each row as flat half-open spans: (start [S], end [S], offsets [R+1]). `mask` is [R, L], C-contiguous.
    """
