"""What the quickstart trains on: small generated databases, questions and demonstrations.

`write_world` makes all of it from one seed, without a download. This is a place to learn tool
use in minutes on two cores; it is not a benchmark, and no number reached on it says anything
about BIRD or Spider.
"""

from __future__ import annotations

from finestep_fast.train.quickstart.demonstrations import DemonstrationConfig
from finestep_fast.train.quickstart.world import WorldConfig, write_world

__all__ = ["DemonstrationConfig", "WorldConfig", "write_world"]
