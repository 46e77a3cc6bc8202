"""From hidden states to the policy loss: by hand, gradcheck, parity, laws, where it is used."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from finestep_fast import (
    InputError,
    LossConfig,
    StepBatch,
    linear_policy_loss,
    policy_loss,
    token_logp,
)
from finestep_fast.config.loss import KL, Aggregation, Kind, Ratio
from finestep_fast.reference import COUNT_OF_AGGREGATION
from support.batches import SHAPES, packed, padded
from support.covering import covering
from support.doors import poisoned
from support.heads import NAN, converted, head_inputs, outside, temperatures, token_values
from support.impls import ROW_IMPLS
from support.tolerance import assert_as_exact, assert_as_exact_overall
from support.two_heads import LOSSES, ROLLOUTS, Actor, gradients, loss_of

FAST = ROW_IMPLS
IMPLS = ["reference", *FAST]
RAGGED = SHAPES["odd sizes, groups interleaved"]
SMALL = SHAPES["a group of one beside a group of two"]
TESTS = Path(__file__).resolve().parent


@pytest.mark.parametrize("impl", IMPLS)
def test_loss_entropy_and_gradient_by_hand(impl: str) -> None:
    # One step of two tokens, two words, p = 1/4, 3/4; A = 2; on policy: ratios are 1.
    hidden = torch.tensor([[0.0, math.log(3)]] * 2, dtype=torch.float64, requires_grad=True)
    batch = StepBatch.from_spans([[(0, 2)]], [0], num_tokens=2)
    out = linear_policy_loss(
        hidden,
        torch.eye(2, dtype=torch.float64),
        torch.tensor([0, 1]),
        torch.tensor([math.log(1 / 4), math.log(3 / 4)], dtype=torch.float64),
        batch,
        torch.tensor([2.0]),
        entropy_weight=0.5,
        impl=impl,
    )
    entropy = -(1 / 4 * math.log(1 / 4) + 3 / 4 * math.log(3 / 4))
    assert out.loss.item() == pytest.approx(-2 - 0.5 * entropy)
    assert out.metrics["entropy"].item() == pytest.approx(entropy)
    assert out.metrics["policy_tokens"] == 2
    out.loss.backward()
    # d loss / d logp = -A / 2 per token; d entropy / dz = -p (log p + entropy)
    bonus = 3 / 16 * math.log(3) * 0.5 / 2
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == pytest.approx(
        [-3 / 4 - bonus, 3 / 4 + bonus, 1 / 4 - bonus, -1 / 4 + bonus]
    )


def config(kind: Kind, ratio: Ratio, aggregation: Aggregation, kl: KL | None) -> LossConfig:
    return LossConfig(
        kind=kind,
        ratio=ratio,
        aggregation=aggregation,
        constant_tokens=9 if aggregation == "constant" else None,
        dual_clip=1.5 if kind == "ppo" and aggregation == "token_mean" else None,
        kl=kl,
        kl_weight=0.3 if kl else 0,
    )


def named(loss: LossConfig) -> str:
    return "-".join(filter(None, [loss.kind, loss.ratio, loss.aggregation, loss.kl]))


KLS: tuple[KL | None, ...] = (None, "k3")
LOSS_CONFIGS = [
    config(kind, ratio, aggregation, kl)
    for kind, ratio, aggregation, kl in product(
        get_args(Kind), get_args(Ratio), get_args(Aggregation), KLS
    )
]


def inputs(
    batch: StepBatch, loss: LossConfig, *, temperature: float = 1.0, **head: Any
) -> dict[str, Any]:
    """All tensors of a call, float64."""
    given = head_inputs(batch, **head)
    values = token_values(batch, given, temperature=temperature)
    if loss.kl is None:
        del values["token_logp_ref"]
    return {**given, **values}


@pytest.mark.parametrize("loss", [loss for loss in LOSS_CONFIGS if loss.kind == "ppo"], ids=named)
@pytest.mark.parametrize("impl", IMPLS)
def test_gradcheck(impl: str, loss: LossConfig) -> None:
    batch = packed(SMALL)
    given = inputs(batch, loss, vocabulary=5, size=2)
    nobody = outside(batch)
    for name in ("hidden", "token_logp_old", "token_weight", "token_logp_ref"):
        if name in given:
            given[name][nobody] = 0
    leaves = tuple(given.pop(name).requires_grad_() for name in ("hidden", "weight", "bias"))
    settings: dict[str, Any] = {"temperature": temperatures(batch), "entropy_weight": 0.2}
    settings["chunk_bytes"] = 200

    def value(*leaves: Tensor) -> Tensor:
        hidden, weight, bias = leaves
        return linear_policy_loss(
            hidden, weight, batch=batch, bias=bias, **given, loss=loss, impl=impl, **settings
        ).loss

    assert torch.autograd.gradcheck(value, leaves)


def evaluated(
    given: Mapping[str, Any], batch: StepBatch, impl: str, *, scale: float = 1.0, **settings: Any
) -> dict[str, Tensor]:
    """Loss, metrics, and gradients of hidden, weight and bias."""
    leaves = {
        name: given[name].detach().clone().requires_grad_()
        for name in ("hidden", "weight", "bias")
        if name in given
    }
    with poisoned():
        out = linear_policy_loss(**{**given, **leaves}, batch=batch, impl=impl, **settings)
        (scale * out.loss).backward()
    found = {"loss": out.loss.detach(), **out.metrics}
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        found[f"gradient of {name}"] = leaf.grad
    return found


@pytest.mark.parametrize("loss", LOSS_CONFIGS, ids=named)
@pytest.mark.parametrize("impl", FAST)
def test_it_is_the_policy_loss_of_token_logp_less_the_entropy(impl: str, loss: LossConfig) -> None:
    batch = packed(RAGGED)
    given = inputs(batch, loss)
    found = evaluated(given, batch, impl, loss=loss, entropy_weight=0.2, chunk_bytes=2000)
    head = {name: given.pop(name) for name in ("hidden", "weight", "bias", "target")}
    leaves = {name: head[name].requires_grad_() for name in ("hidden", "weight", "bias")}
    lp = token_logp(**head, batch=batch, impl="reference")
    out = policy_loss(lp.logp, batch=batch, **given, loss=loss, impl="reference")
    bonus = linear_policy_loss(
        **head, batch=batch, **given, loss=loss, entropy_weight=1.0, impl="reference"
    )
    plain = linear_policy_loss(**head, batch=batch, **given, loss=loss, impl="reference")
    total = out.loss + 0.2 * (bonus.loss - plain.loss)
    total.backward()
    torch.testing.assert_close(found["loss"], total.detach())
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[f"gradient of {name}"], leaf.grad, rtol=1e-9, atol=1e-12)
    for name, metric in out.metrics.items():
        torch.testing.assert_close(found[name], metric)


FACTORS: dict[str, Sequence[Any]] = {
    "shape": list(SHAPES),
    "dtype": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "layout": ("packed", "padded"),
    "kind": get_args(Kind),
    "ratio": get_args(Ratio),
    "aggregation": get_args(Aggregation),
    "kl": (None, *get_args(KL)),
    "token_weight": (False, True),
    "count": ("own", "number", "tensor"),
    "temperature": (1.0, 0.7, "each"),
    "entropy_weight": (0.0, 0.1),
    "bias": (False, True),
    "vocabulary": (37, 131),
    "rows": (7, 1000),
    "scale": (1.0, 0.37),
}
ROWS_OF_DESIGN = covering(FACTORS)


@pytest.mark.parametrize("row", ROWS_OF_DESIGN, ids=lambda row: ",".join(map(str, row.values())))
@pytest.mark.parametrize("impl", FAST)
def test_everything_is_as_exact_as_the_references(impl: str, row: dict[str, Any]) -> None:
    """Logits are exact; gradients are products of matrices, which round in their own order."""
    rollouts, dtype = SHAPES[row["shape"]], row["dtype"]
    batch = padded(rollouts, extra=3) if row["layout"] == "padded" else packed(rollouts)
    loss = config(row["kind"], row["ratio"], row["aggregation"], row["kl"])
    given = inputs(batch, loss, vocabulary=row["vocabulary"], whole=True)
    for name in ("token_weight", "bias"):
        if not row[name]:
            del given[name]
    settings: dict[str, Any] = {"loss": loss, "entropy_weight": row["entropy_weight"]}
    each = row["temperature"] == "each"
    settings["temperature"] = temperatures(batch) if each else row["temperature"]
    if row["count"] != "own":
        count = 20.5 if row["count"] == "number" else torch.tensor([20])
        settings[COUNT_OF_AGGREGATION[row["aggregation"]]] = count
    chunk_bytes = row["rows"] * row["vocabulary"] * dtype.itemsize
    narrow = converted(given, dtype)
    for name in ("token_logp_old", "token_logp_ref", "step_advantage"):
        if name in given:
            narrow[name] = given[name].to(torch.promote_types(dtype, torch.float32))
    exact = converted(narrow, torch.float64)
    truth = evaluated(exact, batch, "reference", scale=row["scale"], **settings)
    plain = evaluated(narrow, batch, "reference", scale=row["scale"], **settings)
    found = evaluated(narrow, batch, impl, scale=row["scale"], chunk_bytes=chunk_bytes, **settings)
    assert found.keys() == truth.keys()
    for name, value in found.items():
        rule = assert_as_exact_overall if name.startswith("gradient") else assert_as_exact
        rule(value, plain[name], truth[name])
    assert found["gradient of hidden"][outside(batch)].eq(0).all()


@pytest.mark.parametrize("ratio", get_args(Ratio))
@pytest.mark.parametrize("impl", FAST)
def test_chunks_of_any_size_give_the_same_loss_from_the_same_logits(
    impl: str, ratio: Ratio
) -> None:
    """A product may round otherwise for another number of rows: these logits are exact."""
    batch, loss = packed(SHAPES["one more than a block of 64"]), LossConfig(ratio=ratio)
    given = converted(inputs(batch, loss, vocabulary=131, whole=True), torch.float32)
    settings: dict[str, Any] = {"loss": loss, "entropy_weight": 0.1}
    truth = evaluated(converted(given, torch.float64), batch, "reference", **settings)
    reference = evaluated(given, batch, "reference", **settings)
    whole = evaluated(given, batch, impl, **settings)
    for rows in (1, 7, 64):
        parts = evaluated(given, batch, impl, chunk_bytes=rows * 131 * 4, **settings)
        for name, value in parts.items():
            if name.startswith("gradient"):
                assert_as_exact_overall(value, reference[name], truth[name])
            else:
                assert value.equal(whole[name]), name


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(ratio="rollout", kl="k2")], ids=named)
@pytest.mark.parametrize("planted", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("impl", IMPLS)
def test_what_stands_outside_steps_changes_nothing(
    impl: str, planted: float, loss: LossConfig
) -> None:
    batch = packed(RAGGED)
    given = inputs(batch, loss)
    clean = evaluated(given, batch, impl, loss=loss)
    nobody = outside(batch)
    sick = {name: value.clone() for name, value in given.items()}
    for name in sick.keys() - {"weight", "bias", "target", "step_advantage"}:
        sick[name][nobody] = planted
    sick["target"][nobody] = 10**9
    for name, value in evaluated(sick, batch, impl, loss=loss).items():
        assert value.equal(clean[name]), name
    assert all(value.isfinite().all() for value in clean.values())


@pytest.mark.parametrize(
    "loss",
    [config("ppo", "token", one, None) for one in get_args(Aggregation)]
    + [config("cispo", "step", "step_mean", "k1"), config("ppo", "rollout", "rollout_mean", None)],
    ids=named,
)
@pytest.mark.parametrize("impl", FAST)
def test_micro_batches_with_global_counts_add_up_to_the_whole(impl: str, loss: LossConfig) -> None:
    whole = packed(RAGGED)
    given = inputs(whole, loss)
    settings: dict[str, Any] = {"loss": loss, "entropy_weight": 0.2}
    expected = evaluated(given, whole, impl, **settings)
    name = COUNT_OF_AGGREGATION[loss.aggregation]
    settings[name] = getattr(whole, name)
    leaves = {name: given.pop(name).requires_grad_() for name in ("hidden", "weight", "bias")}
    value, token, step = torch.zeros(()).double(), 0, 0
    for first, last in ((0, 1), (1, 3), (3, 4)):
        part = packed(RAGGED[first:last])
        tokens = slice(token, token + part.num_tokens)
        steps = slice(step, step + part.num_steps)
        token, step = tokens.stop, steps.stop
        some = {
            name: tensor[steps if name == "step_advantage" else tokens]
            for name, tensor in given.items()
        }
        head = {**leaves, "hidden": leaves["hidden"][tokens]}
        out = linear_policy_loss(**head, **some, batch=part, impl=impl, **settings)
        out.loss.backward()
        value = value + out.loss.detach()
    torch.testing.assert_close(value, expected["loss"])
    for name, leaf in leaves.items():
        wanted = expected[f"gradient of {name}"]
        torch.testing.assert_close(leaf.grad, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("impl", FAST)
def test_only_the_gradients_that_are_asked_for_are_made(
    impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, loss = packed(RAGGED), LossConfig()
    given = inputs(batch, loss)
    expected = evaluated(given, batch, impl)
    products: list[tuple[int, int]] = []
    plain = torch.mm

    def counted(left: Tensor, right: Tensor, **kwargs: Any) -> Tensor:
        products.append((left.shape[0], right.shape[1]))
        return plain(left, right, **kwargs)

    monkeypatch.setattr(torch, "mm", counted)
    size, (vocabulary, width) = batch.num_policy_tokens, given["weight"].shape
    del given["bias"]
    logits, of_hidden, of_weight = (size, vocabulary), (size, width), (vocabulary, width)
    wanted: dict[tuple[str, ...], list[tuple[int, int]]] = {
        (): [logits],
        ("hidden",): [logits, of_hidden],
        ("weight",): [logits, of_weight],
        ("hidden", "weight"): [logits, of_hidden, of_weight],
    }
    for names, made in wanted.items():
        leaves = {name: given[name].detach().clone().requires_grad_() for name in names}
        products.clear()
        out = linear_policy_loss(**{**given, **leaves}, batch=batch, impl=impl)
        assert products == made
        assert out.loss.requires_grad == bool(names)
        if names:
            out.loss.backward()
    assert products == wanted["hidden", "weight"]  # none in the backward pass
    shared = LossConfig(ratio="step")
    leaves = {name: given[name].requires_grad_() for name in ("hidden", "weight")}
    products.clear()
    linear_policy_loss(**{**given, **leaves}, batch=batch, loss=shared, impl=impl)
    assert products == [logits, *wanted["hidden", "weight"]]
    with torch.no_grad():
        products.clear()
        linear_policy_loss(**given, batch=batch, impl=impl)
    assert products == [logits]
    assert expected["loss"].isfinite()


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


@pytest.mark.parametrize("ratio", ["token", "step"])
@pytest.mark.parametrize("impl", FAST)
def test_a_retained_graph_gives_the_gradient_again(impl: str, ratio: Ratio) -> None:
    batch, loss = packed(RAGGED), LossConfig(ratio=ratio)
    given = inputs(batch, loss)
    leaves = [given[name].requires_grad_() for name in ("hidden", "weight", "bias")]
    value = linear_policy_loss(**given, batch=batch, loss=loss, impl=impl).loss
    first = torch.autograd.grad(value, leaves, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    second = torch.autograd.grad(2 * value, leaves)
    for one, two in zip(kept, second, strict=True):
        torch.testing.assert_close(two, 2 * one)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(value, leaves)


def test_a_second_derivative_is_refused() -> None:
    batch = packed(RAGGED)
    given = inputs(batch, LossConfig())
    hidden = given["hidden"].requires_grad_()
    value = linear_policy_loss(**given, batch=batch).loss
    (gradient,) = torch.autograd.grad(value, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        gradient.sum().backward()


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


# The compiler itself looks at `.grad` of what flows from one graph to the next.
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
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "support.two_heads", str(out)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": None}, "batch is a NoneType; it must be a StepBatch"),
        ({"token_logp_old": torch.zeros(2)}, r"token_logp_old has shape \(2,\); expected"),
        ({"token_weight": torch.zeros(2)}, r"token_weight has shape \(2,\); expected"),
        ({"step_advantage": torch.zeros(1)}, r"step_advantage has shape \(1,\); expected"),
        ({"loss": LossConfig(kl="k3")}, "token_logp_ref is not given while loss.kl is 'k3'"),
        ({"num_policy_tokens": 0}, "num_policy_tokens is 0; it must be above 0"),
        ({"num_steps": 3}, "num_policy_tokens is not given while num_steps is"),
        ({"weight": torch.zeros(3, 9).double()}, r"weight has shape \(3, 9\); expected \[V, 8\]"),
        ({"weight": torch.zeros(2, 8).double()}, r"target holds \d+; expected 0 .. 1, V is 2"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be above 0"),
        ({"impl": "fastest"}, "impl is 'fastest'; it must be one of 'auto', 'reference'"),
    ],
)
def test_the_door_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    batch = packed(RAGGED)
    given = {**inputs(batch, LossConfig()), "batch": batch}
    if "weight" in changes:
        del given["bias"]
    with pytest.raises(InputError, match=message):
        linear_policy_loss(**{**given, **changes})


def test_auto_takes_cpp_on_a_cpu() -> None:
    batch = packed(RAGGED)
    given = converted(inputs(batch, LossConfig()), torch.float32)
    auto, cpp = (evaluated(given, batch, impl) for impl in ("auto", "cpp"))
    assert all(value.equal(cpp[name]) for name, value in auto.items())
