"""`StepBatch`: which tokens are whose. Tokens -> steps -> rollouts -> groups, checked once.

Holds positions only: no rewards, no log-probabilities, no tokens. One flat token axis serves packed
sequences (T = the sum of their lengths) and padded `[R, L]` tensors seen flat (T = R * L).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from finestep_fast.errors import BuildError, InputError

Span = tuple[int, int]


@dataclass(frozen=True, eq=False, repr=False)
class StepBatch:
    """The steps of a batch of rollouts, as half-open spans of flat token positions.

    A step is one assistant turn: a run of tokens that the policy itself sampled. Tokens of no step
    (prompt, observation, padding) belong to nobody and are never read.
    """

    step_start: Tensor
    """[S] int64: first token of each step; steps of a rollout follow each other."""
    step_end: Tensor
    """[S] int64: one past the last token of each step."""
    step_offsets: Tensor
    """[R+1] int64: steps step_offsets[r] .. step_offsets[r+1] - 1 are those of rollout r."""
    group_offsets: Tensor
    """[G+1] int64: where each group begins in `group_rollouts`."""
    group_rollouts: Tensor
    """[R] int64: the rollouts of group 0, of group 1, ...; inside a group in the caller's order."""
    num_tokens: int
    """T: length of the flat token axis."""

    @classmethod
    def from_mask(cls, token_mask: Tensor, group_of_rollout: Tensor | Sequence[int]) -> StepBatch:
        """Return the batch whose steps are the runs of True in each row of a mask.

        Two turns with nothing between them are one run here; where that happens use `from_spans`.

        Args:
            token_mask: [R, L] bool or uint8, True where the policy sampled the token.
            group_of_rollout: [R] any integers; equal ones are one group. Groups are numbered by
                ascending integer.

        Returns:
            A batch with T = R * L on the mask's device.

        Raises:
            InputError: A shape or dtype does not fit.
            BuildError: The compiled module is missing.
        """
        if token_mask.ndim != 2 or token_mask.dtype not in (torch.bool, torch.uint8):
            raise InputError(
                f"token_mask is {token_mask.dtype} of shape {tuple(token_mask.shape)}; "
                "expected bool [R, L]"
            )
        try:
            import finestep_fast._core as core
        except ImportError as error:
            raise BuildError(
                "StepBatch.from_mask needs the compiled module finestep_fast._core; "
                "build it with `pip install .`, or use StepBatch.from_spans"
            ) from error
        mask = token_mask.detach().cpu().contiguous().numpy()
        spans = core.step_spans(mask, torch.get_num_threads())
        start, end, offsets = (torch.from_numpy(part) for part in spans)
        groups = _groups(group_of_rollout, num_rollouts=token_mask.shape[0])
        return cls(start, end, offsets, *groups, token_mask.numel()).to(token_mask.device)

    @classmethod
    def from_spans(
        cls,
        spans: Sequence[Sequence[Span]],
        group_of_rollout: Tensor | Sequence[int],
        *,
        num_tokens: int,
        row_length: int | None = None,
    ) -> StepBatch:
        """Return the batch with the given steps.

        Args:
            spans: [R] lists of (start, end), half-open, ascending: flat token positions, or
                positions inside the rollout's own row where `row_length` is given.
            group_of_rollout: [R] any integers; equal ones are one group. Groups are numbered by
                ascending integer.
            num_tokens: T, length of the flat token axis.
            row_length: L of a padded [R, L] layout.

        Returns:
            A batch on the CPU.

        Raises:
            InputError: A span is empty, out of range, out of order or overlaps another.
        """
        counts = torch.tensor([len(rollout) for rollout in spans], dtype=torch.int64)
        flat = [tuple(span) for rollout in spans for span in rollout]
        if any(len(span) != 2 for span in flat):
            raise InputError("spans holds something else than pairs (start, end)")
        start, end = torch.tensor(flat, dtype=torch.int64).reshape(-1, 2).unbind(1)
        if row_length is not None:
            if num_tokens != len(spans) * row_length:
                raise InputError(
                    f"num_tokens is {num_tokens}; expected {len(spans)} rows of row_length "
                    f"{row_length} = {len(spans) * row_length}"
                )
            row = torch.repeat_interleave(torch.arange(len(spans)), counts)
            _refuse_first((start < 0) | (end > row_length), start, end, f"[0, {row_length})", row)
            start, end = start + row * row_length, end + row * row_length
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        groups = _groups(group_of_rollout, num_rollouts=len(spans))
        batch = cls(start.contiguous(), end.contiguous(), offsets, *groups, num_tokens)
        batch.validate()
        return batch

    @property
    def num_steps(self) -> int:
        """S."""
        return self.step_start.shape[0]

    @property
    def num_rollouts(self) -> int:
        """R, rollouts without steps included."""
        return self.group_rollouts.shape[0]

    @property
    def num_groups(self) -> int:
        """G."""
        return self.group_offsets.shape[0] - 1

    @cached_property
    def num_policy_tokens(self) -> int:
        """N: tokens inside steps. Read from the device once, when first asked for."""
        return int((self.step_end - self.step_start).sum())

    @cached_property
    def max_rollout_steps(self) -> int:
        """Steps of the rollout that has most. Read from the device once, when first asked for."""
        return int(self.step_offsets.diff().max()) if self.num_rollouts else 0

    @cached_property
    def steps_ascend(self) -> bool:
        """Whether steps lie on the token axis in their order. Read once, when first asked for."""
        return bool((self.step_start[1:] >= self.step_end[:-1]).all())

    @cached_property
    def rollout_of_step(self) -> Tensor:
        """[S] int64: who made the step."""
        rollouts = torch.arange(self.num_rollouts, device=self.device)
        return torch.repeat_interleave(
            rollouts, self.step_offsets.diff(), output_size=self.num_steps
        )

    @cached_property
    def position_of_step(self) -> Tensor:
        """[S] int64: 0 for the first step of a rollout."""
        steps = torch.arange(self.num_steps, device=self.device)
        return steps - self.step_offsets[self.rollout_of_step]

    @cached_property
    def group_of_rollout(self) -> Tensor:
        """[R] int64: 0 .. G-1."""
        groups = torch.repeat_interleave(
            torch.arange(self.num_groups, device=self.device),
            self.group_offsets.diff(),
            output_size=self.num_rollouts,
        )
        return torch.empty_like(groups).scatter_(0, self.group_rollouts, groups)

    @cached_property
    def step_of_policy_token(self) -> Tensor:
        """[N] int64: the step that owns each policy token, ascending."""
        return torch.repeat_interleave(
            torch.arange(self.num_steps, device=self.device),
            self.step_end - self.step_start,
            output_size=self.num_policy_tokens,
        )

    @cached_property
    def policy_token(self) -> Tensor:
        """[N] int64: flat positions of the tokens inside steps, step after step."""
        length = self.step_end - self.step_start
        shift = self.step_start - (length.cumsum(0) - length)
        tokens = torch.arange(self.num_policy_tokens, device=self.device)
        return tokens + shift[self.step_of_policy_token]

    @property
    def device(self) -> torch.device:
        """Where the positions lie."""
        return self.step_start.device

    def to(self, device: torch.device | str) -> StepBatch:
        """Return the same batch on a device; sizes known here are not asked for there again."""
        if torch.device(device) == self.device:
            return self
        batch = self._moved(device)
        # A frozen dataclass keeps its cached properties in __dict__.
        batch.__dict__["num_policy_tokens"] = self.num_policy_tokens
        batch.__dict__["max_rollout_steps"] = self.max_rollout_steps
        batch.__dict__["steps_ascend"] = self.steps_ascend
        return batch

    def _moved(self, device: torch.device | str) -> StepBatch:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: part.to(device) for name, part in parts.items() if name != "num_tokens"}
        return StepBatch(**moved, num_tokens=self.num_tokens)

    def validate(self) -> None:
        """Check everything that the ops trust.

        Raises:
            InputError: What is wrong with which field, step or rollout.
        """
        for field in fields(self):
            part = getattr(self, field.name)
            if isinstance(part, Tensor) and (part.ndim != 1 or part.dtype != torch.int64):
                raise InputError(
                    f"{field.name} is {part.dtype} of shape {tuple(part.shape)}; expected 1-d int64"
                )
        if self.step_end.shape != self.step_start.shape:
            raise InputError(
                f"step_end has shape {tuple(self.step_end.shape)}; expected "
                f"{tuple(self.step_start.shape)}, the shape of step_start"
            )
        here = self._moved("cpu")
        _check_offsets("step_offsets", here.step_offsets, self.num_rollouts, self.num_steps)
        _check_offsets("group_offsets", here.group_offsets, self.num_groups, self.num_rollouts)
        if not torch.equal(here.group_rollouts.sort().values, torch.arange(self.num_rollouts)):
            raise InputError("group_rollouts must hold every rollout 0 .. R-1 exactly once")
        here._check_spans()

    def _check_spans(self) -> None:
        start, end, rollout = self.step_start, self.step_end, self.rollout_of_step
        outside = (start < 0) | (end > self.num_tokens)
        _refuse_first(outside, start, end, f"[0, {self.num_tokens})", rollout)
        _refuse_first(start >= end, start, end, "start < end", rollout)
        late = torch.zeros_like(rollout, dtype=torch.bool)
        late[1:] = (rollout[1:] == rollout[:-1]) & (start[1:] < end[:-1])
        _refuse_first(late, start, end, "a start at or after the end of the step before", rollout)
        order = start.argsort()
        overlap = torch.zeros_like(late)
        overlap[order[1:]] = start[order[1:]] < end[order[:-1]]
        _refuse_first(overlap, start, end, "tokens that no other rollout owns", rollout)

    def __repr__(self) -> str:
        return (
            f"StepBatch({self.num_steps} steps of {self.num_rollouts} rollouts in "
            f"{self.num_groups} groups, {self.num_policy_tokens} of {self.num_tokens} tokens, "
            f"{self.device})"
        )


