"""The program of a worker process, which runs queries for its parent.

It imports nothing of the package except its compiled module, so that it starts fast and stays
small: `python worker.py MODULE LIBRARY MAX_CONNECTIONS GOLD_CACHE_BYTES MAX_HEAP_BYTES PARENT`.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec

FIRST_FREE = 5
"""Standard descriptors, the socket and the page of progress come before it."""
MOST_DESCRIPTORS = 1 << 16


def main() -> None:
    """Serve queries until the parent is gone."""
    module, library, *numbers = sys.argv[1:]
    # What the parent's libraries left open is none of ours.
    os.closerange(FIRST_FREE, min(os.sysconf("SC_OPEN_MAX"), MOST_DESCRIPTORS))
    loader = ExtensionFileLoader("_core", module)
    spec = ModuleSpec("_core", loader, origin=module)
    core = loader.create_module(spec)
    core.__spec__ = spec
    loader.exec_module(core)
    max_connections, gold_cache_bytes, max_heap_bytes, parent = map(int, numbers)
    core.serve_queries(library, max_connections, gold_cache_bytes, max_heap_bytes, parent)


if __name__ == "__main__":
    main()
