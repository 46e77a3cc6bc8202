"""Settings of an episode.

Not the settings of the sampler or of the rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from finestep_fast.config.check import MAX_WHOLE
from finestep_fast.config.rules import above, at_least, at_most, check_fields

MIN_OBSERVATION_CHARS = 80


@dataclass(frozen=True)
class EnvConfig:
    """What an agent may do in one episode and what it is shown."""

    max_steps: Annotated[int, at_least(1)] = 6
    """Assistant turns, the final answer included."""
    max_malformed: Annotated[int, at_least(1)] = 2
    """The episode ends with this many turns that hold no usable call."""
    schema_in_prompt: Literal["none", "tables", "full"] = "full"
    """What the first message says about the database: nothing, its tables, or their columns too."""
    system_prompt: str | None = None
    """The system message; none for the one that comes with the package, empty for no message."""
    describe_tools: bool = True
    """Describe the tools in the first message where the model's chat template leaves them out."""
    query_timeout_s: Annotated[float, above(0), at_most(MAX_WHOLE)] = 5.0
    """Deadline of one tool call."""
    max_rows: Annotated[int, at_least(1)] = 100
    """Rows of a result that are fetched for an observation."""
    max_result_bytes: Annotated[int, at_least(1)] = 1 << 20
    """Memory that the rows fetched for an observation may take."""
    max_observation_chars: Annotated[int, at_least(MIN_OBSERVATION_CHARS)] = 2000
    """Length an observation is cut to, saying how much was left out."""
    max_value_chars: Annotated[int, at_least(1)] = 200
    """Length one value is cut to inside an observation."""
    max_prompt_chars: Annotated[int, at_least(1)] = 16_000
    """Length the description of the database in the first message is cut to."""
    max_found_values: Annotated[int, at_least(1)] = 10
    """Values that one search returns."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A field has the wrong type or lies outside its range.
        """
        check_fields(self)
