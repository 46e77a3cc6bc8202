"""Rollouts that a test plays by hand: real episodes, real scores, tokens that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence

from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode
from finestep_fast.env.question import Question
from finestep_fast.env.scoring import score_episodes
from finestep_fast.rewards import RewardConfig
from finestep_fast.sql import Engine
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.rollout.transcript import Transcript

BARE = EnvConfig(schema_in_prompt="none", max_malformed=9)
"""An episode that shows nothing of the database before its first step."""
GARBAGE = "no call at all"


def looks(table: str) -> ToolCall:
    """Return a look at a table."""
    return ToolCall("describe_table", {"table": table})


def runs(sql: str) -> ToolCall:
    """Return a query."""
    return ToolCall("execute_sql", {"sql": sql})


def submits(sql: str) -> ToolCall:
    """Return a final answer."""
    return ToolCall("submit", {"sql": sql})


def episode_of(
    question: Question, engine: Engine, calls: Sequence[ToolCall | str], env: EnvConfig = BARE
) -> Episode:
    """Return the episode of these calls; a text stands for what an agent wrote."""
    episode = Episode(question, engine, env)
    for call in calls:
        episode.step(call if isinstance(call, str) else render_call(call))
    return episode


def played(
    question: Question,
    engine: Engine,
    *rollouts: Sequence[ToolCall | str],
    group: int = 0,
    env: EnvConfig = BARE,
    find_answers: bool = False,
) -> list[Rollout]:
    """Return scored rollouts of one question; each step has one token."""
    episodes = [episode_of(question, engine, calls, env) for calls in rollouts]
    scores = score_episodes(episodes, engine, RewardConfig(), find_answers=find_answers)
    made = []
    for episode, score in zip(episodes, scores, strict=True):
        transcript = Transcript(episode, [0], 1)
        for _ in episode.steps:
            transcript.add_step([0], [0.0])
            transcript.add_observation([0])
        made.append(Rollout(transcript, score, group))
    return made
