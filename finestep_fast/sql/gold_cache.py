"""Gold results remembered between batches, so that a gold query runs once.

Not a cache of predictions: those are run once per batch and forgotten.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from finestep_fast.sql.comparison import Gold

ENTRY_BYTES = 1024


class GoldCache:
    """Gold results within a budget of memory; the longest unused are forgotten first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._golds: OrderedDict[tuple[object, ...], tuple[Gold, int]] = OrderedDict()
        self._size_bytes = 0

    def get(self, key: tuple[object, ...]) -> Gold | None:
        """The gold result under a key, if it is remembered."""
        with self._lock:
            found = self._golds.get(key)
            if found is None:
                return None
            self._golds.move_to_end(key)
            return found[0]

    def put(self, key: tuple[object, ...], gold: Gold, size_bytes: int) -> None:
        """Remembers a gold result, unless it alone exceeds the budget."""
        size_bytes += ENTRY_BYTES
        with self._lock:
            if key in self._golds or size_bytes > self._max_bytes:
                return
            self._golds[key] = (gold, size_bytes)
            self._size_bytes += size_bytes
            while self._size_bytes > self._max_bytes:
                _, (_, freed) = self._golds.popitem(last=False)
                self._size_bytes -= freed
