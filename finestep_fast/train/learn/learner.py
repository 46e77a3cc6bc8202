"""From credited rollouts to new weights: minibatches, micro-batches, the clipped step loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedModel

from finestep_fast import (
    LossConfig,
    LossOutput,
    StepBatch,
    linear_policy_loss,
    logits_policy_loss,
)
from finestep_fast import token_logp as head_logp
from finestep_fast.train.config import UpdateConfig
from finestep_fast.train.learn.agreement import Disagreement, disagrees, refusal
from finestep_fast.train.learn.finite import SkippedStep, step_if_finite
from finestep_fast.train.learn.head import LinearHead, last_hidden, linear_head
from finestep_fast.train.learn.padding import PaddedRows, micro_batches, pad_rows
from finestep_fast.train.learn.policy import model_logits, written_logp
from finestep_fast.train.learn.trust_region import TrustRegion
from finestep_fast.train.rollout.record import Rollout

_MAXIMA = frozenset({"ratio_max"})


@dataclass(frozen=True)
class _Given:
    """A micro-batch; except in `rows` and `step_spans`, tokens lie where they are predicted."""

    rows: PaddedRows
    step_spans: list[list[tuple[int, int]]]
    target: Tensor
    token_logp_old: Tensor
    batch: StepBatch
    step_advantage: Tensor


class Learner:
    """Takes optimiser steps on the step-level policy loss.

    The policy learns as it samples, without dropout: with it, ratios would be noise. Before the
    first step the learner's log-probabilities are compared with the sampler's.

    Args:
        accelerator: Of the run.
        model: As prepared by it.
        optimizer: As prepared by it.
        scheduler: Of the learning rate, stepped once per optimiser step.
        update: Minibatches, micro-batches and gradient clipping.
        loss: The policy loss.
        temperature: The sampler's.
        dtype: Of training passes.
        reference_model: A frozen copy for the KL term, if the loss has one.
        impl: Who computes the loss; see `policy_loss`.
        on_policy: Whether the first rollouts are the model's own, so that a disagreement with
            their log-probabilities is an error.
        skipped_in_a_row: Steps that were skipped just before.

    Attributes:
        skipped: steps of the last update that were not taken, since loss or gradient was not
            finite.
        skipped_in_a_row: the last steps that were skipped, with none taken after them.

    Raises:
        InputError: The model's head is not linear, and `update.head` says so.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        *,
        update: UpdateConfig,
        loss: LossConfig,
        temperature: float,
        dtype: torch.dtype,
        reference_model: PreTrainedModel | None,
        impl: str = "auto",
        on_policy: bool = True,
        skipped_in_a_row: int = 0,
    ) -> None:
        self.skipped: list[SkippedStep] = []
        self.skipped_in_a_row = skipped_in_a_row
        self.accelerator, self.model = accelerator, model
        self.optimizer, self.scheduler = optimizer, scheduler
        self.config, self.loss = update, loss
        self.temperature, self.dtype = temperature, dtype
        self.reference_model, self.impl = reference_model, impl
        self.policy: PreTrainedModel = accelerator.unwrap_model(model)
        self.head = linear_head(self.policy) if update.head == "linear" else None
        self._on_policy_unseen = on_policy

    def learn(self, rollouts: Sequence[Rollout], *, seed: int) -> dict[str, float]:
        """Take the optimiser steps of one update.

        Steps that are not finite are skipped; more in a row than the settings allow end the update.

        Args:
            rollouts: This process's share; those without an advantage are left out.
            seed: Of the order of rollouts.

        Returns:
            Means over the optimiser steps taken, over all processes; `ratio_max` is the largest.
            Empty if there was nothing to learn or no step was taken.

        Raises:
            InputError: At the first update, sampler and learner see different policies.
        """
        self.policy.eval()
        places = [place for place, rollout in enumerate(rollouts) if rollout.learnt]
        self.skipped = []
        if self._total(len(places)) == 0:
            return {}
        if self._on_policy_unseen:
            self._check_agreement([rollouts[place] for place in places])
            self._on_policy_unseen = False
        max_kl = self.config.max_kl
        region = None if max_kl is None else TrustRegion.around(self.policy, max_kl)
        steps: list[dict[str, float]] = []
        for number, part in enumerate(self._minibatches(places, seed)):
            measured = self._optimizer_step(number, rollouts, part)
            if measured:
                steps.append(measured)
            if self.skipped_in_a_row > self.config.optim.max_skipped_steps:
                break
        keys = steps[0] if steps else {}
        means = {key: float(np.mean([step[key] for step in steps])) for key in keys}
        means |= {key: max(step[key] for step in steps) for key in keys if key in _MAXIMA}
        if region is not None and steps:
            learnt = [rollouts[place] for place in places]
            means["update_kl"], means["step_share"] = region.keep(lambda: self._kl(learnt))
        return means

    def _minibatches(self, places: Sequence[int], seed: int) -> Iterator[list[int]]:
        """Yield the places of the rollouts that each optimiser step learns from."""
        for epoch in range(self.config.passes):
            order = np.random.default_rng([seed, epoch]).permutation(len(places))
            for part in np.array_split(order, self.config.minibatches):
                yield [places[index] for index in part]

    def _optimizer_step(
        self, number: int, rollouts: Sequence[Rollout], places: Sequence[int]
    ) -> dict[str, float]:
        items = [rollouts[place].transcript for place in places]
        counts = {
            "num_policy_tokens": self._total(sum(item.num_policy_tokens for item in items)),
            "num_rollouts": self._total(len(items)),
            "num_steps": self._total(sum(len(item.step_spans) for item in items)),
        }
        if counts["num_rollouts"] == 0:
            return {}
        groups = micro_batches(
            [len(item.token_ids) for item in items], self.config.micro_batch_tokens
        )
        mine: list[dict[str, Tensor]] = []
        for place, group in enumerate(groups or [[]]):
            last = place == max(len(groups) - 1, 0)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                if not group:
                    self.accelerator.backward(self._zero_loss())
                    continue
                chosen = [rollouts[places[index]] for index in group]
                loss, metrics = self._loss(chosen, counts)
                # Processes average their gradients; the counts are global, so the sum is wanted.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            scalars = {key: value for key, value in metrics.items() if value.dim() == 0}
            mine.append({"loss": loss.detach(), **scalars})
        rate = float(self.scheduler.get_last_lr()[0])
        norm, taken = step_if_finite(
            self.accelerator,
            self.model,
            self.optimizer,
            [part["loss"] for part in mine],
            max_grad_norm=self.config.optim.max_grad_norm,
        )
        if not taken:
            losses = [float(part["loss"]) for part in mine]
            bad = [
                group for group, loss in zip(groups, losses, strict=True) if not math.isfinite(loss)
            ]
            among = sorted(places[index] for group in bad or groups for index in group)
            self.skipped.append(SkippedStep(number, sum(losses), norm, among))
            self.skipped_in_a_row += 1
            return {}
        self.skipped_in_a_row = 0
        self.scheduler.step()
        parts = [{key: float(value) for key, value in part.items()} for part in mine]
        measured = _together(gather_object(parts))
        return {**measured, "grad_norm": norm, "learning_rate": rate}

    def _check_agreement(self, rollouts: Sequence[Rollout]) -> None:
        """Compare the log-probabilities of sampler and learner; all processes decide together."""
        for dtype in dict.fromkeys((torch.float32, self.dtype)):
            worst = self._disagreement(rollouts, dtype)
            if disagrees(worst, dtype):
                raise refusal(
                    worst,
                    dtype,
                    policy=self.policy,
                    repeatable=self._disagreement(rollouts, dtype) == worst,
                    linear_head=self.head is not None,
                )

    @torch.no_grad()
    def _disagreement(self, rollouts: Sequence[Rollout], dtype: torch.dtype) -> Disagreement:
        """Return the largest over the rollouts of all processes."""
        worst = Disagreement()
        for given, logp in self._passes(rollouts, dtype):
            spans = [[(start - 1, end - 1) for start, end in steps] for steps in given.step_spans]
            worst = max(worst, Disagreement.of(logp, given.token_logp_old, spans))
        everywhere: list[Disagreement] = gather_object([worst])
        return max(everywhere)

    @torch.no_grad()
    def _kl(self, rollouts: Sequence[Rollout]) -> float:
        """Estimate the KL divergence of the policy from the one that sampled, in nats per token.

        The mean of `exp(d) - 1 - d` with d the change of a sampled token's log-probability (k3 of
        Schulman, "Approximating KL divergence", 2020), over the tokens of all processes.
        """
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        for given, logp in self._passes(rollouts, torch.float32):
            written = given.batch.policy_token
            change = (logp.flatten() - given.token_logp_old.flatten())[written].double()
            total[0] += (change.expm1() - change).sum()
            total[1] += written.numel()
        total = self.accelerator.reduce(total, "sum")
        return float(total[0] / total[1])

    def _passes(
        self, rollouts: Sequence[Rollout], dtype: torch.dtype
    ) -> Iterator[tuple[_Given, Tensor]]:
        """Yield micro-batches, each with the log-probabilities that the policy gives it now."""
        lengths = [len(rollout.transcript.token_ids) for rollout in rollouts]
        for group in micro_batches(lengths, self.config.micro_batch_tokens):
            given = self._given([rollouts[index] for index in group])
            with self._autocast(dtype):
                # The wrapper is left out: processes have different numbers of passes.
                logp = self._logp(self.policy, self.head, given)
            yield given, logp

    def _loss(
        self, rollouts: Sequence[Rollout], counts: dict[str, int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        given = self._given(rollouts)
        with self._autocast(self.dtype):
            out = (
                self._loss_of_logits(given, counts)
                if self.head is None
                else self._loss_of_hidden(given, self.head, counts)
            )
        return out.loss, {name: value for name, value in out.metrics.items() if name != "entropy"}

    def _autocast(self, dtype: torch.dtype) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, dtype, enabled=dtype != torch.float32)

    def _given(self, rollouts: Sequence[Rollout]) -> _Given:
        device = self.accelerator.device
        items = [rollout.transcript for rollout in rollouts]
        rows = pad_rows([item.token_ids for item in items], device)
        length = rows.token_ids.shape[1]
        old = torch.zeros(rows.token_ids.shape)
        for row, item in enumerate(items):
            old[row, : len(item.token_logp)] = torch.tensor(item.token_logp)
        # A token has its place where it is predicted from: one before its own.
        spans = [[(start - 1, end - 1) for start, end in item.step_spans] for item in items]
        # Advantages are given, so who shares a group no longer matters: one group for all.
        batch = StepBatch.from_spans(
            spans, [0] * len(items), num_tokens=len(items) * length, row_length=length
        ).to(device)
        return _Given(
            rows,
            [item.step_spans for item in items],
            rows.token_ids.roll(-1, 1),
            old.roll(-1, 1).to(device),
            batch,
            torch.cat([value for r in rollouts if (value := r.step_advantage) is not None]).to(
                device
            ),
        )

    def _loss_of_hidden(
        self, given: _Given, head: LinearHead, counts: dict[str, int]
    ) -> LossOutput:
        return linear_policy_loss(
            last_hidden(self.model, self.policy, given.rows),
            head.weight,
            given.target,
            given.token_logp_old,
            given.batch,
            given.step_advantage,
            bias=head.bias,
            loss=self.loss,
            temperature=self.temperature,
            token_logp_ref=self._reference_logp(given),
            num_policy_tokens=counts["num_policy_tokens"],
            num_rollouts=counts["num_rollouts"],
            num_steps=counts["num_steps"],
            impl=self.impl,
        )

    def _loss_of_logits(self, given: _Given, counts: dict[str, int]) -> LossOutput:
        return logits_policy_loss(
            model_logits(self.model, given.rows),
            given.target,
            given.token_logp_old,
            given.batch,
            given.step_advantage,
            loss=self.loss,
            temperature=self.temperature,
            token_logp_ref=self._reference_logp(given),
            num_policy_tokens=counts["num_policy_tokens"],
            num_rollouts=counts["num_rollouts"],
            num_steps=counts["num_steps"],
            impl=self.impl,
        )

    @torch.no_grad()
    def _reference_logp(self, given: _Given) -> Tensor | None:
        model = self.reference_model
        return None if model is None else self._logp(model, self._reference_head, given)

    def _logp(self, model: PreTrainedModel, head: LinearHead | None, given: _Given) -> Tensor:
        if head is None:
            logp = written_logp(model, given.rows, given.step_spans, self.temperature)
            return logp.roll(-1, 1)
        return head_logp(
            last_hidden(model, model, given.rows),
            head.weight,
            given.target,
            batch=given.batch,
            temperature=self.temperature,
            bias=head.bias,
            impl=self.impl,
        ).logp

    @cached_property
    def _reference_head(self) -> LinearHead | None:
        if self.head is None or self.reference_model is None:
            return None
        return linear_head(self.reference_model)

    def _zero_loss(self) -> Tensor:
        """Return a loss of 0 that touches every parameter, for a process without rollouts."""
        rows = pad_rows([[0]], self.accelerator.device)
        logits = self.model(
            input_ids=rows.token_ids, attention_mask=rows.mask, use_cache=False
        ).logits
        zero: Tensor = logits.sum() * 0.0
        return zero

    def _total(self, count: int) -> int:
        """Return the sum over processes."""
        mine = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.reduce(mine, "sum"))


def _together(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the metrics of one optimiser step from those of all its micro-batches."""
    weights = np.array([part.pop("policy_tokens") for part in parts])
    measured: dict[str, float] = {}
    for key in parts[0]:
        values = [part[key] for part in parts]
        if key == "loss":
            measured[key] = sum(values)  # each was divided by the counts of the whole
        elif key in _MAXIMA:
            measured[key] = max(values)
        else:
            measured[key] = float(np.average(values, weights=weights))
    return measured
