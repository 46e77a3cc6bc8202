"""The entry points as tests call them: on the implementation's device, with results on the CPU.

The same tests then run for an implementation that needs a GPU. What an implementation leaves
unwritten is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import finestep_fast
from finestep_fast import StepBatch
from finestep_fast.config import as_credit
from finestep_fast.reference import LossOutput, TokenLogp
from support.batches import some_states, some_values


def device_of(impl: str) -> torch.device:
    on_gpu = impl == "triton" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def _moved(value: Any, impl: str) -> Any:
    if not isinstance(value, Tensor | StepBatch) or value.device.type == "meta":
        return value
    return value.to(device_of(impl))


@contextmanager
def poisoned() -> Iterator[None]:
    """Let fresh memory hold NaN, as torch's deterministic algorithms do."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _called(entry_point: Any, args: Any, kwargs: Any) -> Any:
    impl = kwargs["impl"]
    args = [_moved(arg, impl) for arg in args]
    kwargs = {name: _moved(value, impl) for name, value in kwargs.items()}
    with poisoned():
        return entry_point(*args, **kwargs)


def _on_cpu(out: LossOutput) -> LossOutput:
    return LossOutput(out.loss.cpu(), {name: value.cpu() for name, value in out.metrics.items()})


def _with_states(batch: StepBatch, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give a scope that needs states or values some, unless the test has its own."""
    scope = as_credit(kwargs.get("credit", "finestep")).scope
    if scope == "state" and "step_state" not in kwargs:
        return kwargs | {"step_state": some_states(batch)}
    if scope == "value" and "step_value" not in kwargs:
        return kwargs | {"step_value": some_values(batch)}
    return kwargs


def step_advantage(*args: Any, **kwargs: Any) -> Tensor:
    kwargs = _with_states(args[0], kwargs)
    advantage: Tensor = _called(finestep_fast.step_advantage, args, kwargs)
    return advantage.cpu()


def policy_loss(*args: Any, **kwargs: Any) -> LossOutput:
    return _on_cpu(_called(finestep_fast.policy_loss, args, kwargs))


def step_policy_loss(*args: Any, **kwargs: Any) -> LossOutput:
    kwargs = _with_states(args[2], kwargs)
    return _on_cpu(_called(finestep_fast.step_policy_loss, args, kwargs))


def logits_policy_loss(*args: Any, **kwargs: Any) -> LossOutput:
    return _on_cpu(_called(finestep_fast.logits_policy_loss, args, kwargs))


def linear_policy_loss(*args: Any, **kwargs: Any) -> LossOutput:
    return _on_cpu(_called(finestep_fast.linear_policy_loss, args, kwargs))


def token_logp(*args: Any, **kwargs: Any) -> TokenLogp:
    out: TokenLogp = _called(finestep_fast.token_logp, args, kwargs)
    return TokenLogp(out.logp.cpu(), out.entropy.cpu())
