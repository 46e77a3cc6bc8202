"""A program for torchrun: the loss of a small actor, whole, under DDP and under fully_shard.

Started as `-m support.two_heads OUT`. Each process has its share of the rollouts; the losses call
the head inside the actor's forward, where its weight is whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from finestep_fast import InputError, LossConfig, StepBatch, linear_policy_loss, token_logp
from support.batches import SHAPES, packed, placed, policy_values

ROLLOUTS = SHAPES["odd sizes, groups interleaved"]
VOCABULARY, SIZE = 43, 8
LOSSES = {
    "token": LossConfig(),
    "step": LossConfig(ratio="step", aggregation="step_mean"),
}


class Actor(nn.Module):
    """An embedding, a layer, and a head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, SIZE)
        self.body = nn.Linear(SIZE, SIZE)
        self.head = nn.Linear(SIZE, VOCABULARY)
        self.head.weight = self.embedding.weight
        self.double()

    def forward(self, token: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        hidden = self.body(self.embedding(token)).tanh()
        given: dict[str, Any] = {"bias": self.head.bias, "entropy_weight": 0.1, **kwargs}
        return linear_policy_loss(hidden, self.head.weight, *args, **given).loss


def share(first: int, last: int) -> tuple[StepBatch, dict[str, Tensor]]:
    """Return some of the rollouts, and their tokens; all values are drawn for all rollouts."""
    whole, part = packed(ROLLOUTS), packed(ROLLOUTS[first:last])
    before = packed(ROLLOUTS[:first])
    values = policy_values(0, whole)
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, VOCABULARY, (whole.num_policy_tokens,), generator=generator)
    token = torch.randint(0, VOCABULARY, (whole.num_policy_tokens,), generator=generator)
    tokens = slice(before.num_policy_tokens, before.num_policy_tokens + part.num_policy_tokens)
    steps = slice(before.num_steps, before.num_steps + part.num_steps)
    return part, {
        "token": placed(part, token[tokens], fill=0),
        "target": placed(part, target[tokens], fill=-100),
        "token_logp_old": placed(part, values["token_logp_old"][tokens] - 3, fill=float("nan")),
        "step_advantage": values["step_advantage"][steps],
    }


def loss_of(actor: Callable[..., Tensor], first: int, last: int, loss: LossConfig) -> Tensor:
    """Return the part of the whole's loss that some rollouts make."""
    batch, given = share(first, last)
    whole = packed(ROLLOUTS)
    counts = {"num_policy_tokens": whole.num_policy_tokens, "num_steps": whole.num_steps}
    return actor(
        given["token"],
        given["target"],
        given["token_logp_old"],
        batch,
        given["step_advantage"],
        loss=loss,
        **counts,
    )


def gradients(actor: nn.Module) -> list[Tensor]:
    """Return whole gradients of all parameters."""
    grads: list[Any] = [parameter.grad for parameter in actor.parameters()]
    return [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads]


def main(out: str) -> None:
    """Write the gradients of every way for every loss."""
    dist.init_process_group("gloo")
    rank, half = dist.get_rank(), len(ROLLOUTS) // 2
    mine = (0, half) if rank == 0 else (half, len(ROLLOUTS))
    found: dict[str, Any] = {}
    for name, loss in LOSSES.items():
        actor = DistributedDataParallel(Actor())  # averages: the sum is wanted
        (2 * loss_of(actor, *mine, loss)).backward()
        found[f"ddp {name}"] = gradients(actor)
        sharded = Actor()
        fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
        (2 * loss_of(sharded, *mine, loss)).backward()
        found[f"fully_shard {name}"] = gradients(sharded)
    batch, given = share(*mine)
    hidden = torch.zeros(batch.num_tokens, SIZE).double()
    try:
        token_logp(hidden, sharded.head.weight, given["target"], batch=batch)
    except InputError as error:
        found["refusal"] = str(error)
    torch.save(found, Path(out) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
