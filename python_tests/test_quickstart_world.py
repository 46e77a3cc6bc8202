"""The files of the quickstart's world, and its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finestep_fast.errors import InputError
from finestep_fast.train.quickstart import DemonstrationConfig, WorldConfig, write_world
from support.quickstart_world import SMALL, World


def test_equal_settings_write_equal_bytes_and_another_seed_writes_others(
    world: World, tmp_path: Path
) -> None:
    def contents(root: Path) -> dict[str, bytes]:
        files = (p for p in root.rglob("*") if p.is_file())
        return {str(p.relative_to(root)): p.read_bytes() for p in files}

    write_world(tmp_path / "again", SMALL)
    write_world(tmp_path / "other", WorldConfig(**{**vars(SMALL), "seed": 4}))
    first, again, other = map(contents, (world.root, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_dev_databases_are_never_seen_in_training(world: World) -> None:
    train, dev = ({q["db_id"] for q in split} for split in (world.train, world.dev))
    assert len(train) == 24
    assert len(dev) == 12
    assert not train & dev
    assert {d["db_id"] for d in world.demonstrations} == train
    dumps = {db_id: "\n".join(c.iterdump()) for db_id, c in world.connections.items()}
    assert len(set(dumps.values())) == len(train) + len(dev)


def test_questions_have_birds_keys_unique_ids_and_no_duplicate_in_their_database(
    world: World,
) -> None:
    questions = world.train + world.dev
    keys = {"question_id", "db_id", "question", "evidence", "SQL", "difficulty", "kind"}
    assert all(q.keys() == keys for q in questions)
    assert len({q["question_id"] for q in questions}) == len(questions) == 154
    assert len({(q["db_id"], q["SQL"]) for q in questions}) == len(questions)
    assert {q["difficulty"] for q in questions} == {"simple", "moderate", "challenging"}


def test_write_world_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(InputError, match="new or empty folder"):
        write_world(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    config = WorldConfig(
        train_databases_per_theme=1,
        dev_databases_per_theme=1,
        train_questions=1500,
        main_rows=20,
        child_rows=20,
    )
    with pytest.raises(InputError, match="holds no further question"):
        write_world(tmp_path / "world", config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"main_rows": 41}, r"main_rows is 41; it must be an integer >= 20 and <= 40"),
        ({"child_rows": 3}, "child_rows is 3; it must be an integer >= 20"),
        ({"train_questions": 0}, "train_questions is 0; it must be an integer >= 1"),
        ({"null_share": 0.9}, r"null_share is 0.9; it must be > 0 and <= 0.5"),
    ],
)
def test_world_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorldConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_share": 1.5}, r"run_share is 1.5; it must be >= 0 and <= 1"),
        ({"blind_share": 0.5}, "sum to 1.4; they must sum to 1"),
        ({"per_question": -1}, "per_question is -1; it must be an integer >= 0"),
    ],
)
def test_demonstration_settings_out_of_range_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        DemonstrationConfig(**changes)
