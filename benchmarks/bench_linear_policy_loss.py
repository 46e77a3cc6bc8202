"""From hidden states to the policy loss and its gradients: time and floating point operations.

    python -m benchmarks.bench_linear_policy_loss

`products` are the three matrix products of the policy tokens alone, chunk by chunk into memory that
is there already: 6 N V D operations at the machine's own rate. `x work` is how many times as long
as that a row takes. `eager` is how trainers write it: logits of all tokens, log-softmax, a mask.
The peers are their installed packages, see `benchmarks.head_losses`; peak memory is measured by
`benchmarks.bench_head_memory`.

Every result is compared with float64 before it is timed: each token's gradient (0 where nothing was
written), the head's gradient of the tokens that were drawn and of all others apart, and the loss.
16-bit logits move a token's gradient by up to 1 %; wrong by 3 % fails.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.harness import Case, Work, options, report
from benchmarks.head_losses import EAGER, HeadInputs, Loss, Shape, exact, inputs, losses
from benchmarks.rollout_tokens import assert_rows_close
from finestep_fast.ops.head.linear_head import CHUNK_BYTES

_PRODUCTS = "products"
_SHARES = (0.0, 0.3, 0.5, 0.7)
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}


def shapes(*, full: bool) -> list[Shape]:
    """Return heads as wide as Qwen2.5-Coder 0.5B and Qwen3 0.6B, cut to 32768 words unless full."""
    if full:
        return [
            Shape(4, 128, 151936, 896, torch.float32, 0.5),
            Shape(4, 128, 151936, 1024, torch.bfloat16, 0.5),
        ]
    heads = ((896, torch.float32), (1024, torch.bfloat16))
    return [Shape(4, 256, 32768, *head, share) for head in heads for share in _SHARES]


def main() -> None:
    """Time all shapes."""
    parser = options((__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the shapes, from 0")
    parser.add_argument("--full", action="store_true", help="vocabularies of 151936 instead")
    parser.add_argument("--uncompiled", action="store_true", help="leave out torch.compile")
    arguments = parser.parse_args()
    # A compiler that met many shapes gives up; here each may have its own graph.
    torch._dynamo.config.recompile_limit = 64
    every = shapes(full=arguments.full)
    chosen = range(len(every)) if arguments.only is None else arguments.only
    device = torch.device(arguments.device)
    found, absent = losses(device, compiled=not arguments.uncompiled)
    cases = (case(every[place], found, absent, device) for place in chosen)
    title = "hidden states to loss, forward and backward"
    report(title, EAGER, cases, arguments, notes={"peers": peers.versions()})


def case(
    shape: Shape, found: dict[str, Loss], absent: dict[str, str], device: torch.device
) -> Case:
    """Return the case of a shape: every loss with its gradients, and the products."""
    given = inputs(shape, device)
    made: dict[str, tuple[Tensor, ...]] = {}
    truth = exact(given)

    def run(name: str) -> None:
        loss = found[name](given)
        made[name] = loss.detach(), *torch.autograd.grad(loss, (given.hidden, given.weight))

    def check(name: str) -> None:
        if name in found:
            assert_right(made[name], truth, given, _TOLERANCE[shape.dtype])

    runs: dict[str, Callable[[], object]] = {name: partial(run, name) for name in found}
    runs[_PRODUCTS] = products(given)
    operations = 6 * given.tokens.batch.num_policy_tokens * shape.vocabulary * shape.size
    return Case(
        shape.name,
        runs,
        check,
        absent=absent,
        counting=device.type == "cuda",
        work=Work(operations, _PRODUCTS),
        prepare=made.clear,
    )


def assert_right(
    made: tuple[Tensor, ...], truth: tuple[Tensor, ...], given: HeadInputs, tolerance: float
) -> None:
    """Raise AssertionError where loss or gradients are off by more than their tolerance."""
    tokens = given.tokens
    error = abs(made[0].item() - truth[0].item()) / float(tokens.rollout_advantage.abs().mean())
    assert error <= tolerance, f"loss: {made[0].item():.4g}, not {truth[0].item():.4g}"
    assert_rows_close(made[1], truth[1], tolerance=tolerance, what="gradient of hidden states")
    drawn = torch.zeros(len(truth[2]), dtype=torch.bool, device=tokens.target.device)
    drawn[tokens.target[tokens.mask.bool()]] = True
    for part, what in ((drawn, "drawn words"), (~drawn, "other words")):
        # As one row: a word's own gradient may be next to nothing.
        rows = made[2][part].view(1, -1), truth[2][part].view(1, -1)
        assert_rows_close(*rows, tolerance=tolerance, what=f"gradient of the head, {what}")


def products(given: HeadInputs) -> Callable[[], object]:
    """Compute logits and gradients of policy tokens with plain products, in chunks such as ours."""
    tokens = given.tokens.batch.policy_token
    weight = given.weight.detach()
    hidden = given.hidden.detach().flatten(0, 1)[tokens]
    most = CHUNK_BYTES // (weight.shape[0] * weight.element_size())
    pieces = hidden.tensor_split(-(-len(hidden) // most))
    logits = weight.new_empty(len(pieces[0]), len(weight))
    of_weight, of_hidden = torch.zeros_like(weight), torch.empty_like(pieces[0])

    def run() -> None:
        for piece in pieces:
            part = logits[: len(piece)]
            torch.mm(piece, weight.t(), out=part)
            torch.mm(part, weight, out=of_hidden[: len(piece)])
            torch.mm(part.t(), piece, out=of_weight)

    return run


if __name__ == "__main__":
    main()
