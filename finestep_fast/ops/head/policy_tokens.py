"""The policy loss of the policy tokens alone, for ops that compute log-probabilities themselves.

The N tokens inside steps stand side by side, so logps of a few of them can be made at a time. The
loss itself is one of `finestep_fast.ops.implementations`; only the entropy bonus is added here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from finestep_fast.arguments import COUNT_OF_AGGREGATION, Count, TokenConstants, TokenTerms
from finestep_fast.batch import StepBatch, of_parts
from finestep_fast.config import LossConfig
from finestep_fast.ops.implementations import Implementation, loss_counts
from finestep_fast.reference import AGGREGATIONS, LossOutput


class Slopes(NamedTuple):
    """Derivatives of a loss by what is read of rows of logits, [N] or [C] float64."""

    logp: Tensor
    entropy: Tensor | None
    """None where entropy is only measured."""

    def part(self, part: slice) -> Slopes:
        """Return those of some of the tokens."""
        return Slopes(self.logp[part], None if self.entropy is None else self.entropy[part])

    def times(self, factor: Tensor) -> Slopes:
        """Return them multiplied."""
        return Slopes(self.logp * factor, None if self.entropy is None else self.entropy * factor)


@dataclass(frozen=True)
class PolicyTokens:
    """A policy loss that is evaluated when the log-probabilities of its tokens are known."""

    batch: StepBatch
    """Steps on the axis of the policy tokens, with nothing between them."""
    constants: TokenConstants
    """[N] each."""
    step_advantage: Tensor
    """[S]"""
    loss: LossConfig
    count: Count | None
    """What the aggregation divides by; None for the batch's own."""
    entropy_weight: float
    impl: Implementation
    """Turns log-probabilities into a loss."""
    _steps_of_size: dict[int, StepBatch] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        batch: StepBatch,
        constants: TokenConstants,
        step_advantage: Tensor,
        *,
        loss: LossConfig,
        count: Count | None,
        entropy_weight: float,
        impl: Implementation,
    ) -> PolicyTokens:
        """Gather what belongs to policy tokens from tensors [T] or [R, L]."""
        tokens = batch.policy_token
        return cls(
            side_by_side(batch),
            constants.each(lambda token_value: token_value.detach().reshape(-1)[tokens]),
            step_advantage.detach(),
            loss,
            count,
            entropy_weight,
            impl,
        )

    @property
    def shares_ratios(self) -> bool:
        """Return whether the gradient of a token depends on the logps of others."""
        return self.loss.ratio != "token"

    @property
    def terms(self) -> TokenTerms:
        """Return what the loss is made of beside logps; not where ratios are shared."""
        advantage = self.step_advantage[self.batch.step_of_policy_token].double()
        return TokenTerms(*self.constants, advantage, self._share)

    def slopes(self, logp: Tensor) -> Slopes:
        """Return the slopes of all N tokens, when all logps are known."""
        slope = self._logp_slope(
            logp, self.constants, self.batch, self.step_advantage, self.loss, self.count
        )
        return Slopes(slope, self._entropy_slope)

    def own_slopes(self, part: slice, logp: Tensor) -> Slopes:
        """Return the slopes of some tokens from their logps [C] alone; not where ratios are shared.

        The slope of a token depends on its own logp, the advantage of its step and its weight in
        the aggregation. So it is enough to differentiate a mean over these tokens alone, whose
        count is chosen so that each token has the same weight as before, to the bit.
        """
        if logp.shape[0] == self.batch.num_tokens:
            return self.slopes(logp)
        slope = torch.empty_like(logp)
        for run, count, loss in self._runs_of_one_weight(part):
            here = slice(run.start - part.start, run.stop - part.start)
            slope[here] = self._logp_slope(
                logp[here],
                self.constants.part(run),
                self._single_token_steps(run.stop - run.start),
                self.step_advantage[self.batch.step_of_policy_token[run]],
                loss,
                count,
            )
        entropy = self._entropy_slope
        return Slopes(slope, None if entropy is None else entropy[part])

    def output(self, logp: Tensor, entropy: Tensor) -> LossOutput:
        """Return loss and metrics, without gradient, when all logps are known."""
        with torch.no_grad():
            loss, metrics = self.impl.policy_loss(
                logp,
                self.constants,
                self.batch,
                self.step_advantage,
                loss=self.loss,
                count=self.count,
            )
            if self._entropy_slope is not None:
                loss = loss + (self._entropy_slope * entropy).sum()
            metrics["entropy"] = entropy.sum() / max(self.batch.num_policy_tokens, 1)
        return LossOutput(loss, metrics)

    def _logp_slope(
        self,
        logp: Tensor,
        constants: TokenConstants,
        batch: StepBatch,
        step_advantage: Tensor,
        loss: LossConfig,
        count: Count | None,
    ) -> Tensor:
        with torch.enable_grad():
            leaf = logp.detach().requires_grad_()
            value, _ = self.impl.policy_loss(
                leaf, constants, batch, step_advantage, loss=loss, count=count
            )
            (slope,) = torch.autograd.grad(value, leaf)
        return slope

    @cached_property
    def _entropy_slope(self) -> Tensor | None:
        """Derivative of the loss by entropy, [N] float64; None where entropy is only measured."""
        return None if self.entropy_weight == 0 else -self.entropy_weight * self._share

    @cached_property
    def _share(self) -> Tensor:
        """The weight of each token in the aggregation, [N] float64."""
        counts = loss_counts(self.batch, self.count, self.loss)
        return AGGREGATIONS[self.loss.aggregation](self.batch, counts, self.loss)

    def _runs_of_one_weight(self, part: slice) -> Iterator[tuple[slice, Count, LossConfig]]:
        """Cut a part of the tokens where their weight may change.

        Yields:
            The run, and the count and settings of the loss that gives it the same weight.
        """
        count = self._full_count
        if self._owner_end is None:
            yield part, count, self.loss
            return
        first = part.start
        while first < part.stop:
            owner = bisect_right(self._owner_end, first)
            begin = self._owner_end[owner - 1] if owner else 0
            last = min(self._owner_end[owner], part.stop)
            size = self._owner_end[owner] - begin
            divisor = count.double() if isinstance(count, Tensor) else count
            yield slice(first, last), size * divisor, self._token_mean
            first = last

    @cached_property
    def _full_count(self) -> Count:
        counts = loss_counts(self.batch, self.count, self.loss)
        full: Count = getattr(counts, COUNT_OF_AGGREGATION[self.loss.aggregation])
        return full

    @cached_property
    def _owner_end(self) -> list[int] | None:
        """Where the tokens of each step or rollout end that are averaged; None for all alike."""
        step_end = self.batch.step_end
        if self.loss.aggregation == "step_mean":
            end: list[int] = step_end.tolist()
            return end
        if self.loss.aggregation == "rollout_mean":
            end = torch.cat([step_end.new_zeros(1), step_end])[self.batch.step_offsets[1:]].tolist()
            return end
        return None

    def _single_token_steps(self, size: int) -> StepBatch:
        """Return as many rollouts of one step of one token."""
        if size not in self._steps_of_size:
            place = torch.arange(size + 1, device=self.batch.device)
            self._steps_of_size[size] = of_parts(
                step_start=place[:-1],
                step_end=place[1:],
                step_offsets=place,
                group_offsets=place[::size].contiguous(),
                group_rollouts=place[:-1],
                num_tokens=size,
                num_policy_tokens=size,
                max_rollout_steps=1,
                steps_ascend=True,
            )
        return self._steps_of_size[size]

    @cached_property
    def _token_mean(self) -> LossConfig:
        return replace(self.loss, aggregation="token_mean")


def side_by_side(batch: StepBatch) -> StepBatch:
    """Return the same steps on an axis that has no other tokens."""
    end = (batch.step_end - batch.step_start).cumsum(0)
    return of_parts(
        step_start=end - (batch.step_end - batch.step_start),
        step_end=end,
        step_offsets=batch.step_offsets,
        group_offsets=batch.group_offsets,
        group_rollouts=batch.group_rollouts,
        num_tokens=batch.num_policy_tokens,
        # What is known of the batch is not asked for again; see StepBatch.to.
        num_policy_tokens=batch.num_policy_tokens,
        max_rollout_steps=batch.max_rollout_steps,
        steps_ascend=True,
    )
