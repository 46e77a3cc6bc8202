"""A scripted demonstration as every generated world writes it, and the check of its shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose

from finestep_fast.errors import InputError
from finestep_fast.train.generated.calls import Call


@dataclass(frozen=True)
class Demonstration:
    """The calls of one rollout to imitate, with their label."""

    question_id: str
    db_id: str
    quality: str
    """How it goes about the question; the world says in which words."""
    right: bool
    """Whether the answer gives the gold's rows."""
    calls: tuple[Call, ...]
    stage: int = 0
    """Demonstrations of a lower stage are learnt first."""

    def record(self) -> dict[str, object]:
        """Return one line of the demonstrations' file."""
        return {
            "question_id": self.question_id,
            "db_id": self.db_id,
            "quality": self.quality,
            "right": self.right,
            "stage": self.stage,
            "calls": [{"name": c.name, "arguments": c.arguments} for c in self.calls],
        }


def check_way_shares(way_shares: Mapping[str, float]) -> None:
    """Refuse shares of ways that do not sum to 1.

    Raises:
        InputError: They do not.
    """
    total = sum(way_shares.values())
    if not isclose(total, 1.0):
        ways = ", ".join(f"{way}_share" for way in way_shares)
        raise InputError(f"{ways} sum to {total:g}; they must sum to 1")
