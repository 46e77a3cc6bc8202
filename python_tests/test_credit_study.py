"""The credit study: which bound is chosen, what is compared with what, and figures of gradients."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.credit_study import __main__ as study
from benchmarks.credit_study import figure, gradients
from benchmarks.credit_study.arms import ARMS, BASELINE, CHOOSING_SEEDS, KL_BOUNDS
from benchmarks.credit_study.report import (
    area,
    best_bounds,
    interval,
    print_tables,
    sampled,
    updates_to,
)
from benchmarks.credit_study.runs import Cell, done_cells
from finestep_fast.env.episode import Episode
from finestep_fast.train.config import load_config
from finestep_fast.train.rollout.transcript import Transcript

CHOOSING = CHOOSING_SEEDS[0]


def record(cell: Cell, *ex: float, calls: float = 3.0) -> dict[str, Any]:
    """Return the record of a run with that EX on dev from before the updates to the end."""
    names = ["before", *(f"update_{15 * n}" for n in range(1, len(ex) - 1)), "final"]
    rates = {"calls": calls, "redundant_rate": 0.1, "unsubmitted_rate": None, "policy_tokens": 40}
    return {
        "cell": dataclasses.asdict(cell),
        "dev": {name: {"ex": value, **rates} for name, value in zip(names, ex, strict=True)},
        "test": {"ex": ex[-1], **rates},
        "sampled": {"ex": [value / 2 for value in ex for _ in range(3)]},
    }


def cell(arm: str, seed: int, max_kl: float = 0.01) -> Cell:
    return Cell("explore", 4, arm, 0, seed, max_kl, 45)


def test_every_arm_is_a_setting_of_the_trainer() -> None:
    assert BASELINE in ARMS
    configs = {
        arm: load_config(Path("explore"), [*words, "credit.allow_reward_imbalance=true"])
        for arm, words in ARMS.items()
    }
    settings = {arm: (c.credit, c.value, c.value_memory, c.rollout) for arm, c in configs.items()}
    for arm, setting in settings.items():
        same = [other for other in settings if settings[other] == setting]
        assert same == [arm]


def test_the_area_is_that_of_trapezoids_in_the_order_of_the_updates() -> None:
    done = record(cell("grpo", 0), 0.2, 0.4, 0.4, 0.3)
    done["dev"] = dict(reversed(done["dev"].items()))
    assert area(done) == pytest.approx((0.3 + 0.4 + 0.35) / 3)


def test_the_last_third_of_the_updates_is_averaged() -> None:
    assert sampled(record(cell("grpo", 0), 0.2, 0.4, 0.6)) == pytest.approx(0.3)


def test_the_updates_to_a_rate_lie_between_the_evaluations_around_it() -> None:
    done = record(cell("grpo", 0), 0.2, 0.4, 0.3, 0.6)  # before, 15, 30, 45
    assert updates_to(done, 0.1) == 0
    assert updates_to(done, 0.3) == pytest.approx(7.5)
    assert updates_to(done, 0.5) == pytest.approx(40)
    assert updates_to(done, 0.7) == math.inf


def test_the_bound_with_the_largest_mean_area_on_choosing_seeds_is_taken() -> None:
    low, middle, high = KL_BOUNDS
    ex = {low: (0.3, 0.3), middle: (0.5, 0.2), high: (0.3, 0.35)}
    done = {
        (c := cell("finestep", CHOOSING + number, bound)): record(c, 0.1, value)
        for bound, values in ex.items()
        for number, value in enumerate(values)
    }
    reported = cell("finestep", 0, high)
    done[reported] = record(reported, 0.9, 0.9)  # no reported seed may choose
    bounds = best_bounds(done)
    assert bounds["explore", 4, "finestep"] == middle
    assert bounds["explore", 4, "matchtir"] == middle  # nothing to choose by: the middle one
    baseline = cell(BASELINE, CHOOSING, low)
    done[baseline] = record(baseline, 0.1, 0.2)
    assert best_bounds(done)["explore", 4, "matchtir"] == low  # that of the baseline


def test_choosing_seeds_have_warm_starts_of_their_own(tmp_path: Path) -> None:
    def warm_starts(what: str) -> set[int]:
        options = argparse.Namespace(
            what=what,
            worlds=["explore"],
            prompts=[4],
            arms=["grpo"],
            seeds=None,
            warm_starts=8,
            max_kl=None,
            updates=60,
            results=tmp_path / "none.jsonl",
        )
        return {planned.warm for planned in study._planned(options)}

    assert warm_starts("run") == set(range(8))
    assert warm_starts("choose") == set(CHOOSING_SEEDS)


def test_an_interval_holds_the_mean_and_is_a_point_for_equal_differences() -> None:
    assert interval([0.25] * 8) == (0.25, 0.25)
    low, high = interval([0.0, 1.0] * 8)
    assert 0.2 < low < 0.35
    assert 0.65 < high < 0.8


def test_the_table_pairs_seeds_with_the_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    records = [
        record(cell(arm, seed), 0.2, 0.3 + 0.1 * (arm != BASELINE) + 0.05 * seed)
        for arm in (BASELINE, "finestep")
        for seed in range(3)
    ]
    records.append(record(cell("finestep", CHOOSING), 0.2, 1.0))
    records.append(record(cell("finestep", 3), 0.1, 0.9))  # its warm policy could do too little
    records.append(record(cell("matchtir", 0), 0.25, 0.9))  # it began with another warm policy
    results.write_text("".join(json.dumps(item) + "\n" for item in records))
    print_tables(done_cells(results))
    shown = capsys.readouterr().out
    assert "explore, 4 prompts an update, 45 updates" in shown
    (line,) = [line for line in shown.splitlines() if "finestep" in line]
    assert "+10.0 [+10.0, +10.0]" in line  # the choosing seed is left out
    assert "45.0" in line
    (unpaired,) = [line for line in shown.splitlines() if "matchtir" in line]
    assert "[" not in unpaired
    assert "left out for the EX of their warm policy: 1 runs" in shown


def test_the_picture_shows_the_seeds_that_all_arms_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, policies = tmp_path / "runs.jsonl", tmp_path / "policies.jsonl"
    records = [record(cell("grpo", seed), 0.2, 0.3, 0.5) for seed in range(3)]
    records += [record(cell("finestep", seed), 0.2, 0.4, 0.6) for seed in (0, 2, CHOOSING)]
    results.write_text("".join(json.dumps(item) + "\n" for item in records))
    row = {"progress": 1.2, "steady_progress": 1.1}
    policy = {"world": "explore", "prompts": 4, "label": "warm policy"}
    arms = {"arms": {"grpo": row, "finestep": row}}
    policies.write_text(json.dumps(policy | arms) + "\n")
    shown = figure.compared(done_cells(results), "explore", 4, ["grpo", "finestep"])
    assert {arm: [item["cell"]["seed"] for item in items] for arm, items in shown.items()} == {
        "grpo": [0, 2],
        "finestep": [0, 2],
    }
    words = ["figure", str(tmp_path / "a.png"), "--arms", "grpo", "finestep"]
    words += ["--results", str(results), "--gradients", str(policies)]
    monkeypatch.setattr("sys.argv", words)
    figure.main()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_the_figures_of_a_gradient_are_those_of_its_distribution() -> None:
    """Gradients with a known mean and variance; the second arm's mean is turned by 60 degrees."""
    generator = torch.Generator().manual_seed(0)
    arms = {"(leave one out)": ([2.0, 0.0], 1.0), "turned": ([1.0, 3**0.5], 0.5)}
    sums = {name: gradients.Sums(torch.zeros(2)) for name in arms}
    for update in range(4000):
        slope = torch.randn(50, 2, generator=generator)  # of tokens: F is the unit matrix
        for name, (mean, variance) in arms.items():
            if update:
                sums[name].add_cost(partial(torch.mv, slope))
            noise = torch.randn(2, generator=generator)
            sums[name].add(torch.tensor(mean) + variance**0.5 * noise)
    figures = gradients.figures(sums)
    assert figures["turned"]["cosine"] == pytest.approx(0.5, abs=0.03)
    assert figures["turned"]["snr"] == pytest.approx(4 / 1, rel=0.1)
    assert figures["turned"]["useful_snr"] == pytest.approx(1 / 1, rel=0.2)
    # What each step gains, over the root of what it costs: the signal and the noise of two sizes.
    alone = (1 / (4 + 1) ** 0.5) / (2 / (4 + 2) ** 0.5)
    steady = (1 / (4 + 1 / 19) ** 0.5) / (2 / (4 + 2 / 19) ** 0.5)
    assert figures["turned"]["progress"] == pytest.approx(alone, rel=0.04)
    assert figures["turned"]["steady_progress"] == pytest.approx(steady, rel=0.04)
    assert figures["(leave one out)"]["progress"] == 1


