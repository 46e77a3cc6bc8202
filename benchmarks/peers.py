"""Other trainers' own code, from the installed packages: TRL's loss, verl's loss and estimators.

Called with settings under which they compute what ours computes. Each function returns a callable,
or the reason (a text) why the peer is not here.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finestep_fast import LossConfig

DenseLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""[R, L] logp, logp_old, advantage, int64 mask -> loss []."""
Estimator = Callable[[Tensor, Tensor, Any], Tensor]
"""[R, L] rewards, [R, L] int64 mask, [R] names of groups -> [R, L] advantages."""

_NO_CLIP = 1e30


def trl_loss(loss: LossConfig, device: torch.device) -> DenseLoss | str:
    """Return TRL's `GRPOTrainer._compute_loss` with `loss_type="bnpo"`, a mean over tokens.

    The trainer is a real one with a model of a few weights; only the model's forward pass is
    replaced, by given log-probabilities and entropies 0. It measures its metrics, as ever. The
    token ids are empty, so putting them together costs nothing.
    """
    if importlib.util.find_spec("trl") is None:
        return "not installed: pip install -e '.[bench]'"
    trainer = _trl_trainer(loss, device.type)

    def call(logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        trainer.given = (logp, logp_old.new_zeros(()).expand_as(logp_old), None)
        ones = mask.new_ones(1, mask.shape[1])
        inputs = {
            "prompt_ids": ones[:0, :1],
            "prompt_mask": ones[:, :1],
            "completion_ids": ones[:0],
            "completion_mask": ones,
            "tool_mask": mask,
            "advantages": advantage,
            "old_per_token_logps": logp_old,
        }
        value: Tensor = trainer._compute_loss(trainer.model, inputs)
        return value

    return call


def verl_loss(loss: LossConfig) -> DenseLoss | str:
    """Return verl's `compute_policy_loss_vanilla`, its dual clip out of reach."""
    algorithms = _verl_algorithms()
    if isinstance(algorithms, str):
        return algorithms
    from verl.workers.config import ActorConfig

    config = ActorConfig(
        strategy="fsdp",
        rollout_n=8,
        use_dynamic_bsz=True,
        clip_ratio_low=loss.clip_low,
        clip_ratio_high=loss.clip_high,
        clip_ratio_c=loss.dual_clip or _NO_CLIP,
    )

    def call(logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        value: Tensor
        value, _ = algorithms.compute_policy_loss_vanilla(
            logp_old, logp, advantage, mask, loss_agg_mode="token-mean", config=config
        )
        return value

    return call


def verl_grpo(*, vectorized: bool) -> Estimator | str:
    """Return verl's GRPO estimator: the one that loops over rows, or the vectorized one."""
    algorithms = _verl_algorithms()
    if isinstance(algorithms, str):
        return algorithms
    name = f"compute_grpo_{'vectorized_' if vectorized else ''}outcome_advantage"
    estimator = getattr(algorithms, name)

    def call(reward: Tensor, mask: Tensor, group_name: Any) -> Tensor:
        advantage: Tensor
        advantage, _ = estimator(reward, mask, group_name)
        return advantage

    return call


def group_names(group_of_rollout: Tensor) -> Any:
    """Return [R] objects as verl gets them: texts in an array of numpy."""
    return np.array([f"question {group}" for group in group_of_rollout.tolist()], dtype=object)


def with_version(name: str) -> str:
    """Return `TRL 1.16.0` for `TRL`."""
    return f"{name} {version(name.lower())}"


def versions() -> dict[str, str]:
    """Return the version of each peer that is installed."""
    names = ("liger_kernel", "trl", "verl")
    return {name: version(name) for name in names if importlib.util.find_spec(name)}


@cache
def _trl_trainer(loss: LossConfig, device_type: str) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
        from trl import GRPOConfig, GRPOTrainer

        class GivenLogps(GRPOTrainer):  # type: ignore[misc]
            given: Any

            def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> Any:
                return self.given

        words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
        sizes = ("hidden_size", "intermediate_size", "head_dim")
        counts = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        tiny: dict[str, Any] = {**dict.fromkeys(sizes, 8), **dict.fromkeys(counts, 1)}
        with tempfile.TemporaryDirectory() as folder:
            trainer = GivenLogps(
                model=Qwen3ForCausalLM(Qwen3Config(vocab_size=2, **tiny)),
                reward_funcs=lambda completions, **_: [0.0] * len(completions),
                args=GRPOConfig(
                    output_dir=folder,
                    use_cpu=device_type == "cpu",
                    bf16=False,
                    report_to=[],
                    beta=0.0,
                    loss_type="bnpo",
                    epsilon=loss.clip_low,
                    epsilon_high=loss.clip_high,
                ),
                train_dataset=Dataset.from_list([{"prompt": "a"}]),
                processing_class=PreTrainedTokenizerFast(
                    tokenizer_object=words, pad_token="a", eos_token="b"
                ),
            )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _verl_algorithms() -> Any:
    """Return the module of verl, or why it is not there."""
    if importlib.util.find_spec("verl") is None:
        return "not installed: pip install -e '.[bench]' && pip install --no-deps verl==0.9.1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from verl.trainer.ppo import core_algos
        except ImportError as error:
            return f"cannot be imported: {error}"
    return core_algos
