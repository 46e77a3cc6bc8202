"""A run, in order: warm start, evaluation, updates, evaluation, report.

It owns the order of things, and when state is saved. Sampling, credit, learning, checkpoints and
display are the modules beside it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object, set_seed
from transformers.utils import logging as transformers_logging

from finestep_fast.sql import Engine, library
from finestep_fast.train import metrics
from finestep_fast.train.alarms import FarmingWatch, UnsubmittedWatch, divergence_alarm
from finestep_fast.train.config import OptimConfig, TrainConfig
from finestep_fast.train.learn.finite import check_finite, culprits
from finestep_fast.train.learn.learner import Learner
from finestep_fast.train.learn.policy import attention, learning_attention
from finestep_fast.train.learn.reference_model import reference_model
from finestep_fast.train.learn.warm_start import supervised_step
from finestep_fast.train.memory import forget_peak, peak_mib
from finestep_fast.train.play import Player
from finestep_fast.train.rollout.calibration import calibration
from finestep_fast.train.rollout.credit import credited
from finestep_fast.train.rollout.engine import InProcessEngine
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.rollout.sampler import Sampler
from finestep_fast.train.rollout.value import Critic
from finestep_fast.train.screen import Screen, draw_curves, update_note
from finestep_fast.train.setup import check_model, make_accelerator, make_parts
from finestep_fast.train.state.checkpoint import Checkpoints, RunState
from finestep_fast.train.state.checksums import partial
from finestep_fast.train.state.folder import generated_checksums, held, write_config
from finestep_fast.train.state.logs import Logs
from finestep_fast.train.state.restore import restored_state
from finestep_fast.train.stop import DivergedError, NothingCounts, Stopped, StopRequest
from finestep_fast.train.summary import Tally, failures, state_share, tally

BEFORE, FINAL = "before", "final"
"""Names of the evaluations that every run has: before the first update and after the last."""

# Questions in a row without a rollout that counts: more than a few faulty ones by chance.
_UNCOUNTED_QUESTIONS = 8


class TrainingRun:
    """One run, from its beginning or from its latest checkpoint.

    Args:
        config: Its settings; `output` is its folder.
        stop: Asked at safe points whether to stop.
        resumed: Whether the run in `output` goes on; if not, there must be none.
    """

    def __init__(self, config: TrainConfig, stop: StopRequest, *, resumed: bool = False) -> None:
        self.config, self.stop, self.folder = config, stop, config.output
        self.resumed = resumed
        self.accelerator = make_accelerator()
        main = self.accelerator.is_main_process
        self.screen = Screen(live=main, on_lost=stop.stop_for_lost_output)
        transformers_logging.disable_progress_bar()
        self.logs = Logs(self.folder, active=main)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", config.checkpoint.keep)
        set_seed(config.seed, device_specific=True)
        self.uncounted = 0

    def train(self) -> dict[str, dict[str, float | None]]:
        """Do what is left of the run.

        Returns:
            Evaluations on dev by name, `before` and `final` among them.

        Raises:
            InputError: The settings, the data, the model or the folder are unusable.
            DivergedError: Numbers are not finite; the state from before they were not is kept.
            Stopped: The run was asked to stop; its state is saved.
            NothingCounts: No rollout counts any more; its state is saved.
        """
        with (
            held(self.folder, self.accelerator, resumed=self.resumed),
            Engine(timeout_s=self.config.env.query_timeout_s) as engine,
        ):
            self.screen.say(f"run folder: {self.folder}")
            self.parts = make_parts(self.config, self.folder, self.accelerator, engine)
            check_model(self.parts.policy, self.config)
            if self.accelerator.is_main_process:
                write_config(self.config)
            self.player = self._player(engine)
            self.state = self._restored_state()
            try:
                self._warm_start()
                self._evaluate(BEFORE)
                self._updates()
                self._evaluate(FINAL)
            except (Stopped, NothingCounts):
                self._save()
                raise
            self._finish()
        self.stop.check_output()
        return self.state.evaluations

    def _player(self, engine: Engine) -> Player:
        # One process may stop in mid-rollout; several must stop together, between updates.
        check = self.stop.check if self.accelerator.num_processes == 1 else lambda: None
        config = self.config
        sampler = Sampler(self.parts.policy, self.parts.chat, config.rollout, check)
        rollout_engine = InProcessEngine(
            sampler,
            engine,
            config.env,
            config.rewards,
            find_answers=config.credit.scope == "value" and config.value == "gold",
        )
        return Player(config, self.accelerator, rollout_engine, self.screen)

    def _restored_state(self) -> RunState:
        state = restored_state(self.checkpoints, self.logs, self.accelerator, self.screen.say)
        if state.phase == "done" and state.updates < self.config.update.updates:
            state.phase = "update"  # the run was done; it is resumed to go further
            state.evaluations.pop(FINAL, None)
        return state

    def _warm_start(self) -> None:
        batches = self.parts.batches
        if self.state.phase != "warm_start":
            return
        if batches is not None:
            every = self.config.checkpoint.every_warm_steps
            optim = self.config.warm_start.optim
            title = "warm start"
            losses = [record["loss"] for record in self.logs.read("warm_start")]
            with (
                self.screen.bar(title, len(batches), done=self.state.warm_steps) as bar,
                self._training(title),
            ):
                self.parts.policy.train()  # demonstrations are learnt with the model's own dropout
                for step in range(self.state.warm_steps, len(batches)):
                    self.stop.check_together(self.accelerator)
                    loss, norm, taken = supervised_step(
                        self.accelerator,
                        self.parts.model,
                        self.parts.warm.optimizer,
                        batches[step],
                        dtype=self.parts.dtype,
                        max_grad_norm=optim.max_grad_norm,
                    )
                    self.state.warm_steps = step + 1
                    if taken:
                        self.parts.warm.scheduler.step()
                        self.state.skipped_in_a_row = 0
                    losses.append(loss if taken else None)
                    self.logs.write("warm_start", [{"step": step, "loss": losses[-1]}])
                    if not taken:
                        self.state.skipped_in_a_row += 1
                        ids = [item.episode.question.question_id for item in batches[step]]
                        what = {"step": step, "loss": str(loss), "grad_norm": str(norm)}
                        self._note_skipped(title, 1, [{**what, "question_ids": ids}], optim)
                    bar.advance(1, f"loss {loss:.3f}")
                    if every and (step + 1) % every == 0 and step + 1 < len(batches):
                        self._save_if_sound()
            self._warn_of(divergence_alarm(losses))
            self.parts.warm.optimizer.state.clear()  # its moments are of no use to the updates
        self.state.phase = "update"
        self._save()

    def _note_skipped(
        self, phase: str, count: int, records: list[dict[str, Any]], optim: OptimConfig
    ) -> None:
        """Count and log steps that were not finite, and end the run where they do not end."""
        skipped = self.state.skipped_steps
        skipped[phase] = skipped.get(phase, 0) + count
        self.logs.write("skipped", [{"phase": phase, **record} for record in records])
        log, row = self.folder / "skipped.jsonl", self.state.skipped_in_a_row
        self._warn_of(
            f"{phase}: a step whose loss or gradient was not finite has been skipped; "
            f"{log} names its rollouts"
        )
        if row > optim.max_skipped_steps:
            raise DivergedError(
                f"{phase}: the loss or gradient of {row} optimiser steps in a row was not finite; "
                f"optim.max_skipped_steps is {optim.max_skipped_steps}; {log} names their "
                "rollouts, and the last checkpoint stays as it is"
            )

    def _updates(self) -> None:
        if self.state.phase != "update":
            return
        total = self.config.update.updates
        learner = self._learner()
        critic = Critic(
            self.config.value,
            max_steps=self.config.env.max_steps,
            memory=self.config.value_memory,
            rank=self.accelerator.process_index,
            gather=gather_object,
            remembered=self.state.value_memory,
        )
        earlier = self.logs.read("metrics")
        watches = FarmingWatch(earlier), UnsubmittedWatch(earlier)
        with self.screen.bar("updates", total, done=self.state.updates) as bar:
            for update in range(self.state.updates, total):
                every = self.config.eval.every_updates
                if every and update and update % every == 0:
                    self._evaluate(f"update_{update}")
                self.stop.check_together(self.accelerator)
                record, skipped = self._update(update, learner, critic)
                self.state.updates = update + 1
                self.state.skipped_in_a_row = learner.skipped_in_a_row
                self.state.value_memory = critic.remembered
                self.logs.write("metrics", [record])
                if skipped:
                    optim = self.config.update.optim
                    self._note_skipped("updates", record[metrics.SKIPPED_STEPS], skipped, optim)
                bar.advance(1, update_note(record))
                for watch in watches:
                    self._warn_of(watch.add(record))
                done, every = update + 1, self.config.checkpoint.every_updates
                if every and done % every == 0 and done < total:
                    self._save_if_sound()
        self.state.phase = "done"
        self._save()

    def _update(
        self, update: int, learner: Learner, critic: Critic
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Sample, score, credit and learn once.

        Returns its line of the log, and a line for every optimiser step that was skipped.
        """
        config, rank = self.config, self.accelerator.process_index
        begin = time.perf_counter()
        rollouts, num_extra = self.player.update(update, self.parts.data)
        total = self._together(tally(rollouts))
        self.uncounted = 0 if total.rollouts else self.uncounted + config.rollout.prompts
        if self.uncounted >= _UNCOUNTED_QUESTIONS:
            self._stop_uncounted(f"update {update}", rollouts)
        rollouts = credited(
            rollouts,
            config.credit,
            drop_uniform_groups=config.rollout.drop_uniform_groups,
            impl=config.impl,
            values_of=critic.step_values,
        )
        sampled = time.perf_counter()
        with self._training("updates"):
            forget_peak(self.accelerator.device)
            learnt = learner.learn(rollouts, seed=self.player.seed(2, update))
            peaks = gather_object([peak_mib(self.accelerator.device)])
        end = time.perf_counter()
        place = {"update": update, "rank": rank}
        skipped = [{**place, **step.record(rollouts)} for step in learner.skipped]
        records = gather_object([{**item.record(update), "rank": rank} for item in rollouts])
        self.logs.write("rollouts", records)
        record = {
            metrics.UPDATE: update,
            **total.rates(),
            metrics.EXTRA_ROLLOUTS: self.player.summed(num_extra),
            metrics.STATE_SHARE: state_share(rollouts, gather=gather_object),
            **self._calibration(rollouts),
            **learnt,
            metrics.SKIPPED_STEPS: len(skipped),
            metrics.ROLLOUT_SECONDS: round(sampled - begin, 3),
            metrics.LEARN_SECONDS: round(end - sampled, 3),
            metrics.LEARN_PEAK_MIB: round(max(peaks), 1),
        }
        return record, culprits(gather_object(skipped)) if skipped else []

    def _calibration(self, rollouts: Sequence[Rollout]) -> dict[str, Any]:
        if self.config.credit.scope != "value":
            return {}
        return calibration(rollouts, gather=gather_object)

    def _evaluate(self, name: str) -> None:
        """Answer the dev questions greedily, unless that was done before the run was resumed."""
        questions = self.parts.data.dev[: self.config.eval.questions]
        if name in self.state.evaluations or not questions:
            return
        if name == FINAL and self.state.updates == 0:
            self.state.evaluations[FINAL] = self.state.evaluations[BEFORE]  # of the same weights
            return
        self.stop.check_together(self.accelerator)
        begin = time.perf_counter()
        rollouts = self.player.greedy(f"dev, {name}", questions)
        total = self._together(tally(rollouts))
        if not total.rollouts:
            self._stop_uncounted(f"dev, {name}", rollouts)
        seconds = time.perf_counter() - begin
        self.state.evaluations[name] = {**total.rates(), metrics.SECONDS: seconds}
        records = [
            {
                "name": name,
                "question_id": rollout.question.question_id,
                "outcome": rollout.score.outcome,
            }
            for rollout in rollouts
        ]
        self.logs.write("evaluations", gather_object(records))

    def _stop_uncounted(self, what: str, rollouts: Sequence[Rollout]) -> NoReturn:
        """End the run: whatever the policy writes, nothing is learnt from it."""
        reasons = failures(gather_object([rollout.score for rollout in rollouts]))
        raise NothingCounts(
            f"{what}: no rollout counts: {reasons}; the state is saved, go on when that is mended "
            f"with: python -m finestep_fast.train resume={self.folder}"
        )

    def _learner(self) -> Learner:
        frozen = None
        if self.config.loss.kl is not None:
            frozen = reference_model(self.folder, self.parts.policy, self.accelerator, self.state)
        return Learner(
            self.accelerator,
            self.parts.model,
            self.parts.update.optimizer,
            self.parts.update.scheduler,
            update=self.config.update,
            loss=self.config.loss,
            temperature=self.config.rollout.temperature,
            dtype=self.parts.dtype,
            reference_model=frozen,
            impl=self.config.impl,
            skipped_in_a_row=self.state.skipped_in_a_row,
        )

    def _finish(self) -> None:
        model = self.folder / "model"
        check_finite("the model", self.accelerator, self.parts.policy)
        if self.accelerator.is_main_process:
            self.parts.policy.save_pretrained(partial(model))
            self.parts.tokenizer.save_pretrained(partial(model))
            shutil.rmtree(model, ignore_errors=True)
            partial(model).rename(model)
            report = {
                "evaluations": self.state.evaluations,
                "seconds": self.state.seconds,
                "skipped_steps": self.state.skipped_steps,
                "sqlite": asdict(library()),
            }
            (self.folder / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
            records = self.logs.read("metrics")
            if records:
                draw_curves(self.folder / "curves.png", records)
        self.accelerator.wait_for_everyone()
        if self.state.evaluations:
            self.screen.table(
                f"{self.folder.name}, seed {self.config.seed}", self.state.evaluations
            )
        self.screen.say(f"model: {model}")

    def _save_if_sound(self) -> None:
        """Save, except where the last step was skipped: its cause may be in the weights."""
        if not self.state.skipped_in_a_row:
            self._save()

    def _save(self) -> None:
        self.state.logs = self.logs.marks()
        self.state.kept |= generated_checksums(self.folder)
        parts = self.parts
        self.checkpoints.save(
            self.state,
            self.accelerator,
            parts.policy,
            parts.tokenizer,
            [parts.warm.optimizer, parts.update.optimizer],
        )

    def _warn_of(self, alarm: str | None) -> None:
        if alarm:
            self.screen.say(f"warning: {alarm}")

    def _together(self, mine: Tally) -> Tally:
        """Return the tally over all processes."""
        values = torch.tensor(mine.values(), dtype=torch.float64, device=self.accelerator.device)
        return Tally.of(self.accelerator.reduce(values, "sum").tolist())

    @contextmanager
    def _training(self, phase: str) -> Iterator[None]:
        """Use the attention that trains fastest here, and add to the phase's seconds."""
        begin = time.perf_counter()
        policy = self.parts.policy
        try:
            with attention(policy, learning_attention(policy)):
                yield
        finally:
            spent = time.perf_counter() - begin
            self.state.seconds[phase] = self.state.seconds.get(phase, 0.0) + spent
