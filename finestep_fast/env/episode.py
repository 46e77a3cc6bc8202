"""One question, many turns: what the agent is shown, and what came of each thing it said.

Not a sampler: text comes in from outside, an observation goes out. Whatever the model writes and
whatever the database does, an episode answers; it never raises for them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

from finestep_fast.env.calls import MalformedCall, ToolCall, parse_call
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.observation import cut, readable, schema_text
from finestep_fast.env.question import Question
from finestep_fast.env.tools import SUBMIT, TOOLS, Answer, Desk, complaint
from finestep_fast.errors import InputError
from finestep_fast.sql.completion import query_in
from finestep_fast.sql.engine import Engine
from finestep_fast.sql.outcome import Status
from finestep_fast.sql.schema import DatabaseSchema, database_schema

SYSTEM_PROMPT = (
    "You answer a question about a SQLite database with one query. "
    "Call one tool per turn. End with submit."
)
LAST_STEP = "\n(last step: submit now)"


def system_message(config: EnvConfig) -> str:
    """Return the system message of every prompt; empty if there is none."""
    return SYSTEM_PROMPT if config.system_prompt is None else config.system_prompt


class EpisodeStatus(StrEnum):
    """Where an episode stands, or how it ended."""

    RUNNING = "running"
    SUBMITTED = "submitted"
    OUT_OF_STEPS = "out_of_steps"
    TOO_MALFORMED = "too_malformed"
    OUT_OF_TOKENS = "out_of_tokens"
    FAILED = "failed"


@dataclass(frozen=True)
class Turn:
    """What the agent reads next, and whether the episode is over."""

    observation: str
    done: bool


@dataclass(frozen=True)
class StepRecord:
    """One turn of the agent and what came of it."""

    text: str
    """What the agent wrote."""
    call: ToolCall | None
    """The call in it; none if it was malformed."""
    malformed: str
    """Why it holds no usable call; empty if it does."""
    observation: str
    """What the agent was answered."""
    status: Status
    """How the call ended; of a final answer, OK until it is scored."""
    digest: str
    """Of the rows of an executed query; empty if there were none to have."""
    elapsed_ms: float
    """Time the step took."""


class Episode:
    """One attempt at one question.

    Used by one thread at a time; many episodes may share an engine and run in many threads.

    Args:
        question: The question and its database. If the database cannot be read, the episode has
            the status FAILED from the start.
        engine: Runs the queries.
        config: What the agent may do and is shown.

    Attributes:
        steps: What happened so far, one record per turn.
        status: Where the episode stands.
        final_sql: The submitted query, as `sql.query_in` reads it; none before there is one.
        message: Why the episode failed; empty if it did not.
        schema: Of the database; none if it cannot be read.
    """

    def __init__(self, question: Question, engine: Engine, config: EnvConfig) -> None:
        self.question = question
        self.config = config
        self.steps: list[StepRecord] = []
        self.status = EpisodeStatus.RUNNING
        self.final_sql: str | None = None
        self.message = ""
        self.schema: DatabaseSchema | None = None
        self._engine = engine
        try:
            self.schema = database_schema(question.database)
        except InputError as error:
            self.end(EpisodeStatus.FAILED, str(error))

    @property
    def done(self) -> bool:
        """Return whether the episode is over."""
        return self.status is not EpisodeStatus.RUNNING

    @property
    def num_malformed(self) -> int:
        """Return how many steps held no usable call."""
        return sum(step.call is None for step in self.steps)

    def messages(self) -> list[dict[str, str]]:
        """Return the messages before the agent's first turn: system, then user."""
        config = self.config
        system = system_message(config)
        parts = [self.question.text.strip()]
        if self.question.evidence.strip():
            parts.append(f"Hint: {self.question.evidence.strip()}")
        if self.schema is not None:
            parts.append(schema_text(self.schema, config.schema_in_prompt, config.max_prompt_chars))
        user = {"role": "user", "content": readable("\n".join(part for part in parts if part))}
        return [{"role": "system", "content": system}, user] if system else [user]

    def step(self, text: str) -> Turn:
        """Take one turn of the agent.

        Args:
            text: All that the agent wrote in this turn.

        Returns:
            The observation, cut to its budget, and whether the episode is over.

        Raises:
            InputError: The episode was over already.
        """
        if self.schema is None or self.done:
            raise InputError(f"the episode is {self.status}; expected one that is running")
        started = time.perf_counter()
        left = self.config.max_steps - len(self.steps) - 1
        room = self.config.max_observation_chars - (len(LAST_STEP) if left == 1 else 0)
        desk = Desk(self.question, self.schema, self._engine, self.config, room)
        call, malformed, answer = self._answered(text, desk)
        observation = cut(readable(answer.text), room)
        if left == 1 and not self.done:
            observation += LAST_STEP
        elapsed_ms = 1e3 * (time.perf_counter() - started)
        self.steps.append(
            StepRecord(text, call, malformed, observation, answer.status, answer.digest, elapsed_ms)
        )
        if not self.done:
            if self.num_malformed >= self.config.max_malformed:
                self.end(EpisodeStatus.TOO_MALFORMED)
            elif left == 0:
                self.end(EpisodeStatus.OUT_OF_STEPS)
        return Turn(observation, self.done)

    def end(self, status: EpisodeStatus, message: str = "") -> None:
        """End a running episode from outside; one that is over keeps its status.

        Args:
            status: How it ended: OUT_OF_TOKENS, or FAILED for what is not the agent's fault.
            message: Why.
        """
        if not self.done:
            self.status = EpisodeStatus(status)
            self.message = message

    def _answered(self, text: str, desk: Desk) -> tuple[ToolCall | None, str, Answer]:
        """Return the call in a text, why there is none, and the answer to it."""
        parsed = parse_call(text)
        reason = parsed.reason if isinstance(parsed, MalformedCall) else complaint(parsed)
        if reason or isinstance(parsed, MalformedCall):
            return None, reason, Answer(f"error: {reason}", Status.ERROR)
        if parsed.name == SUBMIT:
            self.final_sql = query_in(parsed.arguments["sql"])
            self.end(EpisodeStatus.SUBMITTED)
            return parsed, "", Answer("submitted")
        use = TOOLS[parsed.name].answer
        assert use is not None
        answer = use(desk, parsed.arguments)
        if answer.status is Status.DATABASE_UNREADABLE:
            self.end(EpisodeStatus.FAILED, answer.text)
        return parsed, "", answer
