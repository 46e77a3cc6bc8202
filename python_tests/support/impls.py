"""The implementations that can run here; tests of an op run over all of them."""

from __future__ import annotations

from finestep_fast import available_impls

IMPLS = [name for name, available in available_impls().items() if available is True]
