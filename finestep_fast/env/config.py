"""Settings of an episode.

Not the settings of the sampler or of the rewards.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from finestep_fast.config.check import MAX_WHOLE
from finestep_fast.errors import InputError, shown

MIN_OBSERVATION_CHARS = 80


@dataclass(frozen=True)
class EnvConfig:
    """What an agent may do in one episode and what it is shown."""

    max_steps: int = 6
    """Assistant turns, the final answer included."""
    max_malformed: int = 2
    """The episode ends with this many turns that hold no usable call."""
    schema_in_prompt: Literal["none", "tables", "full"] = "full"
    """What the first message says about the database: nothing, its tables, or their columns too."""
    system_prompt: str | None = None
    """The system message; none for the one that comes with the package, empty for no message."""
    describe_tools: bool = True
    """Describe the tools in the first message where the model's chat template leaves them out."""
    query_timeout_s: float = 5.0
    """Deadline of one tool call."""
    max_rows: int = 100
    """Rows of a result that are fetched for an observation."""
    max_result_bytes: int = 1 << 20
    """Memory that the rows fetched for an observation may take."""
    max_observation_chars: int = 2000
    """Length an observation is cut to, saying how much was left out."""
    max_value_chars: int = 200
    """Length one value is cut to inside an observation."""
    max_prompt_chars: int = 16_000
    """Length the description of the database in the first message is cut to."""
    max_found_values: int = 10
    """Values that one search returns."""

    def __post_init__(self) -> None:
        """Raises InputError when a value is out of its range."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type == "bool":
                continue
            if isinstance(value, (int, float)) and not 0 < value <= MAX_WHOLE:
                raise InputError(
                    f"{entry.name} is {shown(value)}; expected a finite number > 0"
                    + (" and < 2^63" if value > MAX_WHOLE else "")
                )
        if self.schema_in_prompt not in ("none", "tables", "full"):
            raise InputError(
                f"schema_in_prompt is {self.schema_in_prompt!r}; expected none, tables or full"
            )
        if self.max_observation_chars < MIN_OBSERVATION_CHARS:
            raise InputError(
                f"max_observation_chars is {self.max_observation_chars}; "
                f"expected at least {MIN_OBSERVATION_CHARS}"
            )
