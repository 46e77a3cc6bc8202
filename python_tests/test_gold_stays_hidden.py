"""Nothing of the gold query reaches the policy: it is for scoring and for the critic."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

import finestep_fast.env
from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode
from finestep_fast.env.question import Question
from finestep_fast.train.rollout.replay import Dialogue, transcripts
from finestep_fast.train.rollout.value import Critic
from support.databases import written
from support.played import GARBAGE, played
from support.tiny import LIMITS, Tiny

SECRET = "SELECT name AS zebra FROM customer WHERE city = 'Quux' AND id = 77123 LIMIT 5501"
OPEN = 'SELECT count(*) FROM "Order Item"'
CALLS: list[ToolCall | str] = [
    ToolCall("list_tables", {}),
    ToolCall("describe_table", {"table": "customer"}),
    ToolCall("search_values", {"text": "lon"}),
    ToolCall("execute_sql", {"sql": "SELECT * FROM customer"}),
    ToolCall("execute_sql", {"sql": "SELECT nothing FROM customer"}),
    ToolCall("describe_table", {"table": "customers"}),
    GARBAGE,
    ToolCall("submit", {"sql": "SELECT 1"}),
]
READERS = {"question.py": "reads the file", "scoring.py": "compares"}
"""The modules of the environment that may name the gold query."""


def test_only_reading_and_scoring_name_the_gold_query() -> None:
    folder = Path(finestep_fast.env.__file__).parent
    naming = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (getattr(node, key, None) for key in ("attr", "id", "arg", "value"))
            if any(isinstance(name, str) and name.startswith("gold") for name in names):
                naming.add(path.name)
    assert naming == set(READERS)
    assert {"tools.py", "episode.py", "observation.py", "chat.py", "knowledge.py"} <= {
        path.name for path in folder.glob("*.py")
    }


@pytest.mark.parametrize("detail", ["none", "tables", "full"])
def test_the_same_calls_read_the_same_whatever_the_gold_query_is(
    tiny: Tiny, tmp_path: Path, detail: str
) -> None:
    database = written(tmp_path / "shop.sqlite")
    env = EnvConfig(schema_in_prompt=detail, max_malformed=9, max_steps=9)  # type: ignore[arg-type]
    read, keys = [], []
    for gold in (SECRET, OPEN, "not even a query"):
        question = Question("1", "Who lives in London?", gold, "shop", database)
        episode = Episode(question, tiny.engine, env)
        replies = [call if isinstance(call, str) else render_call(call) for call in CALLS]
        turns = [(reply, episode.step(reply).observation) for reply in replies]
        (made,) = transcripts([Dialogue(episode, turns)], tiny.chat, LIMITS.max_rollout_tokens * 9)
        read.append((episode.messages(), turns, made.token_ids, made.step_spans))
        (rollout,) = played(question, tiny.engine, CALLS, env=env, find_answers=True)
        # The critic reads, and tells none.
        Critic("gold", max_steps=env.max_steps).step_values([rollout])
        assert [turn for _, turn in turns] == [
            step.observation for step in rollout.transcript.episode.steps
        ]
        keys.append(rollout.score.states)
    assert read[0] == read[1] == read[2]
    assert keys[0] == keys[1] == keys[2]
    shown = str(read[0]).lower()
    for secret in ("zebra", "quux", "77123", "5501"):
        assert secret not in shown


def test_the_demonstrations_of_a_world_read_the_same_without_their_gold_query(tiny: Tiny) -> None:
    for dialogue in tiny.dialogues[:12]:
        hidden = dataclasses.replace(dialogue.episode.question, gold_sql="")
        again = Episode(hidden, tiny.engine, dialogue.episode.config)
        assert again.messages() == dialogue.episode.messages()
        assert [again.step(reply).observation for reply, _ in dialogue.turns] == [
            observation for _, observation in dialogue.turns
        ]
