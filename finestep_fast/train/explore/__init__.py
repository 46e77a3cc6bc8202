"""The explore world: small generated databases in which a question takes several looks.

The quickstart's best rollout is one look and one answer. Here the prompt says nothing about the
database, every table picks names of its own (but `id`), and none are the words of the questions:

- `list_tables` shows the names of 6 to 8 tables. Two are stale copies, one to three are unrelated.
- `describe_table` of the bridge shows its foreign keys: which column points where, and which of two
  look-alike tables is the live one. Of an entity it shows the columns, and the primary key that
  stale copies lack.
- `search_values` shows under which column and with which digit a category is stored ('Rome' is
  'Rome 3'). Each database has digits of its own; the stale copy and another column hold the same.
- A query that shows rows of the bridge shows how its flag is stored ('Yes', 'Done', ...).

A question needs two to five of these looks, and with one missing its query fails, finds nothing or
is wrong. `write_world` makes all of it from one seed. It is a place to study credit in minutes on
two cores; it is not a benchmark, and no number reached on it says anything about BIRD or Spider.
"""

from __future__ import annotations

from finestep_fast.train.explore.demonstrations import ExploreDemonstrationConfig
from finestep_fast.train.explore.world import ExploreConfig, write_world

__all__ = ["ExploreConfig", "ExploreDemonstrationConfig", "write_world"]
