"""A user's own questions and databases, and the words of a run on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.tiny import Tiny

SMALL = (
    "precision=float32",
    "env.schema_in_prompt=tables",
    "env.describe_tools=false",  # the model was warmed up without
    "env.max_observation_chars=200",
    "env.max_malformed=3",
    "rollout.prompts=6",
    "rollout.rollouts_per_prompt=3",
    "rollout.max_step_tokens=40",
    "rollout.max_rollout_tokens=900",
    "update.updates=2",
    "update.optim.learning_rate=1e-3",
    "update.optim.rise_steps=0",
    "eval.questions=4",
    "data.max_unusable_share=0.2",
)


def assert_nothing_is_kept(run: Path) -> None:
    """Allow only the lock, which stays so that no two runs ever hold two files of its name."""
    assert {path.name for path in run.iterdir()} <= {".lock"}


def write_own_data(folder: Path, tiny: Tiny) -> None:
    """Write six questions in BIRD's format; one database is missing, one gold query fails."""
    folder.mkdir()
    entries = [
        {
            "question_id": number,
            "db_id": item.db_id,
            "question": item.text,
            "evidence": "none needed",
            "SQL": item.gold_sql,
            "difficulty": "simple",
        }
        for number, item in enumerate(tiny.data.train[:6])
    ]
    entries[2]["db_id"] = "nowhere"
    entries[4]["SQL"] = "SELECT a FROM absent"
    (folder / "questions.json").write_text(json.dumps(entries))
    shutil.copytree(tiny.root / "world" / "databases", folder / "databases")


def words(own: Path, tiny: Tiny) -> list[str]:
    """Return the words for a run of the tiny agent on this data."""
    return [
        *SMALL,
        f"model={tiny.model_folder}",
        f"data.questions={own / 'questions.json'}",
        f"data.databases={own / 'databases'}",
        f"data.dev_questions={tiny.root / 'world' / 'dev.json'}",
        f"output={own / 'run'}",
    ]
