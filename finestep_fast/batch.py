"""`StepBatch`: which tokens belong to which step, rollout and group, checked once.

Holds positions only: no rewards, no log-probabilities, no tokens. One flat token axis serves packed
sequences (T = the sum of their lengths) and padded `[R, L]` tensors seen flat (T = R * L).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

from finestep_fast.errors import InputError, shown
from finestep_fast.positions import (
    check_plain,
    check_readable,
    check_size,
    group_labels,
    grouped,
    positions_of_mask,
)

Span = tuple[int, int]
Value = TypeVar("Value")


class _Once(Generic[Value]):
    """An attribute that is worked out when first asked for, as by `functools.cached_property`.

    That one takes a lock, which torch.compile cannot trace; and what belongs to a graph must not be
    kept.
    """

    def __init__(self, work_out: Callable[[Any], Value]) -> None:
        self.work_out, self.__doc__ = work_out, work_out.__doc__
        self.name = work_out.__name__

    @overload
    def __get__(self, batch: None, owner: type) -> _Once[Value]: ...

    @overload
    def __get__(self, batch: object, owner: type) -> Value: ...

    def __get__(self, batch: object | None, owner: type) -> _Once[Value] | Value:
        if batch is None:
            return self
        value = self.work_out(batch)
        if not torch.compiler.is_compiling():
            # No data descriptor: what is in __dict__, also of a frozen dataclass, comes first.
            batch.__dict__[self.name] = value
        return value


@dataclass(frozen=True, eq=False, repr=False)
class StepBatch:
    """The steps of a batch of rollouts, as half-open spans of flat token positions.

    A step is one assistant turn: a run of tokens that the policy itself sampled. Tokens of no step
    (prompt, observation, padding) are never read.
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
        """Return the batch of a mask: its steps are the runs of True in each row.

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
        check_readable("token_mask", token_mask, "bool [R, L]")
        if token_mask.ndim != 2 or token_mask.dtype not in (torch.bool, torch.uint8):
            raise InputError(
                f"token_mask is {token_mask.dtype} of shape {tuple(token_mask.shape)}; "
                "expected bool [R, L]"
            )
        label = group_labels(group_of_rollout, num_rollouts=token_mask.shape[0])
        if torch.compiler.is_compiling():
            return cls._traced(token_mask, label)
        parts = positions_of_mask(token_mask, label)
        start, end, offsets = (part.numpy() for part in parts[:3])
        batch = of_parts(
            **dict(zip(_POSITIONS, parts, strict=True)),
            num_tokens=token_mask.numel(),
            num_policy_tokens=int((end - start).sum()),
            max_rollout_steps=int((offsets[1:] - offsets[:-1]).max(initial=0)),
            steps_ascend=True,
        )
        return batch.to(token_mask.device)

    @classmethod
    def _traced(cls, token_mask: Tensor, label: Tensor) -> StepBatch:
        """Return the same under torch.compile: one operator, with results of unknown sizes."""
        parts = torch.ops.finestep_fast.parts_of_mask(token_mask, label)
        *positions, policy_token, step_of_policy_token, rollouts_at_position = parts
        return of_parts(
            **dict(zip(_POSITIONS, positions, strict=True)),
            num_tokens=token_mask.numel(),
            policy_token=policy_token,
            step_of_policy_token=step_of_policy_token,
            num_policy_tokens=policy_token.shape[0],
            max_rollout_steps=rollouts_at_position.shape[0],
            steps_ascend=True,
        )

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
        check_size("num_tokens", num_tokens)
        kind: type = type(spans)
        if kind in (str, bytes):
            raise InputError(f"spans is {shown(spans)}; expected a list for each rollout")
        try:
            counts = torch.tensor([len(rollout) for rollout in spans], dtype=torch.int64)
            flat = torch.tensor([(first, last) for rollout in spans for first, last in rollout])
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise InputError(
                f"spans is {shown(spans)}; expected a list for each rollout, of pairs (start, end) "
                f"of integers: {error}"
            ) from error
        if flat.numel() and flat.dtype != torch.int64:
            raise InputError(f"spans holds {flat.dtype}; expected pairs (start, end) of integers")
        start, end = flat.long().reshape(-1, 2).unbind(1)
        if row_length is not None:
            check_size("row_length", row_length)
            if num_tokens != len(spans) * row_length:
                raise InputError(
                    f"num_tokens is {num_tokens}; expected {len(spans)} rows of row_length "
                    f"{row_length} = {len(spans) * row_length}, one row for each of spans"
                )
            row = torch.repeat_interleave(torch.arange(len(spans)), counts)
            _refuse_first((start < 0) | (end > row_length), start, end, f"[0, {row_length})", row)
            start, end = start + row * row_length, end + row * row_length
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        groups = grouped(group_labels(group_of_rollout, num_rollouts=len(spans)))
        batch = cls(start.contiguous(), end.contiguous(), offsets, *groups, num_tokens)
        batch.validate()
        batch._read_sizes()
        return batch

    def __post_init__(self) -> None:
        """Check kinds; `validate` checks the positions.

        Raises:
            InputError: A field is not 1-d int64, or not a size.
        """
        for name in _POSITIONS:
            part = getattr(self, name)
            check_plain(name, part, "1-d int64")
            if part.ndim != 1 or part.dtype != torch.int64:
                raise InputError(
                    f"{name} is {part.dtype} of shape {tuple(part.shape)}; expected 1-d int64"
                )
            if part.device != self.device:
                raise InputError(
                    f"{name} is on {part.device}; expected {self.device}, as step_start"
                )
        check_size("num_tokens", self.num_tokens)

    @property
    def num_steps(self) -> int:
        """Return S."""
        return self.step_start.shape[0]

    @property
    def num_rollouts(self) -> int:
        """Return R, rollouts without steps included."""
        return self.group_rollouts.shape[0]

    @property
    def num_groups(self) -> int:
        """Return G."""
        return self.group_offsets.shape[0] - 1

    @_Once
    def num_policy_tokens(self) -> int:
        """N: tokens inside steps. Read from the device once, when first asked for."""
        return int((self.step_end - self.step_start).sum())

    @_Once
    def max_rollout_steps(self) -> int:
        """Steps of the rollout that has most. Read from the device once, when first asked for."""
        return int(self.step_offsets.diff().max()) if self.num_rollouts else 0

    @_Once
    def steps_ascend(self) -> bool:
        """Whether steps lie on the token axis in their order. Read once, when first asked for."""
        return bool((self.step_start[1:] >= self.step_end[:-1]).all())

    @_Once
    def rollout_of_step(self) -> Tensor:
        """[S] int64: the rollout of each step."""
        rollouts = torch.arange(self.num_rollouts, device=self.device)
        return torch.repeat_interleave(
            rollouts, self.step_offsets.diff(), output_size=self.num_steps
        )

    @_Once
    def position_of_step(self) -> Tensor:
        """[S] int64: 0 for the first step of a rollout."""
        steps = torch.arange(self.num_steps, device=self.device)
        return steps - self.step_offsets[self.rollout_of_step]

    @_Once
    def group_of_rollout(self) -> Tensor:
        """[R] int64: 0 .. G-1."""
        groups = torch.repeat_interleave(
            torch.arange(self.num_groups, device=self.device),
            self.group_offsets.diff(),
            output_size=self.num_rollouts,
        )
        return torch.empty_like(groups).scatter_(0, self.group_rollouts, groups)

    @_Once
    def step_of_policy_token(self) -> Tensor:
        """[N] int64: the step that owns each policy token, ascending."""
        return torch.repeat_interleave(
            torch.arange(self.num_steps, device=self.device),
            self.step_end - self.step_start,
            output_size=self.num_policy_tokens,
        )

    @_Once
    def policy_token(self) -> Tensor:
        """[N] int64: flat positions of the tokens inside steps, step after step."""
        length = self.step_end - self.step_start
        shift = self.step_start - (length.cumsum(0) - length)
        tokens = torch.arange(self.num_policy_tokens, device=self.device)
        return tokens + shift[self.step_of_policy_token]

    @property
    def device(self) -> torch.device:
        """Return where the positions lie."""
        return self.step_start.device

    def to(self, device: torch.device | str) -> StepBatch:
        """Return the same batch on a device; sizes known here are not asked for there again."""
        try:
            if torch.device(device) == self.device:
                return self
            batch = self._moved(device)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise InputError(f"device is {shown(device)}; it cannot be used: {error}") from error
        batch.__dict__.update({name: getattr(self, name) for name in SIZES})
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

    def _read_sizes(self) -> None:
        """Read the sizes: they are known from now on, and a tracer cannot read them."""
        _ = self.num_policy_tokens, self.max_rollout_steps, self.steps_ascend

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


SIZES = {"num_policy_tokens": int, "max_rollout_steps": int, "steps_ascend": bool}
"""What is read from the device at most once, and its type."""
_POSITIONS = tuple(field.name for field in fields(StepBatch) if field.name != "num_tokens")


def of_parts(**parts: Any) -> StepBatch:
    """Return the batch of these fields; what else is given is known and not worked out any more."""
    positions = {name: parts.pop(name) for name in _POSITIONS}
    batch = StepBatch(**positions, num_tokens=parts.pop("num_tokens"))
    for name, value in parts.items():
        object.__setattr__(batch, name, value)
    return batch


def _traced_parts(token_mask: Tensor, label: Tensor) -> tuple[Tensor, ...]:
    """Return the same, which tokens belong to steps, and a number for each position of a step."""
    parts = dict(zip(_POSITIONS, positions_of_mask(token_mask, label), strict=True))
    batch = of_parts(**parts, num_tokens=token_mask.numel())
    positions = [getattr(batch, name) for name in _POSITIONS]
    rollouts_at_position = torch.bincount(batch.position_of_step)
    found = (*positions, batch.policy_token, batch.step_of_policy_token, rollouts_at_position)
    return tuple(part.to(token_mask.device) for part in found)


def _fake_parts(token_mask: Tensor, label: Tensor) -> tuple[Tensor, ...]:
    unknown = torch.library.get_ctx().new_dynamic_size
    num_steps, num_group_offsets, num_policy_tokens, max_rollout_steps = (
        unknown() for _ in range(4)
    )
    num_rollouts = token_mask.shape[0]
    sizes = (num_steps, num_steps, num_rollouts + 1, num_group_offsets, num_rollouts)
    return tuple(
        token_mask.new_empty(size, dtype=torch.int64)
        for size in (*sizes, num_policy_tokens, num_policy_tokens, max_rollout_steps)
    )


_LIBRARY = torch.library.Library("finestep_fast", "FRAGMENT")
_LIBRARY.define(
    f"parts_of_mask(Tensor token_mask, Tensor label) -> ({', '.join(['Tensor'] * 8)})",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.impl("parts_of_mask", _traced_parts, "CompositeExplicitAutograd")
torch.library.register_fake("finestep_fast::parts_of_mask", _fake_parts, lib=_LIBRARY)


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
