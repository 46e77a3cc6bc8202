"""Questions, databases and demonstrations of a run: generated, or the user's own.

Nothing here touches a model or a tokenizer.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finestep_fast.env.calls import ToolCall
from finestep_fast.env.question import Question, load_questions
from finestep_fast.errors import InputError
from finestep_fast.train.config import DataConfig
from finestep_fast.train.explore import world as explore
from finestep_fast.train.quickstart.world import write_world
from finestep_fast.train.state.checksums import partial, publish, refuse_damage


@dataclass(frozen=True)
class Demonstration:
    """The calls that answer a question; replaying them gives the observations."""

    question: Question
    calls: tuple[ToolCall, ...]
    stage: int = 0
    """The warm start learns a lower stage first."""


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is measured on."""

    train: list[Question]
    dev: list[Question]
    demonstrations: list[Demonstration]

    def questions_of_update(self, update: int, prompts: int, seed: int) -> list[Question]:
        """Return the questions of one update.

        They come from a stream of passes over all questions, each in an order of its own.
        """
        chosen = []
        for place in range(update * prompts, (update + 1) * prompts):
            epoch, index = divmod(place, len(self.train))
            order = np.random.default_rng([seed, epoch]).permutation(len(self.train))
            chosen.append(self.train[order[index]])
        return chosen


def generate_world(config: DataConfig, root: Path) -> DataConfig:
    """Write the settings' world below `root` unless it is there; returns settings for it.

    Raises:
        InputError: What is there is damaged.
    """
    if not root.exists():
        shutil.rmtree(partial(root), ignore_errors=True)
        if config.explore is None:
            write_world(partial(root), config.world)
        else:
            explore.write_world(partial(root), config.explore)
        publish(root)
    refuse_damage(root)
    return DataConfig(
        questions=root / "train.json",
        databases=root / "databases",
        dev_questions=root / "dev.json",
        demonstrations=root / "demonstrations.jsonl",
        limit=config.limit,
        max_unusable_share=config.max_unusable_share,
        world=config.world,
        explore=config.explore,
    )


def load_data(config: DataConfig, seed: int) -> RunData:
    """Read questions and demonstrations.

    Raises:
        InputError: A file is unusable, or holds no question.
    """
    assert config.questions is not None
    assert config.databases is not None
    train = known = load_questions(config.questions, config.databases)
    if config.dev_questions is not None:
        dev = load_questions(config.dev_questions, config.dev_databases or config.databases)
        if not dev:
            raise InputError(f"data.dev_questions: {config.dev_questions} holds no question")
    else:
        train, dev = _held_out(train, config.dev_share, seed)
    if not train:
        raise InputError(f"data.questions: {config.questions} leaves no question to train on")
    demonstrations = []
    if config.demonstrations is not None:
        trained_on = {question.db_id for question in train}
        demonstrations = [
            item
            for item in _load_demonstrations(config.demonstrations, known)
            if item.question.db_id in trained_on
        ]
    return RunData(train[: config.limit], dev[: config.limit], demonstrations)


def _held_out(
    questions: list[Question], share: float, seed: int
) -> tuple[list[Question], list[Question]]:
    """Split by database, so that dev questions are on databases never trained on."""
    names = sorted({question.db_id for question in questions})
    count = min(round(share * len(names)) or (share > 0), len(names) - 1)
    held = set(np.random.default_rng(seed).permutation(names)[:count].tolist())
    train = [question for question in questions if question.db_id not in held]
    return train, [question for question in questions if question.db_id in held]


def _load_demonstrations(path: Path, questions: list[Question]) -> list[Demonstration]:
    question_of_id = {question.question_id: question for question in questions}
    demonstrations = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.demonstrations: {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            question_id = str(record["question_id"])
            calls = tuple(
                ToolCall(call["name"], dict(call["arguments"])) for call in record["calls"]
            )
            stage = record.get("stage", 0)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: line {number}: {error}; "
                "it must hold question_id and calls of name and arguments"
            ) from error
        if type(stage) is not int:
            raise InputError(
                f"{path}: line {number}: stage is {stage!r}; it must be a whole number"
            )
        if question_id not in question_of_id:
            raise InputError(f"{path}: line {number}: no question has question_id {question_id!r}")
        demonstrations.append(Demonstration(question_of_id[question_id], calls, stage))
    return demonstrations
