"""What finished episodes earned: the outcome of each, and a process reward for each of its steps.

Not credit: nothing here depends on another rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finestep_fast.env.episode import Episode, EpisodeStatus
from finestep_fast.env.facts import step_facts
from finestep_fast.env.knowledge import state_keys
from finestep_fast.rewards import RewardConfig, StepFacts, process_reward, validators
from finestep_fast.sql.engine import Engine
from finestep_fast.sql.outcome import Match, Status


@dataclass(frozen=True)
class RolloutScore:
    """What one episode earned."""

    outcome: float
    """1 if the final query's result equals the gold query's, else 0."""
    process: tuple[float, ...]
    """[n] process reward of each step, in [0, 1]."""
    validators: tuple[dict[str, float], ...]
    """[n] the validators of each step by name."""
    counted: bool
    """Whether the episode says something about the policy; not if the database or the gold query
    failed."""
    status: str
    """How the final query ended, or how the episode did if there is none."""
    message: str
    """What went wrong; empty if nothing did."""
    states: tuple[int, ...] = ()
    """[n] key of the state in which each step was taken; equal keys, equal knowledge."""


def score_episodes(
    episodes: Sequence[Episode], engine: Engine, rewards: RewardConfig
) -> list[RolloutScore]:
    """Score episodes that are over; all final queries are run and compared in one batch.

    Args:
        episodes: The episodes, of any questions on any databases.
        engine: Runs the queries.
        rewards: Decides what is right and how validators are weighed.

    Returns:
        One score per episode, in their order. A failed gold query or database gives a score that
        is not counted, never an exception.
    """
    matches = engine.match(
        [
            (episode.question.database, episode.final_sql or "", episode.question.gold_sql)
            for episode in episodes
        ],
        semantics=rewards.semantics,
        timeout_s=rewards.match_timeout_s,
    )
    return [
        rollout_score(episode, match, rewards)
        for episode, match in zip(episodes, matches, strict=True)
    ]


def rollout_score(episode: Episode, match: Match, rewards: RewardConfig) -> RolloutScore:
    """Return the score of one episode after its final query was compared."""
    facts = episode_facts(episode, match.status)
    values = step_validators(facts, novel_by_result=rewards.novel_by_result)
    failed = episode.status is EpisodeStatus.FAILED
    counted = not failed and not match.status.is_infrastructure
    if failed:
        status, message = str(episode.status), episode.message
    elif match.status.is_infrastructure or episode.final_sql is not None:
        status, message = str(match.status), match.message
    else:
        status, message = str(episode.status), episode.message
    return RolloutScore(
        outcome=float(counted and match.equal),
        process=tuple(process_reward(value, rewards) for value in values),
        validators=values,
        counted=counted,
        status=status,
        message=message,
        states=state_keys(episode.steps, facts) if facts else (),
    )


def episode_facts(episode: Episode, final_status: Status) -> list[StepFacts]:
    """Return the facts of every step of an episode; none if its database cannot be read."""
    if episode.schema is None:
        return []
    return [step_facts(step, episode.schema, final_status=final_status) for step in episode.steps]


def step_validators(
    facts: Sequence[StepFacts], *, novel_by_result: bool = False
) -> tuple[dict[str, float], ...]:
    """Return the validators of every step of an episode."""
    return tuple(
        validators(fact, facts[:place], novel_by_result=novel_by_result)
        for place, fact in enumerate(facts)
    )
