"""Sampler and learner see one policy, for every family of models, or the run is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finestep_fast import CreditConfig, InputError
from finestep_fast.env.scoring import score_episodes
from finestep_fast.rewards import RewardConfig
from finestep_fast.train.learn.agreement import check_sampling
from finestep_fast.train.learn.head import linear_head
from finestep_fast.train.rollout.credit import credited
from finestep_fast.train.rollout.decoding import cache_argument
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.rollout.sampler import Sampler
from support.families import FAMILIES, family_model
from support.rollouts import learner_of, learnt, sampled, with_advantages
from support.tiny import ENV, LIMITS, Tiny

REFUSED = {
    "recurrent_gemma": "it cannot be trained here|cannot be sampled with a cache",
    "rwkv": "RwkvForCausalLM takes no cache by the name of past_key_values or cache_params",
}
"""Families that cannot be sampled as they learn, and what a refusal says."""

OTHER_HEADS = {"gemma2", "granite", "cohere", "opt"}
"""Families with logits that are more than a linear layer makes."""

FAMILIAR = "qwen3"


def played(model: PreTrainedModel, tiny: Tiny) -> list[Rollout]:
    """Return rollouts with prompts of different lengths and rows that end at different times."""
    env = dataclasses.replace(ENV, max_observation_chars=80, max_malformed=2)
    wordy = dataclasses.replace(env, schema_in_prompt="full", max_prompt_chars=250)
    episodes = tiny.episodes(tiny.data.train[:2], 2, env)
    episodes += tiny.episodes(tiny.data.train[2:3], 2, wordy)
    longest = max(len(tiny.chat.prompt_ids(item.messages())) for item in episodes)
    limits = dataclasses.replace(LIMITS, max_step_tokens=7, max_rollout_tokens=longest + 30)
    transcripts = Sampler(model, tiny.chat, limits).play(episodes, seed=3)
    scores = score_episodes(episodes, tiny.engine, RewardConfig())
    groups = [0, 0, 1, 1, 2, 2]
    assert len({len(item.step_spans) for item in transcripts}) > 1
    made = list(map(Rollout, transcripts, scores, groups))
    made = credited(made, CreditConfig(), drop_uniform_groups=False)
    # What such a model writes is malformed throughout, and rollouts that are alike teach nothing.
    return with_advantages(made, lambda advantage: torch.linspace(-1, 0.5, len(advantage)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_ratios_of_a_family_are_1_or_it_is_refused_before_a_run(
    family: str, tiny: Tiny
) -> None:
    model = family_model(family, len(tiny.tokenizer))
    if family in REFUSED:
        with pytest.raises(InputError, match=REFUSED[family]):
            check_sampling(model)
        return
    check_sampling(model)
    head = "logits" if family in OTHER_HEADS else "linear"
    if head == "linear":
        linear_head(model)
    else:
        with pytest.raises(InputError, match=r"update\.head=logits"):
            linear_head(model)
    rollouts = played(model, tiny)
    model.train()  # as a run leaves it after demonstrations: dropout is on
    learner = learner_of(model, head=head, on_policy=True)  # type: ignore[arg-type]
    measured = learner.learn(rollouts, seed=0)
    assert measured["ratio_max"] == pytest.approx(1, abs=1e-3)
    assert measured["ratio_mean"] == pytest.approx(1, abs=1e-4)
    assert measured["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert measured["grad_norm"] > 0


@pytest.fixture
def rollouts(tiny: Tiny) -> list[Rollout]:
    return sampled(tiny, tiny.data.train[:2], 2)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def refused(model: nn.Module, rollouts: list[Rollout], **settings: Any) -> str:
    """Return what the learner says; it must not have changed a weight."""
    before = weights(model)
    with pytest.raises(InputError) as caught:
        learner_of(model, on_policy=True, learning_rate=1.0, **settings).learn(rollouts, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return str(caught.value)


def test_a_policy_that_is_not_the_sampled_one_is_refused_before_the_first_step(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    other = tiny.trainable()
    with torch.no_grad():
        other.lm_head.weight.mul_(1.2)
    message = refused(other, rollouts)
    assert message.startswith("model: Qwen3ForCausalLM learns as another policy than it samples")
    assert "rounding in float32 explains a mean of 0.01. Nothing was learnt." in message
    assert "in this order: (1) its cache does not hold all" in message
    assert "update.head=logits" in message
    assert "update.head=logits" not in refused(other, rollouts, head="logits")


def test_one_rollout_out_of_many_is_enough_to_refuse(tiny: Tiny, rollouts: list[Rollout]) -> None:
    one = learnt(rollouts)[-1].transcript
    one.token_logp = [value - 0.05 if value else 0.0 for value in one.token_logp]
    assert "differ by 0.05 on average over a rollout" in refused(tiny.trainable(), rollouts)


def test_the_policy_is_compared_once_and_may_then_go_its_way(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    learner = learner_of(tiny.trainable(), on_policy=True, learning_rate=0.5, passes=2)
    learner.learn(rollouts, seed=0)
    assert learner.learn(rollouts, seed=1)["ratio_max"] > 1.05


def test_noise_of_the_model_comes_first_among_the_reasons(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    noisy = tiny.trainable()
    noisy.model.norm.register_forward_hook(
        lambda layer, given, hidden: hidden + 0.3 * torch.randn_like(hidden)
    )
    assert "(1) two passes of the learner differ" in refused(noisy, rollouts)


def test_a_value_that_is_not_a_number_is_refused(tiny: Tiny, rollouts: list[Rollout]) -> None:
    broken = tiny.trainable()
    broken.model.norm.register_forward_hook(lambda layer, given, hidden: hidden * float("nan"))
    assert "differ by inf on average" in refused(broken, rollouts)


def test_rounding_in_bfloat16_is_no_disagreement_unless_the_model_makes_it_large(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    learner = learner_of(tiny.trainable(), on_policy=True, dtype=torch.bfloat16)
    measured = learner.learn(rollouts, seed=0)
    assert 1e-3 < abs(measured["ratio_max"] - 1) < 0.3
    steep = tiny.trainable()
    with torch.no_grad():
        steep.lm_head.weight.sub_(steep.lm_head.weight.mean(1, keepdim=True))
    # What every hidden state has in common cancels in the logits, but takes bfloat16's few digits.
    steep.model.norm.register_forward_hook(lambda layer, given, hidden: hidden + 100)
    message = refused(steep, credited_anew(steep, tiny), dtype=torch.bfloat16)
    assert "(1) bfloat16 is too coarse for it (in float32 the two agree)" in message
    assert "set precision=float32" in message


def credited_anew(model: PreTrainedModel, tiny: Tiny) -> list[Rollout]:
    return sampled(dataclasses.replace(tiny, model=model), tiny.data.train[:2], 2)  # type: ignore[arg-type]


def test_positions_scaled_by_the_length_of_the_text_are_named(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    model = tiny.trainable()
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    with torch.no_grad():
        model.lm_head.weight.mul_(1.2)
    message = refused(model, rollouts)
    assert "(1) its positions are scaled by the length of the text (rope_type 'dynamic')" in message


@pytest.mark.parametrize(
    ("fault", "missing"),
    [
        ("forgets", "its cache does not hold all that it has read"),
        ("reads padding", "it reads the padding before shorter prompts as text"),
        ("keeps rows", "cannot be cut to the rollouts that go on"),
    ],
)
def test_what_a_cache_lacks_is_reported_before_a_run(fault: str, missing: str) -> None:
    model = family_model(FAMILIAR, 300)
    forward = model.forward
    held: dict[str, Tensor] = {}

    def faulty(
        input_ids: Any = None,
        attention_mask: Any = None,
        past_key_values: Any = None,
        **given: Any,
    ) -> Any:
        if past_key_values is not None and fault == "forgets" and input_ids.shape[1] == 1:
            attention_mask = attention_mask.clone()
            attention_mask[:, :-1] = 0
        if fault == "reads padding":
            attention_mask = torch.ones_like(attention_mask)
        if past_key_values is not None and fault == "keeps rows":
            # A state outside the cache: what was read first, whichever rows go on.
            state = held.setdefault("read", input_ids[:, -1]) if input_ids.shape[1] > 1 else None
            if state is None and held["read"].shape[0] != input_ids.shape[0]:
                attention_mask = attention_mask.clone()
                attention_mask[:, :-1] = 0
        return forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **given,
        )

    model.forward = faulty
    with pytest.raises(InputError, match=missing):
        check_sampling(model)


def test_a_model_without_a_mask_or_with_a_failing_cached_pass_is_refused_by_name() -> None:
    model = family_model(FAMILIAR, 300)
    forward = model.forward

    def maskless(input_ids: Any = None, past_key_values: Any = None, **given: Any) -> Any:
        return forward(input_ids=input_ids, past_key_values=past_key_values)

    model.forward = maskless
    with pytest.raises(InputError, match="model: Qwen3ForCausalLM takes no attention_mask"):
        cache_argument(model)

    def failing(attention_mask: Any = None, past_key_values: Any = None, **given: Any) -> Any:
        raise ValueError("no room for a cache")

    model.forward = failing
    with pytest.raises(InputError, match="cannot be sampled with a cache: no room for a cache"):
        check_sampling(model)
