"""The implementations that can run here; tests of an op run over all of them."""

from __future__ import annotations

import os

from finestep_fast import available_impls
from finestep_fast.ops.head.implementations import ROWS

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

IMPLS = [
    name
    for name, available in available_impls().items()
    # Interpreted, a launch takes a thousand times as long: test_kernels_*.py take fewer examples.
    if available is True and name != "torch" and not (name == "triton" and _INTERPRETED)
]
"""Those that go from logps to losses."""

ROW_IMPLS = [name for name in ROWS if name == "torch" or (name in IMPLS and name != "triton")]
"""Those that go from rows of logits to logps on a CPU; the kernels have test_kernels_rows.py."""
