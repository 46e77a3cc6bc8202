"""The compiled core on rows of logits: numbers against numpy, and memory that is not its own."""

from __future__ import annotations

import numpy as np
import pytest

from finestep_fast._core import Memory, read_logit_rows, write_logit_gradients

pytestmark = pytest.mark.native

DTYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.float16): 3}
SENTINEL = 7.0


def memory(array: np.ndarray) -> Memory:
    dtype = 4 if array.dtype == np.int64 else DTYPES[array.dtype]
    return Memory(array.ctypes.data, array.size, dtype)


def four(sums: np.ndarray) -> tuple[Memory, Memory, Memory, Memory]:
    logp, entropy, maximum, total = sums
    return memory(logp), memory(entropy), memory(maximum), memory(total)


def results(
    logits: np.ndarray, row: list[int], target: list[int], temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Sums [4, C] and a gradient of the logits' shape for slopes 1 and 0.5."""
    size = len(row)
    sums = np.full((4, size), np.nan)
    given = (np.array(row, np.int64), np.array(target, np.int64), np.full(size, temperature))
    rows = (memory(logits), memory(given[0]), memory(given[1]), memory(given[2]))
    out = four(sums)
    vocabulary = logits.shape[1]
    read_logit_rows(rows, vocabulary, out, 2)
    gradient = np.full_like(logits, SENTINEL)
    slopes = (np.ones(size), np.full(size, 0.5))
    write_logit_gradients(
        rows,
        vocabulary,
        out,
        memory(slopes[0]),
        memory(slopes[1]),
        memory(gradient),
        2,
    )
    return sums, gradient


@pytest.mark.parametrize("vocabulary", [1, 2, 17, 511, 512, 513, 1031])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_rows_that_are_named_get_numpys_numbers_and_the_others_nothing(
    dtype: type, vocabulary: int
) -> None:
    generator = np.random.default_rng(0)
    logits: np.ndarray = (3 * generator.standard_normal((5, vocabulary))).astype(dtype)
    logits[[0, 2]] = np.nan
    row, target = [4, 1, 3], [0, vocabulary - 1, vocabulary // 2]
    sums, gradient = results(logits, row, target, temperature=0.7)
    scaled = logits[row].astype(np.float64) / 0.7
    logp = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
    probability = np.exp(logp)
    entropy = -(probability * logp).sum(1)
    # A float16 gradient is the coarsest; sums are in float32 at least.
    close = 1e-12 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(sums[0], logp[range(3), target], rtol=close, atol=close)
    np.testing.assert_allclose(sums[1], entropy, rtol=close, atol=close)
    expected = -probability - 0.5 * probability * (logp + entropy[:, None])
    expected[range(3), target] += 1
    close = 2e-3 if dtype == np.float16 else close
    np.testing.assert_allclose(gradient[row], expected / 0.7, rtol=close, atol=close)
    assert (gradient[[0, 2]] == SENTINEL).all()


def test_a_slope_of_0_writes_zeros_without_looking() -> None:
    logits = np.full((1, 600), np.nan, np.float32)
    gradient = np.full_like(logits, SENTINEL)
    sums, zero = np.zeros((4, 1)), np.zeros(1)
    place, one = np.zeros(1, np.int64), np.ones(1)
    rows = (memory(logits), memory(place), memory(place), memory(one))
    out = four(sums)
    write_logit_gradients(rows, 600, out, memory(zero), None, memory(gradient), 1)
    assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("row", "target", "message"),
    [
        ([2], [0], "a row lies outside the logits"),
        ([-1], [0], "a row lies outside the logits"),
        ([0], [3], "a target lies outside the vocabulary"),
        ([0], [-100], "a target lies outside the vocabulary"),
    ],
)
def test_what_would_lead_outside_the_logits_is_refused(
    row: list[int], target: list[int], message: str
) -> None:
    with pytest.raises(IndexError, match=message):
        results(np.zeros((2, 3), np.float32), row, target)
