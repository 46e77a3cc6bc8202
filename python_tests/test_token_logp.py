"""Logp and entropy under a linear head: by hand, gradcheck, parity, laws, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from finestep_fast import InputError, StepBatch, token_logp
from support.batches import SHAPES, Rollout, packed, padded, rollout_lists
from support.entry_points import poisoned
from support.heads import NAN, converted, head_inputs, outside, temperatures
from support.impls import ROW_IMPLS
from support.largest import Largest
from support.tolerance import assert_as_exact_overall

FAST = ROW_IMPLS
IMPLS = ["reference", *FAST]
RAGGED = SHAPES["odd sizes, groups interleaved"]
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("impl", IMPLS)
def test_logp_and_entropy_by_hand(impl: str) -> None:
    # With the unit matrix for a head, hidden states are logits: p = 1/8, 2/8, 5/8.
    hidden = torch.tensor([[0.0, math.log(2), math.log(5)]] * 3, dtype=torch.float64)
    target = torch.tensor([0, 1, 2])
    out = token_logp(hidden, torch.eye(3, dtype=torch.float64), target, impl=impl)
    share = [1 / 8, 2 / 8, 5 / 8]
    entropy = -sum(p * math.log(p) for p in share)
    assert out.logp.tolist() == pytest.approx([math.log(p) for p in share])
    assert out.entropy.tolist() == pytest.approx([entropy] * 3)


@pytest.mark.parametrize("impl", IMPLS)
def test_temperature_divides_the_logits_and_bias_is_one_of_them(impl: str) -> None:
    bias = torch.tensor([0.0, math.log(2), math.log(5)], dtype=torch.float64)
    hidden, weight = torch.zeros(2, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64)
    target, each = torch.tensor([1, 2]), torch.tensor([0.5, 1.0], dtype=torch.float64)
    out = token_logp(hidden, weight, target, bias=bias, temperature=each, impl=impl)
    assert out.logp.tolist() == pytest.approx([math.log(4 / 30), math.log(5 / 8)])
    cold = token_logp(hidden, weight, target, bias=bias, temperature=0.5, impl=impl)
    assert cold.logp.tolist() == pytest.approx([math.log(4 / 30), math.log(25 / 30)])


@pytest.mark.parametrize("impl", IMPLS)
def test_gradients_of_logp_and_entropy_by_hand(impl: str) -> None:
    # d logp / dz = onehot - p; d entropy / dz = -p (log p + entropy)
    hidden = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64, requires_grad=True)
    out = token_logp(hidden, torch.eye(2).double(), torch.tensor([0]), impl=impl)
    (of_logp,) = torch.autograd.grad(out.logp.sum(), hidden, retain_graph=True)
    assert of_logp.tolist()[0] == pytest.approx([3 / 4, -3 / 4])
    (of_entropy,) = torch.autograd.grad(out.entropy.sum(), hidden)
    slope = 3 / 16 * math.log(3)
    assert of_entropy.tolist()[0] == pytest.approx([slope, -slope])


@pytest.mark.parametrize("each", [False, True], ids=["one temperature", "one per token"])
@pytest.mark.parametrize("rows", [1, 5, 99])
@pytest.mark.parametrize("impl", IMPLS)
def test_gradcheck(impl: str, rows: int, each: bool) -> None:
    batch = packed(SHAPES["a group of one beside a group of two"])
    given = head_inputs(batch, vocabulary=7, size=3)
    target, tokens = given.pop("target"), batch.policy_token
    hidden = given.pop("hidden")[tokens]
    temperature: Any = temperatures(batch)[tokens] if each else 0.7

    def both(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight, bias = tensors
        return token_logp(
            hidden,
            weight,
            target[tokens],
            bias=bias,
            temperature=temperature,
            impl=impl,
            chunk_bytes=rows * 7 * 8,
        )

    leaves = tuple(value.requires_grad_() for value in (hidden, *given.values()))
    assert torch.autograd.gradcheck(both, leaves)


def evaluated(
    given: dict[str, Any], batch: StepBatch | None, impl: str, **settings: Any
) -> list[Tensor]:
    """Return logp, entropy and the gradients of hidden, weight and bias of a mixture of both."""
    leaves: dict[str, Any] = {
        name: given[name].clone().requires_grad_()
        for name in ("hidden", "weight", "bias")
        if name in given
    }
    with poisoned():
        out = token_logp(**{**given, **leaves}, batch=batch, impl=impl, **settings)
        generator = torch.Generator().manual_seed(9)
        mixture = torch.randn((2, *out.logp.shape), generator=generator).to(out.logp)
        ((mixture[0] * out.logp).sum() + (mixture[1] * out.entropy).sum()).backward()
    gradients = [leaf.grad for leaf in leaves.values()]
    assert all(gradient is not None for gradient in gradients)
    return [out.logp.detach(), out.entropy.detach(), *gradients]


@pytest.mark.parametrize("vocabulary", [1, 2, 37, 521, 1031])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("impl", FAST)
def test_values_and_gradients_are_as_exact_as_the_references(
    impl: str, dtype: torch.dtype, vocabulary: int
) -> None:
    batch = packed(RAGGED)
    given = converted(head_inputs(batch, vocabulary=vocabulary), dtype)
    settings = {"temperature": 0.7 if vocabulary % 2 else temperatures(batch)}
    truth = evaluated(converted(given, torch.float64), batch, "reference", **settings)
    reference = evaluated(given, batch, "reference", **settings)
    candidate = evaluated(given, batch, impl, **settings)
    for one, two, true in zip(candidate, reference, truth, strict=True):
        assert_as_exact_overall(one, two, true)


@pytest.mark.parametrize("impl", FAST)
def test_chunks_of_any_size_give_the_same_bits_from_the_same_logits(impl: str) -> None:
    """A product of matrices may round otherwise for another number of rows: here it is exact."""
    batch = packed(SHAPES["one more than a block of 64"])
    given = converted(head_inputs(batch, vocabulary=131, whole=True), torch.float32)
    truth = evaluated(converted(given, torch.float64), batch, "reference")
    reference, whole = evaluated(given, batch, "reference"), evaluated(given, batch, impl)
    for rows in (1, 7, 64):
        parts = evaluated(given, batch, impl, chunk_bytes=rows * 131 * 4)
        assert parts[0].equal(whole[0])
        assert parts[1].equal(whole[1])
        # Products with gradients are not exact.
        for part, one, true in zip(parts[2:], reference[2:], truth[2:], strict=True):
            assert_as_exact_overall(part, one, true)


@given(
    rollouts=rollout_lists(),
    scale=st.sampled_from([0.0, 1.0, 30.0, 3000.0]),
    vocabulary=st.sampled_from([1, 2, 3, 31, 257]),
    dtype=st.sampled_from(FLOATS[:3]),
)
@pytest.mark.parametrize("impl", FAST)
def test_logp_is_never_above_0_and_entropy_within_its_bounds(
    impl: str, rollouts: list[Rollout], scale: float, vocabulary: int, dtype: torch.dtype
) -> None:
    batch = packed(rollouts)
    given = converted(head_inputs(batch, vocabulary=vocabulary), dtype)
    given["weight"] = given["weight"] * scale
    out = token_logp(**given, batch=batch, impl=impl)
    assert out.logp.le(0).all()
    assert out.entropy.ge(0).all()
    assert out.entropy.le(math.log(vocabulary) * (1 + 1e-6) + 1e-6).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_tokens_outside_steps_are_0_and_never_read(impl: str) -> None:
    batch = packed(RAGGED)
    given = head_inputs(batch)
    values = evaluated(given, batch, impl, temperature=temperatures(batch))
    observed = outside(batch)
    assert values[0][observed].eq(0).all()
    assert values[1][observed].eq(0).all()
    assert values[2][observed].eq(0).all()
    assert all(value.isfinite().all() for value in values)


@pytest.mark.parametrize("impl", FAST)
def test_a_padded_layout_and_a_slice_of_one_give_what_the_flat_one_gives(impl: str) -> None:
    batch = padded(RAGGED, extra=2)
    given = head_inputs(batch)
    flat = evaluated(given, batch, impl)
    rows = batch.num_rollouts
    square = {**given, "hidden": given["hidden"].view(rows, -1, 8)}
    square["target"] = given["target"].view(rows, -1)
    wider = {**square, "hidden": torch.cat([square["hidden"], square["hidden"]], 1)}
    length = square["hidden"].shape[1]
    for tensors in (square, {**wider, "hidden": wider["hidden"][:, :length]}):
        result = evaluated(tensors, batch, impl)
        for one, two in zip(result, flat, strict=True):
            assert one.reshape(two.shape).equal(two)
        assert result[2].shape == (rows, length, 8)


@pytest.mark.parametrize("impl", FAST)
def test_no_tensor_of_all_logits_is_made(impl: str) -> None:
    batch = packed((Rollout(step_length=(200, 100)),))
    given = head_inputs(batch, vocabulary=331, size=3)
    with Largest() as seen:
        evaluated(given, batch, impl, chunk_bytes=20 * 331 * 8)
    assert 20 * 331 <= seen.numel <= 25 * 331
    with Largest() as seen:
        evaluated(given, batch, "reference")
    assert seen.numel >= 300 * 331


@pytest.mark.parametrize("impl", FAST)
def test_without_a_batch_all_tokens_are_read(impl: str) -> None:
    batch = packed(RAGGED)
    given = head_inputs(batch)
    tokens = batch.policy_token
    alone = {**given, "hidden": given["hidden"][tokens], "target": given["target"][tokens]}
    for one, two in zip(
        evaluated(alone, None, impl), evaluated(alone, None, "reference"), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", FAST)
def test_autocast_multiplies_in_16_bits_and_gives_gradients_of_32(impl: str) -> None:
    batch = packed(RAGGED)
    given = converted(head_inputs(batch), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        cast = evaluated(given, batch, impl)
        plain = evaluated(given, batch, "reference")
    for one, two in zip(cast, plain, strict=True):
        assert one.dtype == two.dtype == torch.float32
        torch.testing.assert_close(one, two, rtol=2e-2, atol=2e-2 * float(two.abs().max()))
    half = converted(given, torch.bfloat16)
    assert cast[0].equal(token_logp(**half, batch=batch, impl=impl).logp)


@pytest.mark.parametrize("impl", FAST)
def test_a_logit_of_minus_infinity_is_a_token_that_cannot_be_drawn(impl: str) -> None:
    batch = packed(RAGGED)
    given = head_inputs(batch)
    given["target"] = given["target"].where(given["target"] != 5, 6)
    without = {**given, "target": given["target"] - (given["target"] > 5).long()}
    for name in ("weight", "bias"):
        without[name] = torch.cat([given[name][:5], given[name][6:]])
    given["bias"][5] = -math.inf
    results = [evaluated(given, batch, impl), evaluated(without, batch, "reference")]
    results[0][3] = torch.cat([results[0][3][:5], results[0][3][6:]])
    results[0][4] = torch.cat([results[0][4][:5], results[0][4][6:]])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_nan_inside_a_step_is_not_hidden(impl: str) -> None:
    batch = packed(RAGGED)
    given = head_inputs(batch)
    place = int(batch.policy_token[3])
    given["hidden"][place, 0] = NAN
    out = token_logp(**given, batch=batch, impl=impl)
    assert out.logp[place].isnan()
    assert out.entropy[place].isnan()
    assert out.logp.isnan().sum() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.zeros(5)}, r"hidden has shape \(5,\); expected \[T, D\] or \[R, L, D\]"),
        ({"weight": torch.zeros(3, 5)}, r"weight has shape \(3, 5\); expected \[V, 4\]"),
        ({"weight": torch.zeros(3, 4).double()}, "weight is torch.float64; expected torch.float32"),
        ({"weight": torch.zeros(3, 4).long()}, "weight is torch.int64; expected floating point"),
        ({"weight": torch.zeros(3, 4, device="meta")}, "weight is on meta; expected cpu"),
        ({"bias": torch.zeros(4)}, r"bias has shape \(4,\); expected \(3,\), V of weight"),
        ({"target": torch.tensor([0, 3])}, "target holds 3; expected 0 .. 2"),
        ({"target": torch.tensor([-100, 1])}, "target holds -100; expected 0 .. 2"),
        ({"target": torch.zeros(2)}, "target is torch.float32; expected int64"),
        ({"target": torch.zeros(3).long()}, r"target has shape \(3,\); expected \(2,\)"),
        ({"temperature": 0.0}, r"temperature is 0; it must be > 0"),
        ({"temperature": torch.zeros(2)}, r"temperature holds 0.0; it must be finite and above 0"),
        ({"temperature": torch.ones(3)}, r"temperature has shape \(3,\); expected \(2,\)"),
        ({"batch": packed(RAGGED)}, r"target has shape \(2,\); expected \d+ tokens"),
        ({"batch": 3}, "batch is a int; it must be a StepBatch"),
        ({"impl": "fastest"}, "impl is 'fastest'; it must be one of 'auto', 'reference', 'cpp'"),
    ],
)
def test_the_entry_point_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "hidden": torch.zeros(2, 4),
        "weight": torch.zeros(3, 4),
        "target": torch.zeros(2).long(),
    }
    with pytest.raises(InputError, match=message):
        token_logp(**{**given, **changes})


# The compiler itself reads `.grad` of what flows from one graph to the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_model_compiles_around_it() -> None:
    torch._dynamo.reset()
    batch = packed(RAGGED)
    given = converted(head_inputs(batch), torch.float32)
    given["hidden"] = given["hidden"].nan_to_num()
    body = torch.nn.Linear(8, 8)

    def model(states: Tensor) -> Tensor:
        rest = {name: value for name, value in given.items() if name != "hidden"}
        out = token_logp(body(states).tanh(), batch=batch, **rest)
        return (out.logp + 0.1 * out.entropy).exp().sum()

    compiled: Callable[[Tensor], Tensor] = torch.compile(model, backend="aot_eager")
    results = []
    for call in (model, compiled):
        value = call(given["hidden"])
        (gradient,) = torch.autograd.grad(value, body.weight)
        results.append((value, gradient))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)
