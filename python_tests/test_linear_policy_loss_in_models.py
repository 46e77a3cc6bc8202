"""The loss from hidden states in models: tied, low-rank, autocast, float16, compiled, in pieces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from finestep_fast import (
    LossConfig,
    linear_policy_loss,
)
from support.batches import SHAPES, packed
from support.head_losses import evaluated, inputs
from support.heads import converted
from support.impls import ROW_IMPLS
from support.programs import TORCHRUN, printed
from support.two_heads import LOSSES, ROLLOUTS, Actor, gradients, loss_of

FAST = ROW_IMPLS
RAGGED = SHAPES["odd sizes, groups interleaved"]


@pytest.mark.parametrize("impl", FAST)
def test_tied_and_low_rank_heads_get_their_gradients(impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig()
    given = inputs(batch, loss)
    del given["hidden"], given["bias"]
    token = torch.zeros(batch.num_tokens, dtype=torch.long)
    token[batch.policy_token] = given["target"][batch.policy_token].roll(1)
    generator = torch.Generator().manual_seed(2)
    base = given.pop("weight").requires_grad_()
    left, right = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((37, 2), (2, 8))
    )
    grads = []
    for one in ("reference", impl):
        hidden = nn.functional.embedding(token, base).tanh()
        head = base + 0.1 * left @ right
        value = linear_policy_loss(hidden, head, batch=batch, **given, impl=one).loss
        grads.append(torch.autograd.grad(value, (base, left, right)))
    for two, three in zip(*grads, strict=True):
        assert two.abs().max() > 0
        torch.testing.assert_close(three, two, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("impl", FAST)
def test_autocast_gives_what_eager_autocast_gives(impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig()
    given = converted(inputs(batch, loss), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        fast, plain = (evaluated(given, batch, one, loss=loss) for one in (impl, "reference"))
    for name, value in fast.items():
        assert value.dtype == plain[name].dtype == torch.float32
        scale = float(plain[name].abs().max())
        torch.testing.assert_close(value, plain[name], rtol=0, atol=1e-2 * scale, msg=name)


@pytest.mark.parametrize("impl", FAST)
def test_float16_gradients_survive_a_mean_over_many_tokens(impl: str) -> None:
    """A gradient of 1e-8 is 0 in float16; a loss scale of 2^16 must find it all the same."""
    batch, loss = packed(RAGGED), LossConfig()
    given = converted(inputs(batch, loss), torch.float16)
    settings = {"num_policy_tokens": 10**7}
    found = evaluated(given, batch, impl, scale=2.0**16, **settings)
    exact = evaluated(converted(given, torch.float64), batch, impl, scale=2.0**16, **settings)
    for name in ("hidden", "weight", "bias"):
        one, two = found[f"gradient of {name}"].double(), exact[f"gradient of {name}"]
        assert (one - two).norm() < 2e-2 * two.norm()


# The compiler itself reads `.grad` of what flows from one graph to the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_model_compiles_around_it() -> None:
    torch._dynamo.reset()
    actor = Actor()
    compiled: Callable[..., Tensor] = torch.compile(actor, backend="aot_eager")
    found = []
    for call in (actor, compiled):
        actor.zero_grad()
        value = loss_of(call, 0, len(ROLLOUTS), LOSSES["token"])
        value.backward()
        found.append([value.detach(), *gradients(actor)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("heads")
    printed(*TORCHRUN, "-m", "support.two_heads", out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fully_shard"])
@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_have_the_gradient_of_one(in_two: Path, way: str, name: str) -> None:
    actor = Actor()
    loss_of(actor, 0, len(ROLLOUTS), LOSSES[name]).backward()
    for rank in (0, 1):
        theirs = torch.load(in_two / f"{rank}.pt")[f"{way} {name}"]
        for one, two in zip(theirs, gradients(actor), strict=True):
            assert two.abs().max() > 0
            torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-14)


@pytest.mark.slow
def test_a_head_in_pieces_is_refused(in_two: Path) -> None:
    refusal = torch.load(in_two / "0.pt")["refusal"]
    assert refusal.startswith(
        "weight is a DTensor, in pieces on several processes; expected a whole"
    )
