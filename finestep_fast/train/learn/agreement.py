"""Whether sampler and learner see one policy: asked before a run, and again at its first update.

The sampler reads token by token with a cache, prompts padded on the left; the learner reads whole
rollouts, padded on the right. A model for which the two differ would learn from ratios that mean
nothing, so it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from finestep_fast.errors import InputError
from finestep_fast.train.learn.padding import pad_rows
from finestep_fast.train.learn.policy import attention, learning_attention
from finestep_fast.train.rollout.decoding import Decoding, cache_argument

ROUNDING = {torch.float32: 0.01, torch.bfloat16: 0.1, torch.float16: 0.1}
"""How far log-probabilities may differ by rounding alone, on average over a rollout's tokens."""

# What the pass of a foreign model may end in when it is given a cache that it cannot keep.
_FAILURES = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_LENGTHS = (3, 12)
_STEPS = 4


class Disagreement(NamedTuple):
    """How far the learner's log-probabilities of sampled tokens are from the sampler's."""

    mean: float = 0.0
    """Mean difference over the tokens of the rollout where it is largest; inf if one is NaN."""
    ratio: float = 1.0
    """Largest ratio of two probabilities of one token of that rollout, whichever is larger."""

    @classmethod
    def of(
        cls, token_logp: Tensor, token_logp_old: Tensor, spans: Sequence[Sequence[tuple[int, int]]]
    ) -> Disagreement:
        """The worst of several rollouts, [R, L] each with its spans of sampled tokens."""
        gap = (token_logp.double() - token_logp_old).abs().nan_to_num(nan=math.inf).cpu()
        worst = cls()
        for row, steps in zip(gap, spans, strict=True):
            tokens = torch.cat([row[start:end] for start, end in steps])
            worst = max(worst, cls(float(tokens.mean()), float(tokens.max().exp())))
        return worst


def check_sampling(policy: PreTrainedModel) -> None:
    """Read a few tokens in the sampler's way and in the learner's, and compare.

    Args:
        policy: On its device; its weights do not matter.

    Raises:
        InputError: The model cannot be sampled with a cache, or it then gives other probabilities.
    """
    cache_argument(policy)
    kind = type(policy).__name__
    faults = (
        (False, False, "its cache does not hold all that it has read"),
        (True, False, "it reads the padding before shorter prompts as text"),
        (True, True, "what it keeps of what it has read cannot be cut to the rollouts that go on"),
    )
    was_training = policy.training
    policy.eval()
    try:
        for padded, selected, missing in faults:
            difference = _difference(policy, padded=padded, selected=selected)
            if not difference <= ROUNDING[torch.float32]:
                raise InputError(
                    f"model: {kind} gives other probabilities when it is sampled than when it "
                    f"learns: {missing} (log-probabilities differ by {difference:.3g} on average, "
                    f"expected at most {ROUNDING[torch.float32]:g}); it cannot be trained here"
                )
    finally:
        policy.train(was_training)


def disagrees(worst: Disagreement, dtype: torch.dtype) -> bool:
    """Return whether more than rounding in `dtype` is needed to explain it."""
    return worst.mean > ROUNDING[dtype]


def refusal(
    worst: Disagreement,
    dtype: torch.dtype,
    *,
    policy: PreTrainedModel,
    repeatable: bool,
    linear_head: bool,
) -> InputError:
    """Return the error that refuses a run at its first update.

    Args:
        worst: Over all rollouts of all processes.
        dtype: Of the learner's pass; one in float32 comes first, so a lower one is to blame itself.
        policy: The model.
        repeatable: Whether a second pass of the learner gave the same.
        linear_head: Whether logits were made from hidden states.
    """
    reasons = []
    if not repeatable:
        reasons.append("two passes of the learner differ, so the model adds noise of its own")
    if dtype != torch.float32:
        reasons.append(
            f"{str(dtype).removeprefix('torch.')} is too coarse for it (in float32 the two agree): "
            "set precision=float32"
        )
    scaled = _length_scaling(policy)
    if scaled:
        reasons.append(f"its positions are scaled by the length of the text (rope_type {scaled!r})")
    reasons += [
        "its cache does not hold all that a whole pass reads (a window, a state kept elsewhere)",
        f"its attention differs by implementation (learning uses {learning_attention(policy)})",
    ]
    if linear_head:
        reasons.append("its logits are more than a linear layer makes: set update.head=logits")
    listed = "; ".join(f"({place}) {reason}" for place, reason in enumerate(reasons, 1))
    return InputError(
        f"model: {type(policy).__name__} learns as another policy than it samples: before the "
        f"first step, log-probabilities of sampled tokens differ by {worst.mean:.3g} on average "
        f"over a rollout, and by a ratio of up to {worst.ratio:.3g}; rounding in "
        f"{str(dtype).removeprefix('torch.')} explains a mean of {ROUNDING[dtype]:g}. "
        f"Nothing was learnt. Likely reasons, in this order: {listed}"
    )


def _length_scaling(policy: PreTrainedModel) -> str | None:
    """Return the kind of rotary positions that change with the length of the text, if they do."""
    rope = getattr(policy.config.get_text_config(), "rope_parameters", None) or {}
    parts = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    kinds = {str(part.get("rope_type")) for part in parts} & {"dynamic", "longrope"}
    return min(kinds, default=None)


@torch.inference_mode()
def _difference(policy: PreTrainedModel, *, padded: bool, selected: bool) -> float:
    """Return the mean difference of logps over all words, at the token where it is largest."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = policy.config.get_text_config().vocab_size
    lengths = _LENGTHS if padded else (max(_LENGTHS),) * len(_LENGTHS)
    prompts, following = (
        [torch.randint(vocab_size, (n,), generator=generator).tolist() for n in counts]
        for counts in (lengths, (_STEPS,) * len(_LENGTHS))
    )
    order = [1, 0, 1] if selected else [0, 1]
    try:
        seen = _decoded(policy, prompts, following, order)
        rows = pad_rows([prompts[n] + following[n] for n in order], policy.device)
        with attention(policy, learning_attention(policy)):
            logits: Tensor = policy(
                input_ids=rows.token_ids, attention_mask=rows.mask, use_cache=False
            ).logits
    except _FAILURES as error:
        raise InputError(
            f"model: {type(policy).__name__} cannot be sampled with a cache: {error}"
        ) from error
    places = [slice(len(prompts[n]) - 1, len(prompts[n]) + _STEPS) for n in order]
    whole = torch.stack([row[place] for row, place in zip(logits, places, strict=True)])
    gap = (seen.log_softmax(-1) - whole.float().log_softmax(-1)).abs().mean(-1)
    return float(gap.max()) if gap.isfinite().all() else math.nan


def _decoded(
    policy: PreTrainedModel, prompts: list[list[int]], following: list[list[int]], order: list[int]
) -> Tensor:
    """Return the sampler's logits [B, steps + 1, V]; rows are reordered after the prompts."""
    decoding = Decoding(policy, max(_LENGTHS) + _STEPS)
    rows = torch.tensor(order, device=policy.device)
    logits = [decoding.read(prompts)[rows]]
    decoding.select(rows)
    for step in range(_STEPS):
        token = torch.tensor([[following[n][step]] for n in order], device=policy.device)
        logits.append(decoding.advance(token))
    return torch.stack(logits, dim=1)
