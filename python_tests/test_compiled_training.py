"""torch.compile(fullgraph=True) as a user writes it: a model and an op in one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import finestep_fast as ff
from support.profile import left_to_the_gate

R, L, D, V = 4, 24, 8, 13
MASK = torch.zeros(R, L, dtype=torch.bool)
MASK[:, 3:7] = MASK[:, 10:15] = MASK[1, 18:20] = True
GROUPS = torch.tensor([0, 0, 1, 1])
S = 9
NOISE = torch.Generator().manual_seed(0)
TARGET = torch.randint(V, (R, L), generator=NOISE)
OLD = -torch.rand(R, L, generator=NOISE) - 1.5
ADVANTAGE = torch.randn(S, generator=NOISE)
REWARD, OUTCOME = torch.rand(S, generator=NOISE), torch.tensor([1.0, 0.0, 0.0, 1.0])
# The first two rollouts share a state that the second visits twice; the others share none.
STATE = torch.tensor([0, 1, 0, 1, 1, 0, 1, 5, 6])
VALUE = torch.rand(S, generator=NOISE)


class Actor(nn.Module):
    """A small model with a head that a loss may take over."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.body = nn.Linear(D, D)
        self.head = nn.Linear(D, V)

    def forward(self) -> Tensor:
        states: Tensor = torch.tanh(self.body(self.embedding(TARGET)))
        return states

    def logits(self) -> Tensor:
        logits: Tensor = self.head(self())
        return logits

    def token_logp(self) -> Tensor:
        return self.logits().log_softmax(-1).gather(-1, TARGET[..., None])[..., 0]


Result = tuple[Tensor, dict[str, Tensor]]
Op = Callable[[Actor, ff.StepBatch], Result]


def policy_loss(actor: Actor, batch: ff.StepBatch) -> Result:
    return ff.policy_loss(actor.token_logp(), OLD, batch, ADVANTAGE)


def step_policy_loss(actor: Actor, batch: ff.StepBatch) -> Result:
    return ff.step_policy_loss(actor.token_logp(), OLD, batch, REWARD, OUTCOME, credit="grpo")


def step_policy_loss_by_state(actor: Actor, batch: ff.StepBatch) -> Result:
    given = (actor.token_logp(), OLD, batch, REWARD, OUTCOME)
    return ff.step_policy_loss(*given, step_state=STATE, credit="finestep_state")


def step_policy_loss_by_value(actor: Actor, batch: ff.StepBatch) -> Result:
    given = (actor.token_logp(), OLD, batch, REWARD, OUTCOME)
    return ff.step_policy_loss(*given, step_value=VALUE, credit="finestep_value")


def step_advantage(actor: Actor, batch: ff.StepBatch) -> Result:
    advantage = ff.step_advantage(batch, REWARD, OUTCOME)
    return ff.policy_loss(actor.token_logp(), OLD, batch, advantage)


def step_advantage_by_state_and_by_value(actor: Actor, batch: ff.StepBatch) -> Result:
    by_state = ff.step_advantage(batch, REWARD, OUTCOME, step_state=STATE, credit="finestep_state")
    by_value = ff.step_advantage(batch, REWARD, OUTCOME, step_value=VALUE, credit="finestep_value")
    return ff.policy_loss(actor.token_logp(), OLD, batch, by_state + 0.7 * by_value)


def reference_by_state_and_by_value(actor: Actor, batch: ff.StepBatch) -> Result:
    given = (actor.token_logp(), OLD, batch, REWARD, OUTCOME)
    by_state = ff.step_policy_loss(
        *given, step_state=STATE, credit="finestep_state", impl="reference"
    )
    by_value = ff.step_policy_loss(
        *given, step_value=VALUE, credit="finestep_value", impl="reference"
    )
    return by_state.loss + 0.7 * by_value.loss, by_state.metrics


def token_advantage(actor: Actor, batch: ff.StepBatch) -> Result:
    advantage = ff.token_advantage(batch, ADVANTAGE).view(R, L)
    return -(advantage * actor.token_logp()).sum(), {}


def logits_policy_loss(actor: Actor, batch: ff.StepBatch) -> Result:
    loss = ff.LossConfig(kl="k3", kl_weight=0.1)
    given: dict[str, Any] = {"loss": loss, "token_logp_ref": OLD, "entropy_weight": 0.1}
    return ff.logits_policy_loss(actor.logits(), TARGET, OLD, batch, ADVANTAGE, **given)


def linear_policy_loss(actor: Actor, batch: ff.StepBatch) -> Result:
    weight, bias = actor.head.weight, actor.head.bias
    given: dict[str, Any] = {
        "bias": bias,
        "entropy_weight": 0.1,
        "temperature": torch.full((R, L), 0.7),
    }
    return ff.linear_policy_loss(actor(), weight, TARGET, OLD, batch, ADVANTAGE, **given)


def linear_policy_loss_of_shared_ratios(actor: Actor, batch: ff.StepBatch) -> Result:
    given: dict[str, Any] = {"loss": ff.LossConfig(ratio="step"), "chunk_bytes": 128}
    return ff.linear_policy_loss(actor(), actor.head.weight, TARGET, OLD, batch, ADVANTAGE, **given)


