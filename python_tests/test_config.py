"""The settings of credit and loss: defaults, presets, refusals, the balance of rewards."""

from __future__ import annotations

import logging
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from finestep_fast import CreditConfig, InputError, LossConfig
from finestep_fast.config import PRESETS, check_reward_balance

FIELDS_OF_THE_TABLE = (
    "process_baseline",
    "process_weight",
    "process_discount",
    "outcome_discount",
    "smoothing",
    "scope",
    "std",
    "std_floor",
    "channels",
    "step_weight",
    "rollout_weight",
)
# The table of presets, column by column as above.
TABLE: dict[str, tuple[Any, ...]] = {
    "finestep": (1, 0.1, 0.9, 0.97, 0.7, "pooled", "sample", 0.3, "joint", 1, 0),
    "finestep_index": (1, 0.1, 0.9, 0.97, 0.7, "per_index", "sample", 0.3, "joint", 1, 0),
    "finestep_decoupled": (1, 0.3, 0.9, 0.97, 0.7, "pooled", "sample", 0.3, "decoupled", 1, 0),
    "finestep_state": (1, 0.1, 0.9, 0.97, 1, "state", "sample", 0.3, "joint", 0.5, 0.5),
    "finestep_value": (1, 0.1, 0, 0.97, 1, "value", "none", 0.3, "joint", 1, 0.3),
    "grpo": (0, 0, 1, 1, 1, "trajectory", "sample", 0, "joint", 1, 0),
    "grpo_process": (0, 0.1, 1, 1, 1, "trajectory", "sample", 0, "joint", 1, 0),
    "matchtir": (0, 0.1, 0.9, 0.9, 1, "per_index", "sample", 0, "joint", 0.5, 0.5),
}


def test_presets_are_those_of_the_table() -> None:
    assert set(PRESETS) == set(TABLE)
    for name, row in TABLE.items():
        credit = CreditConfig.preset(name)
        assert tuple(getattr(credit, field) for field in FIELDS_OF_THE_TABLE) == row
        rest = {field.name for field in fields(credit)} - set(FIELDS_OF_THE_TABLE)
        default = CreditConfig()
        assert all(getattr(credit, field) == getattr(default, field) for field in rest)


def test_the_default_is_the_preset_finestep() -> None:
    assert CreditConfig() == CreditConfig.preset("finestep")


