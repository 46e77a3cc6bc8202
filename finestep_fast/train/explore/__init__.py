"""The explore world: databases in which a question takes several looks."""

from __future__ import annotations

from finestep_fast.train.explore.demonstrations import ExploreDemonstrationConfig
from finestep_fast.train.explore.world import ExploreConfig, write_world

__all__ = ["ExploreConfig", "ExploreDemonstrationConfig", "write_world"]