def linear_policy_loss_by_torch(actor: Actor, batch: ff.StepBatch) -> Result:
    given: dict[str, Any] = {"loss": ff.LossConfig(ratio="step"), "impl": "torch"}
    return ff.linear_policy_loss(actor(), actor.head.weight, TARGET, OLD, batch, ADVANTAGE, **given)


def token_logp(actor: Actor, batch: ff.StepBatch) -> Result:
    logp, entropy = ff.token_logp(
        actor(), actor.head.weight, TARGET, batch=batch, bias=actor.head.bias
    )
    return logp.sum() + 0.3 * entropy.sum(), {}


def token_logp_of_every_token(actor: Actor, batch: ff.StepBatch) -> Result:
    return ff.token_logp(actor(), actor.head.weight, TARGET).logp.sum(), {}


def reference(actor: Actor, batch: ff.StepBatch) -> Result:
    given = (actor(), actor.head.weight, TARGET, OLD, batch, ADVANTAGE)
    return ff.linear_policy_loss(*given, impl="reference")


OPS: list[Any] = [
    policy_loss,
    step_policy_loss,
    step_policy_loss_by_state,
    step_policy_loss_by_value,
    step_advantage,
    step_advantage_by_state_and_by_value,
    token_advantage,
    logits_policy_loss,
    linear_policy_loss,
    pytest.param(linear_policy_loss_of_shared_ratios, marks=pytest.mark.slow),
    pytest.param(linear_policy_loss_by_torch, marks=pytest.mark.slow),
    token_logp,
    pytest.param(token_logp_of_every_token, marks=pytest.mark.slow),
    pytest.param(reference, marks=pytest.mark.slow),
    reference_by_state_and_by_value,
]


def seen(op: Op, *, backend: str | None, is_made_inside: bool) -> list[Tensor]:
    """Return loss, gradients and metrics of a training step: of eager torch without a backend."""
    torch.manual_seed(0)
    actor = Actor()
    outside = ff.StepBatch.from_mask(MASK, GROUPS)

    def step() -> Result:
        batch = ff.StepBatch.from_mask(MASK, GROUPS) if is_made_inside else outside
        loss, metrics = op(actor, batch)
        return 2 * loss, metrics

    if backend is not None:
        torch._dynamo.reset()
        step = torch.compile(step, fullgraph=True, backend=backend)
    loss, metrics = step()
    loss.backward()
    gradients = [parameter.grad for parameter in actor.parameters()]
    return [loss.detach(), *(grad for grad in gradients if grad is not None), *metrics.values()]


def assert_the_same_compiled(op: Op, *, backend: str, is_made_inside: bool) -> None:
    eager = seen(op, backend=None, is_made_inside=is_made_inside)
    compiled = seen(op, backend=backend, is_made_inside=is_made_inside)
    assert len(eager) == len(compiled) > 3
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("op", OPS)
def test_a_training_step_compiles_in_one_graph(op: Op) -> None:
    assert_the_same_compiled(op, backend="aot_eager", is_made_inside=False)


@pytest.mark.parametrize("op", [step_advantage, linear_policy_loss, logits_policy_loss])
def test_a_training_step_that_makes_its_batch_compiles_in_one_graph(op: Op) -> None:
    assert_the_same_compiled(op, backend="aot_eager", is_made_inside=True)


# Graphs are cut and traced as by aot_eager; what inductor adds is the same for all ops.
@left_to_the_gate
@pytest.mark.parametrize(
    ("op", "is_made_inside"), [(step_policy_loss, False), (linear_policy_loss, True)]
)
def test_a_training_step_compiles_in_one_graph_of_inductor(op: Op, is_made_inside: bool) -> None:
    with torch._inductor.utils.fresh_cache():
        assert_the_same_compiled(op, backend="inductor", is_made_inside=is_made_inside)


def test_a_module_that_holds_the_loss_compiles() -> None:
    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor = Actor()

        def forward(self, batch: ff.StepBatch) -> Tensor:
            return linear_policy_loss(self.actor, batch)[0]

    torch.manual_seed(0)
    torch._dynamo.reset()
    learner, batch = Learner(), ff.StepBatch.from_mask(MASK, GROUPS)
    expected = learner(batch)
    compiled = torch.compile(learner, fullgraph=True, backend="aot_eager")
    assert compiled(batch).item() == pytest.approx(expected.item(), rel=1e-6)


# The compiler itself reads `.grad` of what flows from one graph to the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_overwriting_logits_breaks_the_graph_and_works() -> None:
    def step(actor: Actor, batch: ff.StepBatch) -> Tensor:
        given = (2 * actor.logits(), TARGET, OLD, batch, ADVANTAGE)
        return ff.logits_policy_loss(*given, inplace=True).loss

    batch, gradients = ff.StepBatch.from_mask(MASK, GROUPS), []
    torch._dynamo.reset()
    for call in (step, torch.compile(step, backend="aot_eager")):
        torch.manual_seed(0)
        actor = Actor()
        call(actor, batch).backward()
        gradients.append(actor.head.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
