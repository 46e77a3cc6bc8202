"""The learner: one gradient however it is cut into passes, and nothing learnt from nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen3ForCausalLM

from finestep_fast import InputError, LossConfig
from finestep_fast.train.rollout.record import Rollout
from support.programs import printed
from support.rollouts import learner_of, learning_from, learnt, sampled, with_advantages
from support.tiny import LIMITS, Tiny


@pytest.fixture(scope="module")
def rollouts(tiny: Tiny) -> list[Rollout]:
    made = sampled(tiny, tiny.data.train[:4], 4)
    advantages = [rollout.step_advantage for rollout in made if rollout.step_advantage is not None]
    assert len(advantages) == 16
    assert torch.cat(advantages).abs().max() > 0.1
    return made


def change(before: nn.Module, after: nn.Module) -> dict[str, torch.Tensor]:
    """Return what a plain step took off every parameter: the gradient times the learning rate."""
    new = dict(after.named_parameters())
    return {name: (old - new[name]).detach() for name, old in before.named_parameters()}


def stepped(
    tiny: Tiny, rollouts: list[Rollout], **settings: object
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    model = tiny.trainable()
    measured = learner_of(model, **settings).learn(rollouts, seed=0)  # type: ignore[arg-type]
    return change(tiny.model, model), measured


def assert_same(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> None:
    scale = max(float(value.abs().max()) for value in one.values())
    assert scale > 1e-7
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=2e-5 * scale + 1e-8, msg=name)


AGGREGATIONS = ("token_mean", "rollout_mean", "step_mean", "constant")


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_gradient_does_not_depend_on_the_size_of_the_micro_batches(
    tiny: Tiny, rollouts: list[Rollout], aggregation: str
) -> None:
    loss = LossConfig(
        aggregation=aggregation,  # type: ignore[arg-type]
        constant_tokens=50 if aggregation == "constant" else None,
    )
    tiny_passes, measured = stepped(
        tiny, rollouts, loss=loss, micro_batch_tokens=1, learning_rate=1.0
    )
    one_pass, whole = stepped(
        tiny, rollouts, loss=loss, micro_batch_tokens=10**6, learning_rate=1.0
    )
    assert_same(one_pass, tiny_passes)
    assert measured.keys() == whole.keys()
    for key in measured.keys() - {"effective_sample_size"}:  # that one is a mean over passes
        assert measured[key] == pytest.approx(whole[key], rel=1e-3, abs=1e-5), key


def test_the_gradient_is_that_of_a_loop_over_tokens(tiny: Tiny, rollouts: list[Rollout]) -> None:
    """At a ratio of 1 the gradient of the surrogate is -sum_t A_t grad logp_t / T."""
    taken, _ = stepped(tiny, rollouts, learning_rate=1.0, micro_batch_tokens=10**6)
    model = tiny.trainable()
    total = sum(rollout.transcript.num_policy_tokens for rollout in learnt(rollouts))
    for rollout in learnt(rollouts):
        item, advantage = rollout.transcript, rollout.step_advantage
        assert advantage is not None
        logp = model(input_ids=torch.tensor([item.token_ids])).logits[0].log_softmax(-1)
        loss = torch.zeros(())
        for (start, end), value in zip(item.step_spans, advantage, strict=True):
            for place in range(start, end):
                loss = loss - value * logp[place - 1, item.token_ids[place]] / total
        loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == taken.keys()
    assert_same(grads, taken)


def test_advantages_of_zero_give_a_gradient_of_zero(tiny: Tiny, rollouts: list[Rollout]) -> None:
    flat = with_advantages(rollouts, torch.zeros_like)
    taken, measured = stepped(tiny, flat, learning_rate=1.0)
    assert all((value == 0).all() for value in taken.values())
    assert measured["loss"] == 0.0
    assert measured["grad_norm"] == 0.0


def test_the_first_step_is_on_policy(tiny: Tiny, rollouts: list[Rollout]) -> None:
    _, measured = stepped(tiny, rollouts)
    assert measured["clip_fraction_low"] == 0.0
    assert measured["clip_fraction_high"] == 0.0
    assert measured["approx_kl"] == pytest.approx(0, abs=1e-8)
    assert measured["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert measured["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert measured["effective_sample_size"] == pytest.approx(1, abs=1e-5)


def test_the_temperature_of_learning_is_that_of_sampling(tiny: Tiny) -> None:
    limits = dataclasses.replace(LIMITS, temperature=0.6)
    cool = sampled(tiny, tiny.data.train[:2], 2, limits=limits)
    _, measured = stepped(tiny, cool, temperature=0.6)
    assert measured["ratio_max"] == pytest.approx(1, abs=1e-4)
    _, measured = stepped(tiny, cool, temperature=1.0)
    assert measured["approx_kl"] > 1e-3


def test_later_passes_are_off_policy(tiny: Tiny, rollouts: list[Rollout]) -> None:
    _, measured = stepped(tiny, rollouts, passes=4, minibatches=2, learning_rate=0.5)
    assert measured["approx_kl"] > 1e-5
    assert measured["ratio_max"] > 1.05


def test_a_step_makes_what_did_well_more_probable(tiny: Tiny, rollouts: list[Rollout]) -> None:
    model = tiny.trainable()
    learner_of(model, learning_rate=0.1).learn(rollouts, seed=0)
    gain = 0.0
    for rollout in learnt(rollouts):
        item, advantage = rollout.transcript, rollout.step_advantage
        assert advantage is not None
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([item.token_ids])).logits[0].log_softmax(-1)
        for (start, end), value in zip(item.step_spans, advantage.tolist(), strict=True):
            for place in range(start, end):
                new = float(logp[place - 1, item.token_ids[place]])
                gain += value * (new - item.token_logp[place])
    assert gain > 0


def test_minibatches_and_passes_are_so_many_optimiser_steps(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    learner = learner_of(tiny.trainable(), minibatches=3, passes=2)
    learner.learn(rollouts, seed=0)
    assert learner.scheduler.last_epoch == 6


def test_the_same_seed_gives_the_same_weights_and_another_order_others(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    changes = []
    for seed in (1, 1, 2):
        model = tiny.trainable()
        learner_of(model, minibatches=4, learning_rate=0.1).learn(rollouts, seed=seed)
        changes.append(change(tiny.model, model))
    assert all(torch.equal(changes[0][name], changes[1][name]) for name in changes[0])
    assert any(not torch.equal(changes[0][name], changes[2][name]) for name in changes[0])


def test_gradients_are_scaled_down_to_the_norm(tiny: Tiny, rollouts: list[Rollout]) -> None:
    model = tiny.trainable()
    learner = learner_of(model, learning_rate=1.0)
    optim = dataclasses.replace(learner.config.optim, max_grad_norm=1e-4)
    learner.config = dataclasses.replace(learner.config, optim=optim)
    measured = learner.learn(rollouts, seed=0)
    assert measured["grad_norm"] > 1e-4
    squares = sum(float((value**2).sum()) for value in change(tiny.model, model).values())
    assert math.sqrt(squares) == pytest.approx(1e-4, rel=1e-2)


def test_the_distance_to_the_reference_is_measured_and_pulls_back(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    flat = with_advantages(rollouts, torch.zeros_like)
    away = tiny.trainable()
    with torch.no_grad():
        for parameter in away.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    loss = LossConfig(kl="k3", kl_weight=1.0)
    learner = learner_of(away, reference_model=tiny.model, loss=loss, learning_rate=0.02)
    distances = [learner.learn(flat, seed=0)["reference_kl"] for _ in range(4)]
    assert distances[0] > 1e-4
    assert distances == sorted(distances, reverse=True)
    assert all(parameter.grad is None for parameter in tiny.model.parameters())

    at_home = learner_of(tiny.trainable(), reference_model=tiny.model, loss=loss)
    assert at_home.learn(flat, seed=0)["reference_kl"] == pytest.approx(0, abs=1e-9)


def test_the_compiled_loss_and_the_reference_take_the_same_steps(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    kinds = (LossConfig(), LossConfig(kind="cispo", ratio="step", aggregation="rollout_mean"))
    for loss in kinds:
        fast, measured = stepped(tiny, rollouts, loss=loss, passes=2)
        plain, expected = stepped(tiny, rollouts, loss=loss, passes=2, impl="reference")
        assert_same(plain, fast)
        assert measured == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_step_from_hidden_states_is_the_step_from_logits(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    kinds = (LossConfig(), LossConfig(ratio="rollout", kl="k3", kl_weight=0.1))
    for loss in kinds:
        reference = tiny.model if loss.kl else None
        both = [
            stepped(tiny, rollouts, loss=loss, passes=2, head=head, reference_model=reference)
            for head in ("linear", "logits")
        ]
        assert_same(both[1][0], both[0][0])
        assert both[0][1] == pytest.approx(both[1][1], rel=1e-4, abs=1e-6)


class Capped(Qwen3ForCausalLM):
    """A head that caps its logits, under a name that no list knows."""

    def forward(self, *args: Any, logits_to_keep: Any = 0, **kwargs: Any) -> Any:
        output = super().forward(*args, logits_to_keep=logits_to_keep, **kwargs)
        output.logits = 50 * (output.logits / 50).tanh()
        return output


def test_a_head_that_does_more_than_multiply_is_refused_unless_logits_are_asked_for(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    model = tiny.trainable()
    model.__class__ = Capped
    with pytest.raises(
        InputError, match=r"model: Capped does more to its logits .*update.head=logits"
    ):
        learner_of(model)
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(InputError, match=r"model: its head is a Sequential, not a linear layer"):
        learner_of(model)
    model.lm_head = model.lm_head[0]
    learner = learner_of(model, head="logits")
    assert learner.learn(rollouts, seed=0)["ratio_mean"] != 1
    plain = tiny.trainable()
    state = torch.random.get_rng_state()
    learner_of(plain)
    assert torch.random.get_rng_state().equal(state)
    assert plain.training == tiny.model.training


def test_no_logits_are_made_by_a_pass(tiny: Tiny, rollouts: list[Rollout]) -> None:
    model = tiny.trainable()
    shapes = []
    learner = learner_of(model, micro_batch_tokens=10**6)
    model.lm_head.register_forward_hook(lambda layer, given, logits: shapes.append(logits.shape))
    learner.learn(rollouts, seed=0)
    assert [shape[1] for shape in shapes] == [0]


@pytest.mark.slow
def test_a_step_from_hidden_states_never_takes_the_memory_of_all_logits() -> None:
    taken = {}
    for head in ("linear", "logits"):
        peak = printed("-m", "support.learning_peak", head)
        taken[head], all_logits = map(float, peak.split())
    assert taken["linear"] < all_logits / 2
    assert taken["logits"] > all_logits


def test_an_update_with_nothing_to_learn_from_changes_nothing(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    nothing = learning_from(rollouts, [])
    model = tiny.trainable()
    learner = learner_of(model)
    assert learner.learn(nothing, seed=0) == {}
    assert learner.scheduler.last_epoch == 0
    assert all((value == 0).all() for value in change(tiny.model, model).values())


def test_fewer_rollouts_than_minibatches_are_learnt_from(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    two = learning_from(rollouts, [0, 1])
    learner = learner_of(tiny.trainable(), minibatches=5)
    measured = learner.learn(two, seed=0)
    assert learner.scheduler.last_epoch == 2
    assert math.isfinite(measured["loss"])


def test_the_padding_of_a_pass_changes_no_log_probability(
    tiny: Tiny, rollouts: list[Rollout]
) -> None:
    """In one wide pass the shortest rollout is mostly padding; its ratio is 1 all the same."""
    lengths = [len(rollout.transcript.token_ids) for rollout in learnt(rollouts)]
    assert max(lengths) > 1.5 * min(lengths)
    _, measured = stepped(tiny, rollouts, micro_batch_tokens=10**6)
    assert measured["ratio_max"] == pytest.approx(1, abs=1e-4)
