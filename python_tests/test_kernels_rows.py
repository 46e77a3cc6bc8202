"""The kernels on rows of logits: numbers, ends of rows, observed rows, what is launched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from finestep_fast import InputError, LossConfig, StepBatch
from finestep_fast.arguments import LogitRows
from finestep_fast.config.loss import KL, Aggregation, Kind, Ratio
from finestep_fast.kernels import rows as kernels
from finestep_fast.ops.head.implementations import ROWS
from support import entry_points
from support.batches import SHAPES, packed, padded
from support.covering import covering
from support.entry_points import device_of, poisoned
from support.head_losses import evaluated, logits_inputs, loss_of_row, narrow_and_exact
from support.heads import converted, head_inputs, outside, temperatures, token_values
from support.launches import launched
from support.tolerance import assert_as_exact, assert_as_exact_overall

DEVICE = device_of("triton")
SMALL = ("a rollout without steps among others", "steps without a gap between them")
LATER = [
    LossConfig(ratio="step", aggregation="step_mean"),
    LossConfig(ratio="rollout"),
    LossConfig(ratio="rollout_averaged"),
]
SENTINEL = 7.0


FACTORS: dict[str, Sequence[Any]] = {
    "shape": SMALL,
    "dtype": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "vocabulary": (1, 2, 37, 63, 1031, 9001),
    "layout": ("packed", "padded"),
    "kind": get_args(Kind),
    "dual_clip": (None, 1.1),
    "ratio": ("token", "step", "rollout"),  # to these kernels, one that is shared is as another
    "aggregation": get_args(Aggregation),
    "kl": (None, *get_args(KL)),
    "token_weight": (False, True),
    "temperature": (1.0, 0.7, "each"),
    "entropy_weight": (0.0, 0.1),
    "inplace": (False, True),
    "scale": (1.0, 0.37),
}


@pytest.mark.parametrize("row", covering(FACTORS), ids=lambda row: ",".join(map(str, row.values())))
def test_the_loss_of_logits_is_as_exact_as_the_references(row: dict[str, Any]) -> None:
    rollouts, dtype = SHAPES[row["shape"]], row["dtype"]
    batch = packed(rollouts) if row["layout"] == "packed" else padded(rollouts, extra=3)
    loss = loss_of_row(row)
    given = logits_inputs(batch, loss, vocabulary=row["vocabulary"])
    if not row["token_weight"]:
        del given["token_weight"]
    each = row["temperature"] == "each"
    settings: dict[str, Any] = {
        "loss": loss,
        "entropy_weight": row["entropy_weight"],
        "temperature": temperatures(batch) if each else row["temperature"],
        "scale": row["scale"],
    }
    narrow, exact = narrow_and_exact(given, dtype)
    truth, plain = (evaluated(one, batch, "reference", **settings) for one in (exact, narrow))
    found = evaluated(narrow, batch, "triton", inplace=row["inplace"], **settings)
    assert found.keys() == truth.keys()
    if row["entropy_weight"]:  # the loss is a small difference: it is held to the size of its parts
        settings["entropy_weight"] = 0.0
        bonus = evaluated(exact, batch, "reference", **settings)["loss"] - truth["loss"]
        for results in (found, plain, truth):
            results["loss"] = results["loss"] + bonus.to(results["loss"].dtype)
    for name, value in found.items():
        assert_as_exact(value, plain[name], truth[name])
    assert found["gradient of logits"][outside(batch)].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [LossConfig(kl="k3", kl_weight=0.1), *LATER], ids=str)
def test_the_loss_of_hidden_states_is_as_exact_as_the_references(
    loss: LossConfig, dtype: torch.dtype
) -> None:
    batch = packed(SHAPES[SMALL[0]])
    head = head_inputs(batch, vocabulary=131, whole=True)
    values = token_values(batch, head)
    if loss.kl is None:
        del values["token_logp_ref"]
    narrow = {
        **converted(head, dtype),
        **converted(values, torch.promote_types(dtype, torch.float32)),
    }
    exact = converted(narrow, torch.float64)
    settings: dict[str, Any] = {"loss": loss, "entropy_weight": 0.1, "scale": 0.37}
    truth, plain = (evaluated(one, batch, "reference", **settings) for one in (exact, narrow))
    chunk_bytes = 4 * 131 * dtype.itemsize
    found = evaluated(narrow, batch, "triton", chunk_bytes=chunk_bytes, **settings)
    for name, value in found.items():
        rule = assert_as_exact_overall if name.startswith("gradient") else assert_as_exact
        rule(value, plain[name], truth[name])


def test_logps_and_entropies_are_as_exact_as_the_references_and_so_are_their_gradients() -> None:
    batch = packed(SHAPES[SMALL[0]])
    narrow = converted(head_inputs(batch, vocabulary=131, whole=True), torch.float32)
    results = []
    for impl, given in (
        ("triton", narrow),
        ("reference", narrow),
        ("reference", converted(narrow, torch.float64)),
    ):
        leaf = given["hidden"].clone().requires_grad_()
        out = entry_points.token_logp(
            **{**given, "hidden": leaf}, batch=batch, temperature=0.7, impl=impl
        )
        (out.logp.sum() + 2 * out.entropy.sum()).backward()
        assert leaf.grad is not None
        results.append((out.logp.detach(), out.entropy.detach(), leaf.grad))
    rules = (assert_as_exact, assert_as_exact, assert_as_exact_overall)
    for rule, *three in zip(rules, *results, strict=True):
        rule(*three)


# Rows as such


def sums_and_gradient(
    logits: Tensor,
    row: Sequence[int],
    target: Sequence[int],
    *,
    temperature: float = 1.0,
    logp_slope: float = 1.0,
    entropy_slope: float | None = 0.5,
    rows: str = "triton",
) -> tuple[Tensor, Tensor]:
    """Return sums [4, C], and a gradient in memory that held a sentinel."""
    each = torch.ones(len(row), dtype=torch.float64, device=DEVICE)
    named = LogitRows(
        logits.to(DEVICE),
        torch.tensor(row, device=DEVICE),
        torch.tensor(target, device=DEVICE),
        temperature * each,
    )
    with poisoned():
        sums = ROWS[rows].read(named)
        gradient = torch.full_like(named.logits, SENTINEL)
        slope = None if entropy_slope is None else entropy_slope * each
        ROWS[rows].write_gradient(named, sums, logp_slope * each, slope, gradient)
    return sums.cpu(), gradient.cpu()


def test_rows_may_start_and_end_anywhere_and_nothing_beside_them_is_touched() -> None:
    """17 columns: the rows start at every distance from a multiple of 16."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(33, 17, generator=generator)
    row = list(range(0, 33, 2))
    logits[1::2] = math.nan
    target = [place % 17 for place in row]
    sums, gradient = sums_and_gradient(logits, row, target, temperature=0.7)
    logp = (logits[row].double() / 0.7).log_softmax(-1)
    probability = logp.exp()
    entropy = -(probability * logp).sum(-1)
    torch.testing.assert_close(sums[0], logp[range(17), target], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(sums[1], entropy, rtol=2e-6, atol=2e-6)
    expected = -probability - 0.5 * probability * (logp + entropy[:, None])
    expected[range(17), target] += 1
    torch.testing.assert_close(gradient[row].double(), expected / 0.7, rtol=2e-6, atol=2e-6)
    assert (gradient[1::2] == SENTINEL).all()


@pytest.mark.parametrize("vocabulary", [8191, 8192, 8193, 50257, 128256, 151643, 151936, 262144])
def test_rows_of_any_vocabulary_are_read_to_their_ends(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (4 * torch.randn(3, vocabulary, generator=generator)).bfloat16()
    logits[1] = math.nan
    logits[0, 0] = logits[2, -1] = 18  # what matters most stands at the ends
    sums, gradient = sums_and_gradient(logits, [0, 2], [0, vocabulary - 2])
    logp = logits[[0, 2]].double().log_softmax(-1)
    probability = logp.exp()
    entropy = -(probability * logp).sum(-1)
    torch.testing.assert_close(sums[0], logp[[0, 1], [0, -2]], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(sums[1], entropy, rtol=2e-6, atol=2e-6)
    expected = -probability - 0.5 * probability * (logp + entropy[:, None])
    expected[[0, 1], [0, -2]] += 1
    torch.testing.assert_close(gradient[[0, 2]].double(), expected, rtol=8e-3, atol=1e-8)
    assert (gradient[1] == SENTINEL).all()


def test_a_slope_of_0_writes_zeros_without_reading() -> None:
    logits = torch.full((2, 600), math.nan, device=DEVICE)
    one = torch.ones(1, dtype=torch.float64, device=DEVICE)
    place = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    gradient = torch.full_like(logits, SENTINEL)
    sums = one.expand(4, 1)
    ROWS["triton"].write_gradient(
        LogitRows(logits, place, place, one), sums, 0 * one, None, gradient
    )
    assert (gradient[0] == 0).all()
    assert (gradient[1] == SENTINEL).all()


@pytest.mark.parametrize("rows", ["triton", "torch"])
def test_a_token_that_a_clip_holds_still_has_its_share_of_the_entropy_bonus(rows: str) -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    _, gradient = sums_and_gradient(logits, [0], [1], logp_slope=0.0, rows=rows)
    logp = logits[0].log_softmax(-1)
    expected = -0.5 * logp.exp() * (logp - (logp.exp() * logp).sum())
    torch.testing.assert_close(gradient[0], expected)
    assert expected.abs().min() > 0.01


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_not_finite_spoils_no_other(value: float) -> None:
    logits = torch.zeros(3, 20)
    logits[1, 5] = value
    sums, gradient = sums_and_gradient(logits, [0, 1, 2], [0, 0, 0])
    assert sums[:2, 1].isnan().all()
    assert gradient[1].isnan().any()
    assert sums[:, [0, 2]].isfinite().all()
    assert gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("all_of_them", [3e38, -3e38])
def test_logits_may_lie_at_the_ends_of_their_range(all_of_them: float) -> None:
    sums, gradient = sums_and_gradient(torch.full((1, 100), all_of_them), [0], [3])
    assert sums[:2].flatten().tolist() == pytest.approx([-math.log(100), math.log(100)])
    assert gradient.sum().item() == pytest.approx(0, abs=1e-6)
    assert gradient[0, 3].item() == pytest.approx(0.99)


def test_tokens_that_cannot_be_drawn_have_no_share_in_anything() -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0, -math.inf]])
    sums, gradient = sums_and_gradient(logits, [0], [2])
    assert sums[:2].flatten().tolist() == pytest.approx([-math.log(2), math.log(2)])
    assert gradient.flatten().tolist() == pytest.approx([-0.5, 0, 0.5, 0])


