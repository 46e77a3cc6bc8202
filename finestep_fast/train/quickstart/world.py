"""Write the quickstart's world to disk: databases, questions of both splits, demonstrations.

Everything follows from the settings, byte for byte. What the databases look like is in
`databases`, what is asked in `questions`, what is shown in `demonstrations`; nothing here knows
a model, a prompt or an environment.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Annotated

from finestep_fast.config.check import MAX_WHOLE
from finestep_fast.config.rules import above, at_least, at_most, check_fields
from finestep_fast.train.generated.dealing import dealt_drafts
from finestep_fast.train.generated.demonstration import Demonstration
from finestep_fast.train.generated.folder import (
    new_world,
    write_database,
    write_demonstrations,
    write_questions,
)
from finestep_fast.train.quickstart.databases import MOST_MAIN_ROWS, STYLES, Database, make_database
from finestep_fast.train.quickstart.demonstrations import DemonstrationConfig, demonstrate
from finestep_fast.train.quickstart.kinds import KINDS
from finestep_fast.train.quickstart.questions import (
    WorldQuestion,
    draft_question,
)
from finestep_fast.train.quickstart.themes import THEMES


@dataclass(frozen=True)
class WorldConfig:
    """What is generated and how much of it."""

    seed: Annotated[int, at_least(-MAX_WHOLE)] = 0
    """Everything random follows from it."""
    train_databases_per_theme: Annotated[int, at_least(1), at_most(1000)] = 60
    """Databases for training questions, for each of the four themes."""
    dev_databases_per_theme: Annotated[int, at_least(1), at_most(1000)] = 10
    """Databases for dev questions; training never sees them."""
    train_questions: Annotated[int, at_least(1), at_most(1_000_000)] = 960
    """Training questions, dealt out evenly over databases and kinds."""
    dev_questions: Annotated[int, at_least(1), at_most(1_000_000)] = 160
    """Dev questions, dealt out in the same way."""
    main_rows: Annotated[int, at_least(20), at_most(MOST_MAIN_ROWS)] = 30
    """Rows of every main table."""
    child_rows: Annotated[int, at_least(20), at_most(1_000_000)] = 70
    """Rows of every child table."""
    null_share: Annotated[float, above(0), at_most(0.5)] = 0.1
    """Share of NULLs in the three columns of a database that have any."""
    duplicate_share: Annotated[float, above(0), at_most(0.5)] = 0.1
    """Share of child rows that repeat another one."""
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    """How many demonstrations each training question has and how good they are."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A value is out of range.
        """
        check_fields(self)


def write_world(root: Path, config: WorldConfig) -> None:
    """Write `root` with databases, `train.json`, `dev.json` and `demonstrations.jsonl`.

    It is written beside `root` and renamed at the end: `root` is complete or it is not there.

    Args:
        root: A folder that does not exist yet or is empty.
        config: What to generate; equal settings give equal bytes.

    Raises:
        InputError: when `root` is not empty, or the databases are too small for the questions.
    """
    with new_world(root) as world:
        with ExitStack() as stack:
            train = _make_databases("train", config, world, stack)
            dev = _make_databases("dev", config, world, stack)
            train_questions = _draft_questions("train", train, config.train_questions, config.seed)
            dev_questions = _draft_questions("dev", dev, config.dev_questions, config.seed)
            demonstrations = _demonstrations(train_questions, train, config)
        write_questions(world, "train", [question.record() for question in train_questions])
        write_questions(world, "dev", [question.record() for question in dev_questions])
        write_demonstrations(world, demonstrations)


def _make_databases(
    split: str, config: WorldConfig, world: Path, stack: ExitStack
) -> dict[str, tuple[Database, sqlite3.Connection]]:
    """Return the databases of a split by id, on disk and open in memory until `stack` closes."""
    per_theme = {"train": config.train_databases_per_theme, "dev": config.dev_databases_per_theme}
    first = 0 if split == "train" else config.train_databases_per_theme
    ids = [
        (theme, f"{theme.name}_{number:03d}")
        for theme in THEMES
        for number in range(first, first + per_theme[split])
    ]
    styles = list(islice(cycle(STYLES), len(ids)))
    Random(f"{config.seed}/{split}/styles").shuffle(styles)
    made = {}
    for (theme, db_id), style in zip(ids, styles, strict=True):
        database = make_database(
            theme,
            db_id=db_id,
            style=style,
            rng=Random(f"{config.seed}/{db_id}"),
            num_main_rows=config.main_rows,
            num_child_rows=config.child_rows,
            null_share=config.null_share,
            duplicate_share=config.duplicate_share,
        )
        connection = stack.enter_context(closing(database.connect()))
        write_database(world, db_id, connection)
        made[db_id] = (database, connection)
    return made


def _draft_questions(
    split: str, made: dict[str, tuple[Database, sqlite3.Connection]], count: int, seed: int
) -> list[WorldQuestion]:
    """Return [count] questions, over the databases in turn; no two of a database are alike."""
    drafts = dealt_drafts(
        made,
        count,
        kinds=KINDS,
        draft=draft_question,
        gold=lambda draft: draft.gold,
        rng=Random(f"{seed}/{split}/questions"),
        what=f"world, {split}",
    )
    return [
        WorldQuestion(f"{split}_{number:04d}", kind, draft, database)
        for number, (database, kind, draft) in enumerate(drafts)
    ]


def _demonstrations(
    questions: list[WorldQuestion],
    made: dict[str, tuple[Database, sqlite3.Connection]],
    config: WorldConfig,
) -> list[Demonstration]:
    rng = Random(f"{config.seed}/demonstrations")
    return [
        demonstrate(question, made[question.database.db_id][1], rng, config.demonstrations)
        for question in questions
        for _ in range(config.demonstrations.per_question)
    ]
