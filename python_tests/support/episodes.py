"""Episodes as tests drive them: one call of a tool at a time."""

from __future__ import annotations

from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.episode import Episode


def use(episode: Episode, name: str, **arguments: str) -> str:
    """Return the observation after one call."""
    return episode.step(render_call(ToolCall(name, arguments))).observation
