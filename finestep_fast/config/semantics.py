"""The names of the definitions under which two query results are equal.

Not the comparison itself: `finestep_fast.sql.compare` says what each name means.
"""

from __future__ import annotations

from typing import Literal

Semantics = Literal["bird", "strict", "multiset", "ordered", "test_suite", "soft_f1"]
