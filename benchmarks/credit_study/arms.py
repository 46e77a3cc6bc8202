"""What is compared: each arm is a name and the settings in which it differs."""

from __future__ import annotations

_GOLD = ("credit.preset=finestep_value", "value=gold")
_HISTORY = ("credit.preset=finestep_value", "value=history", "credit.gae_lambda=0.7")

ARMS: dict[str, tuple[str, ...]] = {
    "grpo": ("credit.preset=grpo",),
    "grpo_no_std": ("credit.preset=grpo", "credit.std=none"),
    "grpo_process": ("credit.preset=grpo_process", "credit.process_baseline=1"),
    "matchtir": ("credit.preset=matchtir",),
    "finestep": ("credit.preset=finestep",),
    "finestep_index": ("credit.preset=finestep_index",),
    "finestep_decoupled": ("credit.preset=finestep_decoupled",),
    "finestep_state": ("credit.preset=finestep_state",),
    "value_history": _HISTORY,
    "value_gold": _GOLD,
    "value_history_wp0": (*_HISTORY, "credit.process_weight=0"),
    "value_gold_wp0": (*_GOLD, "credit.process_weight=0"),
    "value_gold_wp03": (*_GOLD, "credit.process_weight=0.3"),
    "finestep_wp0": ("credit.preset=finestep", "credit.process_weight=0"),
    "finestep_state_wp0": ("credit.preset=finestep_state", "credit.process_weight=0"),
    # What each part of a method is worth.
    "value_gold_lambda0": (*_GOLD, "credit.gae_lambda=0"),
    "value_gold_lambda03": (*_GOLD, "credit.gae_lambda=0.3"),
    "value_gold_lambda1": (*_GOLD, "credit.gae_lambda=1"),
    "value_gold_discount95": (*_GOLD, "credit.outcome_discount=0.95"),
    "value_gold_no_discount": (*_GOLD, "credit.outcome_discount=1"),
    "value_gold_no_trajectory": (*_GOLD, "credit.rollout_weight=0"),
    "value_gold_spread": (*_GOLD, "credit.std=sample"),
    "value_gold_no_memory": (*_GOLD, "value_memory=0"),
    "finestep_no_smoothing": ("credit.preset=finestep", "credit.smoothing=1"),
    "finestep_no_discount": (
        "credit.preset=finestep",
        "credit.process_discount=1",
        "credit.outcome_discount=1",
        "credit.process_weight=0.05",
    ),
    "finestep_no_floor": ("credit.preset=finestep", "credit.std_floor=0"),
    "state_only": (
        "credit.preset=finestep_state",
        "credit.step_weight=1",
        "credit.rollout_weight=0",
    ),
    "state_shrinkage0": ("credit.preset=finestep_state", "credit.state_shrinkage=0"),
    "state_shrinkage8": ("credit.preset=finestep_state", "credit.state_shrinkage=8"),
    # What GRPO can do about groups in which all outcomes are alike.
    "grpo_mixed_groups": ("credit.preset=grpo", "rollout.drop_uniform_groups=true"),
    "grpo_dynamic_sampling": (
        "credit.preset=grpo",
        "rollout.drop_uniform_groups=true",
        "rollout.max_extra_prompts=8",
    ),
}
"""Name -> words for the command line of the trainer."""

BASELINE = "grpo"
"""What the others are compared with, seed by seed."""

KL_BOUNDS = (0.0003, 0.001, 0.003)
"""The values of `update.max_kl` from which each arm's is chosen, in nats per token."""

REPORTED_SEEDS = range(8)
CHOOSING_SEEDS = range(100, 103)
"""Seeds that choose the bound; no table reports them."""

WORLDS = ("explore", "quickstart")
WARM_EX = {"explore": (0.2, 0.45)}
"""World -> what a warm policy's EX on dev must be for its seeds to count: some warm starts never
learn to copy what they see, and no credit can teach that. Nothing that comes after counts here."""
PROMPTS = (4, 16)
