"""The bound on the KL divergence of one update: it is kept, in the direction of the step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from finestep_fast.train.learn.trust_region import TrustRegion
from finestep_fast.train.rollout.record import Rollout
from support.rollouts import learner_of, learnt, sampled
from support.tiny import Tiny


@pytest.fixture(scope="module")
def rollouts(tiny: Tiny) -> list[Rollout]:
    return sampled(tiny, tiny.data.train[:4], 4)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def mean_kl(tiny: Tiny, model: nn.Module, rollouts: list[Rollout]) -> float:
    """Return the mean over written tokens of exp(d) - 1 - d, token by token."""
    terms = []
    for rollout in learnt(rollouts):
        ids = torch.tensor([rollout.transcript.token_ids])
        with torch.no_grad():
            logp = model(ids).logits[0].double().log_softmax(-1)
        for start, end in rollout.transcript.step_spans:
            for place in range(start, end):
                new = float(logp[place - 1, ids[0, place]])
                change = new - rollout.transcript.token_logp[place]
                terms.append(math.expm1(change) - change)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("micro_batch_tokens", [1, 10**6])
def test_a_step_beyond_the_bound_is_shortened_to_it(
    tiny: Tiny, rollouts: list[Rollout], micro_batch_tokens: int
) -> None:
    free, bound = tiny.trainable(), tiny.trainable()
    start = weights(free)
    settings = {"learning_rate": 0.5, "micro_batch_tokens": micro_batch_tokens}
    unbound = learner_of(free, **settings).learn(rollouts, seed=0)  # type: ignore[arg-type]
    kept = learner_of(bound, max_kl=1e-3, **settings).learn(rollouts, seed=0)  # type: ignore[arg-type]
    assert "update_kl" not in unbound
    assert mean_kl(tiny, free, rollouts) > 2e-3
    measured = mean_kl(tiny, bound, rollouts)
    assert 0.9e-3 < measured <= 1.001e-3
    assert kept["update_kl"] == pytest.approx(measured, rel=1e-3)
    assert 0 < kept["step_share"] < 1
    expected = start + kept["step_share"] * (weights(free) - start)
    torch.testing.assert_close(weights(bound), expected, rtol=0, atol=1e-6)


def test_a_step_within_the_bound_stays_as_it_is(tiny: Tiny, rollouts: list[Rollout]) -> None:
    free, bound = tiny.trainable(), tiny.trainable()
    learner_of(free).learn(rollouts, seed=0)
    kept = learner_of(bound, max_kl=10.0).learn(rollouts, seed=0)
    assert kept["step_share"] == 1
    assert weights(bound).equal(weights(free))


@pytest.mark.parametrize(
    "kl_of_move",
    [
        lambda x: x**2,
        lambda x: 1e6 * x**2,
        lambda x: x**4,
        lambda x: math.nan if x > 0.5 else x,
        lambda x: math.inf if x > 1e-3 else x,
        lambda x: 0.0 if x < 0.5 else 1.0,
    ],
    ids=["square", "steep", "fourth power", "NaN", "infinite", "a jump"],
)
def test_whatever_the_divergence_is_like_the_bound_is_kept(kl_of_move: object) -> None:
    assert callable(kl_of_move)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    region = TrustRegion.around(model, max_kl=0.01)
    nn.init.ones_(model.weight)
    kl, share = region.keep(lambda: kl_of_move(model.weight.item()))
    assert kl <= 0.01
    assert kl == kl_of_move(model.weight.item())
    assert model.weight.item() == pytest.approx(share)
