"""One rollout as token ids: what was prompt, what the policy wrote, what the environment answered.

This is bookkeeping only: it neither samples nor scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from finestep_fast.env.episode import Episode


@dataclass
class Transcript:
    """The token ids of one episode and the spans of its steps."""

    episode: Episode
    """The episode that was played."""
    token_ids: list[int]
    """Prompt, steps and observations in the order in which the model saw them."""
    num_prompt_tokens: int
    """How many of them are the prompt."""
    step_spans: list[tuple[int, int]] = field(default_factory=list)
    """[n] half-open spans of `token_ids` that the policy wrote, one per step."""
    token_logp: list[float] = field(default_factory=list)
    """One per token; the sampler's log-probability inside steps, 0 elsewhere."""

    def __post_init__(self) -> None:
        self.token_logp = self.token_logp or [0.0] * len(self.token_ids)

    @property
    def num_policy_tokens(self) -> int:
        """Return tokens that the policy wrote."""
        return sum(end - start for start, end in self.step_spans)

    def add_step(self, token_ids: list[int], token_logp: list[float]) -> None:
        """Append one step's sampled ids with their log-probabilities."""
        start = len(self.token_ids)
        self.token_ids += token_ids
        self.token_logp += token_logp
        self.step_spans.append((start, start + len(token_ids)))

    def add_observation(self, token_ids: list[int]) -> None:
        """Append ids that belong to no step."""
        self.token_ids += token_ids
        self.token_logp += [0.0] * len(token_ids)