def test_a_preset_takes_changes() -> None:
    credit = CreditConfig.preset("grpo", std="population", epsilon=0.0)
    assert (credit.scope, credit.std, credit.epsilon) == ("trajectory", "population", 0)


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        CreditConfig().process_weight = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process_baseline": 1.5}, "process_baseline is 1.5; it must be >= 0 and <= 1"),
        ({"process_weight": -1}, "process_weight is -1; it must be >= 0"),
        ({"process_weight": "0.1"}, "process_weight is '0.1'; it must be a number >= 0"),
        ({"outcome_weight": float("nan")}, "outcome_weight is nan; it must be >= 0"),
        ({"outcome_discount": float("inf")}, "outcome_discount is inf; it must be >= 0 and <= 1"),
        ({"process_discount": True}, "process_discount is True; it must be a number"),
        ({"smoothing": 0}, "smoothing is 0; it must be > 0 and <= 1"),
        ({"scope": "poled"}, "scope is 'poled'; it must be .*; did you mean 'pooled'?"),
        ({"scope": ["pooled"]}, "scope is .*; it must be 'pooled', 'per_index', .* or 'value'"),
        ({"channels": "both"}, "channels is 'both'; it must be 'joint' or 'decoupled'"),
        ({"std": None}, "std is None; it must be 'sample', 'population' or 'none'"),
        ({"std_floor": -0.1}, "std_floor is -0.1; it must be >= 0"),
        ({"epsilon": -1e-6}, "epsilon is -1e-06; it must be >= 0"),
        ({"leave_one_out": 1}, "leave_one_out is 1; it must be true or false"),
        ({"advantage_clip": 0}, "advantage_clip is 0; it must be > 0"),
        ({"step_weight": -1}, "step_weight is -1; it must be >= 0"),
        ({"rollout_weight": -1}, "rollout_weight is -1; it must be >= 0"),
        ({"allow_reward_imbalance": "yes"}, "allow_reward_imbalance is 'yes'; it must be true or"),
    ],
)
def test_a_wrong_credit_setting_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CreditConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "pop"}, "kind is 'pop'; it must be 'ppo' or 'cispo'; did you mean 'ppo'?"),
        (
            {"ratio": "sequence"},
            "ratio is 'sequence'; it must be 'token', 'step', 'rollout' or 'rollout_averaged'",
        ),
        ({"clip_low": 1.1}, "clip_low is 1.1; it must be >= 0 and <= 1"),
        ({"clip_high": -0.1}, "clip_high is -0.1; it must be >= 0"),
        ({"dual_clip": 1}, "dual_clip is 1; it must be > 1"),
        ({"dual_clip": 3, "kind": "cispo"}, "dual_clip is 3; it must be null for kind cispo"),
        ({"aggregation": "mean"}, "aggregation is 'mean'; it must be 'token_mean', 'rollout_mean'"),
        ({"aggregation": "constant"}, "constant_tokens is None for aggregation 'constant'"),
        ({"constant_tokens": 9}, "constant_tokens is 9 for aggregation 'token_mean'; it must be"),
        (
            {"aggregation": "constant", "constant_tokens": 0},
            "constant_tokens is 0; it must be an integer >= 1",
        ),
        ({"kl": "k4"}, "kl is 'k4'; it must be 'k1', 'k2' or 'k3'"),
        ({"kl": "k1", "kl_weight": -1}, "kl_weight is -1; it must be >= 0"),
        ({"kl_weight": 0.1}, "kl_weight is 0.1 while kl is null; set kl or drop it"),
    ],
)
def test_a_wrong_loss_setting_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LossConfig(**changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("grop", {}, "credit: unknown preset 'grop'; did you mean 'grpo'?"),
        ("x", {}, "credit: unknown preset 'x'; it must be 'finestep', "),
        ("grpo", {"smothing": 1}, "credit: unknown key 'smothing'; did you mean 'smoothing'?"),
        ("grpo", {"smoothing": 2}, "smoothing is 2; it must be > 0 and <= 1"),
    ],
)
def test_a_wrong_preset_or_change_is_refused(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        CreditConfig.preset(name, **changes)


@pytest.mark.parametrize(("max_steps", "limit"), [(6, 0.183), (10, 0.117)])
def test_right_late_must_beat_wrong_but_tidy(max_steps: int, limit: float) -> None:
    check_reward_balance(CreditConfig(process_weight=limit - 0.001), max_steps)
    heavy = CreditConfig(process_weight=limit + 0.001)
    with pytest.raises(InputError, match=f"process_weight is .*: over {max_steps} steps process"):
        check_reward_balance(heavy, max_steps)
    allowed = CreditConfig(process_weight=limit + 0.001, allow_reward_imbalance=True)
    check_reward_balance(allowed, max_steps)


def test_the_refusal_names_both_numbers() -> None:
    # 0.2 (1 - 0.9^6) / (1 - 0.9) = 0.9371 against 0.97^5 = 0.8587
    with pytest.raises(InputError, match=r"add up to 0\.9371, which must stay below 0\.8587"):
        check_reward_balance(CreditConfig(process_weight=0.2), 6)


def test_without_discount_the_process_sum_is_the_number_of_steps() -> None:
    grpo = CreditConfig.preset("grpo_process")
    check_reward_balance(grpo, 9)
    with pytest.raises(InputError, match=r"over 11 steps .* add up to 1\.1, .* below 1,"):
        check_reward_balance(grpo, 11)


def test_the_best_process_sum_counts_where_the_baseline_is_low() -> None:
    # max(b, 1 - b) = 0.7 either way
    for baseline in (0.3, 0.7):
        credit = CreditConfig(process_baseline=baseline, process_weight=0.27)
        with pytest.raises(InputError, match=r"add up to 0\.8856"):
            check_reward_balance(credit, 6)


def test_decoupled_channels_limit_the_process_weight_to_half_the_outcomes() -> None:
    check_reward_balance(CreditConfig.preset("finestep_decoupled", process_weight=0.5), 6)
    with pytest.raises(InputError, match=r"process_weight is 0\.6; .* outcome_weight / 2 = 0\.5"):
        check_reward_balance(CreditConfig.preset("finestep_decoupled", process_weight=0.6), 6)


def test_a_baseline_below_1_is_logged_with_the_price_of_stalling(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="finestep_fast"):
        check_reward_balance(CreditConfig(process_baseline=0.9), 6)
    # 0.1 (1 - 0.9) = 0.01 earned against (1 - 0.97) V = 0.03 V lost
    assert "every extra sound step earns 0.01 and its price is 0.03 times" in caplog.text
    assert "while that chance is below 0.3333" in caplog.text


def test_a_baseline_below_1_without_discount_is_said_to_make_stalling_free(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_reward_balance(CreditConfig.preset("grpo_process"), 6)
    assert "at no price: stalling always pays" in caplog.text


@pytest.mark.parametrize("name", ["finestep", "finestep_index", "finestep_decoupled", "grpo"])
def test_presets_without_process_gain_are_balanced_and_quiet(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_reward_balance(CreditConfig.preset(name), 6)
    assert not caplog.text


@pytest.mark.parametrize("max_steps", [0, 2.5, True])
def test_the_number_of_steps_must_be_one(max_steps: Any) -> None:
    with pytest.raises(InputError, match=r"max_steps is .*; it must be an integer >= 1"):
        check_reward_balance(CreditConfig(), max_steps)
