"""What finished episodes earned: the outcome of each, and a process reward for each of its steps.

Not credit: nothing here depends on another rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """1 if the final query's result equals that of an accepted gold query, else 0."""
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
    found: tuple[bool, ...] = ()
    """[n] whether the step ran a query with the gold query's result; empty if not asked for. It
    belongs to the critic: no prompt and no reward depends on it."""


def score_episodes(
    episodes: Sequence[Episode],
    engine: Engine,
    rewards: RewardConfig,
    *,
    find_answers: bool = False,
) -> list[RolloutScore]:
    """Score episodes that are over; all final queries are run and compared in one batch.

    Args:
        episodes: The episodes, of any questions on any databases.
        engine: Runs the queries.
        rewards: Decides what is right and how validators are weighed.
        find_answers: Whether the queries that ran on the way are compared, too.

    Returns:
        One score per episode, in their order. A failed gold query or database gives a score that
        is not counted, never an exception.
    """
    queries = [_queries(episode) if find_answers else {} for episode in episodes]
    pairs = [
        (episode.question.database, sql, episode.question.golds)
        for episode, asked in zip(episodes, queries, strict=True)
        for sql in (episode.final_sql or "", *asked.values())
    ]
    matches = iter(
        engine.match(pairs, semantics=rewards.semantics, timeout_s=rewards.match_timeout_s)
    )
    scores = []
    for episode, asked in zip(episodes, queries, strict=True):
        score = rollout_score(episode, next(matches), rewards)
        if find_answers:
            right = {step: next(matches).equal for step in asked}
            found = tuple(right.get(step, False) for step in range(len(episode.steps)))
            score = replace(score, found=found)
        scores.append(score)
    return scores


def _queries(episode: Episode) -> dict[int, str]:
    """Return the queries on the way that gave rows, by step."""
    return {
        place: str(step.call.arguments["sql"])
        for place, step in enumerate(episode.steps)
        if step.call is not None and step.digest
    }


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