@pytest.mark.parametrize("rows", ["triton", "cpp", "torch"])
def test_a_target_that_cannot_be_drawn_leaves_finite_gradients(rows: str) -> None:
    if rows == "cpp" and DEVICE.type != "cpu":
        pytest.skip("tensors are on a GPU")
    sums, gradient = sums_and_gradient(torch.tensor([[0.0, -math.inf, 0.0]]), [0], [1], rows=rows)
    assert sums[0].item() == -math.inf
    assert gradient.flatten().tolist() == pytest.approx([-0.5, 1, -0.5])


logit = st.floats(-1e4, 1e4, width=32)


@hypothesis_settings(deadline=None, max_examples=20)
@drawn(st.lists(logit, min_size=1, max_size=70), st.data(), st.sampled_from([0.05, 1.0, 20.0]))
def test_logp_is_never_above_0_and_entropy_within_its_bounds(
    values: list[float], data: st.DataObject, temperature: float
) -> None:
    target = data.draw(st.integers(0, len(values) - 1))
    sums, gradient = sums_and_gradient(
        torch.tensor([values]), [0], [target], temperature=temperature
    )
    logp, entropy = sums[:2, 0].tolist()
    assert logp <= 0
    assert 0 <= entropy <= math.log(len(values)) + 1e-6
    assert gradient.isfinite().all()


