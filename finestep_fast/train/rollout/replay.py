"""Demonstrations replayed in the real environment, as text and as transcripts.

Only here is an assistant's text turned into token ids: a demonstration was written, not sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finestep_fast.env.calls import render_call
from finestep_fast.env.chat import ChatFormat
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode
from finestep_fast.sql import Engine
from finestep_fast.train.data import Demonstration
from finestep_fast.train.rollout.transcript import Transcript


@dataclass(frozen=True)
class Dialogue:
    """A replayed demonstration: the episode, and per step the reply and its observation."""

    episode: Episode
    turns: list[tuple[str, str]]

    def texts(self) -> Iterator[str]:
        """Yield every text that a policy would read or write."""
        yield from (message["content"] for message in self.episode.messages())
        for reply, observation in self.turns:
            yield reply
            yield observation


def replay(demonstration: Demonstration, engine: Engine, config: EnvConfig) -> Dialogue:
    """Make the demonstration's calls in a fresh episode, until it ends; none if it has failed."""
    episode = Episode(demonstration.question, engine, config)
    turns = []
    for call in demonstration.calls:
        if episode.done:
            break
        reply = render_call(call)
        turns.append((reply, episode.step(reply).observation))
    return Dialogue(episode, turns)


def transcripts(
    dialogues: Sequence[Dialogue], chat: ChatFormat, max_tokens: int
) -> list[Transcript]:
    """Return the dialogues as token ids.

    One longer than `max_tokens` is cut after a whole step; one that leaves no step is left out.
    """
    made = [_transcript(dialogue, chat, max_tokens) for dialogue in dialogues]
    return [transcript for transcript in made if transcript.step_spans]


def _transcript(dialogue: Dialogue, chat: ChatFormat, max_tokens: int) -> Transcript:
    prompt = chat.prompt_ids(dialogue.episode.messages())
    transcript = Transcript(dialogue.episode, prompt, len(prompt))
    observation: list[int] = []
    for reply, answer in dialogue.turns:
        ids = chat.reply_ids(reply)
        if len(transcript.token_ids) + len(observation) + len(ids) > max_tokens:
            break
        transcript.add_observation(observation)
        transcript.add_step(ids, [0.0] * len(ids))
        observation = chat.observation_ids(answer, ids)
    return transcript