def test_gradients_of_noise_alone_have_figures() -> None:
    sums = gradients.Sums(torch.zeros(2))
    for gradient in ([1.0, 0.0], [-1.0, 0.1], [1.0, 0.0], [-1.0, 0.1]):
        if sums.count:
            sums.add_cost(lambda direction: direction)
        sums.add(torch.tensor(gradient))
    assert sum(sums.shared_costs) < 0
    (row,) = gradients.figures({"(leave one out)": sums}).values()
    assert all(math.isfinite(value) for value in row.values())


def test_a_slope_is_the_derivative_along_a_direction() -> None:
    torch.manual_seed(0)
    policy = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=11,
            hidden_size=16,
            intermediate_size=16,
            num_attention_heads=2,
            num_hidden_layers=1,
            initializer_range=0.3,
        )
    )
    episode = cast("Episode", None)  # slopes need the tokens alone
    items = [
        Transcript(episode, [1, 2, 3, 4, 5], 1, [(2, 3), (4, 5)]),
        Transcript(episode, [6, 7, 8], 1, [(1, 3)]),
    ]
    tokens = gradients._Tokens(policy, items)
    parameters = list(policy.parameters())
    logp = tokens.logp()
    expected = []
    direction = torch.randn(sum(parameter.numel() for parameter in parameters))
    for row, place in ((0, 1), (0, 3), (1, 0), (1, 1)):
        gradient = torch.autograd.grad(logp[row, place], parameters, retain_graph=True)
        expected.append(float(torch.cat([each.flatten() for each in gradient]) @ direction))
    before = [parameter.clone() for parameter in parameters]
    slopes = tokens.slopes(direction)
    assert slopes.tolist() == pytest.approx(expected, rel=1e-2, abs=1e-2)
    assert all(map(torch.equal, parameters, before))
    assert tokens.slopes(torch.zeros_like(direction)).tolist() == [0.0] * 4


