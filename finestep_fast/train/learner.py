"""From credited rollouts to new weights: minibatches, micro-batches, the clipped step loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from finestep_fast import LossConfig, StepBatch, policy_loss
from finestep_fast.train.config import UpdateConfig
from finestep_fast.train.padding import PaddedRows, micro_batches, pad_rows
from finestep_fast.train.policy import token_logp
from finestep_fast.train.rollouts import ScoredRollouts

_MAXIMA = frozenset({"ratio_max"})


@dataclass(frozen=True)
class _Sample:
    """One rollout to learn from."""

    token_ids: list[int]
    step_spans: list[tuple[int, int]]
    token_logp: list[float]
    step_advantage: Tensor

    @property
    def num_policy_tokens(self) -> int:
        return sum(end - start for start, end in self.step_spans)


class Learner:
    """Takes optimiser steps on the step-level policy loss.

    Args:
        accelerator: of the run.
        model: as prepared by it.
        optimizer: as prepared by it.
        scheduler: of the learning rate, stepped once per optimiser step.
        update: minibatches, micro-batches and gradient clipping.
        loss: the policy loss.
        temperature: the sampler's.
        dtype: of training passes.
        reference_model: a frozen copy for the KL term, if the loss has one.
        impl: who computes the loss; see `policy_loss`.
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
        reference_model: nn.Module | None,
        impl: str = "auto",
    ) -> None:
        self.accelerator, self.model = accelerator, model
        self.optimizer, self.scheduler = optimizer, scheduler
        self.config, self.loss = update, loss
        self.temperature, self.dtype = temperature, dtype
        self.reference_model, self.impl = reference_model, impl

    def learn(self, rollouts: ScoredRollouts, *, seed: int) -> dict[str, float]:
        """Take the optimiser steps of one update.

        Args:
            rollouts: this process's share.
            seed: of the order of rollouts.

        Returns:
            Means over the optimiser steps, over all processes; `ratio_max` is the largest. Empty if
            there was nothing to learn.
        """
        samples = [
            _Sample(item.token_ids, item.step_spans, item.token_logp, advantage)
            for item, advantage in zip(
                (rollouts.transcripts[rollout] for rollout in rollouts.learnt),
                rollouts.step_advantage,
                strict=True,
            )
        ]
        if self._total(len(samples)) == 0:
            return {}
        steps: list[dict[str, float]] = []
        for epoch in range(self.config.passes):
            order = np.random.default_rng([seed, epoch]).permutation(len(samples))
            for part in np.array_split(order, self.config.minibatches):
                measured = self._optimizer_step([samples[int(index)] for index in part])
                if measured:
                    steps.append(measured)
        keys = steps[0] if steps else {}
        means = {key: float(np.mean([step[key] for step in steps])) for key in keys}
        return means | {key: max(step[key] for step in steps) for key in keys if key in _MAXIMA}

    def _optimizer_step(self, samples: Sequence[_Sample]) -> dict[str, float]:
        counts = {
            "num_policy_tokens": self._total(sum(item.num_policy_tokens for item in samples)),
            "num_rollouts": self._total(len(samples)),
            "num_steps": self._total(sum(len(item.step_spans) for item in samples)),
        }
        if counts["num_rollouts"] == 0:
            return {}
        groups = micro_batches(
            [len(item.token_ids) for item in samples], self.config.micro_batch_tokens
        )
        mine: list[dict[str, Tensor]] = []
        for place, group in enumerate(groups or [[]]):
            last = place == max(len(groups) - 1, 0)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                if not group:
                    self.accelerator.backward(self._zero_loss())
                    continue
                chosen = [samples[index] for index in group]
                loss, metrics = self._loss(chosen, counts)
                # Processes average their gradients; the counts are global, so the sum is wanted.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            scalars = {key: value for key, value in metrics.items() if value.dim() == 0}
            mine.append({"loss": loss.detach(), **scalars})
        norm = self.accelerator.clip_grad_norm_(
            self.model.parameters(), self.config.optim.max_grad_norm
        )
        rate = float(self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        parts = [{key: float(value) for key, value in part.items()} for part in mine]
        measured = _together(gather_object(parts))
        return {**measured, "grad_norm": float(norm or 0.0), "learning_rate": rate}

    def _loss(
        self, samples: Sequence[_Sample], counts: dict[str, int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.accelerator.device
        rows = pad_rows([item.token_ids for item in samples], device)
        spans = [item.step_spans for item in samples]
        length = rows.token_ids.shape[1]
        old = torch.zeros(rows.token_ids.shape)
        for row, item in enumerate(samples):
            old[row, : len(item.token_logp)] = torch.tensor(item.token_logp)
        # Advantages are given, so who shares a group no longer matters: one group for all.
        batch = StepBatch.from_spans(
            spans, [0] * len(samples), num_tokens=len(samples) * length, row_length=length
        ).to(device)
        out = policy_loss(
            self._logp(self.model, rows, spans),
            old.to(device),
            batch,
            torch.cat([item.step_advantage for item in samples]).to(device),
            loss=self.loss,
            token_logp_ref=self._reference_logp(rows, spans),
            num_policy_tokens=counts["num_policy_tokens"],
            num_rollouts=counts["num_rollouts"],
            num_steps=counts["num_steps"],
            impl=self.impl,
        )
        return out.loss, out.metrics

    def _logp(
        self, model: nn.Module, rows: PaddedRows, spans: Sequence[list[tuple[int, int]]]
    ) -> Tensor:
        with torch.autocast(
            self.accelerator.device.type, self.dtype, enabled=self.dtype != torch.float32
        ):
            return token_logp(model, rows, spans, self.temperature)

    def _reference_logp(
        self, rows: PaddedRows, spans: Sequence[list[tuple[int, int]]]
    ) -> Tensor | None:
        if self.reference_model is None:
            return None
        with torch.no_grad():
            return self._logp(self.reference_model, rows, spans)

    def _zero_loss(self) -> Tensor:
        """A loss of 0 that touches every parameter: a process without rollouts keeps in step."""
        rows = pad_rows([[0]], self.accelerator.device)
        logits = self.model(
            input_ids=rows.token_ids, attention_mask=rows.mask, use_cache=False
        ).logits
        zero: Tensor = logits.sum() * 0.0
        return zero

    def _total(self, count: int) -> int:
        """The sum over processes."""
        mine = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.reduce(mine, "sum"))


def _together(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The metrics of one optimiser step from those of its micro-batches, of all processes."""
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