def _groups(
    group_of_rollout: Tensor | Sequence[int], *, num_rollouts: int
) -> tuple[Tensor, Tensor]:
    """Return group_offsets [G+1] and group_rollouts [R] on the CPU."""
    label = torch.as_tensor(group_of_rollout).cpu()
    if num_rollouts == 0 and label.numel() == 0:
        label = label.long()
    whole = not (label.is_floating_point() or label.is_complex() or label.dtype == torch.bool)
    if tuple(label.shape) != (num_rollouts,) or not whole:
        raise InputError(
            f"group_of_rollout is {label.dtype} of shape {tuple(label.shape)}; expected integers "
            f"of shape ({num_rollouts},), one for each rollout"
        )
    _, group, size = torch.unique(label, return_inverse=True, return_counts=True)
    return torch.cat([size.new_zeros(1), size.cumsum(0)]), group.argsort(stable=True)


def _check_offsets(name: str, offsets: Tensor, num_parts: int, total: int) -> None:
    inside = (
        offsets.shape[0] == num_parts + 1 > 0
        and int(offsets[0]) == 0
        and int(offsets[-1]) == total
        and bool((offsets.diff() >= 0).all())
    )
    if not inside:
        raise InputError(
            f"{name} is {offsets.tolist() if offsets.shape[0] < 9 else offsets}; expected "
            f"{num_parts + 1} ascending numbers from 0 to {total}"
        )


def _refuse_first(wrong: Tensor, start: Tensor, end: Tensor, rule: str, rollout: Tensor) -> None:
    if bool(wrong.any()):
        step = int(wrong.nonzero()[0])
        raise InputError(
            f"step {step}, of rollout {int(rollout[step])}, is the span ({int(start[step])}, "
            f"{int(end[step])}); expected {rule}"
        )
