"""Two processes on CPU: one set of logs, and the step that one process takes with all rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finestep_fast.train.rollout.value import prior_values
from support.commands import SMALL, evaluations, records, started, weights
from support.programs import TORCHRUN, printed
from support.rollouts import learner_of, plain_rollouts
from support.tiny import Tiny
from support.two_learners import MICRO_BATCH_TOKENS, NUM_ROLLOUTS, SHARES, SPOILED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def learnt_in_two(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    printed(*TORCHRUN, "-m", "support.two_learners", tiny.model_folder, out)
    return out


@pytest.mark.parametrize("share", SHARES)
def test_two_processes_take_the_step_of_one_with_all_rollouts(
    tiny: Tiny, learnt_in_two: Path, share: str
) -> None:
    model = tiny.trainable().train()
    learner = learner_of(model, learning_rate=0.1, passes=2, micro_batch_tokens=MICRO_BATCH_TOKENS)
    measured = learner.learn(plain_rollouts(NUM_ROLLOUTS), seed=0)
    before = tiny.model.state_dict()
    theirs = [torch.load(learnt_in_two / f"{share}-{rank}.pt") for rank in (0, 1)]
    for name, value in model.state_dict().items():
        assert torch.equal(theirs[0][name], theirs[1][name]), name
        step = (value - before[name]).abs().max()
        torch.testing.assert_close(
            theirs[0][name], value, rtol=1e-5, atol=float(step) * 1e-3 + 1e-7, msg=name
        )
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    for rank in (0, 1):
        found = json.loads((learnt_in_two / f"{share}-{rank}.json").read_text())
        assert found.keys() == measured.keys()
        for key in found.keys() - {"effective_sample_size"}:  # a mean over passes
            assert found[key] == pytest.approx(measured[key], rel=1e-3, abs=1e-5), key


def test_two_processes_refuse_together_what_one_of_them_sees(learnt_in_two: Path) -> None:
    refusals = [(learnt_in_two / f"refusal-{rank}.txt").read_text() for rank in (0, 1)]
    assert refusals[0] == refusals[1]
    assert "learns as another policy than it samples" in refusals[0]


def test_a_step_that_is_not_finite_on_one_process_is_taken_by_none(learnt_in_two: Path) -> None:
    found = [json.loads((learnt_in_two / f"not-finite-{rank}.json").read_text()) for rank in (0, 1)]
    assert [item["changed"] for item in found] == [[], []]
    assert [item["losses_are_finite"] for item in found] == [[True], [False]]
    assert found[1]["skipped"] == [[SPOILED]]


def test_what_the_main_process_finds_or_raises_comes_to_every_process(learnt_in_two: Path) -> None:
    for rank in (0, 1):
        found = json.loads((learnt_in_two / f"asked-{rank}.json").read_text())
        assert found == ["said by 0", "refused by 0"]


def test_a_run_on_two_processes_writes_one_set_of_logs(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    words = ["update.updates=2", "rollout.prompts=5", "rollout.max_extra_prompts=1"]
    words += ["credit.preset=finestep_value", "impl=reference"]
    process = started([*SMALL, f"output={run}", *words], log, launcher=(*TORCHRUN, "-m"))
    code = process.wait(timeout=600)
    shown = log.read_text()
    assert code == 0, shown
    assert shown.count("run folder:") == 1
    assert shown.count("EX on dev") == 1
    metrics = records(run, "metrics")
    assert [record["update"] for record in metrics] == [0, 1]
    extra = [record["extra_rollouts"] for record in metrics]
    assert set(extra) <= {0, 4}
    assert [record["rollouts"] for record in metrics] == [20 + count for count in extra]
    steps = [record["step"] for record in records(run, "warm_start")]
    assert steps == list(range(len(steps)))
    rollouts = records(run, "rollouts")
    assert len(rollouts) == 2 * 5 * 4 + sum(extra)
    first = [r for r in rollouts if r["update"] == 0]
    assert [r["rank"] for r in first] == [0] * (12 + extra[0]) + [1] * 8
    assert len({r["question_id"] for r in first}) == 5 + extra[0] // 4
    # Values are fitted on the groups of both: with its own two the second would only have priors.
    values = [step["value"] for r in first for step in r["steps"]]
    groups: dict[str, list[dict[str, Any]]] = {}
    for rollout in (r for r in first if r["rank"] == 1):
        groups.setdefault(rollout["question_id"], []).append(rollout)
    for group in groups.values():
        priors = prior_values([r["outcome"] for r in group])
        for rollout, prior in zip(group, priors, strict=True):
            assert all(abs(step["value"] - prior) > 1e-4 for step in rollout["steps"])
    assert sum(item["steps"] for item in metrics[0]["value_reliability"]) == len(values)
    assert len(metrics[0]["value_brier_by_step"]) == len(metrics[0]["state_share"])
    assert metrics[0]["state_share"][0] == 1.0
    answers = records(run, "evaluations")
    asked = [r["question_id"] for r in answers if r["name"] == "final"]
    assert len(asked) == len(set(asked)) == 6
    assert evaluations(run)["final"]["rollouts"] == 6.0
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert {path.name for path in checkpoint.glob("random_states_*")} == {
        "random_states_0.pkl",
        "random_states_1.pkl",
    }
    assert weights(checkpoint).keys() == weights(run / "model").keys()