def test_agents_that_have_answered_other_questions_do_not_answer_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "study.jsonl"
    cells = [cell("grpo", 0), cell("value_gold", 0), cell("grpo", CHOOSING)]
    results.write_text("".join(json.dumps(record(each, 0.3, 0.5)) + "\n" for each in cells))
    asked: list[tuple[Cell, str]] = []

    def answer(each: Cell, _: Path, data: Path) -> dict[str, Any]:
        if asked and data.name == "late":
            raise KeyboardInterrupt
        asked.append((each, data.name))
        return {"cell": dataclasses.asdict(each), "data": data.name, "rates": {}}

    monkeypatch.setattr(study, "run_elsewhere", answer)
    for folders in (["spider", "late"], ["spider", "defog"], ["defog"]):
        data = [str(tmp_path / name) for name in folders]
        words = ["study", "elsewhere", "--results", str(results), "--workers", "1", "--data", *data]
        monkeypatch.setattr("sys.argv", words)
        if "late" in folders:
            with pytest.raises(KeyboardInterrupt):
                study.main()
        else:
            study.main()
    # The choosing seed is no part of it.
    assert asked == [(each, data) for data in ("spider", "defog") for each in cells[:2]]
    lines = (tmp_path / "study_elsewhere.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert capsys.readouterr().out.count("spider") == 2