# What is launched


@pytest.mark.parametrize("inplace", [False, True])
def test_where_ratios_are_a_tokens_own_rows_are_read_in_one_launch(inplace: bool) -> None:
    batch = packed(SHAPES[SMALL[0]])
    loss_launches = ["policy_loss_forward", "policy_loss_reduction"]
    cleared = ["clear_logit_rows"] if inplace or DEVICE.type == "cuda" else []
    slopes = [*loss_launches, "scale_gradient"]
    wanted: dict[Ratio, list[str]] = {
        "token": [*cleared, "logits_loss_rows", *loss_launches],
        "step": [
            *(*cleared, "read_logit_rows", *slopes),
            *("write_logit_gradients", *loss_launches),
        ],
    }
    for ratio, kernels_wanted in wanted.items():
        loss = LossConfig(ratio=ratio)
        given = logits_inputs(batch, loss, vocabulary=37)
        logits = given.pop("logits").float().to(DEVICE).requires_grad_()
        with launched() as names:
            out = entry_points.logits_policy_loss(
                logits.clone(),
                **converted(given, torch.float32),
                batch=batch,
                loss=loss,
                inplace=inplace,
                impl="triton",
            )
            assert names == kernels_wanted
            names.clear()
            out.loss.backward()
        assert names == ["scale_gradient"]


