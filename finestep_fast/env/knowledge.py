"""What a rollout knows at each of its steps, as one number: the state key.

A state is the set of what earlier calls of the rollout returned without error. The order of the
calls does not matter, nor does repeating one. Nothing here depends on another rollout, on the gold
query or on the process that runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from finestep_fast.env.episode import LAST_STEP, StepRecord
from finestep_fast.env.tools import SUBMIT
from finestep_fast.rewards import StepFacts
from finestep_fast.sql.outcome import Status


def state_keys(steps: Sequence[StepRecord], facts: Sequence[StepFacts]) -> tuple[int, ...]:
    """Return the key of the state in which each step is taken.

    A call counts as its normal form and what it returned: the digest of a query's rows, the
    observation of any other tool. Calls that failed, malformed steps and final answers add nothing.

    Args:
        steps: The steps of one rollout.
        facts: The facts of each.

    Returns:
        [n] keys that fit into a signed 64-bit integer; that of the first step is the same for every
        rollout.
    """
    known: set[bytes] = set()
    keys = []
    for step, fact in zip(steps, facts, strict=True):
        keys.append(int.from_bytes(_digest(sorted(known)), "big", signed=True))
        if step.status is Status.OK and fact.call_key is not None:
            tool, request, _ = fact.call_key
            if tool != SUBMIT:
                is_query = fact.call_key.query_executed is not None
                found = fact.result_digest if is_query else _shown(step)
                known.add(_digest(_encoded(text) for text in (tool, request, found)))
    return tuple(keys)


def _shown(step: StepRecord) -> str:
    """Return the observation without the note that only its place in the rollout adds."""
    return step.observation.removesuffix(LAST_STEP)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _digest(parts: Iterable[bytes]) -> bytes:
    """Return 8 bytes that stand for a sequence of byte strings."""
    hashed = blake2b(digest_size=8)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.digest()
