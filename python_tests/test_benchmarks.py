"""The benchmarks: what they time is right, what is wrong is never timed, a run leaves one line."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from support.json_lines import json_lines

# They lie in the checkout and are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks import (
    bench_head_memory,
    bench_linear_policy_loss,
    bench_logits_policy_loss,
    bench_policy_loss,
    bench_step_advantage,
    counts,
    harness,
    head_losses,
)
from benchmarks.harness import Case, Floor, Work
from benchmarks.rollout_tokens import Tokens

CPU = torch.device("cpu")


def case_of(runs: dict[str, Callable[[], object]], *, wrong: str = "") -> Case:
    def check(name: str) -> None:
        assert name != wrong, f"{name} is wrong"

    summand = torch.ones(1000)
    floor = Floor(12.0, 1000, "torch.add", 12_000)
    runs = {"plain": lambda: None, **runs, "torch.add": lambda: summand + summand}
    return Case("a shape", runs, check, absent={"a peer": "not here"}, floor=floor, counting=True)


def arguments(*, save: bool = False) -> argparse.Namespace:
    return argparse.Namespace(device="cpu", threads=None, seconds=0.0, save=save)


def run_and_check(case: Case) -> None:
    for name, run in case.runs.items():
        if "compiled" not in name:  # takes seconds
            case.prepare()
            run()
            case.check(name)


def test_every_loss_that_is_timed_is_right_on_a_small_batch() -> None:
    given = bench_policy_loss.inputs(8, 97, 0.5, device=CPU)
    losses, absent = bench_policy_loss.eager_losses(CPU)
    assert {"masked", "reference", "cpp", "cpp, from rewards"} <= set(losses)
    assert "triton" in absent
    if not torch.cuda.is_available():  # interpreted, so right or wrong but never timed
        losses["triton"] = partial(bench_policy_loss.policy_loss, "triton")
        losses["triton, from rewards"] = partial(bench_policy_loss.step_policy_loss, "triton")
    run_and_check(bench_policy_loss.case(given, losses, absent))


@pytest.mark.parametrize("change", ["loss", "gradient"])
def test_a_loss_with_a_wrong_value_or_gradient_is_refused(change: str) -> None:
    given = bench_policy_loss.inputs(8, 97, 0.5, device=CPU)

    def wrong(given: bench_policy_loss.Inputs) -> torch.Tensor:
        loss = bench_policy_loss.policy_loss("reference", given)
        # The sum of all gradients is added, or its value alone.
        extra = 1e-3 * given.token_logp.sum()
        return loss + (extra.detach() if change == "loss" else extra - extra.detach())

    case = bench_policy_loss.case(given, {"wrong": wrong}, {})
    case.runs["wrong"]()
    with pytest.raises(AssertionError, match="not close"):
        case.check("wrong")


@pytest.mark.parametrize("piece", ["steps_case", "mask_case", "tokens_case", "grpo_case"])
def test_all_advantages_that_are_timed_are_right_on_a_small_batch(piece: str) -> None:
    given = bench_step_advantage.inputs(16, 64, 4, device=CPU)
    case = getattr(bench_step_advantage, piece)(given)
    assert {"reference", "cpp"} <= set(case.runs)
    run_and_check(case)


def test_every_scope_that_is_timed_is_right_on_a_small_batch() -> None:
    case = bench_step_advantage.scopes_case(bench_step_advantage.inputs(16, 64, 4, device=CPU))
    assert {"reference", "cpp, per_index", "cpp, state", "cpp, value"} <= set(case.runs)
    run_and_check(case)


def head_case(dtype: torch.dtype, **losses: head_losses.Loss) -> Case:
    shape = head_losses.Shape(2, 32, 500, 64, dtype, 0.5)
    found, absent = head_losses.losses(CPU, compiled=False)
    return bench_linear_policy_loss.case(shape, {**found, **losses}, absent, CPU)


def logits_case(dtype: torch.dtype, **losses: bench_logits_policy_loss.Run) -> Case:
    shape = bench_logits_policy_loss.Shape(2, 32, 500, dtype, 0.5)
    found, absent = bench_logits_policy_loss.losses(CPU, compiled=False)
    return bench_logits_policy_loss.case(shape, {**found, **losses}, absent, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_loss_of_hidden_states_and_of_logits_that_is_timed_is_right(
    dtype: torch.dtype,
) -> None:
    head, logits = head_case(dtype), logits_case(dtype)
    assert {"linear_policy_loss", "eager", "products"} <= set(head.runs)
    assert {"cpp", "cpp, in place", "torch", "eager", "copy"} <= set(logits.runs)
    assert {"triton", "Liger"} <= set(logits.absent)
    run_and_check(head)
    run_and_check(logits)


FIRST, LAST = torch.tensor([0]), torch.tensor([31])
MISTAKES: dict[str, Callable[[Tokens], Tokens]] = {
    "an observation counts": lambda tokens: tokens._replace(
        mask=tokens.mask.index_fill(1, LAST, 1)
    ),
    "a token is forgotten": lambda tokens: tokens._replace(
        mask=tokens.mask.index_fill(1, FIRST, 0)
    ),
    "the scale is wrong": lambda tokens: tokens._replace(
        rollout_advantage=1.05 * tokens.rollout_advantage
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=list(MISTAKES))
def test_a_loss_of_hidden_states_or_logits_with_a_small_mistake_is_refused(
    mistake: Callable[[Tokens], Tokens], dtype: torch.dtype
) -> None:
    def of_hidden(given: head_losses.HeadInputs) -> torch.Tensor:
        return head_losses.eager(given._replace(tokens=mistake(given.tokens)))

    def of_logits(given: bench_logits_policy_loss.LogitInputs) -> tuple[torch.Tensor, torch.Tensor]:
        loss = bench_logits_policy_loss.eager(given.logits, mistake(given.tokens))
        return loss, torch.autograd.grad(loss, given.logits)[0]

    for case in (head_case(dtype, wrong=of_hidden), logits_case(dtype, wrong=of_logits)):
        case.runs["wrong"]()
        with pytest.raises(AssertionError, match=r"^(loss|gradient of)"):
            case.check("wrong")


def test_peak_memory_is_what_a_second_call_takes_and_not_what_the_first_one_keeps() -> None:
    kept: list[torch.Tensor] = []

    def call() -> None:
        if not kept:
            kept.append(torch.ones(2**26))
        torch.ones(2**24)

    assert 60 < bench_head_memory.added_mib(call, CPU) < 90


def test_a_wrong_result_is_never_timed() -> None:
    calls: list[int] = []
    case = case_of({"wrong": lambda: calls.append(1)}, wrong="wrong")
    with pytest.raises(AssertionError, match="wrong is wrong"):
        harness.measured(case, baseline="plain", device=CPU, seconds=0.0)
    assert len(calls) == 1


def test_every_implementation_is_timed_equally_often() -> None:
    calls: list[int] = []
    case = case_of({"counted": lambda: calls.append(1)})
    timings = harness.measured(case, baseline="plain", device=CPU, seconds=0.0)
    assert [row.repeats for row in timings] == [5, 5, 5]
    # To be checked, to be counted, then five times.
    assert len(calls) == 7


def test_before_every_run_what_it_needs_is_prepared() -> None:
    seen: list[str] = []
    case = Case(
        "a shape",
        {"run": lambda: seen.append("run")},
        lambda name: None,
        prepare=lambda: seen.append("prepared"),
        counting=True,
    )
    harness.measured(case, baseline="run", device=CPU, seconds=0.0)
    assert seen == ["prepared", "run"] * 7


def test_the_rate_is_that_of_the_needed_operations() -> None:
    runs: dict[str, Callable[[], object]] = {
        "slow": lambda: time.sleep(0.02),
        "work": lambda: time.sleep(0.01),
    }
    case = Case("a shape", runs, lambda name: None, work=Work(1e9, "work"))
    slow, work = harness.measured(case, baseline="slow", device=CPU, seconds=0.0)
    assert work.times_work == 1
    assert slow.times_work == pytest.approx(slow.median_ms / work.median_ms)
    assert slow.gflops == pytest.approx(1e3 / slow.median_ms)


def test_a_run_is_one_line_of_json_in_a_file_named_by_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    for _ in range(2):
        harness.report(
            "a thing, in words", "plain", [case_of({})], arguments(save=True), notes={"more": 1}
        )
    printed = capsys.readouterr().out
    assert "left out: a peer: not here" in printed
    (path,) = (tmp_path / "results").iterdir()
    assert path.name.startswith("a_thing.")
    assert path.suffix == ".jsonl"
    first, second = json_lines(path)
    assert set(first) == set(second)
    assert {"commit", "device", "threads", "torch", "more"} <= set(first)
    assert first["absent"] == {"a peer": "not here"}
    assert [row["implementation"] for row in first["timings"]] == ["plain", "torch.add"]
    memory_only = first["timings"][1]
    assert memory_only["bytes_per_token"] == pytest.approx(12.0)
    assert memory_only["counts"]["operators"] == 1
    assert str(Path.cwd()) not in path.read_text(encoding="utf-8")


def test_operators_allocations_and_peak_memory_are_those_of_the_run() -> None:
    value = torch.ones(1000)
    seen = counts.counted(lambda: (value + value) * value, CPU)
    assert (seen.operators, seen.allocations, seen.peak_bytes) == (2, 2, 8000)
    assert (seen.launches, seen.syncs, seen.device_ms) == (None, None, None)


def test_graphs_are_counted_and_a_function_compiles_again_afterwards() -> None:
    compiled = torch.compile(lambda value: value + 1, backend="eager", dynamic=False)
    for _ in range(2):
        with counts.compilations() as count:
            for length in (2, 3, 3, 4):
                compiled(torch.ones(length))
            assert count() == 3


@pytest.mark.parametrize(
    ("name", "is_launch", "is_sync"),
    [
        ("cudaLaunchKernel", True, False),
        ("cudaLaunchKernelExC", True, False),
        ("cuLaunchKernelEx", True, False),
        ("hipModuleLaunchKernel", True, False),
        ("cudaStreamSynchronize", False, True),
        ("hipDeviceSynchronize", False, True),
        ("cudaMemcpyAsync", False, False),
        ("cudaStreamIsCapturing", False, False),
        ("aten::add", False, False),
    ],
)
def test_launches_and_syncs_are_known_by_their_names(
    name: str, is_launch: bool, is_sync: bool
) -> None:
    assert (counts.LAUNCH.fullmatch(name) is not None) == is_launch
    assert (counts.SYNC.fullmatch(name) is not None) == is_sync


@pytest.mark.parametrize(
    "bench",
    [
        bench_head_memory,
        bench_linear_policy_loss,
        bench_logits_policy_loss,
        bench_policy_loss,
        bench_step_advantage,
    ],
)
def test_the_help_of_a_benchmark_fits_a_screen(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    with pytest.raises(SystemExit) as exit_:
        bench.main()
    assert exit_.value.code == 0
    assert 5 < len(capsys.readouterr().out.splitlines()) <= 24
