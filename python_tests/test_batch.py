"""`StepBatch`: which tokens belong to which step, two ways to say it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast import InputError, StepBatch
from support.batches import SHAPES, Rollout, groups, packed, padded, rollout_lists

SPANS = [[(1, 3), (5, 6)], [], [(6, 9)]]
BATCH = StepBatch.from_spans(SPANS, [40, 7, 40], num_tokens=10)


def fields(batch: StepBatch) -> dict[str, Any]:
    return {
        "step_start": batch.step_start.tolist(),
        "step_end": batch.step_end.tolist(),
        "step_offsets": batch.step_offsets.tolist(),
        "group_offsets": batch.group_offsets.tolist(),
        "group_rollouts": batch.group_rollouts.tolist(),
        "num_tokens": batch.num_tokens,
    }


def test_a_batch_by_hand() -> None:
    assert fields(BATCH) == {
        "step_start": [1, 5, 6],
        "step_end": [3, 6, 9],
        "step_offsets": [0, 2, 2, 3],
        "group_offsets": [0, 1, 3],
        "group_rollouts": [1, 0, 2],
        "num_tokens": 10,
    }
    sizes = (BATCH.num_steps, BATCH.num_rollouts, BATCH.num_groups, BATCH.num_policy_tokens)
    assert sizes == (3, 3, 2, 6)
    assert BATCH.max_rollout_steps == 2
    assert BATCH.rollout_of_step.tolist() == [0, 0, 2]
    assert BATCH.position_of_step.tolist() == [0, 1, 0]
    assert BATCH.group_of_rollout.tolist() == [1, 0, 1]
    assert BATCH.policy_token.tolist() == [1, 2, 5, 6, 7, 8]
    assert BATCH.step_of_policy_token.tolist() == [0, 0, 1, 2, 2, 2]
    assert repr(BATCH) == "StepBatch(3 steps of 3 rollouts in 2 groups, 6 of 10 tokens, cpu)"


def test_spans_inside_rows_become_flat_positions() -> None:
    inside = [[(1, 3), (4, 5)], [(0, 5)]]
    flat = [[(1, 3), (4, 5)], [(5, 10)]]
    rows = StepBatch.from_spans(inside, [0, 0], num_tokens=10, row_length=5)
    assert fields(rows) == fields(StepBatch.from_spans(flat, [0, 0], num_tokens=10))


@given(rollouts=rollout_lists(), extra=st.integers(0, 3))
def test_a_mask_with_gaps_says_the_same_as_spans(rollouts: list[Rollout], extra: int) -> None:
    rollouts = [replace(rollout, gap=(1, 2)) for rollout in rollouts]
    by_spans = padded(rollouts, extra=extra)
    mask = torch.zeros(by_spans.num_tokens, dtype=torch.bool)
    mask[by_spans.policy_token] = True
    by_mask = StepBatch.from_mask(mask.view(len(rollouts), -1), torch.tensor(groups(rollouts)))
    assert fields(by_mask) == fields(by_spans)
    by_mask.validate()


def test_a_mask_may_be_uint8_or_transposed() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1]])
    expected = fields(StepBatch.from_mask(mask.bool(), [0, 0]))
    assert expected["step_start"] == [1, 4, 6]
    for same in (mask.to(torch.uint8), mask.bool().T.contiguous().T):
        assert fields(StepBatch.from_mask(same, [0, 0])) == expected


def test_two_turns_without_a_gap_are_two_steps_in_spans_and_one_in_a_mask() -> None:
    spans = StepBatch.from_spans([[(0, 2), (2, 4)]], [0], num_tokens=4)
    mask = StepBatch.from_mask(torch.ones(1, 4, dtype=torch.bool), [0])
    assert (spans.num_steps, mask.num_steps) == (2, 1)


@given(rollouts=rollout_lists())
def test_maps_agree_with_the_spans(rollouts: list[Rollout]) -> None:
    batch = packed(rollouts)
    batch.validate()
    for token, step in zip(
        batch.policy_token.tolist(), batch.step_of_policy_token.tolist(), strict=True
    ):
        assert batch.step_start[step] <= token < batch.step_end[step]
    labels = sorted(set(groups(rollouts)))
    assert [labels[group] for group in batch.group_of_rollout.tolist()] == groups(rollouts)
    for group in range(batch.num_groups):
        start, end = batch.group_offsets[group : group + 2].tolist()
        members = batch.group_rollouts[start:end].tolist()
        assert members == sorted(members)
        assert {rollouts[member].group for member in members} == {labels[group]}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_the_table_is_valid_in_both_layouts(shape: str) -> None:
    for batch in (packed(SHAPES[shape]), padded(SHAPES[shape], extra=2)):
        batch.validate()
        lengths = [sum(rollout.step_length) for rollout in SHAPES[shape]]
        assert batch.num_policy_tokens == sum(lengths) == batch.policy_token.shape[0]


def test_moving_keeps_positions_and_known_sizes() -> None:
    moved = packed(SHAPES["odd sizes, groups interleaved"]).to("meta")
    assert moved.device.type == "meta"
    assert moved.num_policy_tokens == 51  # a meta tensor could not be asked
    assert moved.max_rollout_steps == 4
    assert BATCH.to("cpu") is BATCH


@pytest.mark.parametrize(
    ("spans", "num_tokens", "row_length", "message"),
    [
        ([[(2, 2)]], 4, None, r"step 0, of rollout 0, is the span \(2, 2\); expected start < end"),
        ([[], [(3, 5)]], 4, None, r"of rollout 1, is the span \(3, 5\); expected \[0, 4\)"),
        ([[(-1, 2)]], 4, None, r"\(-1, 2\); expected \[0, 4\)"),
        ([[(2, 4), (0, 1)]], 4, None, r"step 1, .* \(0, 1\); expected a start at or after the end"),
        ([[(0, 2), (1, 3)]], 4, None, r"step 1, .* \(1, 3\); expected a start at or after the end"),
        ([[(0, 2)], [(1, 3)]], 4, None, r"of rollout 1, .*; expected tokens that no other rollout"),
        ([[(0, 3)], [(1, 6)]], 10, 5, r"of rollout 1, is the span \(1, 6\); expected \[0, 5\)"),
        ([[(0, 3)]], 10, 5, "num_tokens is 10; expected 1 rows of row_length 5 = 5"),
        (
            [[(0, 3, 1)]],
            10,
            None,
            r"spans is .*; expected a list for each rollout, of pairs",
        ),
    ],
)
def test_a_wrong_span_is_refused_by_name(
    spans: Any, num_tokens: int, row_length: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        StepBatch.from_spans(spans, [0] * len(spans), num_tokens=num_tokens, row_length=row_length)


@pytest.mark.parametrize("group", [[0], [0, 1, 2], torch.zeros(2), torch.zeros(2, 1).long()])
def test_groups_that_do_not_fit_the_rollouts_are_refused(group: Any) -> None:
    with pytest.raises(InputError, match=r"group_of_rollout is .*; expected integers of shape \(2"):
        StepBatch.from_mask(torch.ones(2, 3, dtype=torch.bool), group)


@pytest.mark.parametrize("mask", [torch.ones(4).bool(), torch.ones(2, 2), torch.ones(1, 2).long()])
def test_a_mask_that_is_not_bool_rows_is_refused(mask: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"token_mask is .*; expected bool \[R, L\]"):
        StepBatch.from_mask(mask, [0] * mask.shape[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_end": torch.tensor([3, 6])}, r"step_end has shape \(2,\); expected \(3,\)"),
        ({"step_start": torch.tensor([1, 5, 6]).int()}, "step_start is torch.int32"),
        ({"step_end": torch.tensor([3, 5, 9])}, r"step 1, of rollout 0, is the span \(5, 5\)"),
        ({"step_offsets": torch.tensor([0, 2, 2, 4])}, "step_offsets is .* from 0 to 3"),
        ({"step_offsets": torch.tensor([0, 3, 2, 3])}, "step_offsets is .* 4 ascending"),
        ({"group_offsets": torch.tensor([0, 1])}, "group_offsets is .* from 0 to 3"),
        ({"group_offsets": torch.tensor([0]).new_zeros(0)}, "group_offsets is "),
        ({"group_rollouts": torch.tensor([1, 1, 2])}, "every rollout 0 .. R-1 exactly once"),
        ({"num_tokens": 8}, r"step 2, of rollout 2, is the span \(6, 9\); expected \[0, 8\)"),
    ],
)
def test_validate_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(BATCH, **change).validate()