def test_without_a_gradient_rows_are_only_read() -> None:
    batch = packed(SHAPES[SMALL[0]])
    given = converted(logits_inputs(batch, LossConfig(), vocabulary=37), torch.float32)
    before = given["logits"].clone()
    with launched() as names:
        entry_points.logits_policy_loss(**given, batch=batch, inplace=True, impl="triton")
    assert names == ["read_logit_rows", "policy_loss_forward", "policy_loss_reduction"]
    assert given["logits"].nan_to_num().equal(before.nan_to_num())


def test_a_batch_without_steps_launches_nothing_that_reads() -> None:
    batch = StepBatch.from_spans([[]], [0], num_tokens=3)
    logits = torch.full((3, 5), math.nan, requires_grad=True)
    zero = torch.zeros(3)
    with launched() as names:
        out = entry_points.logits_policy_loss(
            logits, torch.zeros(3, dtype=torch.int64), zero, batch, zero[:0], impl="triton"
        )
        out.loss.backward()
    assert out.loss == 0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()
    assert not {"read_logit_rows", "logits_loss_rows", "write_logit_gradients"} & set(names)


def test_blocks_cover_a_row_that_starts_as_badly_as_it_can() -> None:
    for vocabulary in (1, 49, 50, 1009, 1010, 8177, 8178, 50257, 151936, 262144):
        for dtype in (torch.bfloat16, torch.float64):
            shape = kernels._shape(torch.empty((1, vocabulary), dtype=dtype, device="meta"))
            largest = 2048 if dtype == torch.float64 else 8192
            assert shape["BLOCK"] == largest or shape["BLOCK"] >= vocabulary + 15
            assert 1 <= shape["num_warps"] <= 16


def test_a_device_that_has_no_kernels_is_named() -> None:
    batch = packed(SHAPES[SMALL[0]])
    given = logits_inputs(batch, LossConfig(), vocabulary=5)
    meta = {
        name: value.to("meta") if isinstance(value, Tensor) else value
        for name, value in given.items()
    }
    with pytest.raises(InputError, match="impl is 'triton', which cannot be used: tensors are on"):
        entry_points.logits_policy_loss(**meta, batch=batch.to("meta"), impl="triton")
