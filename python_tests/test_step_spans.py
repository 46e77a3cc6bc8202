"""The compiled search for the runs of a mask, against a search in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast._core import step_spans

pytestmark = pytest.mark.native


def runs(row: npt.NDArray[np.uint8], base: int) -> list[tuple[int, int]]:
    found, start = [], None
    for place, value in enumerate([*row.tolist(), 0]):
        if value and start is None:
            start = place
        elif not value and start is not None:
            found.append((base + start, base + place))
            start = None
    return found


def assert_finds_the_runs(mask: npt.NDArray[np.uint8]) -> None:
    expected = [runs(row, index * mask.shape[1]) for index, row in enumerate(mask)]
    flat = [span for row in expected for span in row]
    for same in (mask, mask.astype(bool)):
        start, end, offsets = step_spans(same)
        assert start.dtype == end.dtype == offsets.dtype == np.int64
        assert list(zip(start.tolist(), end.tolist(), strict=True)) == flat
        assert offsets.tolist() == [0, *np.cumsum([len(row) for row in expected]).tolist()]


def test_runs_of_a_mask_by_hand() -> None:
    start, end, offsets = step_spans(
        np.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
    )
    assert start.tolist() == [1, 4, 10]
    assert end.tolist() == [3, 5, 15]
    assert offsets.tolist() == [0, 2, 2, 3]


@given(
    rows=st.integers(0, 4),
    row_length=st.integers(0, 40),
    run=st.integers(1, 20),
    seed=st.integers(0, 10_000),
)
def test_runs_equal_a_search_in_python(rows: int, row_length: int, run: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 2, size=(rows, row_length // run + 1)).astype(np.uint8)
    mask = blocks.repeat(run, axis=1)[:, :row_length] * random.integers(1, 256, dtype=np.uint8)
    assert_finds_the_runs(np.ascontiguousarray(mask))


def test_a_run_ends_with_its_row_and_may_start_anywhere_in_a_word() -> None:
    mask = np.ones((3, 17), dtype=np.uint8)
    assert_finds_the_runs(mask)
    for place in range(17):
        mask[:] = 0
        mask[:, place] = 128
        assert_finds_the_runs(mask)


def test_masks_of_another_shape_layout_or_type_are_refused() -> None:
    mask = np.ones((2, 3), dtype=bool)
    with pytest.raises(ValueError, match=r"mask must have 2 dimensions, \[R, L\]"):
        step_spans(mask[0])
    others: list[Any] = [mask.T, mask.astype(np.int64), mask[:, ::2]]
    for other in others:
        with pytest.raises(TypeError, match="incompatible function arguments"):
            step_spans(other)


def test_results_outlive_the_mask_and_may_be_written() -> None:
    start, _, _ = step_spans(np.eye(300, dtype=bool))
    start += 1
    assert start.tolist() == [301 * row + 1 for row in range(300)]
