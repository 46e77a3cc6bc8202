"""Numbers that are not finite: no step is taken on them, and nothing that holds them is kept."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Container
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finestep_fast.train.__main__ import main
from finestep_fast.train.alarms import divergence_alarm
from finestep_fast.train.config import load_config
from finestep_fast.train.learn.finite import culprits
from finestep_fast.train.learn.head import linear_head
from finestep_fast.train.learn.learner import Learner
from finestep_fast.train.learn.warm_start import supervised_step
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.run import TrainingRun
from finestep_fast.train.stop import DivergedError, StopRequest
from support.commands import SMALL, evaluations, records, weights
from support.profile import left_to_the_gate
from support.rollouts import learner_of, sampled
from support.tiny import Tiny

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def rollouts(tiny: Tiny) -> list[Rollout]:
    return sampled(tiny, tiny.data.train[:4], 4)


def spoil(model: nn.Module, passes: Container[int], by: float = NAN) -> None:
    """Multiply a gradient of the model's in these of its backward passes, counted from 0."""
    seen = iter(range(10**9))
    parameter = next(model.parameters())
    parameter.register_hook(lambda grad: grad * by if next(seen) in passes else grad)


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


@pytest.mark.parametrize("by", [NAN, INF])
def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(
    tiny: Tiny, rollouts: list[Rollout], by: float
) -> None:
    model = tiny.trainable()
    learner = learner_of(model, learning_rate=0.1)
    spoil(model, {0}, by)
    assert learner.learn(rollouts, seed=0) == {}
    assert same(model, tiny.model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert learner.scheduler.last_epoch == 0
    (skipped,) = learner.skipped
    places = [place for place, rollout in enumerate(rollouts) if rollout.learnt]
    assert (skipped.step, sorted(skipped.rollouts)) == (0, places)
    assert math.isfinite(skipped.loss)
    assert not math.isfinite(skipped.grad_norm)
    # The next update is the one that would have been.
    untouched = tiny.trainable()
    learner_of(untouched, learning_rate=0.1).learn(rollouts, seed=0)
    learner.learn(rollouts, seed=0)
    assert (learner.skipped, learner.skipped_in_a_row) == ([], 0)
    assert same(model, untouched)
    assert not same(model, tiny.model)


def test_the_rollouts_of_a_loss_that_is_not_finite_are_named(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    model = tiny.trainable()
    learner = learner_of(model, minibatches=2, micro_batch_tokens=1)
    bad = [place for place, rollout in enumerate(rollouts) if rollout.learnt][5]
    item = rollouts[bad].transcript
    kept = list(item.token_logp)
    item.token_logp[item.step_spans[0][0]] = NAN
    try:
        measured = learner.learn(rollouts, seed=0)
    finally:
        item.token_logp[:] = kept
    (skipped,) = learner.skipped
    assert skipped.rollouts == [bad]
    assert math.isnan(skipped.loss)
    assert all(map(math.isfinite, measured.values())), "the other step was taken"
    assert learner.scheduler.last_epoch == 1
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_too_many_skipped_steps_in_a_row_end_an_update(tiny: Tiny, rollouts: list[Rollout]) -> None:
    model = tiny.trainable()
    learner = learner_of(model, minibatches=8)
    spoil(model, {0, 1, 3, 4, 5, 6, 7, 8})
    few = dataclasses.replace(learner.config.optim, max_skipped_steps=3)
    learner.config = dataclasses.replace(learner.config, optim=few)
    learner.learn(rollouts, seed=0)
    assert [item.step for item in learner.skipped] == [0, 1, 3, 4, 5, 6]
    assert learner.skipped_in_a_row == 4


@pytest.mark.parametrize("by", [NAN, INF])
def test_a_supervised_step_that_is_not_finite_changes_nothing(tiny: Tiny, by: float) -> None:
    model = tiny.trainable()
    spoil(model, {0}, by)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    accelerator, batch = Accelerator(cpu=True), tiny.demonstrations[:4]
    for taken in (False, True):
        done = supervised_step(
            accelerator, model, optimizer, batch, dtype=torch.float32, max_grad_norm=1.0
        )
        assert done.taken is taken is math.isfinite(done.grad_norm)
        assert math.isfinite(done.loss)
        assert same(model, tiny.model) is not taken
        assert bool(optimizer.state) is taken


def test_weights_that_are_not_finite_are_named_and_not_blamed_on_the_head(tiny: Tiny) -> None:
    model = tiny.trainable()
    with torch.no_grad():
        model.lm_head.weight.fill_(NAN)
    with pytest.raises(DivergedError, match="gives logits that are not finite; its weights have"):
        linear_head(model)
    sampler = tiny.sampler()
    sampler.model = model
    for temperature in (0.0, 1.0):
        with pytest.raises(DivergedError, match="the policy gives logits that are not finite"):
            sampler.play(tiny.episodes(tiny.data.train[:2]), seed=0, temperature=temperature)


def test_a_given_model_with_a_weight_that_is_not_finite_is_refused(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.trainable()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[2, 3] = INF
    for part in (model, tiny.tokenizer):
        part.save_pretrained(tmp_path / "model")
    world = tiny.root / "world"
    given = [
        f"model={tmp_path / 'model'}",
        f"data.questions={world / 'train.json'}",
        f"data.databases={world / 'databases'}",
        "rollout.max_rollout_tokens=500",
        "env.describe_tools=false",
        f"output={tmp_path / 'run'}",
    ]
    assert main(given) == 2
    message = "its model.layers.1.mlp.up_proj.weight is not finite"
    assert f"model is '{tmp_path / 'model'}'; {message}" in capsys.readouterr().err


def test_a_rising_loss_of_the_warm_start_is_reported() -> None:
    falling: list[float | None] = [5.0 - step / 10 for step in range(40)]
    assert divergence_alarm(falling) is None
    assert divergence_alarm([]) is None
    assert divergence_alarm([3.0]) is None
    assert divergence_alarm([3.0, 3.5]) is None
    assert divergence_alarm([None] * 3 + falling + [None] * 3) is None
    message = divergence_alarm([*falling, None, *[9.0] * 20])
    assert message is not None
    assert "its loss rose from 4.75 to 9" in message


def test_only_the_processes_with_a_loss_that_is_not_finite_are_named() -> None:
    steps = [(0, "1.5"), (1, "nan"), (2, "0.0"), (0, "-inf"), (1, "2.0"), (2, "1.0")]
    kept = culprits([{"step": step, "loss": loss} for step, loss in steps])
    assert [(item["step"], item["loss"]) for item in kept] == [
        (1, "nan"),
        (2, "0.0"),
        (0, "-inf"),
        (2, "1.0"),
    ]


class Spoiled(TrainingRun):
    """A run with NaN gradients put into its warm start and updates."""

    warm: Container[int] = ()
    updates: Container[int] = ()

    def _warm_start(self) -> None:
        self._spoil(self.warm)
        super()._warm_start()

    def _learner(self) -> Learner:
        self.handle.remove()
        self._spoil(self.updates)
        return super()._learner()

    def _spoil(self, passes: Container[int]) -> None:
        seen = iter(range(10**9))

        def hook(grad: Tensor) -> Tensor:
            return grad * NAN if next(seen) in passes else grad

        self.handle = next(self.parts.policy.parameters()).register_hook(hook)


@left_to_the_gate
def test_a_run_with_a_nan_gradient_ends_with_the_same_kind_of_result(tmp_path: Path) -> None:
    words = [*SMALL, "update.updates=3", "update.minibatches=2", "eval.every_updates=0"]
    plain, run = tmp_path / "plain", tmp_path / "run"
    assert main([*words, f"output={plain}"]) == 0
    spoiled = Spoiled(load_config(None, [*words, f"output={run}"]), StopRequest())
    spoiled.warm, spoiled.updates = {20}, {3}
    results = spoiled.train()
    assert results.keys() == evaluations(plain).keys()
    assert [record["skipped_steps"] for record in records(run, "metrics")] == [0, 1, 0]
    losses = [record["loss"] for record in records(run, "warm_start")]
    assert [step for step, loss in enumerate(losses) if loss is None] == [20]
    before = [record["loss"] for record in records(plain, "warm_start")]
    assert losses[:20] == before[:20]
    assert losses[-1] == pytest.approx(before[-1], rel=0.2)
    for record in records(run, "metrics"):
        numbers = [value for value in record.values() if not isinstance(value, list)]
        assert all(map(math.isfinite, numbers))
        assert record["grad_norm"] > 0
    saved = weights(run / "model")
    assert all(value.isfinite().all() for value in saved.values())
    one, two = (
        torch.cat([value.flatten() for value in weights(folder / "model").values()])
        for folder in (run, plain)
    )
    assert torch.nn.functional.cosine_similarity(one, two, 0) > 0.95

    warm, update = records(run, "skipped")
    assert (warm["phase"], warm["step"], len(warm["question_ids"])) == ("warm start", 20, 8)
    assert (update["phase"], update["update"], update["step"]) == ("updates", 1, 1)
    assert update["grad_norm"] == "nan"
    asked = [r["question_id"] for r in records(run, "rollouts") if r["update"] == 1]
    assert len(update["rollouts"]) == 8
    assert all(asked[item["place"]] == item["question_id"] for item in update["rollouts"])
    report = json.loads((run / "report.json").read_text())
    assert report["skipped_steps"] == {"warm start": 1, "updates": 1}


@pytest.mark.slow
def test_a_run_with_gradients_that_stay_nan_stops_and_keeps_its_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    few = ("checkpoint.keep=1", "update.minibatches=2", "update.optim.max_skipped_steps=3")
    words = [*SMALL, *few, f"output={run}"]
    spoiled = Spoiled(load_config(None, words), StopRequest())
    spoiled.updates = range(3, 99)
    with pytest.raises(DivergedError) as caught:
        spoiled.train()
    assert "updates: the loss or gradient of 4 optimiser steps in a row was not" in str(
        caught.value
    )
    assert [record["skipped_steps"] for record in records(run, "metrics")] == [0, 1, 2, 1]
    assert len(records(run, "skipped")) == 4
    assert not (run / "model").exists()
    (checkpoint,) = (run / "checkpoints").iterdir()
    state = json.loads((checkpoint / "run_state.json").read_text())
    assert (state["updates"], state["skipped_in_a_row"]) == (1, 0)
    assert all(value.isfinite().all() for value in weights(checkpoint).values())
    # The cause is gone: the run goes on from there.
    assert main([f"resume={run}"]) == 0
    assert [record["skipped_steps"] for record in records(run, "metrics")] == [0] * 4


def test_a_warm_start_that_diverges_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main([*SMALL, "warm_start.optim.learning_rate=1e20", f"output={run}"]) == 2
    message = "warm start: the loss or gradient of 6 optimiser steps in a row was not finite"
    assert message in capsys.readouterr().err
    assert not list((run / "checkpoints").glob("*"))
