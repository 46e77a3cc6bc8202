"""Write the explore world to disk: databases, questions of three splits, demonstrations.

Everything follows from the settings, byte for byte. What the databases look like is in
`databases`, what is asked in `questions`, what is shown in `demonstrations`; nothing here knows
a model, a prompt or an environment.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Annotated

from finestep_fast.config.check import MAX_WHOLE
from finestep_fast.config.rules import at_least, at_most, check_fields
from finestep_fast.train.explore.databases import Database, make_database
from finestep_fast.train.explore.demonstrations import (
    ExploreDemonstrationConfig,
    careful_demonstration,
    hasty_demonstration,
)
from finestep_fast.train.explore.questions import (
    KINDS,
    WorldQuestion,
    draft_question,
)
from finestep_fast.train.explore.words import THEMES
from finestep_fast.train.generated.dealing import dealt_drafts
from finestep_fast.train.generated.demonstration import Demonstration
from finestep_fast.train.generated.folder import (
    new_world,
    write_database,
    write_demonstrations,
    write_questions,
)

SPLITS = ("train", "dev", "test")
_Count = Annotated[int, at_least(1), at_most(1_000_000)]


@dataclass(frozen=True)
class ExploreConfig:
    """What is generated and how much of it."""

    seed: Annotated[int, at_least(-MAX_WHOLE)] = 0
    """Everything random follows from it."""
    train_databases_per_theme: Annotated[int, at_least(1), at_most(1000)] = 450
    """Databases for training questions, for each of the three themes."""
    dev_databases_per_theme: Annotated[int, at_least(1), at_most(1000)] = 15
    """Databases for dev questions; training never sees them."""
    test_databases_per_theme: Annotated[int, at_least(1), at_most(1000)] = 15
    """Databases for test questions, which are in no other split."""
    train_questions: _Count = 2800
    """Training questions, dealt out evenly over databases and kinds."""
    dev_questions: _Count = 180
    """Dev questions, dealt out in the same way."""
    test_questions: _Count = 180
    """Test questions, for a last look that no choice depends on."""
    entity_rows: Annotated[int, at_least(8), at_most(16)] = 14
    """Rows of every table but the bridge."""
    bridge_rows: Annotated[int, at_least(20), at_most(1_000_000)] = 60
    """Rows of the bridge."""
    demonstrations: ExploreDemonstrationConfig = field(default_factory=ExploreDemonstrationConfig)
    """How many demonstrations each training question has and how good they are."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A value is out of range.
        """
        check_fields(self)


def write_world(root: Path, config: ExploreConfig) -> None:
    """Write `root` with databases, the questions of each split, and `demonstrations.jsonl`.

    It is written beside `root` and renamed at the end: `root` is complete or it is not there.

    Args:
        root: A folder that does not exist yet or is empty.
        config: What to generate; equal settings give equal bytes.

    Raises:
        InputError: when `root` is not empty, or the databases are too small for the questions.
    """
    with new_world(root) as world:
        for split in SPLITS:
            with ExitStack() as stack:
                made = _make_databases(split, config, world, stack)
                questions = _draft_questions(split, made, config)
                if split == "train":
                    write_demonstrations(world, _demonstrations(questions, made, config))
            write_questions(world, split, [question.record() for question in questions])


_Made = dict[str, tuple[Database, sqlite3.Connection]]


def _make_databases(split: str, config: ExploreConfig, world: Path, stack: ExitStack) -> _Made:
    """Return the databases of a split by id, on disk and open in memory until `stack` closes."""
    counts = (
        config.train_databases_per_theme,
        config.dev_databases_per_theme,
        config.test_databases_per_theme,
    )
    place = SPLITS.index(split)
    last = list(accumulate(counts))[place]
    made = {}
    for number in range(last - counts[place], last):
        for theme in THEMES:
            db_id = f"{theme.name}_{number:03d}"
            database = make_database(
                theme,
                db_id=db_id,
                rng=Random(f"{config.seed}/{db_id}"),
                entity_rows=config.entity_rows,
                bridge_rows=config.bridge_rows,
            )
            connection = stack.enter_context(closing(database.connect()))
            write_database(world, db_id, connection)
            made[db_id] = (database, connection)
    return made


def _draft_questions(split: str, made: _Made, config: ExploreConfig) -> list[WorldQuestion]:
    """Return the questions of a split, over the databases in turn; no two golds are alike."""
    count = {
        "train": config.train_questions,
        "dev": config.dev_questions,
        "test": config.test_questions,
    }[split]
    drafts = dealt_drafts(
        made,
        count,
        kinds=KINDS,
        draft=draft_question,
        gold=lambda draft: draft.sql(draft.names()),
        rng=Random(f"{config.seed}/{split}/questions"),
        what=f"explore, {split}",
    )
    return [
        WorldQuestion(f"{split}_{number:04d}", draft) for number, (_, _, draft) in enumerate(drafts)
    ]


def _demonstrations(
    questions: list[WorldQuestion], made: _Made, config: ExploreConfig
) -> list[Demonstration]:
    rng = Random(f"{config.seed}/demonstrations")
    settings = config.demonstrations
    careful = [
        careful_demonstration(question, made[question.draft.database.db_id][1], rng, settings)
        for question in questions
        for _ in range(settings.careful_per_question)
    ]
    hasty = [
        hasty_demonstration(question, made[question.draft.database.db_id][1], rng, settings)
        for question in questions
        for _ in range(settings.hasty_per_question)
    ]
    return careful + hasty
