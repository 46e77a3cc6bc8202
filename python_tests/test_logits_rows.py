"""The compiled core on rows of logits: numbers against torch, and memory that is not its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finestep_fast._core import read_logit_rows, write_logit_gradients

pytestmark = pytest.mark.native

SENTINEL = 7.0


def results(
    logits: Tensor, row: list[int], target: list[int], temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return sums [4, C] and a gradient of the logits' shape for slopes 1 and 0.5."""
    each = torch.ones(len(row), dtype=torch.float64)
    sums = torch.full((4, len(row)), torch.nan, dtype=torch.float64)
    rows = (logits, torch.tensor(row), torch.tensor(target), temperature * each)
    vocabulary = logits.shape[1]
    out = (sums[0], sums[1], sums[2], sums[3])
    read_logit_rows(rows, vocabulary, out, 2)
    gradient = torch.full_like(logits, SENTINEL)
    write_logit_gradients(rows, vocabulary, out, each, 0.5 * each, gradient, 2)
    return sums, gradient


@pytest.mark.parametrize("vocabulary", [1, 2, 17, 511, 512, 513, 1031])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_rows_that_are_named_get_torchs_numbers_and_the_others_nothing(
    dtype: torch.dtype, vocabulary: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(5, vocabulary, generator=generator)).to(dtype)
    logits[[0, 2]] = torch.nan
    row, target = [4, 1, 3], [0, vocabulary - 1, vocabulary // 2]
    sums, gradient = results(logits, row, target, temperature=0.7)
    logp = (logits[row].double() / 0.7).log_softmax(-1)
    probability = logp.exp()
    entropy = -(probability * logp).sum(1)
    # A 16-bit gradient is the coarsest; sums are in float32 at least.
    close = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(sums[0], logp[range(3), target], rtol=close, atol=close)
    torch.testing.assert_close(sums[1], entropy, rtol=close, atol=close)
    expected = -probability - 0.5 * probability * (logp + entropy[:, None])
    expected[range(3), target] += 1
    close = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(dtype, close)
    torch.testing.assert_close(gradient[row].double(), expected / 0.7, rtol=close, atol=close)
    assert (gradient[[0, 2]] == SENTINEL).all()


def test_a_slope_of_0_writes_zeros_without_reading() -> None:
    logits = torch.full((1, 600), torch.nan)
    gradient = torch.full_like(logits, SENTINEL)
    zero = torch.zeros(1, dtype=torch.float64)
    place = torch.zeros(1, dtype=torch.int64)
    rows = (logits, place, place, zero + 1)
    write_logit_gradients(rows, 600, (zero, zero, zero, zero), zero, None, gradient, 1)
    assert (gradient == 0).all()


def test_without_a_slope_of_the_logp_the_entropy_has_its_own() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    gradient = torch.full_like(logits, SENTINEL)
    sums = torch.zeros(4, 1, dtype=torch.float64)
    zero, place = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.int64)
    rows, out = (logits, place - 1, place, zero + 1), (sums[0], sums[1], sums[2], sums[3])
    read_logit_rows(rows, 3, out, 1)
    write_logit_gradients(rows, 3, out, zero, zero + 0.5, gradient, 1)
    logp = logits[0].log_softmax(-1)
    expected = -0.5 * logp.exp() * (logp - (logp.exp() * logp).sum())
    torch.testing.assert_close(gradient[0], expected)


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
        results(torch.zeros(2, 3), row, target)
